"""The journal's bytes: whole lines appended and fsynced by one process at a time, lines read from where one was, and
words blotted out.

A line is one JSON object in UTF-8. A kill in mid-write leaves at most one torn last line; it was never acknowledged, no
reader sees it, and the next writer cuts it off.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from align.errors import DataError
from align.lock import acquired
from align.store import disk_errors, fresh_partial, partial_of, sync_folder
from align.types import Judgement

BLOCK = 1 << 20
JUDGEMENT = "judgement"

_HEAD = re.compile(
    rb'\{"type": "judgement", "id": "[^"\\]*", "task_id": "([^"\\]*)", "kind": "[^"\\]*", "annotator": "([ !#-\[\]-~]*)"'
)
"""How our own lines about judgements begin: of a line about a task that nobody asked for, this much is read."""

_TEXT, _COUNT, _NUMBER, _LIST = (str,), (int,), (int, float), (list,)
_TYPES: dict[str, tuple[type, ...]] = dict.fromkeys(("id", "task_id", "kind", "annotator", "outcome"), _TEXT) | {
    "revision": _COUNT,
    "strength": _COUNT,
    "flags": _LIST,
    "edit": _TEXT,
    "reason": _TEXT,
    "time": _TEXT,
    "seconds": _NUMBER,
    "ranking": _LIST,
    "ratings": _LIST,
}
_REQUIRED = {field.name for field in fields(Judgement) if field.default is MISSING}
_SHAPES: dict[str, dict[str, tuple[type, ...]]] = {
    "tombstone": {"judgement": _TEXT, "annotator": _TEXT, "task": _TEXT},
    "closed": {"tasks": _TEXT, "reason": _TEXT},
    "reopened": {"tasks": _TEXT},
    "person": {"id": _TEXT, "name": _TEXT},
}
"""What the other lines have; of a tombstone's fields one is enough."""


class Line(NamedTuple):
    """One line: the byte `at` which it begins, and what it says."""

    at: int
    type: str
    event: dict[str, Any]


@dataclass(slots=True)
class Place:
    """How far a journal is read: bytes and lines, in which file, and the `annotators` that lines so far name."""

    length: int = 0
    count: int = 0
    file: int = 0
    annotators: set[str] = field(default_factory=set)


@contextmanager
def held(path: Path) -> Iterator[BinaryIO]:
    """The journal, open for appending by this process alone: people may close a labelling that a runner follows."""
    while True:
        with ExitStack() as holding:
            with disk_errors(path):
                file = holding.enter_context(path.open("ab"))
            holding.enter_context(acquired(file, path, wait=True))
            if _is_at(file, path):
                with disk_errors(path):
                    partial_of(path.resolve()).unlink(missing_ok=True)  # left by a `blot` that was killed
                yield file
                return
        # while we waited, `blot` put another file in its place: what is written into this one would be lost


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write(path: Path, file: BinaryIO, events: list[dict[str, Any]]) -> None:
    """Append whole lines and wait until the disk has them; a torn line of an earlier kill is cut off first."""
    if not events:
        return
    with disk_errors(path):
        whole = _whole_length(path)
        if whole < os.fstat(file.fileno()).st_size:
            file.truncate(whole)
        file.write(b"".join(map(_encoded, events)))
        file.flush()
        os.fsync(file.fileno())


def lines(file: BinaryIO, path: Path, place: Place, until: int | None, tasks: Collection[str] | None) -> Iterator[Line]:
    """The whole lines of `file` from `place`, which goes along, up to byte `until`.

    With `tasks` a judgement about any other task is left out: of a million lines only those are taken apart that
    matter. Raises DataError with the line's number for a line that is no entry of a journal.
    """
    wanted = None if tasks is None else {task.encode() for task in tasks}
    file.seek(place.length)
    for raw in file:
        at = place.length
        if not raw.endswith(b"\n") or (until is not None and at >= until):
            return
        head = _HEAD.match(raw) if wanted is not None else None
        if wanted is not None and head is not None and head[1] not in wanted:
            place.annotators.add(head[2].decode())
        else:
            line = Line(at, *_parsed(raw, path, place.count + 1))
            if line.type == JUDGEMENT:
                place.annotators.add(line.event["annotator"])
            yield line
        place.count += 1
        place.length += len(raw)


def blot(path: Path, hidden: Callable[[dict[str, Any]], bool]) -> int:
    """Put a tombstone of the same length in the place of each judgement that is `hidden`; returns how many there were.

    Every other line keeps its bytes and the byte at which it begins, since closings, and whoever follows the journal,
    go by that. The file is replaced as a whole: a kill leaves the old one or the new one.
    """
    if not path.is_file():
        return 0
    path = path.resolve()  # of a link, what it leads to has the words
    with held(path), disk_errors(path):
        partial = fresh_partial(path)
        count = 0
        try:
            count = _write_blotted(path, partial, hidden)
        finally:
            if not count:
                partial.unlink()
        if count:
            partial.replace(path)
            sync_folder(path.parent)
    return count


def _write_blotted(path: Path, partial: Path, hidden: Callable[[dict[str, Any]], bool]) -> int:
    count = number = 0
    with path.open("rb", buffering=BLOCK) as old, partial.open("wb", buffering=BLOCK) as new:
        for raw in old:
            if not raw.endswith(b"\n"):
                break  # torn by a kill, and read by nobody
            number += 1
            kind, event = _parsed(raw, path, number)
            if kind == JUDGEMENT and hidden(event):
                raw, count = _tombstone(event["id"], len(raw)), count + 1
            new.write(raw)
        new.flush()
        os.fsync(new.fileno())
    return count


def _tombstone(judgement: str, length: int) -> bytes:
    """A line of so many bytes; a judgement's own line is always longer than what stands in it then."""
    text = _encoded({"type": "tombstone", "judgement": judgement})[:-1]
    return text.ljust(length - 1) + b"\n"


def _parsed(raw: bytes, path: Path, number: int) -> tuple[str, dict[str, Any]]:
    try:
        event = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError, numbers of too many digits
        raise _damaged(str(error), f"{path}:{number}") from error
    if not isinstance(event, dict):
        raise _damaged(f"it holds {type(event).__name__}, not an object", f"{path}:{number}")
    kind = event.pop("type", None)
    if kind == JUDGEMENT:
        return kind, _judgement(event, path, number)
    return _decision(kind, event, f"{path}:{number}")


def _judgement(event: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    """The fields of a judgement that this version knows."""
    for name, types in _TYPES.items():
        value = event.get(name)
        if value is None:
            if name in _REQUIRED:
                raise _damaged(f"a judgement without `{name}`", f"{path}:{number}")
        elif not isinstance(value, types):
            raise _damaged(f"`{name}` is {str(value)[:40]!r}", f"{path}:{number}")
    if event.keys() <= _TYPES.keys():
        return event
    return {name: value for name, value in event.items() if name in _TYPES}


def _decision(kind: object, event: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """What is known of an entry that is no judgement."""
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise DataError(
            f"unknown entry {str(kind)[:40]!r}", where=where, hint="was this journal written by a newer version?"
        )
    found = {name: event[name] for name, types in shape.items() if isinstance(event.get(name), types)}
    if len(found) < len(shape) and not (kind == "tombstone" and found):
        missing = next(name for name in shape if name not in found)
        raise _damaged(f"a line of type {kind} without `{missing}`", where)
    if kind == "person" and isinstance(event.get("was"), list):
        found["was"] = [name for name in event["was"] if isinstance(name, str)]
    return str(kind), found


def _damaged(what: str, where: str) -> DataError:
    return DataError(
        f"the line is damaged ({what})",
        where=where,
        hint="restore the file from a copy; every line but a torn last one is whole",
    )


def _encoded(event: dict[str, Any]) -> bytes:
    """Readable in any script; a lone surrogate, which UTF-8 cannot say, makes all of the line ASCII."""
    try:
        return f"{json.dumps(event, ensure_ascii=False)}\n".encode()
    except UnicodeEncodeError:
        return f"{json.dumps(event)}\n".encode()


def _whole_length(path: Path) -> int:
    """Bytes up to and including the last line end; only the end of the file is looked at."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0
