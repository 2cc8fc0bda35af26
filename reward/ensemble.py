"""Reward ensembles: several heads on one trunk, whose disagreement says how far a score can be trusted.

What makes the members differ is what each of them starts from and what it sees: heads that begin as random directions
(a randomised prior: Osband et al. 2018) and a bootstrap of the prompts for each (Osband et al. 2016; the weights are
Rubin's of 1981). The priors of all members add up to 0, so the mean begins where a single model does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal

from align.errors import ConfigError
from align.ids import seed_for, unit_for
from align.types import Message
from reward.model import ModelScorer, label_count

if TYPE_CHECKING:
    from torch import Tensor

PRIOR = 1.0
"""Length of a head's random start. Hidden states have about one unit in each direction, so that scores start out about
this far apart."""


def spread(scores: Sequence[float]) -> tuple[float, float]:
    """The mean of K ≥ 2 members' scores and their sample standard deviation (divided by K − 1), in the score's units."""
    return fmean(scores), stdev(scores)


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
        return [value if isinstance(value, float) else None for value in self.explain(prompts, answers)]

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
        mean, deviation = spread(scores)
        return mean - self.bound * deviation

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()


def bootstrap(prompt_ids: Sequence[str], members: int, seed: int) -> list[list[float]]:
    """For each row one weight > 0 a member, of mean 1 over prompts: how often, so to speak, the member saw it.

    They are independent exponential draws (the Bayesian bootstrap: Rubin 1981), one for each prompt and member, so that
    all pairs of a prompt go together. A draw depends on the seed, the prompt and the member's number alone.
    """
    return [[-math.log1p(-unit_for("bootstrap", seed, prompt, k)) for k in range(members)] for prompt in prompt_ids]


def random_heads(members: int, width: int, seed: int, *, more: int = 0) -> Tensor:
    """Where the heads of `members` begin, and behind them `more` others, [members + more, width].

    They are random directions of length `PRIOR`; those of several members have their mean taken off.
    """
    import torch

    draw = torch.Generator().manual_seed(seed_for("heads", seed))
    heads_NH = torch.randn(members + more, width, generator=draw)
    heads_NH = PRIOR * heads_NH / heads_NH.norm(dim=1, keepdim=True)
    if members > 1:
        heads_NH[:members] -= heads_NH[:members].mean(dim=0)
    return heads_NH
