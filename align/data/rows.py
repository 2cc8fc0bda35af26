"""One policy for every file that a user brings.

A file that cannot be read, or a line that is not a JSON object, is an error. A row that is one but cannot be used is
dropped, with `file:line` and a reason that starts with the kind of defect. More than half of the rows dropped for
defects is an error again: then the file is not what it was taken for.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from align.data.messages import BadRowError
from align.errors import DataError
from align.store import read_rows
from align.types import Dropped

Parsed = TypeVar("Parsed")


def parse_rows(
    path: Path, what: str, parse: Callable[[dict[str, Any], str], Parsed]
) -> tuple[list[tuple[str, Parsed]], list[Dropped]]:
    """Every row of `path` through `parse(row, where)`: (`file:line`, result) for each good one, the others dropped.

    `what` names one row ("prompt"). Raises DataError for a file without rows or with more than half of them bad.
    """
    good: list[tuple[str, Parsed]] = []
    dropped: list[Dropped] = []
    for where, row in read_rows(path):
        try:
            good.append((where, parse(row, where)))
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
    return good, dropped


def fields_found(row: dict[str, Any]) -> str:
    """The names of a row's fields, of many the first eight."""
    names = [name if len(name) <= 40 else f"{name[:40]}…" for name in map(str, list(row)[:8])]
    more = f" and {len(row) - 8:,} more" if len(row) > 8 else ""
    return ", ".join(names) + more or "no field at all"


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How many rows went for each kind of reason (its words before the colon), the most frequent first."""
    return dict(Counter(row.reason.split(":")[0] for row in dropped).most_common())
