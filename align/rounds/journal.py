"""The journal: what people said and decided, append-only and fsynced, one JSON object a line.

    {"type": "judgement", …}            a judgement or a later revision of one
    {"type": "tombstone", "judgement"}  a judgement that is forgotten
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
class Journal:
    """The state that the journal's lines add up to."""

    latest: dict[tuple[str, str], Judgement] = field(default_factory=dict)
    """(task id, annotator) → the newest revision."""
    forgotten: frozenset[str] = frozenset()
    """Ids of judgements with a tombstone."""
    closed: dict[str, str] = field(default_factory=dict)
    """Content id of a round's tasks → why their labelling was closed. Other tasks in the same round start open."""

    def judgements(self, tasks: Iterable[str]) -> list[Judgement]:
        """The judgements in force about `tasks`, by id."""
        wanted = set(tasks)
        rows = [j for (task, _), j in self.latest.items() if task in wanted and j.id not in self.forgotten]
        return sorted(rows, key=lambda j: j.id)


def read_journal(path: Path) -> Journal:
    """Raises DataError for a damaged line anywhere but at the torn end."""
    latest: dict[tuple[str, str], Judgement] = {}
    forgotten: set[str] = set()
    closed: dict[str, str] = {}
    for number, event in enumerate(_events(path), 1):
        match event.pop("type", None):
            case "judgement":
                judgement = Judgement(**event)
                latest[judgement.task_id, judgement.annotator] = judgement
            case "tombstone":
                forgotten.add(event["judgement"])
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
    return Journal(latest, frozenset(forgotten), closed)


def record(path: Path, collected: Iterable[Judgement]) -> list[Judgement]:
    """Append what is new or changed among `collected` (revision 0 from the backend) and return those lines.

    A changed mind becomes the next revision; what the journal already holds is not written again.
    """
    with _held(path) as file:
        latest = dict(read_journal(path).latest)
        fresh = []
        for judgement in collected:
            known = latest.get((judgement.task_id, judgement.annotator))
            if known is None or said(known) != said(judgement):
                revision = 0 if known is None else known.revision + 1
                identity = judgement_id(judgement.task_id, judgement.annotator, revision)
                judgement = replace(judgement, id=identity, revision=revision)
                latest[judgement.task_id, judgement.annotator] = judgement
                fresh.append(judgement)
        _write(path, file, [{"type": "judgement", **asdict(j)} for j in fresh])
    return fresh


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
        file.write("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in events).encode())
        file.flush()
        os.fsync(file.fileno())


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
