"""Proximal policy optimisation with a learned critic (Schulman et al. 2017, arXiv 1707.06347; Ouyang et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from align.config.training import Ppo
from align.errors import ConfigError
from align.train import arguments, online
from align.train.world import world_size
from align.types import Prompt


def train_ppo(
    parent: Path,
    prompts: Sequence[Prompt],
    config: Ppo,
    *,
    critic: Path | None = None,
    **given: Unpack[online.Arguments],
) -> dict[str, Any]:
    """Train the checkpoint `parent` by PPO on `prompts`; see `align.train.online.train` for the rest.

    The reward of a token is −beta · log(π/π_parent), that of an answer's last token also its score; advantages come by
    GAE from the critic's values (see `align.train.advantages`). The critic starts from the folder `critic`, a reward
    model with one label, else from `parent`. `logs/metrics.jsonl` also has `kl_per_answer` (nats), `beta`,
    `explained_variance` of the returns by the critic, and `loss/value`.
    """
    if critic is not None and config.critic == "shared":
        raise ConfigError(
            "a shared critic is a head on the policy and cannot start from a reward model", where="ppo.critic"
        )

    def trainer(ready: online.Ready) -> Any:
        return _trainer(ready, config, critic or parent)

    return online.train(parent, prompts, config, trainer, identity=str(critic), **given)


def _trainer(ready: online.Ready, config: Ppo, critic_from: Path) -> Any:
    from align.train.critic import SharedHead, separate_critic
    from align.train.ppo_trainer import PpoTrainer

    policy = ready.parts["model"]
    critic: Any
    if config.critic == "shared":
        critic = SharedHead(policy.config.get_text_config().hidden_size)
    else:
        critic = separate_critic(critic_from, policy, lora=arguments.lora_config(config.lora, "SEQ_CLS"))
    return PpoTrainer(ppo=config, critic=critic, args=_options(ready.options, config), **ready.parts)


def _options(options: dict[str, Any], config: Ppo) -> Any:
    """TRL's config of GRPO, which insists on several answers to a prompt where a critic needs but one."""
    from trl import GRPOConfig

    pieces = options["gradient_accumulation_steps"] * config.minibatches
    answers = options["per_device_train_batch_size"] * pieces * world_size()
    if answers < 2:
        raise ConfigError("a batch needs two answers at least", where="ppo.batch_size", hint="raise it, or minibatches")
    passes = {"num_iterations": config.ppo_epochs, "steps_per_generation": pieces}
    args = GRPOConfig(**{**options, **passes, "num_generations": answers})
    args.num_generations = config.samples
    return args
