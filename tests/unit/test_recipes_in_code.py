"""Each recipe's run.py: at most thirty lines of the public API alone, and no held-out prompt among what it shows."""

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import align
from align.types import prompt_id
from tests.loop import write_jsonl

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.parent.name for path in RECIPES.glob("*/run.py"))
QUESTIONS = [f"Where is my order number {n}?" for n in range(60)]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_py_is_thirty_lines_of_public_names(name: str) -> None:
    text = (RECIPES / name / "run.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree) is not None
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {ast.unparse(node) for node in imported} == {"import sys", "from pathlib import Path", "import align"}
    code = [line for line in text.split('"""', 2)[2].splitlines() if line.strip() and "import " not in line]
    assert len(code) <= 30
    assert set(re.findall(r"\balign\.(\w+)", text.split('"""', 2)[2])) <= set(align.__all__)


class Shown(Exception):  # noqa: N818 - it is no error: what was to be seen has been seen
    """Training was called."""


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "align.train_sft" in (RECIPES / name / "run.py").read_text()]
)
def test_held_out_prompts_are_kept_out_of_the_demonstrations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sixty prompts are demonstrated; those on the test side must not arrive at the training."""
    prompts, shown, model = tmp_path / "prompts.jsonl", tmp_path / "shown.jsonl", tmp_path / "model"
    write_jsonl(prompts, [{"prompt": question} for question in QUESTIONS])
    write_jsonl(shown, [{"prompt": question, "completion": "It is on its way."} for question in QUESTIONS])
    model.mkdir()
    (model / "config.json").write_text("{}")
    learned: list[str] = []

    def train_sft(model: Any, demonstrations: Any, *rest: Any, **given: Any) -> None:
        learned.extend(prompt_id(row.messages) for row in demonstrations)
        raise Shown

    monkeypatch.setattr(align, "train_sft", train_sft)
    changes = [f"prompts.path={prompts}", f"sft.demonstrations={shown}", f"model.path={model}"]
    monkeypatch.setattr(sys, "argv", ["run.py", *changes])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Shown):
        runpy.run_path(str(RECIPES / name / "run.py"), run_name="__main__")
    recipe = align.load_recipe(RECIPES / name, changes).recipe
    sides = {prompt.id: prompt.split for prompt in align.load_prompts(recipe.prompts)}
    assert len(sides) == 60 and list(sides.values()).count("test") >= 5
    assert set(learned) == {prompt for prompt, split in sides.items() if split == "train"}
