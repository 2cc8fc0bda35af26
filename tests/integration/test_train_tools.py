"""Conversations with tools train with every method that learns from files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.loop import align, write_jsonl
from tests.tiny import make_tool_model
from tests.unit.test_tool_templates import NOW, PARIS, RESULT, SAID, TOOLS, calls

USED = [{"role": "user", "content": "Will it rain?"}, calls(PARIS, content="I look."), RESULT]
METHODS: dict[str, tuple[list[str], list[dict[str, Any]]]] = {
    "sft": (["sft", "--demonstrations"], [{"messages": [*USED, SAID]}, {"messages": USED[:2]}]),
    "kto": (
        ["kto", "--binary"],
        [{"messages": [*USED, SAID], "label": True}, {"prompt": USED, "completion": [calls(NOW)], "label": False}],
    ),
    "dpo": (["dpo", "--preferences"], [{"prompt": USED, "chosen": [SAID], "rejected": [calls(NOW)]}]),
    "reward": (["reward", "train", "--preferences"], [{"prompt": USED, "chosen": [SAID], "rejected": [calls(NOW)]}]),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_rows_with_tools_are_trained_on(method: str, tmp_path: Path) -> None:
    make_tool_model(tmp_path / "model")
    verb, rows = METHODS[method]
    mixed = [{**row, "tools": TOOLS} for row in rows] + [
        {**row, "tools": [{**TOOLS[0], "n": n}, TOOLS[1]]} for n, row in enumerate(rows * 2)
    ]
    write_jsonl(tmp_path / "rows.jsonl", mixed)
    trained = align(
        *verb, "rows.jsonl", "--model", "model", "--out", "out", "--threads", "1", "max_tokens=2048", "batch_size=2",
        "--json", cwd=tmp_path,
    )  # fmt: skip
    summary = json.loads(trained.stdout)
    assert (summary["rows"], summary["dropped"]) == (len(mixed), {})
