"""What is known about prompts beside their text, such as their solutions: read from the prompts' file or one like
it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from align.data.messages import BadRowError
from align.data.prompts import prompt_in
from align.data.rows import fields_found, parse_rows
from align.errors import DataError
from align.types import prompt_id

Known = TypeVar("Known")


def read_key(path: Path, fields: tuple[str, ...], read: Callable[[dict[str, Any]], Known]) -> dict[str, Known]:
    """Prompt id → what `read` makes of its row, for each row of `path` that has one of `fields`.

    Rows without any of them are about prompts of which nothing is known. Raises DataError, with `file:line`, where
    `read` raises ValueError (its message says what is wrong), where two rows of one prompt differ, and where no row has
    one of `fields`.
    """

    def parse(row: dict[str, Any], where: str) -> tuple[str, Known] | None:
        messages = prompt_in(row)
        if all(row.get(field) is None for field in fields):
            seen.add(fields_found(row))
            return None
        try:
            return prompt_id(messages), read(row)
        except BadRowError:
            raise
        except ValueError as error:
            raise DataError(str(error), where=where, hint="mend the row, or leave the field out") from None

    seen: set[str] = set()
    rows, _ = parse_rows(path, "prompt", parse, known=None)
    places: dict[str, str] = {}
    key: dict[str, Known] = {}
    for where, found in rows:
        if found is None:
            continue
        prompt, known = found
        if key.get(prompt, known) != known:
            what = f"the same prompt has another {' or '.join(fields)} in {places[prompt]}"
            raise DataError(what, where=where, hint="leave one of the rows out")
        key[prompt], places[prompt] = known, where
    if not key:
        needed = " or ".join(f"`{field}`" for field in fields)
        found_instead = sorted(seen)[0] if seen else "none"
        raise DataError(f"no row has {needed}; the first has {found_instead}", where=str(path))
    return key
