"""The built-in functions of text, literally; and hostile texts, which must cost an answer its score and nothing else."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.config.rewards import AnyFunction, read_function
from align.errors import AlignError
from align.types import Message
from reward.build import build, identity
from reward.checks import band, last_block, result
from reward.code import program_in
from reward.guard import Guard

ASKED: list[Message] = [{"role": "user", "content": "How many?"}]


def function(**section: Any) -> AnyFunction:
    return read_function(section)


def scores(answers: list[str], **section: Any) -> list[float | str]:
    return build(function(**section)).explain([ASKED] * len(answers), answers)


def test_a_pattern_is_found_or_matches_as_a_whole() -> None:
    answers = ["I am sorry.", "Sorry!", " sorry\n", ""]
    assert scores(answers, type="regex", pattern="sorry") == [1.0, 0.0, 1.0, 0.0]
    assert scores(answers, type="regex", pattern="(?i)sorry!?", whole=True) == [0.0, 1.0, 1.0, 0.0]


def test_thoughts_are_not_what_an_answer_says() -> None:
    answer = "<think>\nsorry, I mean sorry: #### 3\n</think>\n\nFine."
    assert scores([answer], type="regex", pattern="sorry") == [0.0]
    assert scores([answer], type="length", high=5) == [1.0]
    assert program_in("<think>\n```python\nprint(1)\n```\n</think>\n\nprint(2)") == "print(2)"


def test_a_pattern_that_takes_forever_on_a_text_leaves_it_unscored_and_the_next_one_scored() -> None:
    guard, began = Guard("regex", {"pattern": "(a+)+$", "whole": False}, seconds=0.3), time.monotonic()
    assert [guard.ask("aaa"), guard.ask("a" * 60 + "b"), guard.ask("aa")] == [
        1.0,
        "the check took longer than 0.3 s",
        1.0,
    ]
    assert time.monotonic() - began < 60


def test_files_of_the_working_directory_do_not_pass_for_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("regex.py", "json.py", "sympy.py"):
        (tmp_path / name).write_text("raise SystemExit")
    (tmp_path / "reward").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Guard("math", {"after": None, "read": "number"}).ask("7", "so 7") == 1.0


def test_a_check_ends_with_whoever_asks() -> None:
    code = "from reward.guard import Guard\ng = Guard('regex', {'pattern': '(a+)+$', 'whole': False}, seconds=600)\n"
    code += "g.ask('a'); print(g._child.pid, flush=True); g.ask('a' * 60 + 'b')"
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    child = int(caller.stdout.readline())
    caller.kill()
    caller.communicate()
    for _ in range(100):
        try:
            if not Path(f"/proc/{child}/cmdline").read_bytes():
                return  # dead, and waiting for its new parent
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} lives on")


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
JSON_ANSWERS: dict[str, float] = {
    '{"name": "Ada", "age": 36}': 1.0,
    ' {"name": ""}\n': 1.0,
    '{"name": "Ada", "age": -1}': 0.0,
    '{"name": "Ada", "age": NaN}': 0.0,
    '{"age": 3}': 0.0,
    '{"name": "Ada", "other": 1}': 0.0,
    'Here it is: {"name": "Ada"}': 0.0,
    "[" * 100_000: 0.0,
    "1" * 10_000: 0.0,
    "": 0.0,
    "\ud800": 0.0,
}


def test_json_has_to_fit_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    answers = list(JSON_ANSWERS)
    assert dict(zip(answers, scores(answers, type="json_schema", path=path), strict=True)) == JSON_ANSWERS
    blocks = ['Here:\n```json\n{"name": "Ada"}\n```\nDone.', '```\n{}\n```\n```\n{"name": "b"}\n```', '{"name": "Ada"}']
    assert scores(blocks, type="json_schema", path=path, read="block") == [1.0, 1.0, 0.0]


def test_a_schema_that_points_elsewhere_fetches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"$ref": "http://127.0.0.1:9/other.json"}))
    (found,) = scores(["{}"], type="json_schema", path=path)
    assert found == "the check failed (_WrappedReferencingError)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "the schema is no JSON"),
        ("[]", "a schema is an object or true or false, found list"),
        ('{"type": "objekt"}', "this is no JSON Schema: 'objekt' is not valid"),
    ],
)
def test_a_file_that_is_no_schema_is_said_before_any_answer(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(text)
    with pytest.raises(AlignError, match=str(path)) as caught:
        build(function(type="json_schema", path=path))
    assert said in str(caught.value)


def test_a_length_in_the_band_scores_1_and_falls_beside_it() -> None:
    answers = ["", "a", "a b", "a b c d", "a b c d e f", "a b c d e f g h i"]
    assert scores(answers, type="length", low=2, high=4) == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert scores(answers, type="length", low=2, high=4, margin=4) == [0.5, 0.75, 1.0, 1.0, 0.5, 0.0]
    assert scores(["abc", "äö"], type="length", high=2, unit="characters") == [0.0, 1.0]


@given(
    length=st.integers(0, 10_000),
    low=st.integers(0, 100),
    size=st.integers(0, 100) | st.none(),
    margin=st.integers(0, 50),
)
def test_a_band_is_1_inside_and_never_rises_away_from_it(length: int, low: int, size: int | None, margin: int) -> None:
    high = None if size is None else low + size
    score = band(length, low, high, margin)
    assert 0.0 <= score <= 1.0
    assert (score == 1.0) == (length >= low and (high is None or length <= high))
    if length >= low:
        assert band(length + 1, low, high, margin) <= score
    elif length > 0:
        assert band(length - 1, low, high, margin) <= score


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """Three prompts, of which the last has no solution; the first in GSM8K's own words."""
    rows = [
        {"prompt": "How many?", "solution": "40 + 2 = 42\n#### 42"},
        {"prompt": "How much?", "solution": 0.5},
        {"prompt": "Who?"},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_numbers_are_compared_by_value_behind_the_mark(sums: Path) -> None:
    answers = {
        "#### 42": 1.0,
        "#### 42.0": 1.0,
        "####\n 42 pens": 1.0,
        "#### 0042 ": 1.0,
        "#### 4.2e1": 1.0,
        "#### 4e1": 0.0,
        "#### −42": 0.0,
        "#### 6*7": 0.0,
        "#### 84/2": 0.0,
        "#### 7 #### 42": 1.0,
        "#### 42 #### 7": 0.0,
        "42": 0.0,
        "####": 0.0,
        "#### $42": 1.0,
        "#### $42$": 1.0,
        "#### $ 42.00 in all": 1.0,
        "#### -$42": 0.0,
    }
    found = scores(list(answers), type="math", solutions=sums, after="####")
    assert dict(zip(answers, found, strict=True)) == answers


EIGHTEEN = """
18
18.
18.0
18.000
+18
018
**18**
*18*
***18***
__18__
_18_
`18`
``18``
**18.**
**$18**
**$18.00**
**`18`**
$18$
$18
\\$18
$ 18
18$
18€
€18
18 €
USD 18
US$18
18 USD
18 dollars
**18 dollars**
**18** dollars
~18
~ 18
≈18
about 18
=18
= +18
x = 18
**x = 18**
<answer>18</answer>
<answer> **18** </answer>
<b>18</b>
<span class="result">18</span>
\\boxed{18}
$\\boxed{18}$
\\boxed{18\\text{ eggs}}
\\boxed{\\text{18}}
\\(18\\)
\\[18\\]
\\textbf{18}
$\\mathbf{18}$
(18)
[18].
"18"
'18'
“18”
18!
18%
18 %
18 percent
18km
18 km/h
18 m²
18 °C
18 eggs per day
18th
**Answer:** 18
Answer: **18**
The answer is **18**.
The answer is: `18`
The final answer is **18 eggs**.
- 18
> **18**
### 18
| 18 |
18 (eighteen)
18</s>
１８
So **18**!
1.8e1
1.8 × 10^1
1.8 \\times 10^{1}
9*2 = 18
9*2=**18**
~~19~~ 18
"""
NOT_EIGHTEEN = """
19
**19**
<answer>19</answer>
`19`
~19
-18
−18
**-18**
-$18
180
1.8
18.5
17.99
18.01
6*3
**6*3**
36/2
9+9
2*9
18/2
`1`8
**1**8
1 8
18 or 19
between 18 and 20
~~18~~
~~18~~ 19
18 - 19
1.8 × 10^2
eighteen
none
**?**
(19)
"""


@pytest.mark.parametrize("mark", ["####", None])
def test_whatever_stands_around_a_number_it_is_the_same_number(mark: str | None) -> None:
    guard = Guard("math", {"after": mark, "read": "number"})
    forms = dict.fromkeys(EIGHTEEN.split("\n")[1:-1], 1.0) | dict.fromkeys(NOT_EIGHTEEN.split("\n")[1:-1], 0.0)
    assert len(forms) >= 110
    assert {form: guard.ask("18", f"It is so.\n{mark or ''} {form}") for form in forms} == forms


def test_a_solution_is_read_as_an_answer_is() -> None:
    assert NUMBERS.ask("9 * 2 = 18\n#### **$18**", "#### 18") == 1.0
    assert Guard("math", {"after": None, "read": "expression"}).ask("$x_1 + 2*y$", "$x_1 + y*2$") == 1.0
    assert NUMBERS.ask("18", "It is so. #### So I pay $18") == 1.0


def test_expressions_and_whole_answers(sums: Path) -> None:
    scorer = build(function(type="math", solutions=sums, read="expression"))
    asked: list[Message] = [{"role": "user", "content": "How much?"}]
    answers = ["So it is \\boxed{\\frac{1}{2}}.", "$\\frac{2}{4}$", "about 0.5", "50%", "2", ""]
    assert scorer.score([asked] * 6, answers) == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    unknown: list[Message] = [{"role": "user", "content": "Who?"}]
    assert scorer.explain([unknown], ["1"]) == ["the prompt has no solution"]


def test_a_formula_that_takes_forever_is_unscored() -> None:
    guard = Guard("math", {"after": None, "read": "expression"}, seconds=1.0)
    assert guard.ask("2", "2") == 1.0
    assert guard.ask("2", "$9^{9^{9^{9^{9}}}}$") in (
        "the check took longer than 1 s",
        0.0,
        "the check failed (MemoryError)",
    )
    assert guard.ask("2", "2.0") == 1.0


NUMBERS = Guard("math", {"after": "####", "read": "number"})


@settings(max_examples=60, deadline=None)
@given(value=st.integers(-(10**9), 10**9), zeros=st.integers(0, 3), pad=st.sampled_from(["", " ", "$", " $"]))
def test_however_an_integer_is_written_it_is_the_same_number(
    value: int,
    zeros: int,
    pad: str,
) -> None:
    text = f"{value:,}" + ("." + "0" * zeros if zeros else "")
    text = text.replace("-", f"-{pad.strip()}") if value < 0 else f"{pad}{text}"
    assert NUMBERS.ask(str(value), f"so\n#### {text}") == 1.0
    assert NUMBERS.ask(str(value + 1), f"so\n#### {text}") == 0.0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "solution": "many"}], ":1: `solution` 'many' holds no number or formula"),
        ([{"prompt": "a", "solution": [1]}], ":1: `solution` must be text or a number, found '[1]'"),
        ([{"prompt": "a"}], "no row has `solution`; the first has prompt"),
        (
            [{"prompt": "a", "solution": "1"}, {"prompt": "a", "solution": "2"}],
            ":2: the same prompt has another solution in",
        ),
    ],
)
def test_a_solution_that_is_none_is_found_before_any_answer(
    tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AlignError) as caught:
        build(function(type="math", solutions=path))
    assert said in str(caught.value) and path.name in str(caught.value)


def test_where_the_result_stands() -> None:
    assert result("a #### 1\nb", "####") == "1"
    assert result("#### \n\n 2 \n3", "####") == "2"
    assert result("x", None) == "x"
    assert (result("x", "####"), result("####  ", "####")) == (None, None)


def test_the_last_block_between_fences() -> None:
    assert last_block("a\n```python\nx = 1\n```\nb\n````\n```\n````") == "```\n"
    assert last_block("```\nopen") is None
    assert last_block("use `x` or ```y```") is None
    assert last_block("```a\nopen\n```\nx\n ```` \n```\n`````\n") == "```\n"
    assert last_block("````\nlonger\n```b\nx\n```") == "x\n"
    assert last_block("```\n```\n```\nlast\n```") == "last\n" and last_block("```\n```") == ""


@pytest.mark.parametrize(
    "hostile",
    [
        "```a\n" * 25_000,
        "```\n" * 25_001,
        "```a\n" + "``\n" * 33_000,
        "`" * 100_000,
        " " * 100_000,
        "```a\n \n" * 14_000,
    ]
    + ["".join("`" * (450 - n) + "x\n" for n in range(447))],
)
def test_no_answer_makes_the_search_for_its_block_long(hostile: str) -> None:
    began = time.monotonic()
    last_block(hostile)
    assert time.monotonic() - began < 1


def test_an_id_changes_with_what_a_function_says_and_not_with_its_share(tmp_path: Path, sums: Path) -> None:
    first = identity(function(type="math", solutions=sums))
    assert first == identity(function(type="math", solutions=sums, weight=2.0))
    assert first != identity(function(type="math", solutions=sums, after="####"))
    sums.write_text(json.dumps({"prompt": "How many?", "solution": "43"}) + "\n")
    assert first != identity(function(type="math", solutions=sums))
    judge = {"type": "judge", "url": "http://127.0.0.1:1/v1", "model": "m"}
    assert identity(function(**judge)) == identity(function(**judge | {"url": "http://other/v1", "retries": 1}))
    assert identity(function(**judge)) != identity(function(**judge | {"model": "n"}))
