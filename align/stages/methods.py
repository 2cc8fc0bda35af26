"""The training methods on files: how each one's rows are read, its section of settings, and what trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_ROUNDS = "there are no earlier rounds; put all of them in one file"
ALL_PROMPTS = {"prompts": "every prompt of the file is learned on; shorten the file"}

HEAVY = ("align.train.trainers", "align.train.dpo_trainer", "rollouts.transformers_engine")
"""What trainings and sampling import: torch, transformers, TRL, and ours on them."""
Load = Callable[[Path], tuple[list[Any], list[Any]]]
"""Reads a file: its rows, and those that were dropped."""
Train = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """A training method. `section` names its class in `align.config.training`, `keys` where the recipe has it; `parts`
    imports what is heavy, so it is called when the method is to run; `no_use` are settings that cannot act on one file,
    with the reason."""

    name: str
    section: str
    keys: tuple[str, ...]
    parts: Callable[[], tuple[Load, Train]]
    no_use: dict[str, str]

    @property
    def settings(self) -> type[Any]:
        """The section that its settings are checked by."""
        from align.config import training

        section: type[Any] = getattr(training, self.section)
        return section


def _sft() -> tuple[Load, Train]:
    from align.data.demonstrations import load_demonstrations
    from align.train.sft import train_sft

    def load(path: Path) -> tuple[list[Any], list[Any]]:
        rows, dropped = load_demonstrations(path)
        return [(row.messages, row.answer) for row in rows], dropped

    return load, train_sft


def _dpo() -> tuple[Load, Train]:
    from align.data.preferences import load_preferences
    from align.train.dpo import train_dpo

    return load_preferences, train_dpo


def _kto() -> tuple[Load, Train]:
    from align.data.binary import load_binary
    from align.train.kto import train_kto

    return load_binary, train_kto


def _reward() -> tuple[Load, Train]:
    from align.data.preferences import load_preferences
    from reward.train import train_reward

    return load_preferences, train_reward


def _ppo() -> tuple[Load, Train]:
    from align.data.prompts import read_prompts
    from align.train.ppo import train_ppo

    return read_prompts, train_ppo


def _rloo() -> tuple[Load, Train]:
    from align.data.prompts import read_prompts
    from align.train.rloo import train_rloo

    return read_prompts, train_rloo


def _grpo() -> tuple[Load, Train]:
    from align.data.prompts import read_prompts
    from align.train.grpo import train_grpo

    return read_prompts, train_grpo


def _best_of_n() -> tuple[Load, Train]:
    from align.data.prompts import read_prompts
    from align.stages.best_of_n import train_best_of_n

    return read_prompts, train_best_of_n


SFT = Method("sft", "Sft", ("sft",), _sft, {"demonstrations": "name the file with --demonstrations"})
DPO = Method("dpo", "Dpo", ("dpo",), _dpo, {"replay": NO_ROUNDS})
KTO = Method("kto", "Kto", ("kto",), _kto, {"replay": NO_ROUNDS})
REWARD = Method("reward train", "RewardModel", ("reward", "model"), _reward, {"replay": NO_ROUNDS})
PPO = Method("ppo", "Ppo", ("ppo",), _ppo, ALL_PROMPTS)
RLOO = Method("rloo", "Rloo", ("rloo",), _rloo, ALL_PROMPTS)
GRPO = Method("grpo", "Grpo", ("grpo",), _grpo, ALL_PROMPTS)
BEST_OF_N = Method("best-of-n", "BestOfN", ("best_of_n",), _best_of_n, ALL_PROMPTS)

ONLINE = {method.name: method for method in (PPO, RLOO, GRPO, BEST_OF_N)}
"""Those that learn from answers of the model's own, which a reward scores."""
METHODS = {method.name: method for method in (SFT, DPO, KTO, REWARD, *ONLINE.values())}
