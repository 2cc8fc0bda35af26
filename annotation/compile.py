"""The label compiler: judgements → preferences, binary labels and edits, with what every annotator is worth.

Everything that people said becomes votes (`annotation.crowd.evidence`); a model says what to believe of them
(`bradley_terry`, `dawid_skene`, `majority`); and beliefs become rows. docs/label-compiler.md has the equations.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.errors import ConfigError
from align.types import SCHEMAS, BinaryLabel, Dropped, Edit, Judgement, Preference, Task, from_table, to_table
from annotation.crowd import bradley_terry, choice, conflicts, dawid_skene, majority, rows, sides
from annotation.crowd.advice import advise
from annotation.crowd.beliefs import Beliefs
from annotation.crowd.evidence import PAIR, Evidence, gather
from annotation.crowd.face_value import COIN, at_face_value
from annotation.crowd.people import numbers_of
from annotation.crowd.reading import Excluded, JudgementArrays, TaskArrays, read_judgements, read_tasks

AGAINST = ", but what else was said speaks against it"
AROUND = ", but these answers go round in a circle"
OURS, AUTO = "bradley_terry", "auto"
MODELS: dict[str, Callable[[Evidence], Beliefs]] = {
    "bradley_terry": bradley_terry.fit,
    "dawid_skene": dawid_skene.fit,
    "majority": majority.fit,
}


@dataclass(frozen=True, slots=True)
class Compiled:
    """What judgements compile to. The tables have the schemas of Preference, BinaryLabel, Edit and Dropped, sorted by
    id (Dropped: by what and where); all else is JSON-able.

    A preference's `target` is the probability that `chosen` is better; `weight`, in [0, 1], how much of the doubt about
    the pair the votes have removed, less where a prompt's pairs say the same thing; `margin` the log-odds with which a
    typical annotator would choose so. A binary label's `target` is the probability that the answer is good.
    `annotators` and `conflicts` are described at `annotation.crowd.people.numbers_of` and
    `annotation.crowd.conflicts.find`. `model` is the one that was taken, and `choice` why, where it was to be chosen
    (`annotation.crowd.choice.Choice`). `notes` are sentences for people: which labels count little, and what would
    help.
    """

    preferences: pa.Table
    binary: pa.Table
    edits: pa.Table
    dropped: pa.Table
    annotators: dict[str, dict[str, Any]]
    conflicts: dict[str, Any]
    model: str
    choice: dict[str, Any] | None
    notes: list[str]


def compile_labels(tasks: pa.Table, judgements: pa.Table, *, model: str = AUTO, sides_drawn: bool = False) -> Compiled:
    """Compile `judgements` (schema of Judgement) of `tasks` (schema of Task), in any order, by one of MODELS.

    With `auto` it is `bradley_terry`, unless another one predicts held-out labels better (`annotation.crowd.choice`).
    `sides_drawn`: who stands left was drawn at random, as for tasks of `annotation.tasks`, so that a crowd which
    prefers one side is biased; else a crowd that does so much too often is taken as one that met the better answers
    there.

    Of each annotator the last revision on a task counts. Gold tasks tell about annotators and become no rows; tasks of
    purpose eval and blind A/B tasks tell nothing here. Whatever becomes no row is in `dropped` with a reason.
    Raises ConfigError for an unknown model, and DataError for a judgement that its kind of task cannot have.
    """
    if model not in (AUTO, *MODELS):
        raise ConfigError(f"there is no model {model!r}", hint=f"it is one of {', '.join((AUTO, *MODELS))}")
    asked, left = read_tasks(tasks)
    said, more = read_judgements(judgements, asked)
    evidence, refused = gather(asked, said)
    dropped = [left_rows(part) for part in left + more]
    dropped += [_dropped("edit", [name for name, _ in refused], [reason for _, reason in refused])]
    dropped += [_unasked(asked, said)]
    if len(evidence.votes.factor) == 0:
        nothing = (SCHEMAS[kind].empty_table() for kind in (Preference, BinaryLabel, Edit))
        found = numbers_of(asked, said, evidence, None), conflicts.find(asked, evidence, pa.array([]), [])
        return Compiled(*nothing, _sorted(dropped), *found, OURS if model == AUTO else model, None, [])  # type: ignore[call-arg]
    held = sides.held(asked, said, evidence, drawn=sides_drawn)
    evidence = replace(evidence, sides=held is None)
    chosen = choice.choose(asked, evidence, MODELS, OURS) if model == AUTO else None
    name = model if chosen is None else chosen.model
    circles = conflicts.circles(evidence)
    beliefs = at_face_value(evidence, MODELS[name](evidence), circles)
    source = rows.Source(asked, said, evidence)
    pairs = rows.pairs_of(evidence, beliefs)
    kept = (np.abs(pairs.better - 0.5) >= COIN) & (pairs.information > 0)
    dropped += [_coins(source, pairs.take(np.flatnonzero(~kept)), circles)]
    pairs = pairs.take(np.flatnonzero(kept))
    weight = pairs.information * rows.independent(pairs, len(evidence.kind))
    binary = rows.binary(source, beliefs)
    people = numbers_of(asked, said, evidence, beliefs)
    weights = np.r_[weight, binary["weight"].to_numpy()]
    return Compiled(
        preferences=rows.preferences(source, pairs, weight),
        binary=binary,
        edits=rows.edits(source),
        dropped=_sorted(dropped),
        annotators=people,
        conflicts=conflicts.find(asked, evidence, source.ids, circles),
        model=name,
        choice=None if chosen is None else chosen.record(),
        notes=advise(evidence, name, held, said.names.to_pylist(), people, weights),
    )


def compile_preferences(
    tasks: list[Task], judgements: list[Judgement], model: str = AUTO
) -> tuple[list[Preference], list[Dropped]]:
    """`compile_labels` for the small ends: dataclasses in and out; the tasks are those of `annotation.tasks`."""
    done = compile_labels(to_table(Task, tasks), to_table(Judgement, judgements), model=model, sides_drawn=True)
    return from_table(Preference, done.preferences), from_table(Dropped, done.dropped)


def latest(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Each annotator's last revision on each task, sorted by id."""
    last: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        key = (judgement.task_id, judgement.annotator)
        if key not in last or judgement.revision > last[key].revision:
            last[key] = judgement
    return sorted(last.values(), key=lambda j: j.id)


def left_rows(left: Excluded) -> pa.Table:
    return _dropped(left.what, left.ids, left.reason)


def _dropped(what: str, where: pa.Array | list[str], reason: str | list[str]) -> pa.Table:
    n = len(where)
    where = where.cast(pa.string()) if isinstance(where, pa.Array) else pa.array(where, pa.string())
    reasons = pa.repeat(reason, n) if isinstance(reason, str) else pa.array(reason, pa.string())
    return pa.Table.from_arrays([pa.repeat(what, n), where, reasons], schema=SCHEMAS[Dropped])


def _sorted(parts: list[pa.Table]) -> pa.Table:
    keys = [("what", "ascending"), ("where", "ascending"), ("reason", "ascending")]
    return pa.concat_tables(parts).sort_by(keys)


def _unasked(asked: TaskArrays, said: JudgementArrays) -> pa.Table:
    """Trained tasks that nobody answered, each pair of candidates once."""
    answered = np.zeros(len(asked.ids), bool)
    answered[said.task] = True
    pair = asked.kind == PAIR
    # Tasks about the same pair are one; other tasks stand for themselves.
    key = np.arange(len(asked.ids)) + len(asked.candidates) ** 2 * (len(asked.prompts) + 1)
    first = asked.first[pair]
    a, b = asked.candidate[first], asked.candidate[first + 1]
    width = np.int64(len(asked.candidates))
    key[pair] = (asked.prompt[pair] * width + np.minimum(a, b)) * width + np.maximum(a, b)
    silent = np.flatnonzero(asked.trained & ~np.isin(key, key[answered & asked.trained]))
    names = asked.ids.take(pa.array(silent))
    order = pc.sort_indices(names).to_numpy()
    _, once = np.unique(key[silent][order], return_index=True)
    silent, names = silent[order][once], names.take(pa.array(order[once]))
    kinds = np.where(pair[silent], "pair", "task")
    return _dropped("task", names, "it has no scored judgement").set_column(
        0, SCHEMAS[Dropped].field("what"), pa.array(kinds, pa.string())
    )


def _coins(source: rows.Source, pairs: rows.Pairs, circles: list[list[int]]) -> pa.Table:
    """Pairs of which nobody knows the better one, with what was said."""
    around = {frozenset(two) for nodes in circles for two in zip(nodes, [*nodes[1:], nodes[0]], strict=True)}
    circular = [frozenset(two) in around for two in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]
    tasks = source.asked.ids.take(pa.array(source.task_of(pairs)))
    both = pc.binary_join_element_wise(source.id(pairs.first), source.id(pairs.second), " ")
    where = pc.if_else(pa.array(pairs.factor >= 0), tasks.cast(pa.string()), both)
    compared = pairs.factor >= 0
    count = conflicts.counts(source.evidence)[np.maximum(pairs.factor, 0)]
    reasons = [
        f"no preference: {_number(a)} to {_number(b)} and {_number(t)} ties{'' if a == b else AROUND if r else AGAINST}"
        if c
        else "no preference: judged alike"
        for c, r, (a, b, t) in zip(compared.tolist(), circular, count.tolist(), strict=True)
    ]
    return _dropped("pair", where, reasons)


def _number(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")
