"""The shipped recipes without running them: they load, their files are whole, and run.py stays a page."""

import gzip
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from align.cli.recipes import shipped
from align.config.load import load_recipe
from align.config.recipe import FunctionJudge, People, PeopleJudge
from align.data.demonstrations import load_demonstrations
from align.data.preferences import load_preferences
from align.data.prompts import load_prompts, read_prompts
from align.stages.evaluation import judge_of
from align.types import prompt_id
from reward.build import build
from reward.functions import load_function

RECIPES = shipped()
OWN = RECIPES["own-model"]


METHODS = {
    "best-of-n": "best_of_n",
    "grpo-gsm8k": "grpo",
    "kto-binary": "kto",
    "own-model": "dpo",
    "ppo-support-desk": "ppo",
    "reward-ensemble": "rloo",
    "reward-hh": "best_of_n",
    "sft-dpo-rounds": "dpo",
    "support-desk": "dpo",
    "two-people": "dpo",
}


def test_every_method_has_a_recipe() -> None:
    assert {name: load_recipe(folder, files=False).recipe.method for name, folder in RECIPES.items()} == METHODS


@pytest.mark.parametrize("folder", RECIPES.values(), ids=RECIPES)
def test_it_loads_and_is_measured_by_a_judge(folder: Path) -> None:
    recipe = load_recipe(folder, files=False).recipe
    assert recipe.name == folder.name
    assert isinstance(judge_of(recipe) or recipe.evaluate.judge, FunctionJudge | PeopleJudge)


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


def test_what_the_house_style_of_best_of_n_says() -> None:
    style = load_function("style.py:style", RECIPES["best-of-n"])
    whole = "Hello! We are sorry about the lamp. We send a new one today. Have a nice day."
    assert style([], whole) == 4.0
    assert style([], whole.replace("Hello! ", "").replace("We are sorry about", "Thank you for telling us of")) == 2.0
    assert style([], "It is not our fault.") == 0.0
    assert style([], "") == 0.0
    assert style([], "word " * 34 + "Thank you!") == pytest.approx(2 - 0.05 * 6)


GSM = {
    "question": "Weng earns $12 an hour. For 50 minutes?",
    "answer": "12/60 = <<12/60=0.2>>0.2 a minute.\n#### 1,010",
}
ANSWERS = {
    "#### 1010": (1.0, 1.0),
    "She earns\n#### $1,010.00": (1.0, 1.0),
    "#### 1010.": (1.0, 1.0),
    "#### -1010": (0.0, 1.0),
    "#### 10": (0.0, 1.0),
    "1010": (0.0, 0.0),
    "#### 1010 dollars": (1.0, 0.0),
    "#### 505*2": (0.0, 0.0),
    "#### 1010 and #### 1010": (1.0, 1.0),
    "#### 7\nso #### 1010": (1.0, 1.0),
    "####": (0.0, 0.0),
    "": (0.0, 0.0),
}


def test_gsm8ks_own_file_becomes_prompts_and_only_the_right_number_is_rewarded(tmp_path: Path) -> None:
    mine = shutil.copytree(RECIPES["grpo-gsm8k"], tmp_path / "mine", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "train.jsonl").write_text(json.dumps(GSM) + "\n" + json.dumps(GSM | {"question": "And two?"}) + "\n")
    subprocess.run([sys.executable, mine / "gsm8k.py", tmp_path / "train.jsonl"], check=True, capture_output=True)
    prompts, dropped = read_prompts(mine / "data" / "prompts.jsonl")
    assert (len(prompts), dropped) == (2, [])
    reward = load_recipe(mine, ["model.path=org/name"]).recipe.reward
    assert reward is not None
    asked, answers = [prompts[0].messages] * len(ANSWERS), list(ANSWERS)
    correct, form = (build(function).score(asked, answers) for function in reward.functions)
    assert dict(zip(ANSWERS, zip(correct, form, strict=True), strict=True)) == ANSWERS
    judge = load_function("gsm8k.py:correct", mine)
    assert [judge(prompts[0].messages, answer) for answer in answers] == correct
    (tmp_path / "bad.jsonl").write_text(json.dumps(GSM) + "\n" + json.dumps({"question": "No answer?"}) + "\n")
    command = [sys.executable, mine / "gsm8k.py", tmp_path / "bad.jsonl"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0 and refused.stderr.startswith(f"{tmp_path / 'bad.jsonl'}:2: needs `question`")


def test_every_solution_of_gsm8k_is_a_number(tmp_path: Path) -> None:
    data = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_train.jsonl.gz"
    if not data.is_file():
        pytest.skip(f"there is no {data}")
    mine = shutil.copytree(RECIPES["grpo-gsm8k"], tmp_path / "mine", ignore=shutil.ignore_patterns("data"))
    done = subprocess.run([sys.executable, mine / "gsm8k.py", data], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("data: 7473 prompts\n")


def hh_row(question: str, good: str, bad: str) -> str:
    return json.dumps(
        {side: f"\n\nHuman: {question}\n\nAssistant: {a}" for side, a in (("chosen", good), ("rejected", bad))}
    )


def test_hhs_pairs_are_two_files_that_share_no_prompt(tmp_path: Path) -> None:
    mine = shutil.copytree(RECIPES["reward-hh"], tmp_path / "mine", ignore=shutil.ignore_patterns("data"))
    rows = [hh_row(f"Question {n // 2}?", "yes", f"no {n}") for n in range(400)]
    with gzip.open(tmp_path / "train.jsonl.gz", "wt") as file:
        file.write("\n".join(rows) + "\n")
    subprocess.run([sys.executable, mine / "helpful.py", tmp_path / "train.jsonl.gz"], check=True, capture_output=True)
    pairs, judged = (load_preferences(mine / "data" / f"{name}.jsonl")[0] for name in ("pairs", "judge"))
    assert (len(pairs), len(judged)) == (292, 108)
    assert not {row.prompt_id for row in pairs} & {row.prompt_id for row in judged}
    (tmp_path / "bad.jsonl").write_text(rows[0] + "\n" + json.dumps({"chosen": "Hi", "rejected": "No"}) + "\n")
    command = [sys.executable, mine / "helpful.py", tmp_path / "bad.jsonl"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode != 0 and refused.stderr.startswith(f"{tmp_path / 'bad.jsonl'}:2: needs `chosen`")


def test_all_of_hhs_helpful_file_is_read(tmp_path: Path) -> None:
    data = Path(__file__).parents[3] / "shared" / "data" / "hh_helpful_base_test.jsonl.gz"
    if not data.is_file():
        pytest.skip(f"there is no {data}")
    mine = shutil.copytree(RECIPES["reward-hh"], tmp_path / "mine", ignore=shutil.ignore_patterns("data"))
    done = subprocess.run([sys.executable, mine / "helpful.py", data], check=True, capture_output=True, text=True)
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["1765 pairs", "589 pairs"]


def test_the_demonstrations_of_sft_dpo_rounds_share_no_prompt_with_its_prompts() -> None:
    recipe = load_recipe(RECIPES["sft-dpo-rounds"]).recipe
    assert recipe.sft is not None
    shown, dropped = load_demonstrations(recipe.sft.demonstrations)
    assert (len(shown), dropped) == (16, [])
    assert not {prompt_id(row.messages) for row in shown} & {p.id for p in load_prompts(recipe.prompts)[0]}


def commands(folder: Path) -> list[list[str]]:
    """The changes in each `align run` of a recipe's README that starts from the shipped files."""
    lines = (folder / "README.md").read_text().splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith("align run recipe.yaml ")]
    return [words[3:] for words in found]


def test_every_change_that_a_readme_shows_is_one_that_the_recipe_takes() -> None:
    shown = [(folder, changes) for folder in RECIPES.values() for changes in commands(folder)]
    asked = [load_recipe(folder, changes, files=False).recipe for folder, changes in shown]
    kinds = {recipe.annotate.kind for recipe in asked if recipe.annotate}
    assert kinds == {"pair", "rank", "single", "rating"}
    assert {type(recipe.evaluate.judge) for recipe in asked} == {FunctionJudge, PeopleJudge}
