"""What no model may make of a word: its opposite."""

from dataclasses import replace

import numpy as np

from annotation.crowd.arrays import Array
from annotation.crowd.beliefs import Beliefs
from annotation.crowd.evidence import SCORE, Evidence

COIN = 0.01
"""A pair whose better answer is known by less than this beyond one half is no preference."""


def at_face_value(evidence: Evidence, beliefs: Beliefs, circles: list[list[int]]) -> Beliefs:
    """The same beliefs, but that a label never comes out on the other side of what all said who judged it, be it one
    person or more, and that a pair which all called a tie has no better answer.

    Where the model would turn a word round, since its giver contradicts all others elsewhere, a pair becomes no
    preference, and an answer as good as unknown, which is compared with no other. So do all pairs of a circle
    (`annotation.crowd.conflicts.circles`) of which one has no better answer: nothing says which is the wrong one.
    Ratings are not words of one side: whose threes are praise is known from others.
    """
    votes, count = evidence.votes, len(evidence.first)
    outcome = np.bincount(votes.factor, votes.outcome * votes.weight, count)
    against = np.bincount(votes.factor, votes.outcome * np.sign(outcome)[votes.factor] < 0, count) > 0
    rated = np.bincount(votes.factor, votes.family == SCORE, count) > 0
    tied = (np.bincount(votes.factor, votes.outcome != 0, count) == 0) & (evidence.second >= 0)
    agreed = ~against & ~rated & (evidence.known == 0)
    turned = agreed & (outcome * (beliefs.better - 0.5) < 0)
    label = turned & (evidence.second < 0)
    near = turned | (np.abs(beliefs.better - 0.5) < COIN)
    turned[_around(evidence, circles, near)] = True
    better, margin = beliefs.better.copy(), beliefs.margin.copy()
    better[turned | tied] = 0.5
    better[label] += COIN * np.sign(outcome[label])
    margin[turned | tied] = 0
    level = beliefs.level.copy()
    level[evidence.first[label]] = np.nan
    return replace(beliefs, better=better, margin=margin, level=level)


def _around(evidence: Evidence, circles: list[list[int]], near: Array) -> list[int]:
    """The pairs of those circles of which one is near a coin, or turned."""
    if not circles or not near.any():
        return []
    of_pair = {pair: f for f, pair in enumerate(zip(evidence.first.tolist(), evidence.second.tolist(), strict=True))}
    found = []
    for nodes in circles:
        pairs = [of_pair[min(a, b), max(a, b)] for a, b in zip(nodes, [*nodes[1:], nodes[0]], strict=True)]
        found += pairs if near[pairs].any() else []
    return found
