"""The M step: rater parameters given what is believed to be true.

The parameters have normal priors, one for each family of votes, whose means and variances are fitted too (empirical
Bayes). Each parameter is fitted to the votes that tell about it (`Codes.tells`) alone.
"""

from dataclasses import replace

import numpy as np

from annotation.crowd.arrays import CHUNK, Array, group_sums
from annotation.crowd.evidence import COMPARE, FAMILIES, SCORE
from annotation.crowd.raters import (
    ABSENT,
    GRID,
    GUESS_MEAN,
    GUESS_VARIANCE,
    LAPSE,
    LAPSE_EACH,
    LAPSE_WORTH,
    SAME,
    Codes,
    Raters,
    log_z,
    strengths,
)

MEAN_SPREAD = np.array([1.0, 0.5, 3.0])
"""How far, as a standard deviation, a crowd's mean may be from the guess."""
PRIOR_RATERS = 4.0
"""The guessed variances are worth this many annotators."""
STEEPNESS_MEAN, STEEPNESS_SPREAD = 0.5, 0.5
"""Prior of κ."""
LEAST_SHARE = 0.02
CLEAREST = 6.0
"""The largest α: a step of the grid is 1.5 log-odds then; with more, pairs of which nobody is sure could pass for hard
ones."""


def fit_parameters(raters: Raters, codes: Codes, seen: Array, looked: Array) -> Raters:
    """One Newton step for the crowd and one for all raters; `seen` [U, G + 1] is how often each code met each
    difference, `looked` [U, G + 1] the probability that it was no lapse.

    The step for the crowd, those who can be held to something, moves all of a family together, which EM by itself does
    slowly; the others stay around it. The covariance is that
    of the votes as they are, the truth being unknown (Louis 1982): with the complete information the crowd's variance
    would shrink to nothing.
    """
    parameters, mean, variance = raters.parameters.copy(), raters.mean.copy(), raters.variance.copy()
    told = np.bincount(codes.rater, codes.tells[:, 0], len(raters.family)) > 0
    families = [(f, told & (raters.family == f)) for f in np.unique(raters.family[told]).tolist()]
    gradient, information = _derivatives(raters, codes, seen, looked)
    for family, mine in families:
        pull = gradient[mine].sum(0) + (GUESS_MEAN[family] - mean[family]) / MEAN_SPREAD**2
        curve = information[mine].sum(0) + np.diag(1 / MEAN_SPREAD**2)
        step = np.clip(np.linalg.solve(curve, pull), -1, 1)
        parameters[mine] += step
        mean[family] += step
        gradient[mine] -= information[mine] @ step
    precision = 1 / variance[raters.family]
    prior = precision[:, :, None] * np.eye(3)
    gradient += precision * (mean[raters.family] - parameters)
    parameters += np.clip(np.linalg.solve(information + prior, gradient[:, :, None])[:, :, 0], -1, 1)
    parameters[:, 0] = np.clip(parameters[:, 0], -CLEAREST, CLEAREST)
    root = np.sqrt(raters.share)
    covariance = np.linalg.inv(root[:, :, None] * information * root[:, None, :] + prior)
    for family, mine in families:
        mean[family] = _crowd_mean(parameters[mine], variance[family], GUESS_MEAN[family])
        around = (parameters[mine] - mean[family]) ** 2 + np.diagonal(covariance[mine], axis1=1, axis2=2)
        variance[family] = (around.sum(0) + PRIOR_RATERS * GUESS_VARIANCE[family]) / (mine.sum() + PRIOR_RATERS)
    parameters[raters.family != COMPARE, 2] = ABSENT
    mean[:, 0] = np.maximum(mean[:, 0], 0.05)  # a crowd that is mostly wrong cannot be told from one that is right
    return replace(raters, parameters=parameters, covariance=covariance, mean=mean, variance=variance)


def fit_lapses(raters: Raters, codes: Codes, seen: Array, looked: Array) -> Raters:
    """An EM step for the shares of lapses, the crowd's and each annotator's, from votes that can be held to something.

    Repeats of single answers do not count: who says "good" each time may mean it or not look.
    """
    weight = seen * (codes.weight * codes.tells[:, 0] * codes.tells[:, 1])[:, None]
    slips = np.bincount(codes.rater, (weight * (1 - looked)).sum(1), len(raters.lapse))
    words = np.bincount(codes.rater, weight.sum(1), len(raters.lapse))
    mean = np.array(
        [
            (slips[raters.family == f].sum() + LAPSE_WORTH * LAPSE[f]) / (words[raters.family == f].sum() + LAPSE_WORTH)
            for f in range(FAMILIES)
        ]
    )
    lapse = (slips + LAPSE_EACH * mean[raters.family]) / (words + LAPSE_EACH)
    lapse[raters.family == SCORE] = 0
    return replace(raters, lapse=lapse, lapse_mean=mean)


def _scores(raters: Raters, codes: Codes) -> tuple[Array, Array, Array, Array]:
    """Derivatives of log P at each difference [U, G], given that the annotator looked: by x, by log ν; and the
    curvatures of x and of both."""
    alpha, beta, log_nu = raters.parameters[codes.rater].T[:, :, None]
    x = alpha * GRID + beta * codes.position[:, None]
    log = log_z(x, log_nu)
    p_first, p_second, p_tie = np.exp(x / 2 - log), np.exp(-x / 2 - log), np.exp(log_nu - log)
    outcome = 0.5 * (p_first - p_second)
    by_x, by_tie = codes.outcome[:, None] - outcome, codes.tie[:, None] - p_tie
    return by_x, by_tie, 0.25 * (p_first + p_second) - outcome**2, p_tie * np.stack([-outcome, 1 - p_tie])


def _derivatives(raters: Raters, codes: Codes, seen: Array, looked: Array) -> tuple[Array, Array]:
    """Gradient [R, 3] and information [R, 3, 3] of the expected log likelihood of what tells about each parameter."""
    by_x, by_tie, curve, (both, tie) = _scores(raters, codes)
    weight, position = seen[:, :SAME] * codes.weight[:, None] * looked[:, :SAME], codes.position
    off, one, d_one, dd_one = (
        weight * by_x,
        (weight * curve).sum(1),
        (weight * curve) @ GRID,
        (weight * curve) @ GRID**2,
    )
    mixed = weight * both
    gradient = np.stack([off @ GRID, off.sum(1) * position, (weight * by_tie).sum(1)], 1)
    at, bt, tt = mixed @ GRID, mixed.sum(1) * position, (weight * tie).sum(1)
    information = np.stack(
        [dd_one, d_one * position, at, d_one * position, one * position**2, bt, at, bt, tt], 1
    ).reshape(-1, 3, 3)
    root = np.sqrt(codes.tells)
    n = len(raters.family)
    return (
        group_sums(codes.tells * gradient, codes.rater, n),
        group_sums(root[:, :, None] * information * root[:, None, :], codes.rater, n),
    )


def observed_share(
    raters: Raters, codes: Codes, code: Array, belief: Array, factor: Array, seen: Array, looked: Array
) -> Array:
    """How much of the information about each parameter is left [R, 3], the truth being known by `belief` [F, G + 1]
    alone.

    What is missing is the variance of each vote's score under the belief (Louis 1982, "Finding the Observed Information
    Matrix when Using the EM Algorithm").
    """
    by_x, by_tie, _, _ = _scores(raters, codes)
    position = codes.position[:, None]
    root = np.sqrt(codes.tells)
    scores = [
        root[:, k, None] * codes.weight[:, None] * looked[:, :SAME] * s
        for k, s in enumerate((by_x * GRID, by_x * position, by_tie))
    ]
    n = len(raters.family)
    missing = np.empty((n, 3))
    for k, score in enumerate(scores):
        squared = np.bincount(codes.rater, (seen[:, :SAME] * score**2).sum(1), n)
        mean = np.concatenate(
            [
                np.einsum("vg,vg->v", belief[factor[low : low + CHUNK], :SAME], score[code[low : low + CHUNK]])
                for low in range(0, len(code), CHUNK)
            ]
        )
        missing[:, k] = squared - np.bincount(codes.rater[code], mean**2, n)
    complete = np.diagonal(_derivatives(raters, codes, seen, looked)[1], axis1=1, axis2=2)
    return np.clip(1 - missing / np.maximum(complete, 1e-12), LEAST_SHARE, 1)


def _crowd_mean(parameters: Array, variance: Array, guess: Array) -> Array:
    weight, prior = len(parameters) / variance, 1 / MEAN_SPREAD**2
    return (weight * parameters.mean(0) + prior * guess) / (weight + prior)


def fit_steepness(raters: Raters, codes: Codes, seen: Array) -> float:
    """One Newton step for κ; 0 or more."""
    strong = np.flatnonzero((codes.strength > 0) & (codes.tells[:, 0] > 0))
    if not len(strong):
        return raters.steepness
    x, _ = strengths(raters, codes, strong)
    steps = np.array([-1.0, 0.0, 1.0])
    odds = raters.usage[codes.rater[strong]][:, None, :] * np.exp(
        np.clip(raters.steepness * steps * x[:, :, None], -50, 50)
    )
    p = odds / odds.sum(2, keepdims=True)
    expected = p @ steps
    weight = seen[strong, :SAME] * codes.weight[strong, None]
    slope = (weight * x * ((codes.strength[strong, None] - 2) - expected)).sum()
    curve = (weight * x**2 * (p @ steps**2 - expected**2)).sum()
    slope += (STEEPNESS_MEAN - raters.steepness) / STEEPNESS_SPREAD**2
    return float(max(0.0, raters.steepness + np.clip(slope / (curve + 1 / STEEPNESS_SPREAD**2), -0.5, 0.5)))
