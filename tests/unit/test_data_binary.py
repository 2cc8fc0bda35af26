"""Binary labels from a file: their forms, and what is dropped with which reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.data.binary import load_binary
from align.errors import DataError


def load(tmp_path: Path, *rows: dict[str, Any]) -> Any:
    path = tmp_path / "binary.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_binary(path)


def test_a_label_is_a_target_and_a_target_goes_before_it(tmp_path: Path) -> None:
    binary, dropped = load(
        tmp_path,
        {"prompt": "Hi", "completion": "Hello!", "label": True},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "What?"}], "label": 0},
        {"prompt": "Hi", "response": "Yes?", "target": 0.3, "label": False, "weight": 2},
    )
    assert dropped == []
    assert [(t.text, t.target, t.weight) for t in binary] == [
        ("Hello!", 1.0, 1.0), ("What?", 0.0, 1.0), ("Yes?", 0.3, 2.0),
    ]  # fmt: skip
    assert len({t.prompt_id for t in binary}) == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "completion": "b"}, "missing field: needs `label` or `target`"),
        ({"prompt": "a", "label": True}, "missing field"),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "not a label: `label` must be true or false"),
        ({"prompt": "a", "completion": "b", "target": 1.5}, "out of range"),
        ({"prompt": "a", "completion": "b", "label": True, "target": 0.2}, "out of range: `target` 0.2 says the opp"),
        ({"prompt": "a", "completion": "b", "label": True, "weight": -1}, "out of range"),
        ({"prompt": "Hi", "completion": "Hello!", "label": False}, "duplicate: the same answer as"),
    ],
)
def test_what_cannot_be_used_is_dropped_with_its_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    binary, dropped = load(tmp_path, {"prompt": "Hi", "completion": "Hello!", "label": True}, row)
    assert len(binary) == 1
    assert dropped[0].reason.startswith(reason)
    assert dropped[0].where.endswith(":2")


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows are no binary labels"):
        load(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "c"})


def test_an_empty_answer_can_be_bad_and_not_good(tmp_path: Path) -> None:
    rows = [{"prompt": f"Hi {n}", "completion": "", "label": label} for n, label in enumerate([False, 0.0, True])]
    rows += [{"prompt": "Hi", "completion": "Yes", "label": 1.0}]
    binary, dropped = load(tmp_path, *rows)
    assert [(t.text, t.target) for t in binary] == [("", 0.0), ("", 0.0), ("Yes", 1.0)]
    assert [row.reason for row in dropped] == ["empty: `completion` is ''"]
