"""Answers that are programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.config.rewards import read_function
from align.errors import ConfigError, DataError
from align.types import Message
from reward.build import build
from reward.code import Case, PromptTests, program_in, read_tests
from reward.sandbox import Limits, require


def asked(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def sandbox_works() -> None:
    try:
        require(Limits())
    except ConfigError as error:
        pytest.skip(str(error))


RIGHT = "Here you are:\n```python\ndef double(n):\n    return 2 * n\n```\nIt doubles."
DOUBLE = {
    "prompt": "double",
    "tests": ["assert double(2) == 4", "assert double(-1) == -2", "assert double('a') == 'aa'"],
}
ANSWERS = {
    RIGHT: 1.0,
    "def double(n): return n + n": 1.0,
    "def double(n): return n ** 2": 0.0,
    "def double(n): return int(2 * n)": 0.0,
    "def double(n): retrun": 0.0,
    "def double(n):\n    while True: pass": 0.0,
    "import os; os._exit(0)": 0.0,
    "raise SystemExit": 0.0,
    "": 0.0,
    "\ud800": 0.0,
}


def test_all_tests_have_to_pass_and_leaving_early_passes_none(tmp_path: Path) -> None:
    path = written(tmp_path, DOUBLE, {"prompt": "nothing is known"})
    scorer = build(read_function({"type": "code", "tests": path, "seconds": 1}))
    found = scorer.score([asked("double")] * len(ANSWERS), list(ANSWERS))
    assert dict(zip(ANSWERS, found, strict=True)) == ANSWERS
    assert scorer.explain([asked("nothing is known")], [RIGHT]) == ["the prompt has no tests"]


def test_the_share_of_tests_on_request(tmp_path: Path) -> None:
    path = written(tmp_path, DOUBLE)
    scorer = build(read_function({"type": "code", "tests": path, "partial": True}))
    answers = [RIGHT, "def double(n): return int(2 * n)", "x"]
    assert scorer.score([asked("double")] * 3, answers) == [1.0, pytest.approx(2 / 3), 0.0]


def test_programs_that_read_and_print(tmp_path: Path) -> None:
    cases = [{"input": "3\n", "output": "3\n2\n1\n"}, {"input": "0\n", "output": ""}]
    path = written(tmp_path, {"prompt": "count down", "cases": cases})
    scorer = build(read_function({"type": "code", "tests": path}))
    answers = ["for i in range(int(input()), 0, -1): print(i, '')", "print(3); print(2); print(1)"]
    assert scorer.score([asked("count down")] * 2, answers) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tests": "assert ("}, "`tests` 0 is no Python"),
        ({"tests": [1]}, "`tests` must be text or a list of texts"),
        ({"tests": 3}, "`tests` must be text or a list of texts"),
        ({"cases": [{"input": 1, "output": ""}]}, "`cases` must be a list of {input, output}"),
        ({"tests": [], "cases": []}, "are empty"),
    ],
)
def test_tests_that_are_none_are_found_before_any_answer(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    path = written(tmp_path, {"prompt": "a", **row})
    with pytest.raises(DataError) as caught:
        build(read_function({"type": "code", "tests": path}))
    assert said in str(caught.value) and "prompts.jsonl:1" in str(caught.value)


def test_rows_and_answers_are_read() -> None:
    assert read_tests({"tests": "x", "cases": [{"input": "a", "output": "b"}]}) == PromptTests(
        ("x",), (Case("a", "b"),)
    )
    assert program_in("```py\na\n```\n```\nb\n```") == "b\n"
    assert program_in("a = 1") == "a = 1"


@pytest.mark.parametrize(
    ("more", "fine"),
    [
        ({}, True),
        ({"isolation": "limits"}, False),
        ({"trusted": True}, False),
        ({"isolation": "limits", "trusted": True}, True),
    ],
)
def test_limits_alone_and_trust_go_together(tmp_path: Path, more: dict[str, Any], fine: bool) -> None:
    tests = tmp_path / "tests.jsonl"
    tests.write_text("")
    given = {"type": "code", "tests": str(tests), **more}
    if fine:
        assert read_function(given).type == "code"
    else:
        with pytest.raises(ValueError, match=r"`isolation: limits` and `trusted: true` go together"):
            read_function(given)
