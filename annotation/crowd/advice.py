"""What people should know of their labels, in sentences: which count little, why, and what would help."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from align.figures import interval
from align.intervals import wilson
from annotation.crowd.arrays import Array
from annotation.crowd.evidence import COMPARE, SCORE, Evidence, by_others, shared

ONE_SIDED = 0.65
"""A person whose share of left answers is outside of this and 1 less this, with its interval, is said to be
one-sided."""
MANY = 20
"""So many repeats or shared tasks begin to tell."""


def name_people(sentences: list[str], names: Mapping[str, str]) -> list[str]:
    """The sentences of `advise` with people's names in place of their ids; `names` is annotator → name."""
    if not names:
        return sentences
    anybody = "|".join(re.escape(person) for person in sorted(names, key=len, reverse=True))
    whole = re.compile(rf"(?<![\w.-])(?:{anybody})(?![\w-])")
    return [whole.sub(lambda found: names[found[0]], sentence) for sentence in sentences]


def advise(
    evidence: Evidence,
    model: str,
    held: str | None,
    names: list[str],
    people: dict[str, dict[str, Any]],
    weight: Array,
) -> list[str]:
    """Sentences in the order of their weight; none where nothing is the matter.

    `model` is what compiled the labels, `held` why position bias is held (`annotation.crowd.sides.held`), `weight`
    [rows] that of all rows that came out.
    """
    found = [_unshared(evidence, weight), _held(held)]
    if held is None and model == "bradley_terry":  # no other one knows of sides
        found += [_one_sided(name, *counts) for name, counts in zip(names, _sides(evidence), strict=True)]
    found += [
        _unreliable(name, people[name]["reliability"], *t) for name, t in zip(names, _told(evidence), strict=True)
    ]
    return [sentence for sentence in found if sentence]


def _sides(evidence: Evidence) -> list[tuple[int, int]]:
    """For each annotator how often the left answer was chosen, of how many choices."""
    votes, count = evidence.votes, evidence.annotators
    screen = votes.outcome * votes.position
    mine = (votes.family == COMPARE) & votes.main & (screen != 0)
    left = np.bincount(votes.annotator[mine & (screen > 0)], minlength=count)
    return list(zip(left.tolist(), np.bincount(votes.annotator[mine], minlength=count).tolist(), strict=True))


def _told(evidence: Evidence) -> list[tuple[int, bool]]:
    """For each annotator how many tasks something could be held against, and whether others or gold did so anywhere."""
    votes, count = evidence.votes, evidence.annotators
    mine = shared(evidence) & votes.main
    width = int(evidence.task.max(initial=0)) + 1
    tasks = np.unique(votes.annotator[mine] * np.int64(width) + evidence.task[votes.factor[mine]])
    told = np.bincount(tasks // width, minlength=count)
    others = np.bincount(votes.annotator[by_others(evidence) & votes.main], minlength=count) > 0
    return list(zip(told.tolist(), others.tolist(), strict=True))


def _unshared(evidence: Evidence, weight: Array) -> str | None:
    votes = evidence.votes
    told = len(np.unique(evidence.task[votes.factor[shared(evidence) & votes.main]]))
    if not votes.main.any() or told >= MANY:
        return None
    who = "the one person who labelled" if evidence.annotators == 1 else "people who labelled"
    mean = f" (their weight is {weight.mean():.2f} on average)" if len(weight) else ""
    if told:
        tasks = "task was" if told == 1 else "tasks were"
        known = f"Only {told} {tasks} judged twice or had a known answer, so how far to trust {who} is known but roughly{mean}."
    else:
        known = f"No task was judged twice, so nothing tells how far to trust {who}{mean}"
        known += "." if (votes.family == SCORE).any() else ": a word counts as right three times in four."
    return f"{known} {MANY} tasks asked again would tell (annotate.repeats), or two people on the same tasks (annotate.overlap)."


def _held(held: str | None) -> str | None:
    if held is None:
        return None
    return (
        f"The sides of the screen seem never to have been drawn: {held}. A bias for one side cannot be told from "
        "quality then, and is taken to be none. Draw the sides of the tasks."
    )


def _one_sided(name: str, left: int, n: int) -> str | None:
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


def _unreliable(name: str, sure: dict[str, Any], told: int, others: bool) -> str | None:
    if told < MANY or sure["value"] is None or sure["low"] > 0.5:
        return None
    figure = f"(reliability {interval(sure)})"
    with_whom = "others" if others else "their own earlier answers"
    if sure["high"] < 0.5:
        return f"{name} mostly says the opposite of {with_whom} {figure}: talk with them, for a rule may be misread."
    return (
        f"{name} may agree with {with_whom} no more often than a coin {figure}, so their labels count little. Look at some of "
        "them together (align samples), or ask control items (annotate.gold)."
    )
