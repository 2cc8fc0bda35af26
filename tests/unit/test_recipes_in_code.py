"""Each recipe's run.py: at most thirty lines of the public API alone, and no held-out prompt among what it shows."""

import ast
import re
import runpy
import sys
from dataclasses import dataclass
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


def changes_of(name: str, folder: Path) -> list[str]:
    """Small files in the place of a recipe's own: all sixty prompts are demonstrated, and judged."""
    recipe = (RECIPES / name / "recipe.yaml").read_text(encoding="utf-8")
    write_jsonl(folder / "prompts.jsonl", [{"prompt": question} for question in QUESTIONS])
    write_jsonl(folder / "shown.jsonl", [{"prompt": question, "completion": "It comes."} for question in QUESTIONS])
    pairs = [{"prompt": question, "chosen": "It comes.", "rejected": "Late."} for question in QUESTIONS]
    write_jsonl(folder / "pairs.jsonl", pairs)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    changes = [f"prompts.path={folder}/prompts.jsonl", f"model.path={folder}/model"]
    changes += [f"sft.demonstrations={folder}/shown.jsonl"] if "\nsft:" in recipe else []
    changes += [f"preferences={{from: {folder}/pairs.jsonl}}"] if "\npreferences:" in recipe else ["rounds=2"]
    changes += ["reward.functions=[{path: 'gsm8k.py:correct'}]"] if name == "grpo-gsm8k" else []
    method = next((m for m in ("dpo", "kto") if f"\n{m}:" in recipe), None)
    return changes + ([f"{method}.replay=1"] if method else [])


class Shown(Exception):  # noqa: N818 - it is no error: what was to be seen has been seen
    """Training was called."""


@pytest.mark.parametrize(
    "name", [name for name in NAMES if "align.train_sft" in (RECIPES / name / "run.py").read_text()]
)
def test_held_out_prompts_are_kept_out_of_the_demonstrations(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the sixty prompts that are on the test side must not arrive at the training."""
    learned: list[str] = []

    def train_sft(model: Any, demonstrations: Any, *rest: Any, **given: Any) -> None:
        learned.extend(prompt_id(row.messages) for row in demonstrations)
        raise Shown

    changes = changes_of(name, tmp_path)
    monkeypatch.setattr(align, "train_sft", train_sft)
    monkeypatch.setattr(sys, "argv", ["run.py", *changes])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Shown):
        runpy.run_path(str(RECIPES / name / "run.py"), run_name="__main__")
    recipe = align.load_recipe(RECIPES / name, changes).recipe
    sides = {prompt.id: prompt.split for prompt in align.load_prompts(recipe.prompts)}
    assert len(sides) == 60 and list(sides.values()).count("test") >= 5
    assert set(learned) == {prompt for prompt, split in sides.items() if split == "train"}


@dataclass(frozen=True)
class Call:
    """One call of the API: what it was given by position, and by name."""

    name: str
    given: tuple[Any, ...]
    named: dict[str, Any]


@dataclass(frozen=True)
class Row:
    id: str


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls of all that takes a workspace; nothing is computed, and each round compiles to one label of its own."""
    calls: list[Call] = []

    def answer(name: str, out: Path | None) -> Any:
        if name == "ask":
            return align.Labelled([], [])
        if name == "compile_labels":
            rows: Any = [Row(f"label {sum(call.name == name for call in calls)}")]
            return align.Labels(rows, rows, [], [], {}, [])
        samples = align.Samples([], [], [])
        made = align.Evaluation(Path(), samples, None, None, {}) if out is None else align.Trained(out, {})
        return samples if name == "sample" else made

    def fake(name: str) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls.append(Call(name, given, named))
            trains = name.startswith("train_") or name == "import_model"
            return answer(name, Path(named["workspace"].out) if trains else None)

        return call

    names = [name for name in align.__all__ if name.startswith("train_")]
    for name in (*names, "import_model", "sample", "ask", "compile_labels", "evaluate", "compare_blind"):
        monkeypatch.setattr(align, name, fake(name))
    monkeypatch.setattr(align, "load_scorer", lambda *given, **named: None)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_nothing_leaks_between_rounds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has a folder of its own, answers of each round a seed of their own, each round the policy of the one before;
    and earlier labels are learned again where the recipe says so."""
    calls = recorded(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["run.py", *changes_of(name, tmp_path), "seed=7"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(RECIPES / name / "run.py"), run_name="__main__")
    folders = [str(call.named["workspace"].out) for call in calls if "workspace" in call.named]
    assert len(set(folders)) == len(folders) >= 4
    assert len({Path(folder).parent for folder in folders}) == 1
    rounds = 1 if name == "reward-hh" else 2
    drawn = [call.named["compute"].seed for call in calls if call.name == "sample" and "rollouts" in str(call.named)]
    asks = any(call.name == "ask" for call in calls)
    assert drawn == [align.Compute(seed=7).seeded(f"rollouts {n + 1}").seed for n in range(rounds if asks else 0)]
    policies = [
        call for call in calls if Path(call.named.get("workspace", align.Workspace("")).out).name.startswith("policy")
    ]
    assert [call.named["compute"].seed for call in policies] == [7] * (rounds + 1)
    made = [Path(call.named["workspace"].out) for call in policies]
    assert [call.given[0] for call in policies[1:]] == made[:-1]
    if asks:
        learned = [call.given[1] for call in calls if call.name in ("train_dpo", "train_kto", "train_reward")]
        assert [[row.id for row in rows] for rows in learned] == [["label 1"], ["label 2", "label 1"]]
