"""Scorers: they say how good an answer is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from align.api.given import Compute
from align.config.recipe import FunctionJudge
from align.config.rewards import AnyFunction
from align.config.training import Rewards
from align.errors import ConfigError
from align.types import Message
from reward.scorer import Scorer

if TYPE_CHECKING:
    from reward.terms import RewardTerm

ScorerLike = Scorer | Callable[[list[Message], str], float | None]
"""A Scorer, or a function of (messages, answer) that returns a number (higher is better), or None for no score."""


def load_scorer(
    source: str | Path | AnyFunction | FunctionJudge | Rewards,
    *,
    model: str | Path | None = None,
    bound: float = 0.0,
    compute: Compute | None = None,
) -> Scorer:
    """Load a scorer, which says how good an answer is; higher is better.

    `source` is a reward model's folder, `file.py:function`, `{type: …}` like an entry of a recipe's `reward.functions`,
    or a section of a recipe: such an entry, `evaluate.judge`, or the whole `reward`. The last is the weighted sum of
    its functions and of the trained reward model, whose folder is then `model`. For an ensemble, `bound` standard
    deviations of the members' scores are subtracted from their mean. Raises ConfigError for any other `source`, and for
    options that have no effect.
    """
    from reward.terms import RewardTerm, parse_reward, scorer_of

    compute = compute or Compute()
    if isinstance(source, Rewards):
        parts = _terms(source, model, bound)
    elif model is not None:
        raise ConfigError("a model goes with a recipe's `reward` alone", where="model", hint="load it by itself")
    elif isinstance(source, FunctionJudge):
        parts = [RewardTerm(source.path)]
    elif isinstance(source, str | Path):
        text = str(source)
        parts = [RewardTerm(text, bound=bound) if Path(text).is_dir() else parse_reward(text, "source")]
    else:
        parts = [RewardTerm(source)]
    if bound and not any(part.is_model for part in parts):
        raise ConfigError("only an ensemble of reward models has a bound", where="bound", hint="leave it out")
    return scorer_of(parts, dtype=compute.dtype, threads=compute.threads)


def _terms(reward: Rewards, model: str | Path | None, bound: float) -> "list[RewardTerm]":
    """The reward terms of a recipe."""
    from reward.terms import RewardTerm

    if bound:
        raise ConfigError("the section has a bound of its own", where="bound", hint="leave it out")
    if (model is None) != (reward.model is None):
        what = "a reward model, and none is given" if model is None else "no reward model, and one is given"
        raise ConfigError(f"the recipe's `reward` trains {what}", where="model", hint="`train_reward` makes it")
    own = [RewardTerm(str(model), reward.weight, reward.bound)] if model is not None else []
    return [*own, *(RewardTerm(function, function.weight) for function in reward.functions)]


def scorer_like(given: ScorerLike) -> Scorer:
    """A function as a Scorer; a Scorer unchanged."""
    from reward.functions import FunctionScorer, in_memory

    return given if isinstance(given, Scorer) else FunctionScorer(in_memory(given))
