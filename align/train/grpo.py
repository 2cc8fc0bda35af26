"""GRPO: group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from align.config.training import Grpo
from align.train import online
from align.types import Prompt


def train_grpo(
    parent: Path, prompts: Sequence[Prompt], config: Grpo, **given: Unpack[online.Arguments]
) -> dict[str, Any]:
    """Train the checkpoint `parent` by TRL's GRPO on `prompts`; see `align.train.online.train` for the rest.

    The advantage of an answer is (score − mean) / standard deviation over the answers to its prompt. The loss is the
    clipped policy loss + beta · KL(π‖π_parent), per token; `trainer.loss_type` and `trainer.scale_rewards` choose
    variants.
    """
    return online.train(parent, prompts, config, _trainer, **given)


def _trainer(ready: online.Ready) -> Any:
    from trl import GRPOConfig

    from align.train.online_trainer import OnlineMixin
    from align.train.trl_online import GRPOTrainer

    class GrpoTrainer(OnlineMixin, GRPOTrainer):
        pass

    return GrpoTrainer(args=GRPOConfig(**ready.options), **ready.parts)
