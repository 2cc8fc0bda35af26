"""What people should know of their labels, in sentences: which count little, why, and what would help."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from annotation.crowd.arrays import Array
from annotation.crowd.evidence import COMPARE, Evidence, shared
from annotation.crowd.people import wilson
from annotation.crowd.sides import Sides

ONE_SIDED = 0.65
"""A person whose share of left answers is outside of this and 1 less this, with its interval, is said to be one-sided."""
MANY = 20
"""So many repeats or shared tasks begin to tell."""


def name_people(sentences: list[str], names: Mapping[str, str]) -> list[str]:
    """The sentences of `advise` with people's names in place of their ids; `names` is annotator → name."""
    for person, name in names.items():
        sentences = [sentence.replace(person, name) for sentence in sentences]
    return sentences


def advise(
    evidence: Evidence, sides: Sides, names: list[str], people: dict[str, dict[str, Any]], weight: Array
) -> list[str]:
    """Sentences in the order of their weight; none where nothing is the matter. `weight` [rows] is that of all rows that
    came out."""
    found = [_unshared(evidence, weight), _held(sides)]
    found += [_one_sided(evidence, n, name) for n, name in enumerate(names)]
    found += [_coin(evidence, n, name, people) for n, name in enumerate(names)]
    return [sentence for sentence in found if sentence]


def _unshared(evidence: Evidence, weight: Array) -> str | None:
    votes = evidence.votes
    words = int(votes.main.sum())
    told = len(np.unique(votes.factor[shared(evidence) & votes.main]))
    if not words or told >= MANY:
        return None
    judged = (
        "No task was judged twice"
        if told == 0
        else f"Only {told} {'task was' if told == 1 else 'tasks were'} judged twice"
    )
    mean = f", with a weight of {weight.mean():.2f} on average" if len(weight) else ""
    return (
        f"{judged}, so nothing tells how far to trust {'the one person' if evidence.annotators == 1 else 'people'} who "
        f"labelled: a label counts as right three times in four{mean}. {MANY} tasks asked twice would tell "
        "(annotate.repeats), or two people on the same tasks (annotate.overlap)."
    )


def _held(sides: Sides) -> str | None:
    if sides.held is None:
        return None
    return (
        f"The sides of the screen seem never to have been drawn: {sides.held}. A bias for one side cannot be told from "
        "quality then, and is taken to be none. Draw the sides of the tasks."
    )


def _one_sided(evidence: Evidence, annotator: int, name: str) -> str | None:
    votes = evidence.votes
    mine = (votes.annotator == annotator) & (votes.family == COMPARE) & votes.main & (votes.lean * votes.side != 0)
    n, left = int(mine.sum()), int((votes.lean * votes.side > 0)[mine].sum())
    if n == 0:
        return None
    low, high = wilson(left, n)
    if low <= ONE_SIDED and high >= 1 - ONE_SIDED:
        return None
    side, times = ("left", left) if low > ONE_SIDED else ("right", n - left)
    return (
        f"{name} chose the {side} answer {times} times of {n}. Where sides are drawn that is a habit, and labels for that "
        f"side count less. {MANY} tasks asked again the other way round would tell (annotate.repeats)."
    )


def _coin(evidence: Evidence, annotator: int, name: str, people: dict[str, dict[str, Any]]) -> str | None:
    votes = evidence.votes
    reliability = people.get(name, {}).get("reliability", {})
    mine = shared(evidence) & votes.main & (votes.annotator == annotator)
    told = len(np.unique(votes.factor[mine]))
    if told < MANY or reliability.get("value") is None or reliability["low"] > 0.55:
        return None
    return (
        f"{name} agrees with others hardly more often than a coin (reliability {reliability['value']:.2f} "
        f"[{reliability['low']:.2f}, {reliability['high']:.2f}]), so their labels count little. Look at some of them "
        "together (align samples), or ask control items (annotate.gold)."
    )
