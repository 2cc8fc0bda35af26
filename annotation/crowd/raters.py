"""What annotators are like: the likelihood of their votes.

Annotator j sees a difference d between two answers as x = α_j·d + β_j·s, s being how far left the first stands, and
says

    P(first) = e^{x/2} / Z,  P(second) = e^{−x/2} / Z,  P(tie) = ν_j / Z,  Z = e^{x/2} + e^{−x/2} + ν_j

(Davidson 1970), but for a share λ_j of lapses, in which the word is drawn from annotator j's own mix of left, right and
tie, or of good and bad (Hovy et al. 2013, "Learning Whom to Trust with MACE"). α_j is the annotator's discrimination
(0: a spammer; below 0: an adversary), β_j the position bias in log-odds. Some pairs have no difference that anybody
could see, and who looks calls them a tie, but for a few. On a single answer β_j is leniency, and there are no ties.
Strength s given a preference is a softmax of c_js + κ·(s − 2)·max(0, x), x being the difference in favour of the
chosen, with c_js from how often annotator j uses it.
"""

from dataclasses import dataclass

import numpy as np

from annotation.crowd.arrays import Array
from annotation.crowd.evidence import COMPARE, FAMILIES, SCORE, Evidence, Votes, by_others, shared

GRID = np.arange(-3.875, 4, 0.25)
"""Differences in prior standard deviations; symmetric, and without 0, so that each has a sign. Tables over it have one
column more, [.., G + 1]: the last one is that there is no difference to be seen."""
SAME = len(GRID)
ABSENT = -40.0
"""log ν where ties are impossible."""
GUESS_MEAN = np.array([[1.8, 0.0, -1.0], [1.8, 0.0, ABSENT], [1.5, 0.0, ABSENT]])
GUESS_VARIANCE = np.array([[0.5, 0.1, 0.5], [0.5, 0.5, 1.0], [0.5, 0.5, 1.0]])
"""parameters (α, β, log ν) of a crowd that nothing is known of, for each family; with α of 1.8 and the guessed lapses a
lone word is right three times in four (docs/label-compiler.md has the source)."""
LAPSE = np.array([0.06, 0.06, 0.0])
"""The guessed share of lapses in each family; a rating's four votes have their own noise."""
LAPSE_WORTH, LAPSE_EACH = 50.0, 50.0
"""The guess is worth so many votes of the crowd, and the crowd's share so many of each annotator's."""
MIX_WORTH = 10.0
SIDES_WORTH = 200.0
"""Words about pairs that nobody else judged tell of a person's position bias as so many votes at most: of a hundred
left clicks in a hundred some may have been right."""
DECIDED = 0.02
"""How often somebody who looks decides all the same where there is no difference to be seen."""
UNSEEN = 1e-9
"""The chance of what cannot be, so that logarithms stay finite."""


@dataclass(frozen=True)
class Codes:
    """U different votes; what is alike for the model is computed once."""

    rater: Array
    outcome: Array
    tie: Array
    position: Array
    weight: Array
    """[U], as long as parameters are fitted: what was said twice tells twice how steady somebody is."""
    once: Array
    """[U], where it is about the pair: a repeat is no second vote."""
    strength: Array
    tells: Array
    """[U, 3], how much of the vote tells about α, β and log ν. A vote that nothing can be held against, since nobody
    else judged the factor, it was not asked twice and is no gold, tells nothing about α; what is left of it is the side
    of the screen, up to SIDES_WORTH, and how often ties are said. Of leniency others and gold tell, not repeats."""


@dataclass(frozen=True)
class Raters:
    """R raters, an annotator being one for each family of votes, with the mode and covariance of their parameters."""

    annotator: Array
    family: Array
    parameters: Array
    """[R, 3] of (α, β, log ν)"""
    covariance: Array
    """[R, 3, 3]"""
    share: Array
    """[R, 3], how much of the information about each parameter is left when the truth is not known"""
    mean: Array
    variance: Array
    """[families, 3], the crowd's"""
    lapse: Array
    """[R], λ"""
    lapse_mean: Array
    """[families], the crowd's"""
    mix: Array
    """[R, 3], how often each word is said: left, right and tie, or good, bad and never"""
    usage: Array
    """[R, 3], how often each strength is used"""
    steepness: float


def start(evidence: Evidence) -> tuple[Raters, Codes, Array]:
    """Raters as guessed, the different votes, and the code of each vote [V]."""
    votes = evidence.votes
    names, rater = np.unique(votes.annotator * FAMILIES + votes.family, return_inverse=True)
    position = np.where(votes.family == COMPARE, votes.position if evidence.sides else 0.0, 1.0)
    held, others = shared(evidence), by_others(evidence)
    parts = [rater, *(column.astype(np.int64) for column in (votes.tie, votes.strength, held, others))]
    parts += [
        np.unique(np.round(column, 9), return_inverse=True)[1]
        for column in (votes.outcome, position, votes.weight, votes.times)
    ]
    key = np.zeros(len(rater), np.int64)
    for part in parts:
        key = key * (int(part.max(initial=0)) + 1) + part
    _, example, code = np.unique(key, return_index=True, return_inverse=True)
    family = names % FAMILIES
    lone = np.bincount(rater, np.where(held, 0, votes.weight), len(names))
    of_side = np.where(family == COMPARE, np.minimum(1, SIDES_WORTH / np.maximum(lone, 1)), 0)
    strict = np.where(votes.family == COMPARE, held, others)
    tells = np.stack([held, np.where(strict, 1, of_side[rater]), np.ones(len(rater))], 1)
    columns = (
        rater,
        votes.outcome,
        votes.tie,
        position,
        votes.weight * votes.times,
        votes.weight,
        votes.strength,
        tells,
    )
    picked = [column[example] for column in columns]
    counts = np.stack([np.bincount(rater, votes.strength == s, len(names)) for s in (1, 2, 3)], 1)
    overall = (counts.sum(0) + 1) / (counts.sum() + 3)
    raters = Raters(
        annotator=names // FAMILIES,
        family=family,
        parameters=GUESS_MEAN[family],
        covariance=GUESS_VARIANCE[family][:, :, None] * np.eye(3),
        share=np.ones((len(names), 3)),
        mean=GUESS_MEAN,
        variance=GUESS_VARIANCE,
        lapse=LAPSE[family],
        lapse_mean=LAPSE,
        mix=_mix(votes, rater, family, position),
        usage=(counts + 3 * overall) / (counts.sum(1, keepdims=True) + 3),
        steepness=0.5,
    )
    return raters, Codes(*picked), code


def _mix(votes: Votes, rater: Array, family: Array, position: Array) -> Array:
    """How often each rater says what, with MIX_WORTH words more as all of the family say it."""
    left = np.where(votes.outcome * position == 0, 0.5, np.where(votes.outcome * position > 0, 1.0, 0.0))
    left = np.where(votes.family == SCORE, 0.5 + votes.outcome, left)
    said = np.stack([~votes.tie * left, ~votes.tie * (1 - left), votes.tie], 1) * votes.weight[:, None]
    counts = np.stack([np.bincount(rater, column, len(family)) for column in said.T], 1)
    overall = np.stack([counts[family == f].sum(0) + [1, 1, 0] for f in range(FAMILIES)])
    overall[COMPARE, :2] = overall[COMPARE, :2].mean()
    overall /= overall.sum(1, keepdims=True)
    return (counts + MIX_WORTH * overall[family]) / (counts.sum(1, keepdims=True) + MIX_WORTH)


def log_likelihood(raters: Raters, codes: Codes) -> Array:
    """log P(vote | d) [U, G + 1], times what the vote is worth."""
    seen, guessed = chances(raters, codes)
    return codes.weight[:, None] * np.log(seen + guessed[:, None])


def chances(raters: Raters, codes: Codes) -> tuple[Array, Array]:
    """The probabilities of saying this and having looked [U, G + 1], and of saying it in a lapse [U]."""
    alpha, beta, log_nu = raters.parameters[codes.rater].T[:, :, None]
    lapse = raters.lapse[codes.rater]
    x = alpha * GRID + beta * codes.position[:, None]
    log = codes.outcome[:, None] * x - log_z(x, log_nu)
    log[codes.tie] += log_nu[codes.tie]
    seen = np.empty((len(log), len(GRID) + 1))
    np.exp(log, out=seen[:, :SAME])
    seen[:, SAME] = np.where(codes.tie, 1 - DECIDED, DECIDED / 2)
    guessed = lapse * _guess(raters, codes)
    strong = np.flatnonzero(codes.strength)
    if len(strong):
        seen[strong, :SAME] *= strengths(raters, codes, strong)[1]
        guessed[strong] *= raters.usage[codes.rater[strong], codes.strength[strong] - 1]
    seen *= (1 - lapse)[:, None]
    return seen, np.maximum(guessed, UNSEEN)


def _guess(raters: Raters, codes: Codes) -> Array:
    """The probability [U] of the vote's word in a lapse; a rating is partly good and partly bad."""
    mix = raters.mix[codes.rater]
    screen = codes.outcome * np.sign(codes.position)
    plain = np.where(screen > 0, mix[:, 0], np.where(screen < 0, mix[:, 1], 0.5 * (mix[:, 0] + mix[:, 1])))
    return np.where(codes.tie, mix[:, 2], plain)


def log_z(x: Array, log_nu: Array) -> Array:
    """log(e^{x/2} + e^{−x/2} + ν)"""
    half = np.abs(x) / 2
    return half + np.log1p(np.exp(-2 * half) + np.exp(log_nu - half))


def strengths(raters: Raters, codes: Codes, strong: Array) -> tuple[Array, Array]:
    """The difference in favour of the chosen that was there to be seen, x [n, G], and the probability of the strength
    given. Who chose the worse one saw hardly any: below 0 it makes no difference by how much, so that a weak word is
    doubt and never a word for the other side."""
    x = raters.parameters[codes.rater[strong], 0, None] * GRID * np.sign(codes.outcome[strong])[:, None]
    x = np.maximum(x, 0)
    slope = np.exp(np.clip(raters.steepness * x, -50, 50))
    weak, middle, far = raters.usage[codes.rater[strong]].T[:, :, None]
    total = weak / slope + middle + far * slope
    level = codes.strength[strong, None]
    given = np.where(level == 1, weak / slope, np.where(level == 2, middle, far * slope))
    return x, np.maximum(given / total, 1e-12)
