"""Which Scorer a reward model's folder is, and which engine runs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from align.errors import ConfigError
from reward.ensemble import EnsembleScorer
from reward.members import member_count
from reward.model import ModelEngine, ModelScorer
from reward.scorer import RewardModelScorer

Engine = Literal["auto"] | ModelEngine


def load_scorer(
    folder: Path, *, engine: Engine = "auto", dtype: str, threads: int | None, bound: float = 0.0
) -> RewardModelScorer:
    """The Scorer that a reward model's folder is: a model with one score, or an ensemble with several.

    `dtype` and `threads` as for `ModelScorer`. An ensemble's score is the mean of its members less `bound` of their
    standard deviations. Raises ConfigError where `folder` is no reward model, `engine` cannot run it, or a `bound` has
    no ensemble to act on.
    """
    chosen = resolve_engine(engine)
    if bound or member_count(folder) > 1:
        return EnsembleScorer(folder, dtype=dtype, threads=threads, bound=bound, engine=chosen)
    return ModelScorer(folder, dtype=dtype, threads=threads, engine=chosen)


def resolve_engine(engine: Engine) -> ModelEngine:
    """Which engine `auto` means where answers come a few at a time: transformers. Imports neither. Raises ConfigError
    where vLLM is not installed."""
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise ConfigError("vLLM is not installed", where="engine", hint="install it, or use transformers")
    return "vllm" if engine == "vllm" else "transformers"
