"""What people said, as files that others read: JSONL beside the session, or a data set in the Hub's layout with a
card."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from align.config.recipe import Annotate, Personas
from align.errors import ConfigError
from align.ids import content_id
from align.labelling.session import Session, has_session, journal_of, session_of_folder
from align.pipeline.intact import require_readable
from align.pipeline.receipts import current, pointers
from align.pipeline.run import open_run
from align.provenance.card import card
from align.store import disk_errors, fresh_folder, publish, read_table, replace_file, write_rows, write_table
from align.tool_calls import as_openai, beside
from align.turns import said
from align.types import (
    MESSAGES,
    SCHEMAS,
    BinaryLabel,
    Dropped,
    Edit,
    Judgement,
    Preference,
    Task,
    as_dict,
    from_table,
    judgement_id,
    to_table,
)
from annotation.agreement import summary
from annotation.compile import Compiled, compile_labels
from annotation.crowd.advice import name_people
from annotation.journal import read_journal

Row = dict[str, Any]
_STRINGS = pa.list_(pa.string())
CONFIGS: dict[str, pa.Schema] = {
    "judgements": pa.schema(
        [*SCHEMAS[Judgement], ("round", pa.int32()), ("purpose", pa.string()), ("repeat", pa.int32())]
        + [("prompt_id", pa.string()), ("prompt", MESSAGES), ("candidates", _STRINGS), ("answers", _STRINGS)]
        + [("shown", pa.list_(pa.int32())), ("name", pa.string())]
    ),
    "preferences": pa.schema(
        [("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES), ("target", pa.float64())]
        + [("weight", pa.float64()), ("margin", pa.float64()), ("round", pa.int32()), ("id", pa.string())]
        + [("prompt_id", pa.string()), ("chosen_id", pa.string()), ("rejected_id", pa.string())]
        + [("judgements", _STRINGS)]
    ),
    "binary": pa.schema(
        [("prompt", MESSAGES), ("completion", MESSAGES), ("label", pa.bool_()), ("target", pa.float64())]
        + [("weight", pa.float64()), ("round", pa.int32()), ("id", pa.string()), ("prompt_id", pa.string())]
        + [("candidate_id", pa.string()), ("judgements", _STRINGS)]
    ),
    "demonstrations": pa.schema(
        [("prompt", MESSAGES), ("completion", MESSAGES), ("annotator", pa.string()), ("round", pa.int32())]
        + [("id", pa.string()), ("prompt_id", pa.string()), ("judgement", pa.string())]
    ),
}
"""The parts of a data set and their columns."""
_FUNCTION = pa.struct([("name", pa.string()), ("arguments", pa.string())])
_CALLS = pa.list_(pa.struct([("id", pa.string()), ("type", pa.string()), ("function", _FUNCTION)]))
MESSAGES_WITH_TOOLS = pa.list_(
    pa.struct([*MESSAGES.value_type, ("tool_calls", _CALLS), ("tool_call_id", pa.string()), ("name", pa.string())])
)
"""Of messages in a part where any of them calls tools; `tools`, their list, is then a column of JSON text."""
ROW = {
    "judgements": "judgement",
    "preferences": "preference",
    "binary": "binary label",
    "demonstrations": "demonstration",
}
"""What one row of a part is called."""


@dataclass(frozen=True, slots=True)
class Labels:
    """All that was asked and said in a folder. `salt` is the folder's own, so that nobody can guess who is who; `names`
    are what annotators are called."""

    name: str
    salt: str
    tasks: list[Task]
    judgements: list[Judgement]
    names: Mapping[str, str]
    annotate: Annotate
    hide_thinking: bool = False
    """Annotators saw no thoughts, so that the answers that they judged have none."""


def pull_files(session: Session, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Write the judgements that count, what they compile to and what was dropped as JSONL; returns the counts, and what
    the label compiler has to say about the labels."""
    labels = _labels_of(session, folder)
    parts, compiled = parts_of(
        labels.tasks, labels.judgements, labels.names, session.annotate.compiler, hide_thinking=labels.hide_thinking
    )
    parts["dropped"] = list(map(as_dict, from_table(Dropped, compiled.dropped)))
    for name, rows in parts.items():
        write_rows(folder / f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in parts.items()}, name_people(compiled.notes, labels.names)


def export(folder: Path, out: Path, *, names: bool, format: Literal["parquet", "jsonl"]) -> dict[str, int]:
    """Make `out`: `data/<part>.parquet` (or `.jsonl`) for each part that has rows, and README.md, its card; returns
    how many rows each part has.

    Of a run all rounds are exported, compiled together. Without `names` annotators get pseudonyms, ids that could be
    traced back to a person are replaced by new ones, and times are left out. Raises ConfigError where `out` is there
    already and where nobody has said anything yet.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already", where="--out", hint="name another folder, or remove this one")
    labels = _labels(folder)
    if not labels.judgements:
        raise ConfigError(f"there are no judgements in {folder}", hint="`align annotate pull` takes them in")
    judgements = labels.judgements if names else pseudonymous(labels.judgements, labels.salt)
    parts, compiled = parts_of(
        labels.tasks,
        judgements,
        labels.names if names else {},
        labels.annotate.compiler,
        hide_thinking=labels.hide_thinking,
    )
    parts = {name: rows for name, rows in parts.items() if rows}
    counts = {name: len(rows) for name, rows in parts.items()}
    partial = fresh_folder(out.with_name(out.name + ".partial"))
    with disk_errors(partial):
        (partial / "data").mkdir()
    for name, rows in parts.items():
        path = partial / "data" / f"{name}.{format}"
        if format == "parquet":
            write_table(path, _table(rows, CONFIGS[name]))
        else:
            write_rows(path, rows)
    facts = {
        "name": labels.name,
        "files": {name: f"data/{name}.{format}" for name in parts},
        "counts": counts,
        "kinds": dict(sorted(Counter(task.kind for task in labels.tasks).items())),
        "purposes": dict(sorted(Counter(task.purpose for task in labels.tasks).items())),
        "annotators": len({j.annotator for j in judgements}),
        "named": names,
        "simulated": isinstance(labels.annotate.by, Personas),
        "compiled": compiled,
        "agreement": summary(labels.tasks, judgements),
    }
    replace_file(partial / "README.md", card(facts))
    publish(partial, out)
    return counts


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table; where any has tools, with the columns that these need."""
    plain = {"role", "content"}
    messages = [field.name for field in schema if field.type == MESSAGES]
    if not any("tools" in row or any(turn.keys() - plain for name in messages for turn in row[name]) for row in rows):
        return pa.Table.from_pylist(rows, schema=schema)
    fields = [pa.field(f.name, MESSAGES_WITH_TOOLS if f.name in messages else f.type) for f in schema]
    written = [
        {**row, "tools": json.dumps(row["tools"], ensure_ascii=False) if "tools" in row else None} for row in rows
    ]
    return pa.Table.from_pylist(written, schema=pa.schema([*fields, ("tools", pa.string())]))


def pseudonymous(judgements: list[Judgement], salt: str) -> list[Judgement]:
    """`annotator-1`, `annotator-2` and so on, in an order that depends on `salt` and tells nothing.

    A judgement's id is made of its annotator's, and whoever knows the users could try them, so ids are replaced by new
    ones; times, which tell who works when, are left out.
    """
    people = sorted({j.annotator for j in judgements}, key=lambda who: content_id(["annotator", salt, who]))
    called = {who: f"annotator-{number}" for number, who in enumerate(people, 1)}
    return [
        replace(j, id=judgement_id(j.task_id, name, j.revision), annotator=name, time=None)
        for j in judgements
        for name in [called[j.annotator]]
    ]


def _labels(folder: Path) -> Labels:
    if has_session(folder) or not (folder / "run.json").is_file():
        return _labels_of(session_of_folder(folder), folder)
    run = open_run(folder)
    if run.recipe.annotate is None:
        raise ConfigError("this run asks nobody: its labels come from a file, or it needs none", where=str(folder))
    require_readable(folder)
    journal = read_journal(run.journal)
    tasks: dict[str, Task] = {}
    judgements: dict[str, Judgement] = {}
    for ref, pointer in pointers(folder):
        receipt = current(folder, ref)
        if receipt is not None and "tasks.parquet" in receipt.files:
            asked = from_table(Task, read_table(pointer.parent / receipt.key / "tasks.parquet"))
            tasks |= {task.id: task for task in asked}
            counted = journal.judgements((task.id for task in asked), receipt.output)
            judgements |= {j.id: replace(j, annotator=journal.identity(j.annotator)) for j in counted}
    names = journal.everybody()
    hidden = "annotators" in run.recipe.model.hide_thinking
    everything = (list(tasks.values()), list(judgements.values()), names, run.recipe.annotate, hidden)
    return Labels(run.recipe.name, run.id, *everything)


def _labels_of(session: Session, folder: Path) -> Labels:
    journal = journal_of(session)
    judgements = journal.judgements((task.id for task in session.tasks), session.tasks_id)
    everything = (session.tasks, judgements, journal.everybody(), session.annotate, session.hide_thinking)
    return Labels(folder.resolve().name, session.workspace, *everything)


def parts_of(
    tasks: list[Task],
    judgements: list[Judgement],
    names: Mapping[str, str],
    model: str,
    *,
    sides_drawn: bool = True,
    hide_thinking: bool = False,
) -> tuple[dict[str, list[Row]], Compiled]:
    """The rows of each part of CONFIGS, and what the label compiler says of them; `sides_drawn` as for it."""
    found = to_table(Task, tasks), to_table(Judgement, judgements)
    compiled = compile_labels(*found, model=model, sides_drawn=sides_drawn)
    by_id = {task.id: task for task in tasks}
    parts = {
        "judgements": [_judgement(j, by_id[j.task_id], names.get(j.annotator), hide_thinking) for j in judgements],
        "preferences": _rows(Preference, compiled.preferences, _preference),
        "binary": _rows(BinaryLabel, compiled.binary, _binary_label),
        "demonstrations": _rows(Edit, compiled.edits, _demonstration),
    }
    return parts, compiled


def _rows(kind: type[Any], table: pa.Table, row: Callable[[Any], Row]) -> list[Row]:
    return [row(record) for record in from_table(kind, table)]


def _judgement(judgement: Judgement, task: Task, name: str | None, hide_thinking: bool) -> Row:
    return as_dict(judgement) | {
        "round": task.round,
        "purpose": task.purpose,
        "repeat": task.repeat,
        "prompt_id": task.prompt_id,
        **beside(task.messages, "prompt"),
        "candidates": task.candidates,
        "answers": [said(text) for text in task.texts] if hide_thinking else task.texts,
        "shown": task.shown,
        "name": name,
    }


def _preference(row: Preference) -> Row:
    """TRL's form, which `preferences.from` takes too."""
    return _fields(row, "preferences") | {
        **beside(row.messages, "prompt"),
        "chosen": _reply(row.chosen),
        "rejected": _reply(row.rejected),
    }


def _binary_label(row: BinaryLabel) -> Row:
    """KTO's form, with the weight beside it."""
    label = {"label": row.target >= 0.5}
    return _fields(row, "binary") | {**beside(row.messages, "prompt"), "completion": _reply(row.text), **label}


def _demonstration(row: Edit) -> Row:
    return _fields(row, "demonstrations") | {**beside(row.messages, "prompt"), "completion": _reply(row.text)}


def _fields(row: Any, part: str) -> Row:
    """A row's columns in their order; those that it does not have itself are still to be filled."""
    return {name: getattr(row, name, None) for name in CONFIGS[part].names}


def _reply(text: str) -> list[dict[str, Any]]:
    return as_openai([{"role": "assistant", "content": text}])
