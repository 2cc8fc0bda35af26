"""How each annotator gets on: what is done, how fast, how far others agree, which side is favoured, what is left."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import median
from typing import Any

from align.intervals import wilson
from align.types import Judgement, Task
from annotation.backend import Progress

PAUSE = 300.0
"""Seconds; whoever lets more time than this pass between two answers was away."""


def statistics(
    tasks: Sequence[Task], judgements: Iterable[Judgement], annotators: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """For each of `annotators`, and whoever else said anything about `tasks`, by name; `judgements` has each one's
    latest word.

    - `submitted` and `skipped`: how many tasks;
    - `pace`: {tasks_per_hour, seconds, n} over the `n` gaps between consecutive answers, skips among them; `seconds`
      is their median, and gaps over PAUSE do not count;
    - `agreement`: on tasks that others answered too, how far they said the same (`alike`), {value, low, high, n};
    - `left`: how often the answer further left was said to be the better one of two, {value, low, high, n}; sides are
      drawn at random, so 0.5 is no bias.

    Intervals are 95%, Wilson's, with the number of trials that clusters (prompts for `agreement`, tasks for `left`)
    are worth. What is not known is {value: None, reason}.
    """
    by_id = {task.id: task for task in tasks}
    mine: dict[str, list[Judgement]] = {name: [] for name in annotators}
    answers: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        if judgement.task_id in by_id:
            mine.setdefault(judgement.annotator, []).append(judgement)
            if judgement.outcome != "skipped":
                answers[judgement.task_id].append(judgement)
    return {
        name: {
            "submitted": sum(j.outcome != "skipped" for j in said),
            "skipped": sum(j.outcome == "skipped" for j in said),
            "pace": pace(said),
            "agreement": _agreement(said, answers, by_id),
            "left": _left(said, by_id),
        }
        for name, said in sorted(mine.items())
    }


def pace(judgements: Iterable[Judgement]) -> dict[str, Any]:
    """One annotator's pace: {tasks_per_hour, seconds, n}, or {tasks_per_hour: None, reason}."""
    times = sorted(datetime.fromisoformat(j.time) for j in judgements if j.time is not None)
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
    gaps = [gap for gap in gaps if gap <= PAUSE]
    if not gaps:
        return {"tasks_per_hour": None, "reason": "there are no two answers within five minutes"}
    if sum(gaps) == 0:
        return {"tasks_per_hour": None, "reason": "all answers came at the same moment"}
    return {"tasks_per_hour": 3600 * len(gaps) / sum(gaps), "seconds": median(gaps), "n": len(gaps)}


def time_left(progress: Progress, people: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What is still to do: `answers`, and the `hours` that it takes the `people` who have something left to do and
    whose pace is known, together. `nobody` counts the missing answers that nobody here can give, since they have all
    answered or skipped the task: they are in no time, and wait for somebody new.

    `people` is what `statistics` says. `hours` is None, with the reason, where nobody's pace is known.
    """
    nobody = progress.wanted - progress.answers - progress.reachable
    busy = [person for name, person in people.items() if name in progress.annotators and progress.annotators[name].left]
    paces = [found for person in busy if (found := person["pace"]["tasks_per_hour"]) is not None]
    left: dict[str, Any] = {"answers": progress.reachable, "nobody": nobody, "hours": 0.0, "people": len(paces)}
    if progress.reachable == 0:
        return left
    if not paces:
        return left | {"hours": None, "reason": "the pace of those who have something left to do is not known yet"}
    return left | {"hours": progress.reachable / sum(paces)}


def alike(first: Judgement, second: Judgement) -> float:
    """How far two answers to one task say the same, in [0, 1].

    Outcomes are the same or not. Of a ranking it is the share of pairs of candidates that both put in the same order
    (or both at one rank); of a rating the share of criteria with the same score.
    """
    if first.outcome != second.outcome:
        return 0.0
    if first.ranking and second.ranking:
        orders = list(zip(_orders(first.ranking), _orders(second.ranking), strict=True))
        return sum(a == b for a, b in orders) / len(orders)
    if first.ratings and second.ratings:
        other = {rating["criterion"]: rating["score"] for rating in second.ratings}
        return sum(other.get(r["criterion"]) == r["score"] for r in first.ratings) / len(first.ratings)
    return 1.0


def clustered_share(clusters: Iterable[tuple[float, int]], reason: str) -> dict[str, Any]:
    """A share with Wilson's 95% interval, from (sum of values in [0, 1], how many values) of each cluster.

    Trials of one cluster are not independent, so Wilson's n is the effective one, p(1 − p) over the linearised
    variance of the share between clusters (Korn and Graubard 1998), at most the number of values; where all clusters
    say the same there is no variance to be seen, and it is the number of clusters.
    """
    found = [(hits, n) for hits, n in clusters if n]
    n = sum(n for _, n in found)
    if n == 0:
        return {"value": None, "reason": reason}
    share = sum(hits for hits, _ in found) / n
    variance = sum((hits - share * size) ** 2 for hits, size in found) / n**2
    effective = min(float(n), share * (1 - share) / variance) if variance > 1e-12 else float(len(found))
    low, high = wilson(share * effective, effective)
    return {"value": share, "low": min(low, share), "high": max(high, share), "n": n}


def _agreement(said: list[Judgement], answers: dict[str, list[Judgement]], tasks: dict[str, Task]) -> dict[str, Any]:
    prompts: dict[str, list[float]] = defaultdict(list)
    for judgement in said:
        others = [o for o in answers[judgement.task_id] if o.annotator != judgement.annotator]
        if judgement.outcome != "skipped" and others:
            share = sum(alike(judgement, other) for other in others) / len(others)
            prompts[tasks[judgement.task_id].prompt_id].append(share)
    return clustered_share(
        ((math.fsum(shares), len(shares)) for shares in prompts.values()), "nobody else answered the same tasks"
    )


def _left(said: list[Judgement], tasks: dict[str, Task]) -> dict[str, Any]:
    sides = [_sides(judgement, tasks[judgement.task_id].shown) for judgement in said]
    return clustered_share(
        ((sum(left), len(left)) for left in sides), "no choice between one answer and another beside it"
    )


def _sides(judgement: Judgement, shown: list[int]) -> list[bool]:
    """For each two answers of which one was said to be better: whether that was the one further left."""
    if judgement.outcome in ("a", "b"):
        return [shown[0] == "ab".index(judgement.outcome)]
    if judgement.ranking:
        return [order < 0 for order in _orders([judgement.ranking[index] for index in shown]) if order != 0]
    return []


def _orders(ranks: list[int]) -> list[int]:
    """For each two places, the sign of the first's rank less the second's: −1 where the first is better."""
    return [(a > b) - (a < b) for i, a in enumerate(ranks) for b in ranks[i + 1 :]]
