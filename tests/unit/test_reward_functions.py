import importlib
import math
import sys
from pathlib import Path

import pytest

from align.errors import ConfigError, DataError
from align.types import Message, prompt_id
from reward.functions import FunctionScorer, function_id, load_function
from reward.scorer import Scorer

ASKED: list[Message] = [{"role": "user", "content": "Where is my kettle?"}]


def write(folder: Path, text: str, name: str = "taste.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder


def test_a_function_scores_answers_in_order(tmp_path: Path) -> None:
    write(tmp_path, "def score(messages, answer):\n    return len(messages[0]['content']) - len(answer)\n")
    scorer: Scorer = FunctionScorer(load_function("taste.py:score", tmp_path))
    assert scorer.score([ASKED, ASKED], ["Here.", "In the post."]) == [14.0, 7.0]
    assert load_function(f"{tmp_path}/taste.py:score", Path("/"))(ASKED, "") == 19.0


@pytest.mark.parametrize(
    "value, score", [("None", None), ("True", 1.0), ("3", 3.0), ("np.float32(0.5)", 0.5), ("np.int64(2)", 2.0)]
)
def test_numbers_of_any_kind_are_scores_and_none_is_unscored(tmp_path: Path, value: str, score: float | None) -> None:
    write(tmp_path, f"import numpy as np\ndef score(messages, answer):\n    return {value}\n")
    found = load_function("taste.py:score", tmp_path)(ASKED, "x")
    assert found == score and type(found) in (float, type(None))


@pytest.mark.parametrize(
    "value, shown",
    [
        ("float('nan')", "float 'nan'"),
        ("float('inf')", "float 'inf'"),
        ("'7'", "str '7'"),
        ("[1.0]", "list '[1.0]'"),
        ("1j", "complex '1j'"),
    ],
)
def test_what_is_no_finite_number_is_an_error_with_the_prompts_id(tmp_path: Path, value: str, shown: str) -> None:
    write(tmp_path, f"def score(messages, answer):\n    return {value}\n")
    with pytest.raises(DataError) as error:
        load_function("taste.py:score", tmp_path)(ASKED, "x")
    assert f"returned {shown} for prompt {prompt_id(ASKED)}" in str(error.value)


def test_a_function_that_raises_gives_one_sentence_with_type_line_and_prompt(tmp_path: Path) -> None:
    write(tmp_path, "def score(messages, answer):\n    table = {}\n    return table[answer]\n")
    with pytest.raises(DataError) as error:
        load_function("taste.py:score", tmp_path)(ASKED, "x")
    text = str(error.value)
    assert text.startswith(f"{tmp_path}/taste.py:3: taste.py:score raised KeyError ('x') for prompt {prompt_id(ASKED)}")
    assert "Traceback" not in text and "\n" not in text


@pytest.mark.parametrize(
    "text, spec, message",
    [
        ("def score(m, a): return 1\n", "taste.py:scores", "'scores' is not there; did you mean score?"),
        (
            "score = 3\ndef other(m, a): return 1\n",
            "taste.py:score",
            "'score' is no function; the functions there are other",
        ),
        ("", "taste.py:score", "'score' is not there; there are no functions there"),
        ("def score(m, a): return 1\n", "tast.py:score", "did you mean taste.py?"),
        ("def score(m, a): return 1\n", "taste.py", "write it as file.py:function"),
        ("def score(m, a): return 1\n", "taste.py:", "write it as file.py:function"),
        ("def score(answer): return 1\n", "taste.py:score", "takes (answer), and is called with (messages, answer)"),
        ("def score(m, a, *, k): return 1\n", "taste.py:score", "takes (m, a, *, k)"),
        ("x = 1\ndef score(m, a) return 1\n", "taste.py:score", "taste.py:2: this is not Python"),
        ("import no_such_module\n", "taste.py:score", "taste.py:1: loading it raised ModuleNotFoundError"),
        ("import sys\n\nsys.exit(3)\n", "taste.py:score", "taste.py:3: loading it raised SystemExit (3)"),
    ],
)
def test_mistakes_in_the_recipe_or_the_file(tmp_path: Path, text: str, spec: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_function(spec, tmp_path)
    assert message in str(error.value)


def test_neighbours_can_be_imported_and_the_path_is_as_before(tmp_path: Path) -> None:
    for folder, value in (("one", 1), ("two", 2)):
        write(tmp_path / folder, f"VALUE = {value}\n", "neighbour.py")
        write(tmp_path / folder, "from neighbour import VALUE\ndef score(messages, answer):\n    return VALUE\n")
    before = list(sys.path)
    scores = [load_function(f"{folder}/taste.py:score", tmp_path)(ASKED, "") for folder in ("one", "two")]
    assert scores == [1.0, 2.0], "each folder has its own neighbour of the same name"
    assert sys.path == before and "neighbour" not in sys.modules


def test_the_path_is_as_before_when_loading_fails(tmp_path: Path) -> None:
    write(tmp_path, "raise RuntimeError('no')\n")
    before, modules = list(sys.path), set(sys.modules)
    with pytest.raises(ConfigError, match=r"raised RuntimeError \(no\)"):
        load_function("taste.py:score", tmp_path)
    assert sys.path == before and set(sys.modules) == modules


@pytest.mark.parametrize("name", ["reward", "annotation", "rollouts", "align", "datasets", "json"])
def test_a_neighbour_named_as_a_package_of_ours_is_the_users_own(tmp_path: Path, name: str) -> None:
    write(tmp_path, "VALUE = 0.5\n", f"{name}.py")
    write(
        tmp_path, f"import {name}\nfrom {name} import VALUE\ndef score(messages, answer): return {name}.VALUE + VALUE\n"
    )
    before = dict(sys.modules)
    function = load_function("taste.py:score", tmp_path)
    assert function([], "") == 1.0
    assert {n: m for n, m in sys.modules.items() if n in before} == before, "ours stay ours"
    assert importlib.import_module("reward.functions").load_function is load_function


def test_a_neighbour_that_nobody_imports_hides_nothing(tmp_path: Path) -> None:
    write(tmp_path, "raise SystemExit('imported')\n", "reward.py")
    write(tmp_path / "other", "from reward.functions import FunctionScorer\ndef score(m, a): return 1.0\n")
    write(tmp_path, "import math\ndef score(messages, answer): return math.pi\n")
    assert load_function("taste.py:score", tmp_path)([], "") == math.pi
    assert load_function("other/taste.py:score", tmp_path)([], "") == 1.0


def test_what_is_put_aside_is_back_when_loading_fails(tmp_path: Path) -> None:
    write(tmp_path, "VALUE = 1\n", "reward.py")
    write(tmp_path, "import reward\nfrom reward.functions import load_function\n")
    before = dict(sys.modules)
    with pytest.raises(
        ConfigError, match=r"taste.py:2: loading it raised ModuleNotFoundError .*'reward' is not a pack"
    ):
        load_function("taste.py:score", tmp_path)
    assert {n: m for n, m in sys.modules.items() if n in before} == before


def test_a_neighbour_that_a_function_would_import_later_is_refused(tmp_path: Path) -> None:
    """There, `import reward` would be this project's own package."""
    write(tmp_path, "VALUE = 1\n", "reward.py")
    write(tmp_path, "def score(messages, answer):\n    import reward\n    return reward.VALUE\n")
    with pytest.raises(ConfigError) as caught:
        load_function("taste.py:score", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/taste.py:2: a function imports reward.py when it is called, and its folder is not on the path then; "
        "import it at the top of the file, or give it another name if an installed package is meant"
    )


def test_dataclasses_work_in_a_users_file(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Taste:\n    weight: float = 2.0\n"
    write(tmp_path, text + "def score(messages, answer):\n    return Taste().weight\n")
    assert load_function("taste.py:score", tmp_path)(ASKED, "") == 2.0


def test_a_change_within_the_same_second_and_of_the_same_size_is_seen(tmp_path: Path) -> None:
    for value in (1, 2):
        write(tmp_path, f"def score(messages, answer):\n    return {value}\n")
        assert load_function("taste.py:score", tmp_path)(ASKED, "") == value


def test_the_id_follows_name_code_and_imported_neighbours_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "import neighbour, math\ndef score(m, a): return 1\ndef other(m, a): return 1\n")
    write(tmp_path, "from deep import words\n", "neighbour.py")
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "LIST = ['a']\n", "words.py")
    write(tmp_path, "", "unrelated.py")
    first = function_id("taste.py:score", tmp_path)
    assert first == load_function("taste.py:score", tmp_path).id
    assert first != function_id("taste.py:other", tmp_path)
    write(tmp_path, "changed = 1\n", "unrelated.py")
    assert first == function_id("taste.py:score", tmp_path)
    write(tmp_path / "deep", "LIST = ['b']\n", "words.py")
    assert first != function_id("taste.py:score", tmp_path), "a neighbour of a neighbour changed"


def test_the_same_folder_elsewhere_has_the_same_id(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, "def score(m, a): return 1\n")
    assert function_id("taste.py:score", tmp_path / "one") == function_id("two/taste.py:score", tmp_path)
