"""Files of records: those that `align.store` reads, and beside them JSON (a list, or Argilla's `items`) and CSV."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.errors import DataError
from align.store import parse_json, read_rows

STRUCTURED = frozenset(
    [
        "answers",
        "shown",
        "ranking",
        "ratings",
        "rating",
        "flags",
        "models",
        "scale",
        "strength",
        "seconds",
        "round",
        "repeat",
        "revision",
    ]
)
"""Columns of CSV whose text is JSON: numbers and lists."""


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a file, each with its `file:line`; of a JSON list `file:number`. DataError for what is none."""
    if path.suffix == ".json":
        yield from _json(path)
    elif path.suffix == ".csv":
        yield from _csv(path)
    else:
        yield from read_rows(path)


def _json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    found = parse_json(_bytes(path), str(path))
    if isinstance(found, dict) and isinstance(found.get("items"), list):
        found = found["items"]
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise DataError(f"the file holds {type(found).__name__}, no list of objects", where=str(path))
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            what = f"the entry holds {type(row).__name__}, not an object"
            raise DataError(what, where=f"{path.name}:{number}")
        yield f"{path.name}:{number}", row


def _csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A header, then one judgement a line; cells of lists and numbers are JSON, empty ones say nothing."""
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"this is not UTF-8 ({error})", where=str(path), hint="save it as UTF-8") from error
    before = csv.field_size_limit(len(text) + 1)  # a conversation may be longer than the 131,072 characters of Python's
    try:
        yield from list(_lines(csv.DictReader(io.StringIO(text, newline=""), strict=True), path))
    finally:
        csv.field_size_limit(before)


def _lines(reader: "csv.DictReader[str]", path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        head = reader.fieldnames or []
        if len(set(head)) < len(head) or any(not name for name in head):
            raise DataError("the header names a column twice, or not at all", where=f"{path.name}:1")
        for row in reader:
            where = f"{path.name}:{reader.line_num}"
            if None in row or any(cell is None for cell in row.values()):
                raise DataError("the line has another number of cells than the header", where=where)
            yield where, {name: _cell(name, cell) for name, cell in row.items() if cell != ""}
    except csv.Error as error:
        raise DataError(f"the line is not CSV ({error})", where=f"{path.name}:{reader.line_num}") from error


def _cell(name: str, cell: str) -> Any:
    if name not in STRUCTURED:
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read ({error.strerror or error})", where=str(path)) from error
