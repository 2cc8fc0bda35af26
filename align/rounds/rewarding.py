"""What the online methods and best-of-n raise: reward models and scoring functions, weighted and added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import ConfigError
from align.ids import content_id
from align.store import checkpoint_id
from reward.functions import FunctionScorer, function_id, load_function
from reward.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Part:
    """A reward model's folder, or a function as `file.py:function`, and its share in the sum."""

    path: str
    weight: float = 1.0

    @property
    def is_model(self) -> bool:
        return Path(self.path).is_dir()


def parse_reward(text: str) -> Part:
    """`FOLDER` or `file.py:function`, with `=WEIGHT` behind it where it is not 1. Raises ConfigError."""
    path, equals, weight = text.rpartition("=")
    if not equals or Path(text).is_dir():
        path, weight = text, "1"
    try:
        part = Part(path, float(weight))
    except ValueError:
        part = Part(path, math.nan)
    if not math.isfinite(part.weight):
        raise ConfigError(f"the weight must be a number, found {weight!r}", where=f"--reward {text}")
    if not part.is_model and not part.path.rpartition(":")[0].endswith(".py"):
        what = f"{part.path} is neither a folder nor file.py:function"
        raise ConfigError(what, where=f"--reward {text}", hint="`align reward train` makes such a folder")
    return part


def rewards_id(parts: Sequence[Part]) -> str:
    """Changes with a model's weights, a function's code and the shares."""
    made_of = [checkpoint_id(Path(p.path)) if p.is_model else function_id(p.path, Path()) for p in parts]
    return content_id([[one, part.weight] for one, part in zip(made_of, parts, strict=True)])


def scorer_of(parts: Sequence[Part], *, dtype: str, threads: int | None) -> Scorer:
    """The weighted sum of `parts`; an answer that one of them cannot score has no score.

    Raises ConfigError where a function or a model cannot be loaded.
    """
    from reward.compose import weighted

    def one(part: Part) -> Scorer:
        if not part.is_model:
            return FunctionScorer(load_function(part.path, Path()))
        from reward.model import load_scorer

        return load_scorer(Path(part.path), dtype=dtype, threads=threads)

    return weighted([(one(part), part.weight) for part in parts])
