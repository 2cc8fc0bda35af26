"""Reward ensembles: several heads on one trunk, whose disagreement says how far a score can be trusted.

The trunk learns as that of a single model does. Then each member gets a head of its own, drawn from what the pairs leave
open about the trained one: the Laplace approximation of its posterior (MacKay 1992; for the last layer alone: Kristiadi
et al. 2020; of reward models: Yang et al. 2024). So the members' mean is the single model, and they disagree about answers
that differ in ways in which no pair of the training did. Heads that are trained together, each with a random start and a
bootstrap of the pairs (Osband et al. 2018), cost the trunk accuracy: docs/decisions.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from align.errors import ConfigError
from align.ids import seed_for
from align.types import Message
from reward.model import ModelScorer, label_count
from reward.scorer import scores_in

if TYPE_CHECKING:
    from torch import Tensor

PRECISION = 1.0
"""Of the normal prior of a head's weights. Hidden states have about one unit in each direction, and pairs are many, so
that what the deviation says hardly depends on it."""


def spread(scores: Sequence[float]) -> tuple[float, float]:
    """The mean of K ≥ 2 members' scores and their sample standard deviation (divided by K − 1), in the score's units."""
    return fmean(scores), stdev(scores)


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
        count = label_count(folder)
        if count < 2:
            raise ConfigError(
                f"{str(folder)!r} is no ensemble: it gives an answer one score, which has no deviation",
                where="reward",
                hint="train it with `members` of 2 or more, or leave the bound out",
            )  # fmt: skip
        if not 0 <= bound < math.inf:
            raise ConfigError(f"the bound must be a number from 0 on, found {bound}", where="reward.bound")
        self.bound, self.count = bound, count
        self._model = ModelScorer(folder, dtype=dtype, threads=threads, engine=engine, labels=count)

    @property
    def id(self) -> str:
        """The content id of weights, tokenizer and config."""
        return self._model.id

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


def posterior_heads(
    head_H: Tensor,
    chosen_NH: Tensor,
    rejected_NH: Tensor,
    weight_N: Tensor,
    margin_N: Tensor,
    *,
    center: float,
    members: int,
    seed: int,
) -> Tensor:
    """Heads [members, H] drawn from the Laplace approximation of the posterior over a trained head, float32.

    `chosen_NH` (a) and `rejected_NH` (b) are the hidden states of the N pairs that it learned from, `weight_N` (w) their
    weights and `margin_N` (m) their margins. The covariance is the inverse of the Hessian of the summed loss
    (`reward.trainer.reward_loss`, with its centring c) and of a normal prior of precision `PRECISION`,

        Σ w · p (1 − p) · (a − b)(a − b)ᵀ + 2 c · Σ (a + b)(a + b)ᵀ + PRECISION · I,   p = σ(head · (a − b) − m)

    Draws have their mean taken off, so that the mean of the members is the trained head itself, and are scaled such that
    the sample covariance (divided by K − 1) has the posterior as its expectation. The same seed gives the same draws.
    """  # fmt: skip
    import torch

    head, chosen, rejected = head_H.double(), chosen_NH.double(), rejected_NH.double()
    apart, both = chosen - rejected, chosen + rejected
    p_N = torch.sigmoid(apart @ head - margin_N.double())
    curvature_N = weight_N.double() * p_N * (1 - p_N)
    hessian = (apart * curvature_N[:, None]).T @ apart + 2 * center * both.T @ both
    hessian += PRECISION * torch.eye(len(head), dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed_for("posterior heads", seed))
    normal_HK = torch.randn(len(head), members, generator=draw, dtype=torch.float64)
    normal_HK -= normal_HK.mean(dim=1, keepdim=True)
    # hessian = L Lᵀ, so L⁻ᵀ z has its inverse as covariance
    factor = torch.linalg.cholesky(hessian)
    away_HK = torch.linalg.solve_triangular(factor.T, normal_HK, upper=True)
    return (head + away_HK.T).float()
