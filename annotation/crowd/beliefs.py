"""What a model believes after reading the votes, in one form for all models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from annotation.crowd.arrays import Array


class Predict(Protocol):
    def __call__(self, factor: Array, annotator: Array, side: Array) -> Array:
        """Probabilities [n, 3] of first (good), second (bad) and tie for n further votes; for tests of a model."""


class Difference(Protocol):
    def __call__(self, gap: Array, variance: Array) -> Array:
        """The probability that one node is better than another, of the difference of their levels and its variance."""


@dataclass(frozen=True)
class People:
    """For each annotator; NaN where nothing is known. All have 95% bounds."""

    reliability: Array
    """[A, 3] value, low, high in [0, 1]: the probability of agreeing with the truth on a typical clear pair."""
    position_bias: Array
    """[A, 3] value, low, high: log-odds in favour of the left answer."""


@dataclass(frozen=True)
class Beliefs:
    """About F factors, N nodes and A annotators."""

    better: Array
    """[F] probability in [0, 1] that the first node is the better one of a pair, or that a single one is good."""
    margin: Array
    """[F] log-odds with which a typical annotator would say so; the sign is that of the first node."""
    information: Array
    """[F] in [0, 1], how much the votes have told."""
    level: Array
    """[N, 2] mean and variance of each node's quality, in a typical annotator's log-odds; NaN where it was only
    compared."""
    difference: Difference
    people: People
    predict: Predict


def mean(found: Sequence[tuple[float, Beliefs]]) -> Beliefs:
    """What several models believe, each with a share in (0, 1] of the whole; about people, what the likeliest
    believes."""
    whole = sum(share for share, _ in found)
    shares = [share / whole for share, _ in found]
    each = [beliefs for _, beliefs in found]
    likeliest = each[int(np.argmax(shares))]

    def predict(factor: Array, annotator: Array, side: Array) -> Array:
        return _mean(shares, [beliefs.predict(factor, annotator, side) for beliefs in each])

    return Beliefs(
        better=_mean(shares, [b.better for b in each]),
        margin=_mean(shares, [b.margin for b in each]),
        information=_mean(shares, [b.information for b in each]),
        level=_mean(shares, [b.level for b in each]),
        difference=likeliest.difference,
        people=likeliest.people,
        predict=predict,
    )


def _mean(shares: Sequence[float], values: Sequence[Array]) -> Array:
    total = shares[0] * values[0]
    for share, value in zip(shares[1:], values[1:], strict=True):
        total = total + share * value
    return total
