"""Reads files of judgements: which format each is in, what could be used, and a report of what was understood."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align.data.messages import BadRowError
from align.data.rows import Row
from align.dropped import count_reasons, mostly_dropped
from align.errors import AlignError, ConfigError, DataError
from align.labelling.outside import argilla, label_studio
from align.labelling.outside.assemble import NO_DEFECT, WHAT, assemble
from align.labelling.outside.fields import unread
from align.labelling.outside.files import read_records
from align.labelling.outside.ours import is_ours, words_of_ours
from align.labelling.outside.questions import Main, Record, ignored, main_question, words_of_record
from align.labelling.outside.rows import words_of_row
from align.labelling.outside.words import Format, Reading, Word
from align.types import Dropped, Judgement, Task

KNOWN = ("id", "prompt_id")
"""Fields that nobody needs to read: what `align annotate export` writes beside the judgement."""

PSEUDONYM = re.compile(r"annotator-\d+")
"""What `align annotate export` calls people."""


class Read(NamedTuple):
    """What files say. `formats` has the format of each file, `rows` how many there are, `ignored` the fields that
    nobody reads with the number of rows that have them, `notes` what else was left out or is uncertain, with its
    count."""

    words: list[Word]
    dropped: list[Dropped]
    formats: dict[str, Format]
    rows: int
    ignored: Counter[str]
    notes: Counter[str]


class Imported(NamedTuple):
    """Tasks and judgements by id, what went no further, and the report: JSON-able. `sides_drawn`: they are about tasks
    of ours, whose sides of the screen were drawn at random."""

    tasks: list[Task]
    judgements: list[Judgement]
    dropped: list[Dropped]
    report: dict[str, Any]
    sides_drawn: bool


def load_judgements(
    path: Path | Sequence[Path],
    format: Format | None = None,
    *,
    annotator: str | None = None,
    prompt: str | None = None,
    answers: Sequence[str] = (),
    question: str | None = None,
    scale: tuple[float, float] | None = None,
    outcomes: Mapping[str, str] | None = None,
) -> Imported:
    """The judgements of a file, or of several together, in any format that docs/files.md lists; `format` where it is to
    be one of them ("rows", "argilla", "label-studio"). The other parameters are the fields of `Reading`.

    Raises DataError for a file that cannot be read or of which most rows cannot be used, and ConfigError where it can
    be read in two ways; the sentence says which option decides.
    """
    reading = Reading(format, annotator, prompt, tuple(answers), question, scale, outcomes or {})
    said = read_files([Path(path)] if isinstance(path, str | Path) else list(path), reading)
    tasks, judgements, more = assemble(said.words)
    dropped = said.dropped + more
    require_most(said, len(judgements), dropped)
    return Imported(tasks, judgements, dropped, understood(said, tasks, judgements, dropped), sides_drawn(said))


def sides_drawn(said: Read) -> bool:
    """Whether all is about tasks of ours, whose sides are known to be drawn."""
    return all(word.task is not None for word in said.words)


def read_files(paths: Sequence[Path], reading: Reading) -> Read:
    """What the files say, row by row; a row that cannot be used is dropped with its place and the reason."""
    said = Read([], [], {}, 0, Counter(), Counter())
    rows = 0
    for path in paths:
        if path.name in said.formats:
            raise ConfigError(f"two files are called {path.name}", hint="places of rows are told by it; rename one")
        records = list(read_records(path))
        if not records:
            raise DataError("the file has no rows", where=str(path))
        format = reading.format or format_of(path, records)
        said.formats[path.name] = format
        rows += len(records)
        try:
            _READERS[format](records, reading, said)
        except AlignError as error:
            if error.where is None:
                raise type(error)(error.what, where=path.name, hint=error.hint) from error
            raise
    _require_one_export(said.words)
    return said._replace(rows=rows)


def _require_one_export(words: Sequence[Word]) -> None:
    """ConfigError where two exports of ours have a pseudonym in common: it stands for another person in each."""
    seen: dict[str, str] = {}
    for word in words:
        if word.candidates and PSEUDONYM.fullmatch(word.annotator):
            file = word.where.rpartition(":")[0]
            if seen.setdefault(word.annotator, file) != file:
                raise ConfigError(
                    f"{word.annotator} is another person in {seen[word.annotator]} than in {file}",
                    where=word.where,
                    hint="import pseudonymous exports one by one, or export them with --names",
                )


def format_of(path: Path, records: Sequence[tuple[str, dict[str, Any]]]) -> Format:
    """The one format that the file's rows are in. ConfigError where rows fit two, or different ones."""
    found: dict[Format, str] = {}
    for where, row in records:
        fits: list[Format] = ["argilla"] if argilla.is_argilla(row) else []
        fits += ["label-studio"] if label_studio.is_label_studio(row) else []
        for name in fits or ["rows"]:
            found.setdefault(name, where)
    if len(found) > 1:
        told = " and ".join(f"{name} ({where})" for name, where in found.items())
        raise ConfigError(f"the file has rows of {told}", where=str(path), hint="--format says how to read it")
    return next(iter(found))


def require_most(said: Read, kept: int, dropped: Sequence[Dropped]) -> None:
    """DataError where more rows cannot be used than can, or nothing is said: the file is not what it was taken for."""
    bad = [row for row in dropped if not row.reason.startswith(NO_DEFECT)]
    if not kept and not dropped:
        raise DataError(
            "nobody says anything in it",
            where=", ".join(said.formats),
            hint="docs/files.md lists the forms; --format says which it is",
        )
    if len(bad) > kept:
        first = bad[0]
        raise DataError(
            f"{len(bad)} of {kept + len(bad)} judgements cannot be used, the first: {first.where}: {first.reason}",
            hint="docs/files.md lists the forms",
        )


def understood(
    said: Read, tasks: Sequence[Task], judgements: Sequence[Judgement], dropped: Sequence[Dropped]
) -> dict[str, Any]:
    """What was understood, in numbers and names."""
    outcomes = Counter(j.outcome for j in judgements)
    sides = sum(word.shown is not None for word in said.words)
    return {
        "formats": dict(said.formats),
        "rows": said.rows,
        "judgements": len(judgements),
        "tasks": len(tasks),
        "prompts": len({task.prompt_id for task in tasks}),
        "annotators": len({j.annotator for j in judgements}),
        "kinds": dict(sorted(Counter(j.kind for j in judgements).items())),
        "outcomes": dict(sorted(outcomes.items())),
        "ties": outcomes["tie"],
        "skips": outcomes["skipped"],
        "sides_known": sides,
        "ignored": dict(said.ignored.most_common()),
        "left_out": dict(said.notes.most_common()),
        "dropped": count_reasons(dropped),
        "mostly_dropped": mostly_dropped(WHAT, len(judgements), count_reasons(dropped)),
    }


def _read_rows(records: Sequence[tuple[str, dict[str, Any]]], reading: Reading, said: Read) -> None:
    for where, fields in records:
        row = Row(fields)
        try:
            said.words.extend(words_of_row(row, where, reading))
            said.ignored.update(name for name in unread(row) if name not in KNOWN)
        except BadRowError as bad:
            said.dropped.append(Dropped(WHAT, where, str(bad)))
        except ConfigError as error:
            raise ConfigError(error.what, where=where, hint=error.hint) from None


def _read_tool(
    records: Sequence[tuple[str, dict[str, Any]]],
    reading: Reading,
    said: Read,
    record_of: Callable[[dict[str, Any], str], Record],
) -> None:
    read: list[Record] = []
    for where, fields in records:
        try:
            read.append(record_of(fields, where))
        except BadRowError as bad:
            said.dropped.append(Dropped(WHAT, where, str(bad)))
    others = [record for record in read if not is_ours(record)]
    main = main_question(others, reading) if others else Main((), "label")
    for record in read:
        ours = is_ours(record)
        for word in words_of_ours(record, reading) if ours else words_of_record(record, main, reading):
            if isinstance(word, BadRowError):
                said.dropped.append(Dropped(WHAT, record.where, str(word)))
            else:
                said.words.append(word)
        if record.responses and not ours:
            said.ignored.update(ignored(record, main))
    if unsaid := sum(not record.responses for record in read):
        said.notes["records that nobody answered"] += unsaid


def _read_argilla(records: Sequence[tuple[str, dict[str, Any]]], reading: Reading, said: Read) -> None:
    _read_tool(records, reading, said, lambda row, where: argilla.record_of(row, where, said.notes))


def _read_label_studio(records: Sequence[tuple[str, dict[str, Any]]], reading: Reading, said: Read) -> None:
    _read_tool(records, reading, said, lambda row, where: label_studio.record_of(row, where, reading, said.notes))


_READERS: Mapping[Format, Callable[[Sequence[tuple[str, dict[str, Any]]], Reading, Read], None]] = {
    "rows": _read_rows,
    "argilla": _read_argilla,
    "label-studio": _read_label_studio,
}
