"""The label compiler's own model: Bradley–Terry with ties, rater parameters and a prior, fitted by EM.

`raters` has the likelihood. The E step is exact for a pair that stands alone, whose difference has a distribution on a
grid that is fitted too, around the standard normal; candidates that share comparisons are jointly normal (`gaussian`).
docs/label-compiler.md has the whole model.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from annotation.crowd.arrays import Array, Runs
from annotation.crowd.beliefs import Beliefs, People, mean
from annotation.crowd.evidence import BINARY, COMPARE, Evidence, Votes, shared
from annotation.crowd.gaussian import PRIOR_VARIANCE, Components, components, joint, labels, sweep
from annotation.crowd.prediction import predict
from annotation.crowd.rater_parameters import fit_lapses, fit_parameters, fit_steepness, observed_share
from annotation.crowd.raters import GRID, SAME, Codes, Raters, chances, log_likelihood, start


def _shape(density: Array) -> Array:
    return density / density.sum()


NORMAL = _shape(np.exp(-0.5 * GRID**2))
EVEN = _shape((np.abs(np.abs(GRID) - 1) < 0.2).astype(float))
"""All pairs are about equally hard."""
PEAKED = _shape(np.exp(-np.sqrt(2.0) * np.abs(GRID)))
"""Laplace: many pairs are nearly equal, some far apart."""
SHAPES = np.stack([NORMAL, EVEN, PEAKED])
"""Distributions [3, G] of differences: symmetric and of variance 1, so that the scale is in α alone. Their shares are
fitted with the rest."""
PRIOR_FACTORS = np.array([[20.0, 2.0, 2.0], [20.0, 2.0, 2.0]])
"""How many factors of each shape the prior is worth, for pairs and for single nodes."""
SAME_SHARE, SAME_WORTH = 0.2, 25.0
"""The guess of how many pairs have no difference that anybody could see, as a share of the ties that were said, and how
many pairs the guess is worth."""
POINTS = np.r_[GRID, 0.0]
"""The differences that the columns of a belief stand for."""
NEVER = -1e3
"""The logarithm of no chance at all."""
TRUTH = np.stack(
    [
        np.zeros(SAME + 1),
        np.where(POINTS > 0, 0.0, NEVER),
        np.r_[-0.5 * (GRID / 0.25) ** 2, 0.0],
        np.where(POINTS < 0, 0.0, NEVER),
    ]
)
"""Log prior [4, G + 1] of what is known of gold factors: nothing, the sign, or that there is hardly a difference."""
ONLY_EVEN = np.array([[1e-6, 1e9, 1e-6], PRIOR_FACTORS[1]])
"""The same where all pairs are taken as equally hard."""
NOTHING = np.empty(0)
FEW_JUDGES, UNLIKELY, FLATTERY, NO_SHARE = 50, 1.0, 0.5, 0.01
"""Of two annotators to so many it is asked whether all pairs are equally clear. Even odds take a log evidence that is
larger by UNLIKELY, and by FLATTERY for each annotator, since parameters that are fitted to the same votes make pairs
look clearer than they are (docs/decisions.md has what was measured); an answer less likely than NO_SHARE is not looked
at. Larger crowds move the shares of SHAPES by themselves."""
ENOUGH = 150_000
"""Votes of which EM sees the rest at the end only."""
ITERATIONS, LAST_ITERATIONS = 60, 4
TOLERANCE = 0.01
"""EM ends when no parameter of an annotator moves by more than this share of its standard error. It is not run to its
very end: parameters fitted to the same votes make pairs look clearer than they are, and the shares of the shapes would
slowly follow (docs/label-compiler.md)."""
SHARE_EVERY = 4
"""Iterations between looks at what changes slowly: how much information is missing, and κ."""
DAMPING = 0.8
SWEEPS, LAST_SWEEPS = 1, 6
"""Rounds of expectation propagation in an iteration, which goes on where the one before ended, and at the end."""
BOUND = 1.959964
LEAST_ALPHA, BAR_WORTH = 0.3, 0.25
"""Whose α is less has no bar; and a bar of 0 is worth so many annotators."""


@dataclass(frozen=True)
class Problem:
    """Evidence as EM wants it."""

    evidence: Evidence
    codes: Codes
    code: Array
    single: Array
    """[F], 1 where a factor is a single node"""
    same: float
    """the guessed share of pairs without a difference"""
    told: Array
    """[F], whether it was judged twice and its truth is not given"""
    alone: Array
    groups: list[Components]
    by_factor: Runs
    by_code: Runs

    @staticmethod
    def of(evidence: Evidence, codes: Codes, code: Array) -> "Problem":
        factor, count = evidence.votes.factor, len(evidence.first)
        alone, groups = components(evidence.first, evidence.second, len(evidence.kind), evidence.known != 0)
        by_code = Runs.of(code, factor, len(codes.rater))
        single = (evidence.second < 0).astype(np.int64)
        told = (np.bincount(factor, shared(evidence), count) > 0) & (evidence.known == 0)
        by_factor = Runs.of(factor, code, count)
        return Problem(evidence, codes, code, single, _guess_same(evidence), told, alone, groups, by_factor, by_code)


@dataclass
class State:
    """What EM goes on with: `shapes` [2, 3] is how often lone pairs and lone nodes have each of SHAPES, of which
    `prior` [2, 3] is worth so many factors, `same` the share of pairs without a difference, `belief` [F, G + 1] the
    distribution of every factor's difference, `sites` [F, 2] what joint normals know of it."""

    raters: Raters
    shapes: Array
    prior: Array
    same: float
    belief: Array
    sites: Array


def fit(evidence: Evidence) -> Beliefs:
    """The posterior of every factor, node and annotator; at least one vote is needed.

    Of more than ENOUGH votes EM first sees a part, whole components of it, and then goes on with all of them for a few
    iterations. Of few annotators it is asked as well whether all pairs are equally clear, and the two answers are
    averaged by how likely each is (Hoeting et al. 1999, "Bayesian Model Averaging").
    """
    raters, codes, code = start(evidence)
    problem = Problem.of(evidence, codes, code)
    some = problem
    if len(code) > ENOUGH:
        stride = -(-len(code) // ENOUGH)
        less, seen = part(evidence, thinned(evidence, problem.told, stride, stride))
        some = Problem.of(less, codes, code[seen])
    state = _em(some, _start(raters, some, PRIOR_FACTORS), ITERATIONS)
    judges = len(np.unique(codes.rater[(codes.tells[:, 0] > 0) & (raters.family[codes.rater] == COMPARE)]))
    states = [(1.0, state)]
    if 1 < judges <= FEW_JUDGES:
        even = _em(some, _start(raters, some, ONLY_EVEN), ITERATIONS)
        gain = _evidence(even, some) - _evidence(state, some) - UNLIKELY - FLATTERY * judges
        share = 1 / (1 + math.exp(-max(-50.0, min(50.0, gain))))
        states = [(share, even), (1 - share, state)]
    found = [
        (share, _beliefs(problem, s if some is problem else _em(problem, _again(s, problem), LAST_ITERATIONS)))
        for share, s in states
        if share > NO_SHARE
    ]
    return mean(found)


def _start(raters: Raters, problem: Problem, prior: Array) -> State:
    return _again(State(raters, prior / prior.sum(1, keepdims=True), prior, problem.same, NOTHING, NOTHING), problem)


def _again(state: State, problem: Problem) -> State:
    """The parameters and shares of a state, with the beliefs still to come."""
    count = len(problem.evidence.first)
    return replace(state, belief=np.empty((count, SAME + 1)), sites=np.zeros((count, 2)))


def _evidence(state: State, problem: Problem) -> float:
    """The log probability of what was said about the pairs that stand alone."""
    mine = problem.alone & (problem.single == 0)
    log = (problem.by_factor.sums(log_likelihood(state.raters, problem.codes)) + _log_prior(state)[0])[mine]
    most = log.max(1, keepdims=True, initial=NEVER)
    return float((most[:, 0] + np.log(np.exp(log - most).sum(1))).sum())


def _guess_same(evidence: Evidence) -> float:
    """The share of pairs without a difference before anything is known but how often ties are said."""
    votes = evidence.votes
    mine = votes.family == COMPARE
    return SAME_SHARE * (votes.tie[mine].sum() + 0.1) / (mine.sum() + 1)


def kept(votes: Votes, mask: Array) -> Votes:
    return Votes(**{f.name: getattr(votes, f.name)[mask] for f in fields(Votes)})


def thinned(evidence: Evidence, marked: Array, stride: int, others: int) -> Array:
    """Which factors to look at, bool [F]: every `stride`-th component with a `marked` factor, every `others`-th of the
    rest, and gold."""
    home = labels(evidence.first, evidence.second, len(evidence.kind))[evidence.first]
    _, component = np.unique(home, return_inverse=True)
    of_marked = np.bincount(component, marked) > 0
    rank = np.where(of_marked, np.cumsum(of_marked), np.cumsum(~of_marked)) - 1
    return (rank % np.where(of_marked, stride, others) == 0)[component] | (evidence.known != 0)


def part(evidence: Evidence, chosen: Array) -> tuple[Evidence, Array]:
    """The factors `chosen`, bool [F]; and which votes these have."""
    factors = np.flatnonzero(chosen)
    number = np.full(len(evidence.first), -1)
    number[factors] = np.arange(len(factors))
    seen = number[evidence.votes.factor] >= 0
    votes = kept(evidence.votes, seen)
    votes = replace(votes, factor=number[votes.factor])
    picked = {name: getattr(evidence, name)[factors] for name in ("first", "second", "known", "task")}
    return replace(evidence, votes=votes, **picked), seen


def _em(problem: Problem, state: State, iterations: int) -> State:
    """At most so many iterations; the beliefs are those of the last parameters."""
    codes, code, factor = problem.codes, problem.code, problem.evidence.votes.factor
    for iteration in range(iterations):
        before = state.raters.parameters
        looked = _expect(state, problem, SWEEPS)
        seen = problem.by_code.sums(state.belief)
        state.shapes = _fit_shapes(state, problem)
        state.same = _fit_same(state, problem)
        if iteration % SHARE_EVERY == 0:
            share = observed_share(state.raters, codes, code, state.belief, factor, seen, looked)
            steepness = fit_steepness(state.raters, codes, seen)
            state.raters = replace(state.raters, share=share, steepness=steepness)
        state.raters = fit_parameters(fit_lapses(state.raters, codes, seen, looked), codes, seen, looked)
        error = np.sqrt(np.diagonal(state.raters.covariance, axis1=1, axis2=2))
        if (np.abs(state.raters.parameters - before) / error).max() < TOLERANCE:
            break
    _expect(state, replace(problem, codes=replace(codes, weight=codes.once)), LAST_SWEEPS)
    return state


def _expect(state: State, problem: Problem, sweeps: int) -> Array:
    """The E step: beliefs and sites; and the probability that each code is no lapse [U, G + 1]."""
    evidence, codes = problem.evidence, problem.codes
    looked, guessed = chances(state.raters, codes)
    total = looked + guessed[:, None]
    looked /= total
    likelihood = problem.by_factor.sums(codes.weight[:, None] * np.log(total, out=total))
    log = likelihood + _log_prior(state)[problem.single]
    gold = np.flatnonzero(evidence.known)
    log[gold] += TRUTH[evidence.known[gold]]
    log -= log.max(1, keepdims=True)
    np.exp(log, out=log)
    log /= log.sum(1, keepdims=True)
    state.belief = log
    odds = np.array([np.log(state.same / (1 - state.same)), NEVER])[problem.single]
    for group in problem.groups:
        mine = group.factors
        for _ in range(sweeps):
            state.belief[mine], state.sites[mine] = sweep(
                group, state.sites[mine], likelihood[mine], odds[mine], GRID, DAMPING
            )
    return looked


def _log_prior(state: State) -> Array:
    """Of pairs and of single nodes that stand alone [2, G + 1]."""
    prior = np.log(state.shapes @ SHAPES)
    pair = np.r_[prior[0] + np.log1p(-state.same), np.log(state.same)]
    return np.stack([pair, np.r_[prior[1], NEVER]])


def _fit_shapes(state: State, problem: Problem) -> Array:
    """Shares of the shapes [2, 3], among lone pairs and among lone nodes: an EM step for a mixture."""
    found = []
    for single in (0, 1):
        mine = problem.alone & (problem.single == single) & problem.told
        # The posterior is proportional to the mixture, so a shape's share of it is its share of the mixture.
        ratio = state.belief[mine, :SAME].sum(0) / (state.shapes[single] @ SHAPES)
        mass = state.shapes[single] * (SHAPES @ ratio) + state.prior[single]
        found.append(mass / mass.sum())
    return np.stack(found)


def _fit_same(state: State, problem: Problem) -> float:
    """The share of pairs without a difference, an EM step on those that were judged twice."""
    told = problem.told & (problem.single == 0)
    mass = state.belief[told, SAME].sum() + SAME_WORTH * problem.same
    return float(mass / (told.sum() + SAME_WORTH))


def _beliefs(problem: Problem, state: State) -> Beliefs:
    evidence, belief, raters = problem.evidence, state.belief, state.raters
    single = problem.single == 1
    typical = raters.mean[np.where(single, BINARY, COMPARE), 0]
    bar = np.where(single, _bar(raters, problem.codes), 0.0)
    above = np.clip((POINTS[None, :] - bar[:, None]) / 0.25 + 0.5, 0, 1)
    at = belief @ POINTS
    variance = np.maximum(belief @ POINTS**2 - at**2, 1e-6)
    level = np.full((len(evidence.kind), 2), np.nan)
    scale = raters.mean[BINARY, 0]
    lone = np.flatnonzero(problem.alone & single)
    level[evidence.first[lone]] = np.stack([scale * at[lone], scale**2 * variance[lone]], 1) * [
        np.sqrt(PRIOR_VARIANCE),
        PRIOR_VARIANCE,
    ]
    for group in problem.groups:
        quality, covariance = joint(group, state.sites[group.factors])
        level[group.nodes.ravel()] = np.stack(
            [scale * quality.ravel(), scale**2 * np.diagonal(covariance, axis1=1, axis2=2).ravel()], 1
        )
    return Beliefs(
        better=(belief * above).sum(1),
        margin=typical * (at - bar),
        information=np.clip(1 - variance, 0, 1),
        level=level,
        difference=_normal,
        people=_people(evidence, state),
        predict=partial(predict, raters, evidence, belief),
    )


def _bar(raters: Raters, codes: Codes) -> float:
    """The difference from which on a typical annotator sooner calls an answer good than bad: the mean over those who
    can be held to something of where each one's α·d + β is 0, and 0 as far as there are few."""
    told = np.bincount(codes.rater, codes.tells[:, 1] * (codes.weight > 0), len(raters.family))
    mine = (raters.family == BINARY) & (told > 0) & (raters.parameters[:, 0] > LEAST_ALPHA)
    each = np.clip(-raters.parameters[mine, 1] / raters.parameters[mine, 0], GRID[0], GRID[-1])
    return float(each.sum() / (mine.sum() + BAR_WORTH))


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
    alpha = raters.parameters[:, :1] + bounds * deviation[:, :1]
    # In ascending order of family, so that comparisons, where there are any, have the last word.
    for family in (2, 1, 0):
        mine = raters.family == family
        reliability[raters.annotator[mine]] = 1 / (1 + np.exp(-alpha[mine]))
    mine = raters.family == COMPARE
    position[raters.annotator[mine]] = raters.parameters[mine, 1:2] + bounds * deviation[mine, 1:2]
    return People(reliability, position)
