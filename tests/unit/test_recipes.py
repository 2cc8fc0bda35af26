"""The shipped recipes without running them: they load, their files are whole, and run.py stays a page."""

import ast
import shlex
from pathlib import Path

import pytest

from align.cli.recipes import shipped
from align.config.load import load_recipe
from align.config.recipe import FunctionJudge, People, PeopleJudge
from align.data.prompts import load_prompts
from align.rounds.plan import judge_of
from reward.functions import load_function

RECIPES = shipped()
OWN = RECIPES["own-model"]


def test_both_recipes_are_shipped() -> None:
    assert sorted(RECIPES) == ["own-model", "support-desk"]


@pytest.mark.parametrize("folder", RECIPES.values(), ids=RECIPES)
def test_it_loads_and_is_measured_by_a_judge(folder: Path) -> None:
    recipe = load_recipe(folder, files=False).recipe
    assert recipe.name == folder.name
    assert isinstance(judge_of(recipe), FunctionJudge)


@pytest.mark.parametrize("folder", RECIPES.values(), ids=RECIPES)
def test_run_py_is_under_sixty_lines_and_uses_public_names_only(folder: Path) -> None:
    text = (folder / "run.py").read_text()
    assert len(text.splitlines()) < 60
    tree = ast.walk(ast.parse(text))
    names = [alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert len(names) > 10 and not [name for name in names if name.startswith("_")]


def test_own_model_asks_people_by_default_and_no_prompt_of_its_file_is_dropped() -> None:
    recipe = load_recipe(OWN).recipe
    assert recipe.annotate is not None and isinstance(recipe.annotate.by, People)
    prompts, dropped = load_prompts(recipe.prompts)
    assert (len(prompts), dropped) == (64, [])
    assert {p.split for p in prompts} == {"train", "test"}


SCORES = {
    "": -1.0,
    "Bread rises because yeast makes gas.": 1.0 + 6 / 60 + 1.0 + 2 / 4,
    "bread bread bread bread bread bread": 1 / 4 + 6 / 60 + 0.0 + 1 / 4,
    "No idea!": 0.0 + 2 / 60 + 1.0 + 0.0,
    "word " * 200: 1 / 198 + 1.0,
    "word " * 300: 1 / 298 + 0.5,
}


@pytest.mark.parametrize("answer", SCORES, ids=lambda answer: answer[:20])
def test_what_the_example_of_a_scoring_function_says(answer: str) -> None:
    score = load_function("score.py:score", OWN)
    messages = [{"role": "user", "content": "Why does bread rise? Bread rises."}]
    assert score(messages, answer) == pytest.approx(SCORES[answer])


def commands(folder: Path) -> list[list[str]]:
    """The changes in each `align run` of a recipe's README that starts from the shipped files."""
    lines = (folder / "README.md").read_text().splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("align run recipe.yaml ")]
    return [words[3:] for words in found]


def test_every_change_that_a_readme_shows_is_one_that_the_recipe_takes() -> None:
    shown = [changes for folder in RECIPES.values() for changes in commands(folder)]
    asked = [load_recipe(RECIPES["support-desk"], changes, files=False).recipe for changes in shown]
    kinds = {recipe.annotate.kind for recipe in asked if recipe.annotate}
    assert kinds == {"pair", "rank", "single", "rating"}
    assert {type(recipe.evaluate.judge) for recipe in asked} == {FunctionJudge, PeopleJudge}
