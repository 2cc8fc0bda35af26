"""Dawid and Skene's confusion matrices by EM (1979, "Maximum Likelihood Estimation of Observer Error-Rates").

The truth of a factor is one of first (good), second (bad) and tie. Annotator j answers l where the truth is k with
probability π_j[k, l]; sides of the screen do not matter.
"""

from functools import partial

import numpy as np

from annotation.crowd.arrays import Array, group_sums
from annotation.crowd.beliefs import Beliefs, People
from annotation.crowd.evidence import BINARY, COMPARE, FAMILIES, Evidence
from annotation.crowd.majority import levels, log_odds, logistic, outcomes

RIGHT, ANY = 1.0, 1.0
"""Answers added to each row of a confusion matrix: a right one, and one as all answers are distributed. So no
probability is 0, and one vote of a stranger still tells something."""
ITERATIONS = 100
TOLERANCE = 1e-5
BOUND = 1.959964


def fit(evidence: Evidence) -> Beliefs:
    """Truth, and confusion matrices of all annotators. Gold factors are known from the start."""
    votes, factors = evidence.votes, len(evidence.first)
    raters = evidence.annotators * FAMILIES  # one matrix for comparisons, one for single answers
    rater = votes.annotator * FAMILIES + votes.family
    given = outcomes(votes) * votes.weight[:, None]
    overall = given.sum(0) / max(given.sum(), 1e-9)
    overall[:2] = overall[:2].mean()
    single = evidence.second < 0
    truth = group_sums(given, votes.factor, factors) + overall
    truth = _known(truth / truth.sum(1, keepdims=True), evidence.known)
    confusion = np.empty((raters, 3, 3))
    for _ in range(ITERATIONS):
        counts = group_sums(truth[votes.factor][:, :, None] * given[:, None, :], rater, raters)
        counts += RIGHT * np.eye(3) + ANY * overall
        confusion = counts / counts.sum(2, keepdims=True)
        classes = _classes(truth, single)
        log = group_sums(np.einsum("vkl,vl->vk", np.log(confusion + 1e-12)[rater], given), votes.factor, factors)
        log += np.log(classes + 1e-12)[single.astype(int)]
        new = np.exp(log - log.max(1, keepdims=True))
        new = _known(new / new.sum(1, keepdims=True), evidence.known)
        moved = np.abs(new - truth).max(initial=0)
        truth = new
        if moved < TOLERANCE:
            break
    better = truth[:, 0] + 0.5 * truth[:, 2]
    return Beliefs(
        better=better,
        margin=log_odds(better),
        information=np.ones(factors),
        level=levels(evidence, better),
        difference=logistic,
        people=People(_reliability(truth, evidence), np.full((evidence.annotators, 3), np.nan)),
        predict=partial(_predict, evidence, truth, confusion),
    )


def _predict(evidence: Evidence, truth: Array, confusion: Array, factor: Array, annotator: Array, side: Array) -> Array:
    """A stranger says what all annotators say on average."""
    votes = evidence.votes
    spoke = np.unique(votes.annotator * FAMILIES + votes.family)
    family = np.where(evidence.second[factor] < 0, BINARY, COMPARE)
    rater = annotator * FAMILIES + family
    known = (annotator >= 0) & np.isin(rater, spoke)
    matrix = confusion[np.where(known, rater, 0)]
    for kind in (COMPARE, BINARY):
        mine = spoke[spoke % FAMILIES == kind]
        matrix[~known & (family == kind)] = confusion[mine].mean(0) if len(mine) else np.eye(3)
    return np.einsum("nk,nkl->nl", truth[factor], matrix)


def _classes(truth: Array, single: Array) -> Array:
    """How often each truth occurs [2, 3], for pairs and for single nodes; first and second are alike in a pair."""
    pair = truth[~single].sum(0) + 1
    pair[:2] = pair[:2].mean()
    alone = truth[single].sum(0) + 1
    return np.stack([pair / pair.sum(), alone / alone.sum()])


def _known(truth: Array, known: Array) -> Array:
    for value, column in ((1, 0), (-1, 1), (2, 2)):
        truth[known == value] = np.eye(3)[column]
    return truth


def _reliability(truth: Array, evidence: Evidence) -> Array:
    """Share of an annotator's answers that agree with the truth, with the bounds of one vote more for each side."""
    votes = evidence.votes
    right = (truth[votes.factor] * outcomes(votes)).sum(1) * votes.weight
    hits = np.bincount(votes.annotator, right, evidence.annotators)
    n = np.bincount(votes.annotator, votes.weight, evidence.annotators)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(n > 0, (hits + 1) / (n + 2), np.nan)
        half = BOUND * np.sqrt(share * (1 - share) / (n + 3))
    return np.stack([share, np.clip(share - half, 0, 1), np.clip(share + half, 0, 1)], 1)
