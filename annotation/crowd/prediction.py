"""What somebody would say next, by what is believed of them and of the pair: for tests of a model."""

from dataclasses import replace

import numpy as np

from annotation.crowd.arrays import Array
from annotation.crowd.evidence import BINARY, COMPARE, FAMILIES, SCORE, Evidence
from annotation.crowd.raters import GRID, SAME, Codes, Raters, log_likelihood

WORDS = ((0.5, False), (-0.5, False), (0.0, True))
"""First (good), second (bad) and tie, as lean and tie."""
STEPS = 40
"""Halvings of the interval in which the offset of a person's share of good words lies."""


def predict(
    raters: Raters, evidence: Evidence, belief: Array, factor: Array, annotator: Array, position: Array
) -> Array:
    """Probabilities [n, 3] of first (good), second (bad) and tie for votes of `annotator` [n] on `factor` [n], with the
    first `position` [n] far left; annotator −1 is somebody of whom nothing is known. `belief` [F, G + 1]."""
    raters = _with_shares(raters, evidence, belief)
    found = np.empty((len(factor), 3))
    place = np.full((evidence.annotators + 1, FAMILIES), -1)
    place[raters.annotator, raters.family] = np.arange(len(raters.family))
    single = evidence.second[factor] < 0
    family = np.where(single, np.where(place[annotator, BINARY] < 0, SCORE, BINARY), COMPARE)
    rater = place[annotator, family]
    family = np.where((rater < 0) & single, BINARY, family)
    position = np.where(single, 1.0, position)
    known = np.flatnonzero(rater >= 0)
    for word in range(3):
        chance = np.exp(log_likelihood(raters, _codes(rater[known], position[known], word)))
        found[known, word] = (belief[factor[known]] * chance).sum(1)
    for kind in (COMPARE, BINARY):
        for s in np.unique(position[(rater < 0) & (family == kind)]).tolist():
            mine = np.flatnonzero((rater < 0) & (family == kind) & (position == s))
            found[mine] = belief[factor[mine]] @ _stranger(raters, kind, s)
    return found


def _codes(rater: Array, position: Array, word: int) -> Codes:
    n = len(rater)
    outcome, tie = WORDS[word]
    one = np.ones(n)
    return Codes(rater, np.full(n, outcome), np.full(n, tie), position, one, one, np.zeros(n, np.int8), np.ones((n, 3)))


def _stranger(raters: Raters, family: int, position: float) -> Array:
    """The chances [G + 1, 3] of what a stranger says: the mean over all whom one knows, and one as people usually are.

    Not what the mean person says: of a crowd of experts and spammers nobody is in the middle.
    """
    usual = Raters(
        annotator=np.zeros(1, np.int64),
        family=np.full(1, family),
        parameters=raters.mean[[family]],
        covariance=np.zeros((1, 3, 3)),
        share=np.ones((1, 3)),
        mean=raters.mean,
        variance=raters.variance,
        lapse=raters.lapse_mean[[family]],
        lapse_mean=raters.lapse_mean,
        mix=raters.mix[raters.family == family].mean(0, keepdims=True)
        if (raters.family == family).any()
        else np.array([[0.5, 0.5, 0.0]]),
        usage=np.ones((1, 3)) / 3,
        steepness=0.0,
    )
    mine = np.flatnonzero(raters.family == family)
    words = []
    for word in range(3):
        one = np.exp(log_likelihood(usual, _codes(np.zeros(1, np.int64), np.full(1, position), word)))
        all_of_them = np.exp(log_likelihood(raters, _codes(mine, np.full(len(mine), position), word)))
        words.append((one[0] + all_of_them.sum(0)) / (1 + len(mine)))
    return np.stack(words, 1)


def _with_shares(raters: Raters, evidence: Evidence, belief: Array) -> Raters:
    """Raters of single answers with the offset by which they say "good" as often as they do.

    Of a person whom nobody can be held against it is not known whether they are strict or the answers poor, so
    leniency stays at the crowd's (`Codes.tells`); but how often they will say it again is known.
    """
    votes = evidence.votes
    mine = np.flatnonzero((votes.family != COMPARE) & votes.main)
    if not len(mine):
        return raters
    n = len(raters.family)
    place = np.full((evidence.annotators, FAMILIES), -1)
    place[raters.annotator, raters.family] = np.arange(n)
    rater = place[votes.annotator[mine], votes.family[mine]]
    count = np.bincount(rater, minlength=n)
    total = np.bincount(rater, 0.5 + votes.outcome[mine], n)
    wanted = (total + 0.5) / (count + 1)
    x = raters.parameters[rater, 0, None] * GRID + raters.parameters[rater, 1, None]
    seen = belief[votes.factor[mine], :SAME]
    low, high = np.full(n, -12.0), np.full(n, 12.0)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        good = (seen / (1 + np.exp(-x - middle[rater, None]))).sum(1)
        share = np.bincount(rater, good, n) / np.maximum(count, 1)
        low, high = np.where(share < wanted, middle, low), np.where(share < wanted, high, middle)
    parameters = raters.parameters.copy()
    offset = np.where(count > 0, 0.5 * (low + high), 0.0)
    parameters[:, 1] += offset
    return replace(raters, parameters=parameters)
