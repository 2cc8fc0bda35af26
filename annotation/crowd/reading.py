"""Tables of tasks and judgements as arrays, checked: what was asked, and what people said last."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from align.errors import DataError
from align.types import LETTERS, OUTCOMES, STRENGTHS
from annotation.crowd.arrays import Array, numbers, owners, place_in, ranked, sizes, whole

TRAINABLE = ("train", "control")
"""Purposes whose tasks become training signal; gold tasks test annotators, eval tasks test models."""

KINDS = ("pair", "rank", "single", "rating")
"""Kinds of task that are compiled; blind_ab compares two models and trains none."""


NEEDED = ["id", "strength", "flags", "edit", "ranking", "ratings"]
"""What of a judgement is read again later."""


@dataclass(frozen=True)
class TaskArrays:
    """T tasks, one for each id. `of` and `name` are the prompts and candidates as numbers in the order of their ids."""

    table: pa.Table
    ids: pa.Array
    kind: Array
    """[T], an index of KINDS; -1 for any other."""
    trained: Array
    gold: Array
    prompt: Array
    prompts: pa.Array
    candidate: Array
    """[all candidates of all tasks], an index of `candidates`."""
    candidates: pa.Array
    first: Array
    """[T], where a task's candidates begin in `candidate`."""
    count: Array
    place: Array
    """[T, 4], how far right on the screen each canonical candidate stands, from 0; -1 where there is none."""


@dataclass(frozen=True)
class JudgementArrays:
    """J judgements, the last of each annotator on each task, ordered by task and annotator."""

    table: pa.Table
    """Their rows."""
    task: Array
    annotator: Array
    names: pa.Array
    """The annotators' names, sorted; `annotator` is an index of it."""
    outcome: Array
    """Index of the outcome in OUTCOMES of the task's kind."""
    strength: Array
    bad: Array
    """[J, 4], which candidates were flagged as unsafe or wrong."""


@dataclass(frozen=True)
class Excluded:
    """Rows that go no further: `what`, their ids, and one reason."""

    what: str
    ids: pa.Array
    reason: str


def read_tasks(tasks: pa.Table) -> tuple[TaskArrays, list[Excluded]]:
    """The tasks, and those that nobody trains on."""
    tasks = _distinct(tasks)
    ids, lists = whole(tasks["id"]), whole(tasks["candidates"])
    kind, count = place_in(whole(tasks["kind"]), list(KINDS)), sizes(lists)
    purpose = whole(tasks["purpose"])
    compiled = kind >= 0
    trained = compiled & (place_in(purpose, list(TRAINABLE)) >= 0)
    gold = compiled & (place_in(purpose, ["gold"]) >= 0)
    prompt, prompts = ranked(whole(tasks["prompt_id"]))
    candidate, candidates = ranked(lists.flatten())
    asked = TaskArrays(
        tasks,
        ids,
        kind,
        trained,
        gold,
        prompt,
        prompts,
        candidate,
        candidates,
        np.cumsum(count) - count,
        count,
        _places(tasks, count),
    )
    _check_sizes(asked)
    others = ~trained & ~gold
    return asked, [
        Excluded("task", ids.filter(pa.array(gold)), "gold tasks measure annotators and are not trained on"),
        Excluded("task", ids.filter(pa.array(others)), "it compares or tests models and is not trained on"),
    ]


def _distinct(tasks: pa.Table) -> pa.Table:
    ids = whole(tasks["id"])
    first = np.unique(ids.dictionary_encode().indices.to_numpy(zero_copy_only=False), return_index=True)[1]
    return tasks if len(first) == len(ids) else tasks.take(pa.array(np.sort(first)))


def _check_sizes(asked: TaskArrays) -> None:
    low = np.array([2, 2, 1, 1, 0])[asked.kind]
    high = np.array([2, 4, 1, 1, 1 << 30])[asked.kind]
    wrong = np.flatnonzero((asked.count < low) | (asked.count > high))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"a task of kind {KINDS[asked.kind[row]]} cannot have {asked.count[row]} candidates",
            where=f"task {asked.ids[row].as_py()}",
        )


def _places(tasks: pa.Table, count: Array) -> Array:
    shown = whole(tasks["shown"])
    row, standing = owners(shown), numbers(shown.flatten()).astype(np.int64)
    at = np.arange(len(row)) - (np.cumsum(sizes(shown)) - sizes(shown))[row]
    wrong = (standing < 0) | (standing >= count[row])
    if wrong.any() or (sizes(shown) != count).any():
        bad = row[np.flatnonzero(wrong)[0]] if wrong.any() else np.flatnonzero(sizes(shown) != count)[0]
        raise DataError(
            f"`shown` is {shown[int(bad)].as_py()}, which is no order of {count[bad]} candidates",
            where=f"task {tasks['id'][int(bad)].as_py()}",
        )
    place = np.full((len(count), max(4, int(count.max(initial=0)))), -1, np.int64)
    place[row, standing] = at
    return place


def read_judgements(judgements: pa.Table, asked: TaskArrays) -> tuple[JudgementArrays, list[Excluded]]:
    """What people said last about tasks that are compiled, and what was left out."""
    task = place_in(whole(judgements["task_id"]), asked.ids)
    annotator, names = ranked(whole(judgements["annotator"]))
    last = _latest(task, annotator, numbers(judgements["revision"].combine_chunks()).astype(np.int64))
    left = [_rows(judgements, last[task[last] < 0], "its task is not among the tasks compiled")]
    last = last[task[last] >= 0]
    last = last[(asked.trained | asked.gold)[task[last]]]
    outcome = _outcomes(judgements, asked, task, last)
    skipped = outcome == np.array([len(OUTCOMES[kind]) - 1 for kind in KINDS])[asked.kind[task[last]]]
    left.append(_rows(judgements, last[skipped], "the annotator skipped the task"))
    kept = last[~skipped]
    table = judgements.select(NEEDED).take(pa.array(kept))
    strength = numbers(table["strength"].combine_chunks()).astype(np.int8)
    _check_strength(table, strength)
    said = JudgementArrays(table, task[kept], annotator[kept], names, outcome[~skipped], strength, _flagged(table))
    return said, left


def _latest(task: Array, annotator: Array, revision: Array) -> Array:
    """Rows of the highest revision for each task and annotator, in their order; unknown tasks are all kept."""
    order = np.lexsort((revision, annotator, task))
    t, a = task[order], annotator[order]
    last = np.ones(len(order), bool)
    last[:-1] = (t[1:] != t[:-1]) | (a[1:] != a[:-1]) | (t[1:] < 0)
    return order[last]


def _rows(judgements: pa.Table, rows: Array, reason: str) -> Excluded:
    return Excluded("judgement", whole(judgements["id"].take(pa.array(rows))), reason)


def _outcomes(judgements: pa.Table, asked: TaskArrays, task: Array, rows: Array) -> Array:
    given = whole(judgements["outcome"].take(pa.array(rows)))
    found = np.full(len(rows), -1)
    for number, kind in enumerate(KINDS):
        mine = asked.kind[task[rows]] == number
        found[mine] = place_in(given, list(OUTCOMES[kind]))[mine]
    if (found < 0).any():
        at = int(np.flatnonzero(found < 0)[0])
        kind = KINDS[asked.kind[task[rows[at]]]]
        raise DataError(
            f"a {kind} cannot have the outcome {given[at].as_py()!r}",
            where=f"judgement {judgements['id'][int(rows[at])].as_py()}",
            hint=f"it is one of {', '.join(OUTCOMES[kind])}",
        )
    return found


def _check_strength(table: pa.Table, strength: Array) -> None:
    wrong = np.flatnonzero((strength < 0) | (strength > max(STRENGTHS)))
    if len(wrong):
        raise DataError(
            f"the strength is {strength[wrong[0]]}",
            where=f"judgement {table['id'][int(wrong[0])].as_py()}",
            hint=f"it is one of {', '.join(map(str, STRENGTHS))}, or nothing",
        )


def _flagged(table: pa.Table) -> Array:
    lists = whole(table["flags"])
    bad = np.zeros((len(table), len(LETTERS)), bool)
    if lists.null_count == len(lists):
        return bad
    row, flag = owners(lists), lists.flatten()
    parts = [f"{letter}:{name}" for letter in LETTERS for name in ("unsafe", "wrong")]
    which = place_in(flag, parts)
    bad[row[which >= 0], which[which >= 0] // 2] = True
    return bad
