"""Records and their Arrow tables say the same."""

from dataclasses import fields
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.types import (
    SCHEMAS,
    Candidate,
    Dropped,
    Judgement,
    Preference,
    Prompt,
    Task,
    as_dict,
    from_table,
    to_table,
)

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "ü\n😀"}]
ROWS: list[Any] = [
    Prompt("i", MESSAGES, "train", "p.jsonl:1"),  # type: ignore[arg-type]
    Candidate("i", "p", "", "c", 0, 7, "length"),
    Task("i", "pair", 1, "control", 0, "p", MESSAGES, ["a", "b"], ["x", ""], [1, 0], 2),  # type: ignore[arg-type]
    Judgement("i", "t", "pair", "ann", 0, "a"),
    Judgement("i", "t", "pair", "ann", 3, "tie", 2, ["rude"], "better", "because", "2026-01-01T00:00:00+00:00", 1.5),
    Judgement("i", "t", "pair", "ann", 0, "skipped", flags=[]),
    Preference("i", "p", MESSAGES, "a", "b", "x", "y", 0.75, 0.0, -1.5, 1, []),  # type: ignore[arg-type]
    Dropped("prompt", "p.jsonl:2", "empty"),
]


@pytest.mark.parametrize("row", ROWS)
def test_round_trip(row: Any) -> None:
    kind = type(row)
    table = to_table(kind, [row, row])
    assert table.schema == SCHEMAS[kind]
    assert from_table(kind, table) == [row, row]
    assert kind(**as_dict(row)) == row


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schemas_name_every_field_in_order(kind: type) -> None:
    assert SCHEMAS[kind].names == [f.name for f in fields(kind)]
    assert from_table(kind, to_table(kind, [])) == []


def test_other_columns_are_left_out_and_missing_ones_are_an_error() -> None:
    table = to_table(Dropped, [Dropped("a", "b", "c")])
    assert from_table(Dropped, table.append_column("more", pa.array([1]))) == [Dropped("a", "b", "c")]
    with pytest.raises(KeyError, match="reason"):
        from_table(Dropped, table.drop_columns(["reason"]))


@given(
    st.builds(
        Judgement,
        *(st.text() for _ in range(2)),
        st.just("pair"),
        st.text(),
        st.integers(0, 2**31 - 1),
        st.text(),
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | st.lists(st.text()),
        *(st.none() | st.text() for _ in range(3)),
        st.none() | st.floats(allow_nan=False),
    )
)
def test_any_judgement_makes_the_round_trip(row: Judgement) -> None:
    assert from_table(Judgement, to_table(Judgement, [row])) == [row]
