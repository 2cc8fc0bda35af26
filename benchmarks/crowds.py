"""Simulated crowds whose truth is known, for the benchmark of the label compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EACH = 50
"""Compiled labels of each annotator in a large crowd."""
STRANGER = -1
"""Somebody of whom no label is compiled."""
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass
class World:
    """`pair`, `who`, `left` (1: the first is on the left, −1: on the right) and `label` (0 first or good, 1 second or
    bad, 2 tie) of each label; `kept` are those that are compiled, the others are predicted."""

    truth: Array
    """Whether the first of each pair is the better one."""
    reliability: Array
    pair: Array
    who: Array
    left: Array
    label: Array
    kept: Array
    single: bool = False
    """Answers are judged one by one."""
    drawn: bool = True
    """It is known that sides were drawn, as those of our own tasks are."""
    real: Array = field(default_factory=lambda: np.empty(0, bool))
    """Which pairs have a better one at all; empty: all."""


Draw = np.random.Generator


# --- large crowds: each pair has different annotators, and each annotator the same number of labels


def large(draw: Draw, pairs: int, overlap: int) -> tuple[Array, Array, Array, Array, Array]:
    """Who labels what, on which side, with which reliability, and what is compiled: all but the last label of a
    pair."""
    people = pairs * overlap // EACH
    who = np.concatenate([draw.permutation(np.resize(np.arange(people), pairs)) for _ in range(overlap + 1)])
    pair = np.tile(np.arange(pairs), overlap + 1)
    kept = np.arange(len(pair)) < pairs * overlap
    return pair, who, draw.choice([-1.0, 1.0], len(pair)), draw.uniform(0.55, 0.98, people), kept


def davidson(draw: Draw, x: Array, nu: Array | float) -> Array:
    first, second = np.exp(x / 2), np.exp(-x / 2)
    u = draw.random(len(x)) * (first + second + nu)
    return np.where(u < first, 0, np.where(u < first + second, 1, 2))


def clean(draw: Draw, pairs: int, overlap: int) -> World:
    """Our own model: differences are normal, and a reliability is that on a difference of one standard deviation."""
    pair, who, left, r, kept = large(draw, pairs, overlap)
    d = draw.normal(size=pairs)
    return World(d > 0, r, pair, who, left, davidson(draw, (logit(r)[who] * d[pair]), 0.0), kept)


def coin(draw: Draw, pairs: int, overlap: int) -> World:
    """Dawid and Skene's model: all pairs are equally hard, each annotator is right with one probability."""
    pair, who, left, r, kept = large(draw, pairs, overlap)
    truth = draw.random(pairs) < 0.5
    return World(truth, r, pair, who, left, np.where(truth[pair] == (draw.random(len(pair)) < r[who]), 0, 1), kept)


def spammers(draw: Draw, pairs: int, overlap: int) -> World:
    """Clean, but one in five annotators answers at random; half of these always choose the left answer."""
    world = clean(draw, pairs, overlap)
    spam = draw.random(len(world.reliability)) < 0.2
    lazy = spam & (draw.random(len(spam)) < 0.5)
    random = draw.integers(0, 2, len(world.pair))
    world.label = np.where(spam[world.who], random, world.label)
    world.label = np.where(lazy[world.who], np.where(world.left > 0, 0, 1), world.label)
    world.reliability = np.where(spam, 0.5, world.reliability)
    return world


def position(draw: Draw, pairs: int, overlap: int) -> World:
    """Clean, with a position bias for each annotator, N(0.5, 0.8²) in log-odds."""
    pair, who, left, r, kept = large(draw, pairs, overlap)
    d, bias = draw.normal(size=pairs), draw.normal(0.5, 0.8, len(r))
    label = davidson(draw, logit(r)[who] * d[pair] + bias[who] * left, 0.0)
    return World(d > 0, r, pair, who, left, label, kept)


def ties(draw: Draw, pairs: int, overlap: int) -> World:
    """Clean, with ties (Davidson), more of them from some annotators than from others."""
    pair, who, left, r, kept = large(draw, pairs, overlap)
    d, nu = draw.normal(size=pairs), np.exp(draw.normal(0.0, 0.7, len(r)))
    return World(d > 0, r, pair, who, left, davidson(draw, logit(r)[who] * d[pair], nu[who]), kept)


def other(draw: Draw, pairs: int, overlap: int) -> World:
    """Not our model: heavy-tailed differences, normal noise for each look whose size varies with the pair, a band of
    indifference for each annotator, and one answer in twenty at random."""
    pair, who, left, r, kept = large(draw, pairs, overlap)
    d = draw.standard_t(3, pairs)
    hard = np.exp(draw.normal(0, 0.5, pairs))
    noise = 1.0 / logit(r)
    seen = d[pair] + 1.7 * noise[who] * hard[pair] * draw.normal(size=len(pair)) + 0.15 * left
    band = draw.exponential(0.15, len(r))
    label = np.where(np.abs(seen) < band[who], 2, np.where(seen > 0, 0, 1))
    slip = draw.random(len(pair)) < 0.05
    return World(d > 0, r, pair, who, left, np.where(slip, draw.integers(0, 2, len(pair)), label), kept)


LARGE: dict[str, Callable[[Draw, int, int], World]] = {
    "clean": clean,
    "one coin": coin,
    "20% spammers": spammers,
    "position bias": position,
    "ties": ties,
    "not its own": other,
}


# --- small crowds: what most users have


def asked(draw: Draw, pairs: int, people: int, times: int, *, each: bool = False) -> tuple[Array, Array, Array]:
    """`times` labels on each pair by different people, or with `each` by everybody: pair, who and side."""
    lists = [np.arange(people) if each else draw.permutation(people)[:times] for _ in range(pairs)]
    who = np.concatenate(lists)
    return np.repeat(np.arange(pairs), times), who, draw.choice([-1.0, 1.0], len(who))


def careful(draw: Draw, people: int) -> Array:
    """Reliabilities on a difference of one standard deviation with which people find the better answer of normal
    differences 65 to 80 times in a hundred, as they agree with the consensus in public comparisons."""
    return draw.uniform(0.70, 0.91, people)


def joined(first: tuple[Array, Array, Array], second: tuple[Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Compiled labels, and then those that are predicted."""
    kept = np.arange(len(first[0]) + len(second[0])) < len(first[0])
    pair, who, left = (np.concatenate(parts) for parts in zip(first, second, strict=True))
    return pair, who, left, kept


def one_person(draw: Draw, pairs: int) -> World:
    """One person, one label a pair; what is predicted is their second look."""
    r, d = careful(draw, 1), draw.normal(size=pairs)
    pair, who, left, kept = joined(asked(draw, pairs, 1, 1), asked(draw, pairs, 1, 1))
    label = davidson(draw, logit(r)[who] * d[pair], 0.1)
    return World(d > 0, r, pair, who, left, label, kept)


def two_people(draw: Draw, pairs: int) -> World:
    """Two people, one label a pair, half of the pairs each; what is predicted is the other one's."""
    r, d = careful(draw, 2), draw.normal(size=pairs)
    first = asked(draw, pairs, 2, 1)
    second = first[0], 1 - first[1], draw.choice([-1.0, 1.0], pairs)
    pair, who, left, kept = joined(first, second)
    return World(d > 0, r, pair, who, left, davidson(draw, logit(r)[who] * d[pair], 0.1), kept)


def binary(draw: Draw, answers: int) -> World:
    """Three people, one binary label an answer, of which a share between 5% and 50% is up; what is predicted is another
    one's."""
    r, d, share = careful(draw, 3), draw.normal(size=answers), draw.uniform(0.05, 0.5)
    first = asked(draw, answers, 3, 1)
    second = first[0], (first[1] + draw.integers(1, 3, answers)) % 3, np.ones(answers)
    pair, who, _, kept = joined(first, second)
    bar = np.quantile(d, 1 - share)
    good = draw.random(len(pair)) < 1 / (1 + np.exp(-2.5 * logit(r)[who] * (d[pair] - bar)))
    return World(d > bar, r, pair, who, np.ones(len(pair)), np.where(good, 0, 1), kept, single=True)


def shared_binary(draw: Draw, answers: int) -> World:
    """Three people and two binary labels an answer, of which a share between 5% and 50% is up; what is predicted is the
    third's."""
    r, d, share = careful(draw, 3), draw.normal(size=answers), draw.uniform(0.05, 0.5)
    first = asked(draw, answers, 3, 2)
    last = 3 - first[1].reshape(answers, 2).sum(1)
    pair, who, _, kept = joined(first, (np.arange(answers), last, np.ones(answers)))
    bar = np.quantile(d, 1 - share)
    good = draw.random(len(pair)) < 1 / (1 + np.exp(-2.5 * logit(r)[who] * (d[pair] - bar)))
    return World(d > bar, r, pair, who, np.ones(len(pair)), np.where(good, 0, 1), kept, single=True)


def good_three(draw: Draw, pairs: int, stranger: bool = False) -> World:
    """Three good annotators and three labels a pair: one pair in ten is a tie, and each says what is right 93 times in
    100, else one of the other two; what is predicted is the next word of one of them, or of a stranger like them."""
    truth = draw.choice(3, pairs, p=[0.45, 0.45, 0.1])
    first, second = asked(draw, pairs, 3, 3, each=True), asked(draw, pairs, 3, 1)
    pair, who, left, kept = joined(first, second)
    slip = draw.random(len(pair)) < 0.07
    label = np.where(slip, (truth[pair] + draw.integers(1, 3, len(pair))) % 3, truth[pair])
    who = np.where(kept | (not stranger), who, STRANGER)
    return World(truth == 0, np.full(3, 0.93), pair, who, left, label, kept, real=truth < 2)


def a_stranger(draw: Draw, pairs: int) -> World:
    return good_three(draw, pairs, stranger=True)


def tie_state(draw: Draw, pairs: int) -> World:
    """Twelve people, three labels a pair: one pair in seven has nothing to choose, and people slip at rates with a
    heavy tail, most hardly ever and some half of the time, by their own mix of left, right and tie."""
    people = 12
    same, d = draw.random(pairs) < 1 / 7, draw.normal(size=pairs)
    r, lapse, mix = careful(draw, people), draw.beta(0.4, 3.0, people), draw.dirichlet([2, 2, 1], people)
    pair, who, left, kept = joined(asked(draw, pairs, people, 3), asked(draw, pairs, people, 1))
    label = np.where(same[pair], 2, davidson(draw, 2 * logit(r)[who] * d[pair], 0.2))
    u = draw.random(len(pair))[:, None]
    word = (u > np.cumsum(mix, 1)[who]).sum(1)  # 0 left, 1 right, 2 tie
    said = np.where(word == 2, 2, np.where((word == 0) == (left > 0), 0, 1))
    label = np.where(draw.random(len(pair)) < lapse[who], said, label)
    return World(d > 0, r, pair, who, left, label, kept, real=~same)


def fixed_sides(draw: Draw, pairs: int) -> World:
    """Five people, three labels a pair, and the reference, better four times in five, always on the left."""
    people = 5
    r, better = careful(draw, people), draw.random(pairs) < 0.5
    d = np.abs(draw.normal(size=pairs)) * np.where(better, 1, -1)
    reference = np.where(draw.random(pairs) < 0.8, better, ~better)  # whether it is the first of the pair
    pair, who, left, kept = joined(asked(draw, pairs, people, 3), asked(draw, pairs, people, 1))
    left = np.where(reference[pair], 1.0, -1.0)
    return World(d > 0, r, pair, who, left, davidson(draw, 2 * logit(r)[who] * d[pair], 0.1), kept, drawn=False)


def two_groups(draw: Draw, pairs: int) -> World:
    """Ten people, three labels a pair; four of them have another taste, which is hardly related (correlation 0.2)."""
    people = 10
    r, d = careful(draw, people), draw.normal(size=pairs)
    theirs = 0.2 * d + np.sqrt(1 - 0.2**2) * draw.normal(size=pairs)
    pair, who, left, kept = joined(asked(draw, pairs, people, 3), asked(draw, pairs, people, 1))
    seen = np.where(who < 4, theirs[pair], d[pair])
    return World(d > 0, r, pair, who, left, davidson(draw, 2 * logit(r)[who] * seen, 0.1), kept)


@dataclass(frozen=True)
class Small:
    """A sort of small crowd: `crowds` of them, of `pairs` pairs each, make one seed."""

    make: Callable[[Draw, int], World]
    pairs: int
    crowds: int


SMALL: dict[str, Small] = {
    "one person": Small(one_person, 200, 10),
    "two people": Small(two_people, 200, 10),
    "binary": Small(binary, 300, 10),
    "shared binary labels": Small(shared_binary, 300, 10),
    "three good": Small(good_three, 1000, 4),
    "a stranger": Small(a_stranger, 1000, 4),
    "tie state": Small(tie_state, 1000, 4),
    "fixed sides": Small(fixed_sides, 500, 4),
    "two groups": Small(two_groups, 1000, 4),
}


def logit(p: Array) -> Array:
    return np.log(p / (1 - p))
