"""Values that nobody means: each is one sentence, and soon."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from align.config.recipe import Prompts
from align.config.yaml_text import parse
from align.data.preferences import load_preferences
from align.data.prompts import load_prompts
from align.errors import ConfigError, DataError
from align.store import read_rows
from align.types import Message, prompt_id
from reward.functions import load_function

ASKED: list[Message] = [{"role": "user", "content": "Where is my kettle?"}]
GOOD = {"prompt": "Hi", "chosen": "Hello!", "rejected": "Go away."}


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import sys; sys.exit(0)", "raised SystemExit (0)"),
        ("raise SystemExit", "raised SystemExit"),
        ("raise GeneratorExit", "raised GeneratorExit"),
        ("return 10**400", "returned int '1000000000000000000000000000000000000000'"),
        ("return 10**5000", "returned int that cannot be shown"),
        ("from fractions import Fraction; return Fraction(10**400)", "returned Fraction '100000000000000000000"),
        (
            "class Odd:\n        def __str__(self): raise ValueError\n    return Odd()",
            "returned Odd that cannot be shown",
        ),
    ],
)
def test_what_a_scoring_function_may_do_instead_of_scoring(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "score.py").write_text(f"def score(messages, answer):\n    {body}\n")
    with pytest.raises(DataError) as caught:
        load_function("score.py:score", tmp_path)(ASKED, "x")
    assert said in str(caught.value) and f"for prompt {prompt_id(ASKED)}" in str(caught.value)


def test_a_scoring_function_that_changes_what_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(
        "def score(messages, answer):\n    messages[0]['content'] = 'mine'\n    messages.clear()\n    return 1\n"
    )
    assert load_function("score.py:score", tmp_path)(ASKED, "x") == 1.0
    assert ASKED == [{"role": "user", "content": "Where is my kettle?"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "one", "prompt": "two"}', "the key 'prompt' stands in it twice"),
        ('{"prompt": [{"role": "user", "content": "a", "content": "b"}]}', "the key 'content' stands in it twice"),
        ('{"prompt": ' + "[" * 100 + "]" * 100 + "}", "lie more than 64 deep in each other"),
        ('{"prompt": ' + "[" * 200_000 + "]" * 200_000 + "}", "lie more than 64 deep in each other"),
        ('{"a": ' * 100 + "1" + "}" * 100, "lie more than 64 deep in each other"),
        ('{"weight": 1' + "0" * 5000 + "}", "the line is not JSON (Exceeds the limit"),
    ],
)
def test_a_line_that_is_no_row(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "zero"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"^rows\.jsonl:2: ") as caught:
        list(read_rows(tmp_path / "rows.jsonl"))
    assert said in str(caught.value) and len(str(caught.value)) < 300


def test_brackets_in_text_are_no_depth(tmp_path: Path) -> None:
    text = 'say "[[[' + "[{" * 1000 + "\\"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": text}))
    assert [row for _, row in read_rows(tmp_path / "rows.jsonl")] == [{"prompt": text}]


@pytest.mark.parametrize("number", ["1" + "0" * 308 + "0", "1e400", "-1e400"])
def test_a_weight_of_309_digits_drops_its_row(tmp_path: Path, number: str) -> None:
    rows = [json.dumps(GOOD), json.dumps(GOOD | {"prompt": "Ho"})[:-1] + f', "weight": {number}}}']
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    kept, dropped = load_preferences(tmp_path / "pairs.jsonl")
    assert len(kept) == len(dropped) == 1
    assert dropped[0].reason.startswith("not a number: `weight` is ") and len(dropped[0].reason) < 100


def test_a_row_of_a_hundred_thousand_fields_names_a_few(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({f"field_{n}" * 10: n for n in range(100_000)}))
    with pytest.raises(DataError) as caught:
        load_prompts(Prompts(path=tmp_path / "prompts.jsonl"))
    assert " and 99,992 more" in str(caught.value) and len(str(caught.value)) < 1000


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ALIASES, "this makes more than 100,000 values (aliases that stand for aliases)"),
        ("a: " + "[" * 100 + "]" * 100, "parts lie more than 64 deep in each other"),
        ("a: " + "[" * 5000 + "]" * 5000, "parts lie more than 64 deep in each other"),
        ("a: " + "{b: " * 100 + "1" + "}" * 100, "parts lie more than 64 deep in each other"),
        ("a: 1" + "0" * 400, "the number is too large, found 1000000000000000000000000000000000000000…"),
        ("a: 1" + "0" * 5000, "the number is too large, found 1000000000000000000000000000000000000000…"),
        ("a: -1e999", "the number is too large, found -1e999"),
        ("a: " + "x" * 1_000_001, "1,000,004 characters are no recipe; at most 1,000,000 are read"),
    ],
)
def test_yaml_that_nobody_wrote(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.yaml") as caught:
        parse(text, "recipe.yaml")
    assert said in str(caught.value) and len(str(caught.value)) < 300


def test_aliases_that_people_write_still_work() -> None:
    assert parse("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n", "recipe.yaml")[0] == {
        "a": {"x": 1}, "b": {"x": 1}, "c": [{"x": 1}, {"x": 1}],
    }  # fmt: skip
