"""Demonstrations: conversations and the answer that the model should learn to give."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from align.data.messages import (
    INSTRUCTIONS,
    THOUGHTS,
    BadRowError,
    agreed,
    answer_of,
    excerpt,
    gone_on,
    in_full,
    is_said,
    prompt_of,
    thought,
    unquoted,
)
from align.data.rows import lacking, parse_rows
from align.errors import DataError
from align.ids import seed_for
from align.store import read_table, write_table
from align.tool_calls import TOOL
from align.types import MESSAGES, Dropped, Message

Row = TypeVar("Row")
_SCHEMA = pa.schema([("messages", MESSAGES), ("answer", pa.string()), ("where", pa.string())])

UNLEARNED = ("user", "human", *INSTRUCTIONS, TOOL)
"""Roles of turns that are never learned, whatever they say of themselves."""
KNOWN = ("id", "prompt_id", "annotator", "round", "judgement")
"""What stands beside the demonstrations that `align annotate export` writes."""


class Demonstration(NamedTuple):
    """A conversation that ends with a user turn or a tool's result, the answer to it, and the `file:line` it came from."""

    messages: list[Message]
    answer: str
    where: str


def load_demonstrations(path: Path) -> tuple[list[Demonstration], list[Dropped]]:
    """The demonstrations of `path` in the file's order and the rows that were dropped.

    Equal rows stay: who repeats a demonstration means it. A turn of the assistant that must not be learned makes a row
    unusable.
    """
    good, dropped = parse_rows(path, "demonstration", _demonstration, known=KNOWN)
    return [demonstration for _, demonstration in good], dropped


def mixed(rows: Sequence[Row], parts: Sequence[tuple[Sequence[Row], float]], seed: int) -> list[Row]:
    """All of `rows` and behind them so many of each part that it has its share of the whole.

    Each part is (its rows, its share in (0, 1)); the shares leave room for `rows`. Where a part has too few they come
    again: no row a second time before all came once. Which ones come is drawn from `seed`. Raises DataError for a part
    without rows.
    """
    whole = len(rows) / (1 - sum(share for _, share in parts))
    result = list(rows)
    for number, (part, share) in enumerate(parts):
        if not part:
            raise DataError(f"part {number} of the mixture has no rows", where=f"sft.mix.{number}", hint="remove it")
        passes, rest = divmod(round(whole * share), len(part))
        drawn = set(random.Random(seed_for("mix", seed, number)).sample(range(len(part)), rest))
        result += [row for _ in range(passes) for row in part] + [part[n] for n in sorted(drawn)]
    return result


def write_demonstrations(path: Path, rows: Iterable[Demonstration]) -> None:
    """Parquet with the columns `messages`, `answer` and `where`."""
    write_table(path, pa.Table.from_pylist([row._asdict() for row in rows], schema=_SCHEMA))


def read_demonstrations(path: Path) -> list[Demonstration]:
    """What `write_demonstrations` wrote."""
    return [Demonstration(**row) for row in read_table(path).to_pylist()]


def demonstration_of(row: dict[str, Any], where: str, *, empty: bool = False) -> Demonstration:
    """A row in any of the forms of docs/files.md; BadRowError says what it lacks. The answer may be `empty`."""
    for field in ("messages", "conversations"):
        if row.get(field) is not None:
            messages, answer = answer_of(row[field], field, empty=empty)
            if messages is None:
                raise BadRowError("no question", f"`{field}` is an answer only")
            return Demonstration(in_full(row, messages), answer, where)
    asked = prompt_of(row, ("prompt", "instruction"))
    field = next((name for name in ("completion", "response", "output") if row.get(name) is not None), "")
    if asked is None or not field:
        expected = (
            "`messages`, `conversations`, `prompt` and `completion` (or `response`), or `instruction` and `output`"
        )
        raise lacking(row, expected)
    before, answer = answer_of(row[field], field, empty=empty)
    asked, joined = gone_on(asked, before, field)
    asked = asked if before is None or joined or asked is None else agreed(asked, before)
    if asked is None:
        raise BadRowError("prompts differ", f"`{field}` holds a conversation of its own, with another prompt")
    name = next((name for name in THOUGHTS[:2] if is_said(row.get(name))), None)  # a row's `reasoning` may be anybody's
    answer = answer if name is None else thought(row[name], answer, name)
    return Demonstration(in_full(row, asked), answer, where)


def _demonstration(row: dict[str, Any], where: str) -> Demonstration:
    for field in ("messages", "conversations", "prompt", "completion"):
        value = unquoted(dict.get(row, field), field)  # looked at, but not taken for the row's meaning
        turns = {f"{field}[{n}]": turn for n, turn in enumerate(value)} if isinstance(value, list) else {field: value}
        for place, turn in turns.items():
            _require_learned(turn, place)
    return demonstration_of(row, where)


def _require_learned(turn: object, field: str) -> None:
    """BadRowError for a turn that says of itself that it is not learned, or less than others."""
    if not isinstance(turn, dict) or turn.get("role", turn.get("from")) in UNLEARNED:
        return
    for name in ("weight", "train"):
        if (value := turn.get(name)) is not None and value != 1:
            way_out = "take it out, and set sft.turns: last where only the last turn is to be learned"
            raise BadRowError(
                "unusable field", f"`{field}.{name}` is {excerpt(value)}, and every turn is learned alike; {way_out}"
            )
