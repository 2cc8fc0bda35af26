"""Reward ensembles: a reward model with members, whose disagreement says how far a score can be trusted.

What the members are, and where they come from: `reward.members`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal

from align.errors import ConfigError
from align.ids import content_id
from align.types import Message
from reward.members import member_count
from reward.model import ModelScorer
from reward.scorer import scores_in


def spread(scores: Sequence[float]) -> tuple[float, float]:
    """The mean of K ≥ 2 members' scores and their sample standard deviation (divided by K − 1), in the score's
    units."""
    mean = fmean(scores)
    return mean, math.dist(scores, [mean] * len(scores)) / math.sqrt(len(scores) - 1)


def lower_bound(scores: Sequence[float], bound: float) -> float:
    """The mean of members' scores less `bound` of their standard deviations."""
    mean, deviation = spread(scores)
    return mean - bound * deviation


class EnsembleScorer:
    """A Scorer made of an ensemble's folder: the mean of its members less `bound` standard deviations."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        threads: int | None = None,
        bound: float = 0.0,
        engine: Literal["vllm", "transformers"] = "transformers",
    ) -> None:
        """`bound` ≥ 0: 0 is the mean, 1 a lower confidence bound, with which answers that the members disagree on are
        not worth finding (Coste et al. 2023, Eisenstein et al. 2023). The rest is as for `ModelScorer`.

        Raises ConfigError where `folder` is no ensemble.
        """
        if member_count(folder) < 2:
            raise ConfigError(
                f"{str(folder)!r} is no ensemble: it gives an answer one score, which has no deviation",
                where="reward",
                hint="train it with `members` of 2 or more, or leave the bound out",
            )  # fmt: skip
        if not 0 <= bound < math.inf:
            raise ConfigError(f"the bound must be a number from 0 on, found {bound}", where="reward.bound")
        self.bound = bound
        self._model = ModelScorer(folder, dtype=dtype, threads=threads, engine=engine)

    @property
    def id(self) -> str:
        """The content id of weights, tokenizer, config and members, with the bound where there is one."""
        return content_id([self._model.id, self.bound]) if self.bound else self._model.id

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """As `Scorer.score`: mean − bound · standard deviation; None for what `explain` has a reason for."""
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or the reason why there is none, as `ModelScorer.explain` gives it."""
        return [row if isinstance(row, str) else self.bounded(row) for row in self.outputs(prompts, answers)]

    def members(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[list[float] | None]:
        """The scores of all members for each answer, in the members' order; None where it cannot be scored."""
        return [None if isinstance(row, str) else row for row in self.outputs(prompts, answers)]

    def outputs(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[list[float] | str]:
        """As `members`, with the reason in place of None."""
        return self._model.outputs(prompts, answers)

    def bounded(self, scores: Sequence[float]) -> float:
        """What one answer scores of whose members `scores` are."""
        return lower_bound(scores, self.bound)

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()
