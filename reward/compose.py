"""Several scorers as one: their weighted sum."""

from collections.abc import Sequence
from dataclasses import dataclass

from align.errors import ConfigError
from align.types import Message
from reward.scorer import Scorer


@dataclass(frozen=True, slots=True)
class Weighted:
    """A Scorer made of others; see `weighted`."""

    parts: tuple[tuple[Scorer, float], ...]

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        scores = [scorer.score(prompts, answers) for scorer, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        return [_sum(row, weights) for row in zip(*scores, strict=True)]


def weighted(parts: Sequence[tuple[Scorer, float]]) -> Scorer:
    """The sum of weight · score over `parts`, each in its own units.

    An answer that one of them cannot score (None) has no score. Raises ConfigError for no parts.
    """
    if not parts:
        raise ConfigError("there is nothing to score with", where="reward", hint="name a model or a function")
    return Weighted(tuple(parts))


def _sum(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [weight * score for score, weight in zip(scores, weights, strict=True) if score is not None]
    return sum(known) if len(known) == len(scores) else None
