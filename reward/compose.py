"""Several scorers as one: their weighted sum."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from align.errors import ConfigError
from align.ids import content_id
from align.types import Message
from reward.scorer import Scorer, scores_in


@dataclass(frozen=True, slots=True)
class Weighted:
    """A Scorer made of others; see `weighted`. `unscored` counts the answers that had no score so far, by reason."""

    parts: tuple[tuple[Scorer, float], ...]
    unscored: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def id(self) -> str:
        return content_id([[scorer.id, weight] for scorer, weight in self.parts])

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or the reason of the first part that has none."""
        found = [scorer.explain(prompts, answers) for scorer, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        sums = [_sum(row, weights) for row in zip(*found, strict=True)]
        self.unscored.update(value for value in sums if isinstance(value, str))
        return sums

    def close(self) -> None:
        """Close all of them."""
        for scorer, _ in self.parts:
            scorer.close()

    def why_unscored(self) -> dict[str, Any]:
        """`unscored_reasons` for a training's metrics, the most frequent first; nothing where all had scores."""
        return {"unscored_reasons": dict(self.unscored.most_common())} if self.unscored else {}


def weighted(parts: Sequence[tuple[Scorer, float]]) -> Weighted:
    """The sum of weight · score over `parts`, each in its own units.

    An answer that one of them cannot score (None) has no score. Raises ConfigError for no parts.
    """
    if not parts:
        raise ConfigError("there is nothing to score with", where="reward", hint="name a model or a function")
    return Weighted(tuple(parts))


def _sum(scores: Sequence[float | str], weights: Sequence[float]) -> float | str:
    total = 0.0
    for score, weight in zip(scores, weights, strict=True):
        if isinstance(score, str):
            return score
        total += weight * score
    return total
