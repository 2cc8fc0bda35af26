"""One policy for every file that a user brings.

A file that cannot be read, or a line that is not a JSON object, is an error. A row that is one but cannot be used is
dropped, with `file:line` and a reason that starts with the kind of defect. More than half of the rows dropped for
defects is an error again: then the file is not what it was taken for. A field that says something and that nobody
reads is counted, and said by name in a warning.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from align.data.messages import BadRowError, excerpt, is_said, turns_in, unread_fields
from align.data.tool_messages import from_table
from align.dropped import count_reasons, mostly_dropped
from align.errors import DataError
from align.store import read_rows
from align.tool_calls import TOOLS
from align.types import Dropped

Parsed = TypeVar("Parsed")
_log = logging.getLogger(__name__)


class Row(dict[str, Any]):
    """A row that knows which of its fields were asked for."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def ignored(self) -> Iterator[str]:
        """The fields that say something and were not asked for, those of messages as `messages[].name`."""
        for name, value in self.items():
            if name not in self.read:
                if is_said(value):
                    yield name
            elif name != TOOLS:
                place = name if isinstance(value, dict) else f"{name}[]"
                turns = turns_in(value)
                yield from {f"{place}.{f}" for turn in turns for f in unread_fields(turn)}


def parse_rows(
    path: Path, what: str, parse: Callable[[dict[str, Any], str], Parsed], *, known: Collection[str] | None = ()
) -> tuple[list[tuple[str, Parsed]], list[Dropped]]:
    """Every row of `path` through `parse(row, where)`: (`file:line`, result) for each good one, the others dropped.

    `what` names one row ("prompt"). Warns of the fields that `parse` did not ask for, but of those in `known`, which
    others read or which mean nothing here; None: it takes what it needs from a file of somebody else's, so of none.
    Raises DataError for a file without rows or with more than half of them bad.
    """
    good: list[tuple[str, Parsed]] = []
    dropped: list[Dropped] = []
    ignored: Counter[str] = Counter()
    for where, fields in read_rows(path):
        rows = []
        try:
            rows = unfolded(from_table(fields) if path.suffix == ".parquet" else fields)
        except BadRowError as bad:
            dropped.append(Dropped(what, where, str(bad)))
        for row in map(Row, rows):
            try:
                good.append((where, parse(row, where)))
                ignored.update(row.ignored())
            except BadRowError as bad:
                dropped.append(Dropped(what, where, str(bad)))
    if not good and not dropped:
        raise DataError("the file has no rows", where=str(path))
    if len(dropped) > len(good):
        first = dropped[0]
        share = f"{len(dropped)} of {len(good) + len(dropped)} rows are no {what}s"
        raise DataError(
            f"{share}, the first: {first.where}: {first.reason}", where=str(path), hint="docs/files.md lists the forms"
        )
    if known is not None:
        say_ignored(path, {name: n for name, n in ignored.items() if name not in known}, len(good))
    return good, dropped


def unfolded(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that one row stands for: self-instruct gives an `instruction` several `instances` of input and
    output."""
    instances = row.get("instances")
    if row.get("instruction") is None or not is_said(instances):
        return [row]
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        raise BadRowError("unusable field", f"`instances` is {excerpt(instances)}, not a list of objects")
    rest = {name: value for name, value in row.items() if name != "instances"}
    if twice := [name for one in instances for name in one if is_said(rest.get(name))]:
        raise BadRowError("unusable field", f"`{twice[0]}` stands in the row and in its `instances`")
    return [{**rest, **one} for one in instances]


def say_ignored(path: Path, ignored: dict[str, int], rows: int) -> None:
    """Warn of fields that nobody reads, by name with the number of rows that have them; of many the first twelve."""
    names = [f"{_name(name)} ({n:,} of {rows:,} rows)" for name, n in Counter(ignored).most_common(12)]
    if names:
        more = f" and {len(ignored) - 12:,} more" if len(ignored) > 12 else ""
        _log.warning("%s: ignored fields: %s%s; docs/files.md says which are read", path.name, ", ".join(names), more)


def say_dropped(path: Path, what: str, kept: int, dropped: Iterable[Dropped]) -> None:
    """Warn where most rows of a file were dropped, duplicates among them: with the reasons, and the way out."""
    if sentence := mostly_dropped(what, kept, count_reasons(dropped)):
        _log.warning("%s: %s", path.name, sentence)


def _name(field: str) -> str:
    """A field's name on one line: it comes from a file of somebody else's."""
    return field if field.isprintable() and len(field) <= 40 else excerpt(field)


def lacking(row: dict[str, Any], needs: str) -> BadRowError:
    """The row has none of what it `needs`, or null in its place."""
    null = any(dict.get(row, name) is None and f"`{name}`" in needs for name in row)
    return BadRowError("null field" if null else "missing field", f"needs {needs}, found {fields_found(row)}")


def _null(row: dict[str, Any], name: str) -> str:
    return ": null" if dict.get(row, name) is None else ""


def fields_found(row: dict[str, Any]) -> str:
    """The names of a row's fields, of many the first eight; those that are null with that."""
    names = [f"{name if len(name) <= 40 else f'{name[:40]}…'}{_null(row, name)}" for name in list(row)[:8]]
    more = f" and {len(row) - 8:,} more" if len(row) > 8 else ""
    return ", ".join(names) + more or "no field at all"
