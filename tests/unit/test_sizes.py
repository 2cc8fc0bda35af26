"""What is long is named here with its reason; no two places say the same in ten lines."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [path for name in ("align", "annotation", "reward", "rollouts") for path in sorted((ROOT / name).rglob("*.py"))]

IN_ORDER = "a training from its rows to its checkpoint, one step after another; its parts are functions already"
OPTIONS = "a command: one parameter for each option, as Typer takes them, and the call that it makes"
SECTION = "the recipe's keys, each with its text for docs/recipe.md"
LONG_FILES = {
    "align/config/recipe.py": SECTION,
    "align/config/training.py": SECTION,
    "align/labelling/session.py": "one record with all that can be asked of it",
    "align/layerwise.py": "layer by layer, one function for each kind of block",
    "align/text.py": "all that knows a tokenizer's oddities",
    "annotation/crowd/evidence.py": "one likelihood for each kind of task, and their gradients",
}
LONG_FUNCTIONS = {
    "align/cli/annotate_import.py:import_judgements": OPTIONS,
    "align/cli/push.py:push": OPTIONS,
    "align/cli/reward.py:evaluate": OPTIONS,
    "align/cli/stages.py:rollout": OPTIONS,
    "align/cli/sweep.py:_of_method": OPTIONS,
    "align/cli/sweep.py:sweep": OPTIONS,
    "align/train/dpo.py:train_dpo": IN_ORDER,
    "align/train/kto.py:train_kto": IN_ORDER,
    "align/train/online.py:train": IN_ORDER,
    "align/train/sft.py:train_sft": IN_ORDER,
    "reward/train.py:train_reward": IN_ORDER,
    "rollouts/engines.py:open_generator": "one branch for each engine, with what it needs",
    "rollouts/sample.py:sample_candidates": "most of it says what its arguments are",
}
MANY_PARAMETERS = {
    "align/cli/push.py:push": OPTIONS,
    "align/cli/stages.py:rollout": OPTIONS,
    "align/cli/sweep.py:sweep": OPTIONS,
    "align/cli/train.py:command": OPTIONS,
    "rollouts/sample.py:sample_answers": "what decides an answer, each by its name",
    "rollouts/sample.py:sample_candidates": "what decides an answer, each by its name",
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions() -> list[tuple[str, int, int]]:
    """(file:function, lines, parameters)."""
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found.append((f"{name_of(path)}:{node.name}", lines, len(taken)))
    return found


def test_long_files_have_a_reason() -> None:
    assert {name_of(path) for path in FILES if len(path.read_text().splitlines()) > 400} == {*LONG_FILES}


def test_long_functions_have_a_reason() -> None:
    assert {name for name, lines, _ in functions() if lines > 60} == {*LONG_FUNCTIONS}


def test_functions_of_many_parameters_have_a_reason() -> None:
    assert {name for name, _, taken in functions() if taken > 12} == {*MANY_PARAMETERS}


def test_no_two_places_share_ten_lines() -> None:
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in FILES:
        lines = [(number, line.strip()) for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
        for start in range(len(lines) - 9):
            block = lines[start : start + 10]
            places[tuple(line for _, line in block)].append(f"{name_of(path)}:{block[0][0]}")
    assert [found for found in places.values() if len(found) > 1] == []
