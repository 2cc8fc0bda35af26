"""Smoothed majority: everybody is trusted alike."""

import numpy as np

from annotation.crowd.arrays import Array, group_sums
from annotation.crowd.beliefs import Beliefs, People
from annotation.crowd.evidence import Evidence, Votes

SMOOTHING = 1.0
"""Votes of no opinion added to each factor."""


def fit(evidence: Evidence) -> Beliefs:
    """`better` is (v + ½) / (n + 1) of v votes in n, a tie being half a vote for each."""
    votes = evidence.votes
    count = group_sums(outcomes(votes) * votes.weight[:, None], votes.factor, len(evidence.first))
    overall = count.sum(0) / max(count.sum(), 1e-9)
    overall[:2] = overall[:2].mean()
    shares = (count + SMOOTHING * overall) / (count.sum(1, keepdims=True) + SMOOTHING)
    better = shares[:, 0] + 0.5 * shares[:, 2]
    unknown = np.full((evidence.annotators, 3), np.nan)
    return Beliefs(
        better=better,
        margin=log_odds(better),
        information=np.ones(len(better)),
        level=levels(evidence, better),
        difference=logistic,
        people=People(unknown, unknown),
        predict=lambda factor, annotator, side: shares[factor],
    )


def outcomes(votes: Votes) -> Array:
    """Votes as shares [V, 3] of first (good), second (bad) and tie; a rating is partly good and partly bad."""
    return np.where(
        votes.tie[:, None], [0.0, 0.0, 1.0], np.stack([0.5 + votes.outcome, 0.5 - votes.outcome, 0 * votes.outcome], 1)
    )


def log_odds(probability: Array) -> Array:
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def logistic(gap: Array, variance: Array) -> Array:
    """Of one that is good with odds p and one with odds q the first is the better one with probability p / (p + q)."""
    return 1 / (1 + np.exp(-gap))


def levels(evidence: Evidence, better: Array) -> Array:
    """`Beliefs.level` of single nodes: the log-odds of being good, without a variance."""
    level = np.full((len(evidence.kind), 2), np.nan)
    single = np.flatnonzero(evidence.second < 0)
    level[evidence.first[single]] = np.stack([log_odds(better[single]), np.zeros(len(single))], 1)
    return level
