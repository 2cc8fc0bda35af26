"""The journal: what people said and decided, append-only and fsynced, one JSON object a line.

    {"type": "judgement", …}            a judgement or a later revision of one
    {"type": "tombstone", "judgement"}  a judgement that is forgotten
    {"type": "tombstone", "annotator"}  all that this annotator said is forgotten, and whatever they say later
    {"type": "tombstone", "task"}       all that was said about this task, and whatever will be
    {"type": "closed", "round", "tasks", "reason"} and {"type": "reopened", "round", "tasks"}

A kill in mid-write leaves at most one torn last line; it was never acknowledged, and the next writer cuts it off.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from align.errors import DataError
from align.ids import content_id
from align.store import disk_errors
from align.types import Judgement, judgement_id


@dataclass(frozen=True, slots=True)
class Tombstones:
    """What is forgotten: judgements by id, and all judgements of some annotators and about some tasks."""

    judgements: frozenset[str] = frozenset()
    annotators: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()

    def hide(self, judgement: str, annotator: str, task: str) -> bool:
        """Whether the judgement with this id, by this annotator about this task, is forgotten."""
        return judgement in self.judgements or annotator in self.annotators or task in self.tasks

    def __bool__(self) -> bool:
        return bool(self.judgements or self.annotators or self.tasks)


@dataclass(frozen=True, slots=True)
class Journal:
    """The state that the journal's lines add up to."""

    latest: dict[tuple[str, str], Judgement] = field(default_factory=dict)
    """(task id, annotator) → the newest revision."""
    forgotten: Tombstones = Tombstones()
    closed: dict[str, str] = field(default_factory=dict)
    """Content id of a round's tasks → why their labelling was closed. Other tasks in the same round start open."""

    def judgements(self, tasks: Iterable[str]) -> list[Judgement]:
        """The judgements in force about `tasks`, by id."""
        wanted = set(tasks)
        return sorted(self.in_force(j for (task, _), j in self.latest.items() if task in wanted), key=lambda j: j.id)

    def in_force(self, judgements: Iterable[Judgement]) -> list[Judgement]:
        """Those of `judgements` that are not forgotten."""
        return [j for j in judgements if not self.forgotten.hide(j.id, j.annotator, j.task_id)]


def read_journal(path: Path) -> Journal:
    """Raises DataError for a damaged line anywhere but at the torn end."""
    latest: dict[tuple[str, str], Judgement] = {}
    forgotten: dict[str, set[str]] = {"judgement": set(), "annotator": set(), "task": set()}
    closed: dict[str, str] = {}
    for number, event in enumerate(_events(path), 1):
        match event.pop("type", None):
            case "judgement":
                judgement = Judgement(**event)
                latest[judgement.task_id, judgement.annotator] = judgement
            case "tombstone":
                for what, name in event.items():
                    forgotten[what].add(name)
            case "closed":
                closed[event["tasks"]] = event["reason"]
            case "reopened":
                closed.pop(event["tasks"], None)
            case other:
                raise DataError(
                    f"unknown entry {other!r}",
                    where=f"{path}:{number}",
                    hint="was this journal written by a newer version?",
                )
    tombstones = Tombstones(*(frozenset(forgotten[what]) for what in ("judgement", "annotator", "task")))
    return Journal(latest, tombstones, closed)


def record(path: Path, collected: Iterable[Judgement]) -> list[Judgement]:
    """Append what is new or changed among `collected` (revision 0 from the backend) and return those lines.

    A changed mind becomes the next revision; what the journal already holds is not written again, and what an annotator
    says who is forgotten, or anybody about a task that is, is not written at all.
    """
    with _held(path) as file:
        journal = read_journal(path)
        latest = dict(journal.latest)
        fresh = []
        for judgement in journal.in_force(collected):
            known = latest.get((judgement.task_id, judgement.annotator))
            if known is None or said(known) != said(judgement):
                revision = 0 if known is None else known.revision + 1
                identity = judgement_id(judgement.task_id, judgement.annotator, revision)
                judgement = replace(judgement, id=identity, revision=revision)
                latest[judgement.task_id, judgement.annotator] = judgement
                fresh.append(judgement)
        _write(path, file, [{"type": "judgement", **asdict(j)} for j in fresh])
    return fresh


def forget(path: Path, what: str, names: Iterable[str]) -> None:
    """Write tombstones for `names`: judgements, annotators or tasks, as `what` says in the singular."""
    known: frozenset[str] = getattr(read_journal(path).forgotten, f"{what}s")
    append(path, [{"type": "tombstone", what: name} for name in names if name not in known])


def close(path: Path, round: int, tasks: str, reason: str) -> None:
    """Close the labelling of `tasks` (the output id of the round's selection)."""
    append(path, [{"type": "closed", "round": round, "tasks": tasks, "reason": reason}])


def reopen(path: Path, round: int, tasks: str) -> None:
    """Take a closing back: more labels may come, and the next snapshot is another one."""
    append(path, [{"type": "reopened", "round": round, "tasks": tasks}])


def said(judgement: Judgement) -> str:
    """Content id of what the person said: everything but revision and times."""
    return content_id(
        [
            judgement.task_id,
            judgement.annotator,
            judgement.outcome,
            judgement.strength,
            judgement.flags,
            judgement.edit,
            judgement.reason,
            judgement.ranking,
            judgement.ratings,
        ]
    )


def append(path: Path, events: list[dict[str, Any]]) -> None:
    """Write whole lines and wait until the disk has them."""
    if events:
        with _held(path) as file:
            _write(path, file, events)


@contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """The journal, open for appending by this process alone: people may close a labelling that a runner follows."""
    with disk_errors(path):
        file = path.open("ab")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _write(path: Path, file: BinaryIO, events: list[dict[str, Any]]) -> None:
    """A torn line of an earlier kill is cut off first."""
    if not events:
        return
    with disk_errors(path):
        whole = _whole_length(path)
        if whole < os.fstat(file.fileno()).st_size:
            file.truncate(whole)
        file.write(b"".join(map(_line, events)))
        file.flush()
        os.fsync(file.fileno())


def _line(event: dict[str, Any]) -> bytes:
    """Readable in any script; a lone surrogate, which UTF-8 cannot say, makes all of the line ASCII."""
    try:
        return f"{json.dumps(event, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(event)}\n".encode()


def _whole_length(path: Path) -> int:
    """Bytes up to and including the last line end."""
    return path.read_bytes().rfind(b"\n") + 1


def _events(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    text = path.read_bytes()[: _whole_length(path)].decode()
    events = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"the line is damaged ({error})",
                where=f"{path}:{number}",
                hint="restore the file from a copy; every line but a torn last one is whole",
            ) from error
    return events
