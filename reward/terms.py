"""What the online methods and best-of-n raise: reward models and scoring functions, weighted and added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.config.rewards import AnyFunction
from align.config.section import load_function_section
from align.errors import ConfigError
from align.ids import content_id
from align.store import checkpoint_id
from reward.build import build, identity
from reward.compose import Weighted, weighted
from reward.functions import FunctionScorer, function_id, load_function
from reward.scorer import Scorer


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """A reward model's folder, or a scoring function as the recipe names it, and its share in the sum. Text that is no
    folder is a function of the user's own, `file.py:function`.

    `bound` is how many standard deviations of an ensemble's members are taken off their mean.
    """

    source: str | AnyFunction
    weight: float = 1.0
    bound: float = 0.0

    @property
    def is_model(self) -> bool:
        return isinstance(self.source, str) and Path(self.source).is_dir()

    @property
    def folder(self) -> Path:
        """The reward model's folder."""
        assert isinstance(self.source, str), f"{self.source.type} is no reward model"
        return Path(self.source)


def parse_reward(text: str, option: str = "--reward") -> RewardTerm:
    """What `option` says: `FOLDER` or `file.py:function`, with `=WEIGHT` behind it where it is not 1, or an entry of
    the recipe's `reward.functions` as `{type: …}`. Raises ConfigError."""
    if text.lstrip().startswith("{"):
        function = load_function_section(text, f"{option} {text}")
        return RewardTerm(function, function.weight)
    source, equals, given = text.rpartition("=")
    if not equals or Path(text).is_dir():
        source, given = text, "1"
    try:
        weight = float(given)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ConfigError(f"the weight must be a number, found {given!r}", where=f"{option} {text}")
    _require_source(source, f"{option} {text}")
    return RewardTerm(source, weight)


def _require_source(source: str, where: str) -> None:
    if not Path(source).is_dir() and not source.rpartition(":")[0].endswith(".py"):
        what = f"{source} is neither a folder nor file.py:function"
        hint = "`align reward train` makes such a folder; other functions are written {type: …}, as in a recipe"
        raise ConfigError(what, where=where, hint=hint)


def judged_by(text: str) -> Scorer:
    """What `--judge` says, as the Scorer: `file.py:function`, a reward model's folder, or `{type: …}` as an entry of
    `reward.functions`. Raises ConfigError or DataError."""
    if text.lstrip().startswith("{"):
        part = parse_reward(text, "--judge")
    else:
        _require_source(text, f"--judge {text}")
        part = RewardTerm(text)
    return scorer_of([part], dtype="float32", threads=None)


def rewards_id(parts: Sequence[RewardTerm]) -> str:
    """Changes with a model's weights, with what a function says, and with the shares."""

    def made_of(part: RewardTerm) -> str:
        if isinstance(part.source, str):
            return checkpoint_id(part.folder) if part.is_model else function_id(part.source, Path())
        return identity(part.source)

    return content_id([[made_of(part), part.weight, part.bound] for part in parts])


def scorer_of(parts: Sequence[RewardTerm], *, dtype: str, threads: int | None, keep: bool = False) -> Weighted:
    """The weighted sum of `parts`; an answer that one of them cannot score has no score.

    With `keep` the scores of reward models are kept on disk (`reward.scoring`): for many answers at once, not for those
    that a policy gives from step to step and nobody asks about again.

    Raises ConfigError or DataError where a function or a model cannot be loaded.
    """

    def one(part: RewardTerm) -> Scorer:
        if not isinstance(part.source, str):
            return build(part.source)
        if not part.is_model:
            return FunctionScorer(load_function(part.source, Path()))
        if keep:
            from reward.scoring import KeptScorer

            return KeptScorer(part.folder, dtype=dtype, threads=threads, bound=part.bound)
        from reward.load import load_scorer

        return load_scorer(part.folder, dtype=dtype, threads=threads, bound=part.bound)

    return weighted([(one(part), part.weight) for part in parts])
