"""What annotators are like: the likelihood of their votes, and the fit of their habits given what is true.

Annotator j sees a difference d between two answers as x = α_j·d + β_j·s, s being how far left the first stands, and says

    P(first) = e^{x/2} / Z,  P(second) = e^{−x/2} / Z,  P(tie) = ν_j / Z,  Z = e^{x/2} + e^{−x/2} + ν_j

(Davidson 1970). α_j is the annotator's discrimination (0: a spammer; below 0: an adversary), β_j the position bias in
log-odds. On a single answer β_j is leniency, and there are no ties. The habits have normal priors, one for each family
of votes, whose means and variances are fitted too (empirical Bayes). Strength s given a preference is a softmax of
c_js + λ·(s − 2)·|x|, with c_js from how often annotator j uses it.
"""

from dataclasses import dataclass, replace

import numpy as np

from annotation.crowd.arrays import CHUNK, Array, group_sums
from annotation.crowd.evidence import COMPARE, Evidence

GRID = np.arange(-3.875, 4, 0.25)
"""Differences in prior standard deviations; symmetric, and without 0, so that each has a sign."""
ABSENT = -40.0
"""log ν where ties are impossible."""
GUESS_MEAN = np.array([[1.5, 0.0, -1.0], [1.5, 0.0, ABSENT], [1.5, 0.0, ABSENT]])
GUESS_VARIANCE = np.array([[0.5, 0.1, 0.5], [0.5, 0.5, 1.0], [0.5, 0.5, 1.0]])
"""Habits (α, β, log ν) of a crowd that nothing is known of, for each family; with α of 1.5 a difference of one standard
deviation is called right four times in five."""
MEAN_SPREAD = np.array([1.0, 0.5, 3.0])
"""How far, as a standard deviation, a crowd's mean may be from the guess."""
PRIOR_RATERS = 4.0
"""The guessed variances are worth this many annotators."""
STEEPNESS_MEAN, STEEPNESS_SPREAD = 0.5, 0.5
"""Prior of λ."""
LEAST_SHARE = 0.02
NODES = ((-np.sqrt(3.0), 1 / 6), (0.0, 2 / 3), (np.sqrt(3.0), 1 / 6))
"""Gauss–Hermite nodes and weights of a standard normal."""


@dataclass(frozen=True)
class Codes:
    """U different votes; what is alike for the model is computed once."""

    rater: Array
    lean: Array
    tie: Array
    side: Array
    worth: Array
    strength: Array


@dataclass(frozen=True)
class Raters:
    """R raters, an annotator being one for each family of votes, with the mode and covariance of their habits."""

    annotator: Array
    family: Array
    habits: Array
    """[R, 3] of (α, β, log ν)"""
    covariance: Array
    """[R, 3, 3]"""
    share: Array
    """[R, 3], how much of the information about each habit is left when the truth is not known"""
    mean: Array
    variance: Array
    """[families, 3], the crowd's"""
    usage: Array
    """[R, 3], how often each strength is used"""
    steepness: float


def start(evidence: Evidence) -> tuple[Raters, Codes, Array]:
    """Raters as guessed, the different votes, and the code of each vote [V]."""
    votes = evidence.votes
    names, rater = np.unique(votes.annotator * 3 + votes.family, return_inverse=True)
    side = np.where(votes.family == COMPARE, votes.side, 1.0)
    parts = [rater, votes.tie.astype(np.int64), votes.strength.astype(np.int64)]
    parts += [np.unique(np.round(column, 9), return_inverse=True)[1] for column in (votes.lean, side, votes.worth)]
    key = np.zeros(len(rater), np.int64)
    for part in parts:
        key = key * (int(part.max(initial=0)) + 1) + part
    _, example, code = np.unique(key, return_index=True, return_inverse=True)
    picked = [column[example] for column in (rater, votes.lean, votes.tie, side, votes.worth, votes.strength)]
    family = names % 3
    counts = np.stack([np.bincount(rater, votes.strength == s, len(names)) for s in (1, 2, 3)], 1)
    overall = (counts.sum(0) + 1) / (counts.sum() + 3)
    raters = Raters(
        annotator=names // 3,
        family=family,
        habits=GUESS_MEAN[family],
        covariance=GUESS_VARIANCE[family][:, :, None] * np.eye(3),
        share=np.ones((len(names), 3)),
        mean=GUESS_MEAN,
        variance=GUESS_VARIANCE,
        usage=(counts + 3 * overall) / (counts.sum(1, keepdims=True) + 3),
        steepness=STEEPNESS_MEAN,
    )
    return raters, Codes(*picked), code


def log_likelihood(raters: Raters, codes: Codes) -> Array:
    """log P(vote | d) [U, G], times what the vote is worth; α is integrated over its posterior."""
    alpha, beta, log_nu = raters.habits[codes.rater].T[:, :, None]
    spread = np.sqrt(raters.covariance[codes.rater, 0, 0])[:, None]
    shift, lean = beta * codes.side[:, None], codes.lean[:, None]
    total: Array | None = None
    for z, weight in NODES:
        x = (alpha + z * spread) * GRID + shift
        log = lean * x - _log_z(x, log_nu) + np.log(weight)
        total = log if total is None else np.logaddexp(total, log)
    assert total is not None
    total[codes.tie] += log_nu[codes.tie]
    strong = np.flatnonzero(codes.strength)
    if len(strong):
        total[strong] += np.log(_strengths(raters, codes, strong)[1])
    return codes.worth[:, None] * total


def _log_z(x: Array, log_nu: Array) -> Array:
    """log(e^{x/2} + e^{−x/2} + ν)"""
    half = np.abs(x) / 2
    return half + np.log1p(np.exp(-2 * half) + np.exp(log_nu - half))


def _strengths(raters: Raters, codes: Codes, strong: Array) -> tuple[Array, Array]:
    """The difference in favour of the chosen that was seen, x [n, G], and the probability of the strength given."""
    x = raters.habits[codes.rater[strong], 0, None] * GRID * np.sign(codes.lean[strong])[:, None]
    slope = np.exp(np.clip(raters.steepness * x, -50, 50))
    weak, middle, far = raters.usage[codes.rater[strong]].T[:, :, None]
    total = weak / slope + middle + far * slope
    level = codes.strength[strong, None]
    given = np.where(level == 1, weak / slope, np.where(level == 2, middle, far * slope))
    return x, np.maximum(given / total, 1e-12)


def fit_habits(raters: Raters, codes: Codes, seen: Array) -> Raters:
    """One Newton step for the crowd and one for all raters; `seen` [U, G] is how often each code met each difference.

    The step for the crowd moves all raters of a family together, which EM by itself does slowly. The covariance is that
    of the votes as they are, the truth being unknown (Louis 1982): with the complete information the crowd's variance
    would shrink to nothing.
    """
    habits, mean, variance = raters.habits.copy(), raters.mean.copy(), raters.variance.copy()
    families = [(family, raters.family == family) for family in np.unique(raters.family).tolist()]
    gradient, information = _derivatives(raters, codes, seen)
    for family, mine in families:
        pull = gradient[mine].sum(0) + (GUESS_MEAN[family] - mean[family]) / MEAN_SPREAD**2
        curve = information[mine].sum(0) + np.diag(1 / MEAN_SPREAD**2)
        step = np.clip(np.linalg.solve(curve, pull), -1, 1)
        habits[mine] += step
        mean[family] += step
        gradient[mine] -= information[mine] @ step
    precision = 1 / variance[raters.family]
    prior = precision[:, :, None] * np.eye(3)
    gradient += precision * (mean[raters.family] - habits)
    habits += np.clip(np.linalg.solve(information + prior, gradient[:, :, None])[:, :, 0], -1, 1)
    root = np.sqrt(raters.share)
    covariance = np.linalg.inv(root[:, :, None] * information * root[:, None, :] + prior)
    for family, mine in families:
        mean[family] = _crowd_mean(habits[mine], variance[family], GUESS_MEAN[family])
        around = (habits[mine] - mean[family]) ** 2 + np.diagonal(covariance[mine], axis1=1, axis2=2)
        variance[family] = (around.sum(0) + PRIOR_RATERS * GUESS_VARIANCE[family]) / (mine.sum() + PRIOR_RATERS)
    habits[raters.family != COMPARE, 2] = ABSENT
    mean[:, 0] = np.maximum(mean[:, 0], 0.05)  # a crowd that is mostly wrong cannot be told from one that is right
    return replace(raters, habits=habits, covariance=covariance, mean=mean, variance=variance)


def _scores(raters: Raters, codes: Codes) -> tuple[Array, Array, Array, Array]:
    """Derivatives of log P at each difference [U, G]: by x, by log ν; and the curvatures of x and of both."""
    alpha, beta, log_nu = raters.habits[codes.rater].T[:, :, None]
    x = alpha * GRID + beta * codes.side[:, None]
    log_z = _log_z(x, log_nu)
    p_first, p_second, p_tie = np.exp(x / 2 - log_z), np.exp(-x / 2 - log_z), np.exp(log_nu - log_z)
    lean = 0.5 * (p_first - p_second)
    by_x, by_tie = codes.lean[:, None] - lean, codes.tie[:, None] - p_tie
    return by_x, by_tie, 0.25 * (p_first + p_second) - lean**2, p_tie * np.stack([-lean, 1 - p_tie])


def _derivatives(raters: Raters, codes: Codes, seen: Array) -> tuple[Array, Array]:
    """Gradient [R, 3] and information [R, 3, 3] of the votes' expected log likelihood."""
    by_x, by_tie, curve, (both, tie) = _scores(raters, codes)
    weight, side = seen * codes.worth[:, None], codes.side
    off, one, d_one, dd_one = (
        weight * by_x,
        (weight * curve).sum(1),
        (weight * curve) @ GRID,
        (weight * curve) @ GRID**2,
    )
    mixed = weight * both
    gradient = np.stack([off @ GRID, off.sum(1) * side, (weight * by_tie).sum(1)], 1)
    at, bt, tt = mixed @ GRID, mixed.sum(1) * side, (weight * tie).sum(1)
    information = np.stack([dd_one, d_one * side, at, d_one * side, one * side**2, bt, at, bt, tt], 1)
    n = len(raters.family)
    return group_sums(gradient, codes.rater, n), group_sums(information.reshape(-1, 3, 3), codes.rater, n)


def observed_share(raters: Raters, codes: Codes, code: Array, belief: Array, factor: Array, seen: Array) -> Array:
    """How much of the information about each habit is left [R, 3], the truth being known by `belief` [F, G] alone.

    What is missing is the variance of each vote's score under the belief (Louis 1982, "Finding the Observed Information
    Matrix when Using the EM Algorithm").
    """
    by_x, by_tie, _, _ = _scores(raters, codes)
    side = codes.side[:, None]
    scores = [codes.worth[:, None] * s for s in (by_x * GRID, by_x * side, by_tie)]
    n = len(raters.family)
    missing = np.empty((n, 3))
    for k, score in enumerate(scores):
        squared = np.bincount(codes.rater, (seen * score**2).sum(1), n)
        mean = np.concatenate(
            [
                np.einsum("vg,vg->v", belief[factor[low : low + CHUNK]], score[code[low : low + CHUNK]])
                for low in range(0, len(code), CHUNK)
            ]
        )
        missing[:, k] = squared - np.bincount(codes.rater[code], mean**2, n)
    complete = np.diagonal(_derivatives(raters, codes, seen)[1], axis1=1, axis2=2)
    return np.clip(1 - missing / np.maximum(complete, 1e-12), LEAST_SHARE, 1)


def _crowd_mean(habits: Array, variance: Array, guess: Array) -> Array:
    weight, prior = len(habits) / variance, 1 / MEAN_SPREAD**2
    return (weight * habits.mean(0) + prior * guess) / (weight + prior)


def fit_steepness(raters: Raters, codes: Codes, seen: Array) -> float:
    """One Newton step for λ; 0 or more."""
    strong = np.flatnonzero(codes.strength)
    if not len(strong):
        return raters.steepness
    x, _ = _strengths(raters, codes, strong)
    steps = np.array([-1.0, 0.0, 1.0])
    odds = raters.usage[codes.rater[strong]][:, None, :] * np.exp(
        np.clip(raters.steepness * steps * x[:, :, None], -50, 50)
    )
    p = odds / odds.sum(2, keepdims=True)
    expected = p @ steps
    weight = seen[strong] * codes.worth[strong, None]
    slope = (weight * x * ((codes.strength[strong, None] - 2) - expected)).sum()
    curve = (weight * x**2 * (p @ steps**2 - expected**2)).sum()
    slope += (STEEPNESS_MEAN - raters.steepness) / STEEPNESS_SPREAD**2
    return float(max(0.0, raters.steepness + np.clip(slope / (curve + 1 / STEEPNESS_SPREAD**2), -0.5, 0.5)))
