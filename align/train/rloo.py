"""RLOO: REINFORCE with the other answers to the same prompt as baseline (Ahmadian et al. 2024, arXiv 2402.14740)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from align.config.training import Rloo
from align.train import online
from align.types import Prompt


def train_rloo(
    parent: Path, prompts: Sequence[Prompt], config: Rloo, **given: Unpack[online.Arguments]
) -> dict[str, Any]:
    """Train the checkpoint `parent` by TRL's RLOO on `prompts`; see `align.train.online.train` for the rest.

    With k answers y₁…y_k to a prompt and R = score − beta · log(π/π_parent), summed over an answer's tokens, the
    advantage of yᵢ is R(yᵢ) − 1/(k−1) · Σ_{j≠i} R(y_j), and the loss −E[advantage · π/π_old], clipped.
    """
    return online.train(parent, prompts, config, _trainer, **given)


def _trainer(ready: online.Ready) -> Any:
    from trl import RLOOConfig

    from align.train.online_trainer import OnlineMixin
    from align.train.trl_online import RLOOTrainer

    class RlooTrainer(OnlineMixin, RLOOTrainer):
        passes_logps = False

    return RlooTrainer(args=RLOOConfig(**ready.options), **ready.parts)
