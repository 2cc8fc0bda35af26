"""The label compiler's own model: Bradley–Terry with ties, annotators' habits and a prior, fitted by EM.

`raters` has the likelihood. The E step is exact for a pair that stands alone, whose difference has a distribution on a
grid that is fitted too, around the standard normal; candidates that share comparisons are jointly normal (`gaussian`).
docs/label-compiler.md has the whole model.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from annotation.crowd.arrays import Array, runs
from annotation.crowd.beliefs import Beliefs, People
from annotation.crowd.evidence import COMPARE, Evidence
from annotation.crowd.gaussian import PRIOR_VARIANCE, Components, components, joint, sweep
from annotation.crowd.raters import (
    GRID,
    Codes,
    Raters,
    fit_habits,
    fit_steepness,
    log_likelihood,
    start,
)

NORMAL = np.exp(-0.5 * GRID**2) / np.exp(-0.5 * GRID**2).sum()
PRIOR_FACTORS = 50.0
"""The normal shape of the prior is worth this many pairs."""
ITERATIONS = 60
TOLERANCE = 1e-3
"""EM ends when no annotator's α, β or log ν moves further."""
DAMPING = 0.8
CHUNK = 1 << 16
"""Rows of the grid in memory at a time."""
BOUND = 1.959964


@dataclass
class State:
    """What EM goes on with. `prior` [2, G] is of lone pairs and of lone single nodes; `belief` is [F, G]."""

    raters: Raters
    prior: Array
    belief: Array
    sites: Array


def fit(evidence: Evidence) -> Beliefs:
    """The posterior of every factor, node and annotator; at least one vote is needed."""
    votes = evidence.votes
    raters, codes, code = start(evidence)
    alone, groups = components(evidence.first, evidence.second, len(evidence.kind), evidence.known != 0)
    count = len(evidence.first)
    state = State(raters, np.stack([NORMAL, NORMAL]), np.empty((count, len(GRID))), np.zeros((count, 2)))
    by_factor, by_code = runs(votes.factor), np.argsort(code, kind="stable")
    code_runs = runs(code[by_code])
    for _ in range(ITERATIONS):
        before = state.raters.habits
        likelihood = _sums(log_likelihood(state.raters, codes), code, by_factor)
        _expect(state, evidence, likelihood, groups)
        seen = _sums(state.belief, votes.factor[by_code], code_runs)
        state.prior = _fit_prior(state.belief, evidence, alone)
        state.raters = fit_habits(state.raters, codes, seen)
        state.raters = replace(state.raters, steepness=fit_steepness(state.raters, codes, seen))
        if np.abs(state.raters.habits - before).max() < TOLERANCE:
            break
    return _beliefs(evidence, state, alone, groups)


def _expect(state: State, evidence: Evidence, likelihood: Array, groups: list[Components]) -> None:
    single = (evidence.second < 0).astype(int)
    log = likelihood + np.log(state.prior)[single] + _truth(evidence.known)
    log -= log.max(1, keepdims=True)
    np.exp(log, out=log)
    log /= log.sum(1, keepdims=True)
    state.belief = log
    for group in groups:
        mine = group.factors
        for _ in range(2):
            state.belief[mine], state.sites[mine] = sweep(group, state.sites[mine], likelihood[mine], GRID, DAMPING)


def _truth(known: Array) -> Array:
    """Log prior of what is known of gold factors: the sign, or that there is hardly a difference."""
    away = -1e3
    positive = np.where(GRID > 0, 0.0, away)
    none = -0.5 * (GRID / 0.25) ** 2
    return np.stack([np.zeros_like(GRID), positive, none, positive[::-1]])[known]


def _fit_prior(belief: Array, evidence: Evidence, alone: Array) -> Array:
    """The distribution of differences, of lone pairs and of lone nodes, symmetric and drawn towards the normal."""
    found = []
    for single in (False, True):
        mine = alone & ((evidence.second < 0) == single)
        mass = belief[mine].sum(0)
        mass = 0.5 * (mass + mass[::-1]) + PRIOR_FACTORS * NORMAL
        found.append(mass / mass.sum())
    return np.stack(found)


def _sums(table: Array, rows: Array, starts: Array) -> Array:
    """Sums [runs, G] of `table[rows]` over runs of rows that begin at `starts`, a chunk at a time."""
    ends = np.r_[starts[1:], len(rows)]
    found = np.empty((len(starts), table.shape[1]))
    low = 0
    while low < len(starts):
        high = max(low + 1, int(np.searchsorted(ends, starts[low] + CHUNK, side="right")))
        part = table[rows[starts[low] : ends[high - 1]]]
        found[low:high] = np.add.reduceat(part, starts[low:high] - starts[low], axis=0)
        low = high
    return found


def _beliefs(evidence: Evidence, state: State, alone: Array, groups: list[Components]) -> Beliefs:
    belief, raters = state.belief, state.raters
    single = evidence.second < 0
    typical = raters.mean[np.where(single, 1, COMPARE)]
    # A single answer is good where a typical annotator would sooner call it so: the bar is where α·d + β is 0.
    bar = np.where(single, -typical[:, 1] / typical[:, 0], 0.0)
    above = np.clip((GRID[None, :] - bar[:, None]) / 0.25 + 0.5, 0, 1)
    mean = belief @ GRID
    variance = np.maximum(belief @ GRID**2 - mean**2, 1e-6)
    before = np.where(alone, (state.prior @ GRID**2)[single.astype(int)], 1.0)
    level = np.full((len(evidence.kind), 2), np.nan)
    scale = raters.mean[1, 0]
    lone = np.flatnonzero(alone & single)
    level[evidence.first[lone]] = np.stack([scale * mean[lone], scale**2 * variance[lone]], 1) * [
        np.sqrt(PRIOR_VARIANCE),
        PRIOR_VARIANCE,
    ]
    for group in groups:
        at, covariance = joint(group, state.sites[group.factors])
        level[group.nodes.ravel()] = np.stack(
            [scale * at.ravel(), scale**2 * np.diagonal(covariance, axis1=1, axis2=2).ravel()], 1
        )
    return Beliefs(
        better=(belief * above).sum(1),
        margin=typical[:, 0] * mean + np.where(single, typical[:, 1], 0),
        worth=np.clip(1 - variance / before, 0, 1),
        level=level,
        difference=_normal,
        people=_people(evidence, state),
        predict=lambda factor, annotator, side: _predict(state, factor, annotator, side),
    )


def _normal(gap: Array, variance: Array) -> Array:
    """Φ(gap / √variance)"""
    z = (gap / np.sqrt(np.maximum(2 * variance, 1e-12))).tolist()
    return np.array([0.5 * (1 + math.erf(v)) for v in z])


def _people(evidence: Evidence, state: State) -> People:
    raters = state.raters
    reliability = np.full((evidence.annotators, 3), np.nan)
    position = np.full((evidence.annotators, 3), np.nan)
    bounds = np.array([0.0, -BOUND, BOUND])
    deviation = np.sqrt(np.diagonal(raters.covariance, axis1=1, axis2=2))
    spread = np.sqrt((state.prior @ GRID**2)[np.minimum(raters.family, 1)])
    alpha = raters.habits[:, :1] + bounds * deviation[:, :1]
    # In ascending order of family, so that comparisons, where there are any, have the last word.
    for family in (2, 1, 0):
        mine = raters.family == family
        reliability[raters.annotator[mine]] = 1 / (1 + np.exp(-alpha[mine] * spread[mine, None]))
    mine = raters.family == COMPARE
    position[raters.annotator[mine]] = raters.habits[mine, 1:2] + bounds * deviation[mine, 1:2]
    return People(reliability, position)


def _predict(state: State, factor: Array, annotator: Array, side: Array) -> Array:
    """Probabilities [n, 3] of first, second and tie for further votes in comparisons."""
    raters = state.raters
    mine = np.flatnonzero(raters.family == COMPARE)
    rater = mine[np.searchsorted(raters.annotator[mine], annotator)]
    found = []
    for lean in (0.5, -0.5, 0.0):
        n = len(factor)
        codes = Codes(rater, np.full(n, lean), np.full(n, lean == 0), side, np.ones(n), np.zeros(n, np.int8))
        found.append((state.belief[factor] * np.exp(log_likelihood(raters, codes))).sum(1))
    return np.stack(found, 1)
