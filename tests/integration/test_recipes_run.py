"""Every shipped recipe, as `align init` copies it, runs for two optimiser steps; and run.py gives the same result."""

import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from align.api.given import Estimate
from align.cli.recipes import shipped
from align.pipeline.receipts import current
from align.pipeline.stage import Ref
from align.store import checkpoint_id, read_json
from annotation import server
from annotation.backend import Answer
from annotation.form import Form
from annotation.questions import to_screen
from tests.loop import align, rows
from tests.server_fixtures import ArgillaServer
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow


def training(section: str) -> list[str]:
    """Two steps of a training section that show."""
    return [f"{section}.learning_rate=1e-2", f"{section}.batch_size=4", f"{section}.trainer={{max_steps: 2}}"]


def online(section: str) -> list[str]:
    """Two steps of a method that samples while it learns."""
    return [*training(section), f"{section}.type=transformers", f"{section}.prompts=8", f"{section}.max_tokens=12"]


SMALL = [
    "threads=1",
    "rounds=1",
    "rollouts.type=transformers",
    "rollouts.prompts=8",
    "rollouts.max_tokens=12",
    "evaluate.prompts=6",
    "evaluate.max_tokens=12",
    *training("dpo"),
]
SCORER = "annotate.by={type: personas, utility: score.py:score, personas: [{name: scorer}]}"


def small_world(folder: Path) -> list[str]:
    sizes = ["--demonstrations", "200", "--prompts", "120"]
    subprocess.run([sys.executable, folder / "world.py", *sizes], check=True, capture_output=True)
    return ["sft.trainer={max_steps: 2}"]


def tiny_model(folder: Path) -> list[str]:
    """The one-line change: another model's path; its weights' type and the adapter stay as they are shipped."""
    make_tiny_model(folder / "tiny", vocab_words=["bread", "water", "story"])
    return ["model.path=./tiny"]


def without(changes: list[str], section: str) -> list[str]:
    return [change for change in changes if not change.startswith(f"{section}.")]


NO_ROLLOUTS = [c for c in without(SMALL, "dpo") if c not in ("rollouts.prompts=8", "rollouts.max_tokens=12")]
ASKED = without(SMALL, "dpo")
METHODS: dict[str, list[str]] = {
    "best-of-n": [*NO_ROLLOUTS, *online("best_of_n"), "best_of_n.samples=6"],
    "grpo-gsm8k": [*NO_ROLLOUTS, *online("grpo"), "grpo.samples=2", "grpo.micro_batch_size=4"],
    "kto-binary": [*ASKED, *training("kto")],
    "ppo-support-desk": [*ASKED, *online("ppo"), *training("reward.model")],
    "reward-ensemble": [*ASKED, *online("rloo"), "rloo.samples=2", *training("reward.model")],
    "reward-hh": [
        *NO_ROLLOUTS,
        *online("best_of_n"),
        "best_of_n.samples=4",
        "best_of_n.micro_batch_size=4",
        *training("reward.model"),
        "reward.model.micro_batch_size=4",
    ],
    "sft-dpo-rounds": [*SMALL, "sft.trainer={max_steps: 2}", "sft.batch_size=4"],
}
"""Recipe → the changes that make it small."""


def test_every_shipped_recipe_is_tried_here() -> None:
    assert shipped().keys() == {"support-desk", "own-model", "two-people", *METHODS}


def prepared(name: str, folder: Path) -> list[str]:
    """A copy of a recipe in `folder/mine` with its data; the changes that make it small."""
    align("init", name, "mine", cwd=folder)
    mine = folder / "mine"
    if name == "grpo-gsm8k":
        subprocess.run([sys.executable, mine / "gsm8k.py", "--sample"], check=True, capture_output=True)
    made = small_world(mine) if (mine / "world.py").is_file() else tiny_model(mine)
    if name == "reward-hh":
        subprocess.run([sys.executable, mine / "helpful.py", "--sample"], check=True, capture_output=True)
        judge = ("reward", "train", "--model", mine / "tiny", "--preferences", mine / "data/judge.jsonl")
        align(*judge, "--threads", "1", "--out", mine / "data/judge", "trainer={max_steps: 2}", cwd=folder)
    return [*METHODS[name], *made]


SHORT = "{type: length, low: 1, high: 40, margin: 40, weight: 0.1}"


def test_best_of_n_trains_on_the_best_answers_and_asks_nobody(tmp_path: Path) -> None:
    changes = [*prepared("best-of-n", tmp_path), f"reward.functions=[{{path: 'world.py:utility'}}, {SHORT}]"]
    align("run", "mine", *changes, cwd=tmp_path)
    run = tmp_path / "runs" / "mine"
    policy = current(run, Ref(1, "policy"))
    assert policy is not None and policy.summary["steps"] == 2
    assert policy.summary["mean_score_best"] > policy.summary["mean_score_all"]
    assert len(rows(run, 1, "policy", "candidates.parquet")) == policy.summary["sampled"] <= 48
    assert not (run / "journal.jsonl").exists() and current(run, Ref(1, "preferences")) is None
    assert "nobody labels" in (run / "report.html").read_text().lower()


@pytest.mark.full
@pytest.mark.parametrize("name", ["best-of-n", "grpo-gsm8k", "reward-hh"])
def test_a_recipe_without_labels_and_its_run_py_give_the_same_policy(name: str, tmp_path: Path) -> None:
    changes = prepared(name, tmp_path)
    if name == "grpo-gsm8k":  # a random model solves nothing, and then there is nothing to learn
        shutil.copy(shipped()["own-model"] / "score.py", tmp_path / "mine")
        changes.append("reward.functions=[{path: 'gsm8k.py:correct'}, {path: 'score.py:score', weight: 0.5}]")
    align("run", "mine", *changes, cwd=tmp_path)
    with in_code(tmp_path, changes) as (process, errors):
        said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, errors.read_text()
    check_both(tmp_path, said)


@pytest.mark.full
@pytest.mark.parametrize("name", ["kto-binary", "ppo-support-desk", "reward-ensemble", "sft-dpo-rounds"])
def test_a_recipe_that_asks_and_its_run_py_give_the_same_policy(
    name: str, tmp_path: Path, argilla_server: ArgillaServer
) -> None:
    changes = [*prepared(name, tmp_path), on(argilla_server)]
    if name == "sft-dpo-rounds":
        shutil.copy(shipped()["own-model"] / "score.py", tmp_path / "mine")
        changes += [SCORER, "annotate.repeats=0.1"]
    align("run", "mine", *changes, cwd=tmp_path)
    with in_code(tmp_path, changes) as (process, errors):
        said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, errors.read_text()
    check_both(tmp_path, said)


def test_support_desk_and_its_run_py_give_the_same_policy(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    align("init", "support-desk", "mine", cwd=tmp_path)
    changes = [*SMALL, *small_world(tmp_path / "mine"), on(argilla_server)]
    align("run", "mine", *changes, cwd=tmp_path)
    with in_code(tmp_path, changes) as (process, errors):
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, errors.read_text()
    check_both(tmp_path, said)


@pytest.mark.parametrize("name", ["own-model", pytest.param("two-people", marks=pytest.mark.full)])
def test_a_recipe_for_people_and_its_run_py_give_the_same_policy(
    name: str, tmp_path: Path, argilla_server: ArgillaServer
) -> None:
    """`align run` with a scoring function as annotator; then run.py with a person who happens to say the same."""
    align("init", name, "mine", cwd=tmp_path)
    changes = [*SMALL, *tiny_model(tmp_path / "mine"), on(argilla_server)]
    align("run", "mine", *changes, SCORER, cwd=tmp_path)
    labels = rows(tmp_path / "runs" / "mine", 1, "snapshot", "judgements.parquet")
    person = server.add_user(argilla_server.home, f"dora-{secrets.token_hex(3)}")
    with in_code(tmp_path, changes) as (process, errors):
        assert process.stdout is not None
        waiting = next((line for line in process.stdout if "label at" in line), "")
        found = re.fullmatch(
            rf"0 of {8 + (name == 'two-people')} answers are in; label at http://127.0.0.1:\d+/dataset/(\S+)/annotation-mode\n",
            waiting,
        )
        assert found, waiting + errors.read_text()
        same = [Answer(label["task_id"], label["outcome"], strength=label["strength"]) for label in labels]
        answer(argilla_server, found[1], person.api_key, same)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, errors.read_text()
    check_both(tmp_path, said)


def on(server: ArgillaServer) -> str:
    return f"annotate.server={{type: embedded, home: {server.home}}}"


@contextmanager
def in_code(folder: Path, changes: list[str]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """run.py at work, and the file with its standard error; it does not outlive the test."""
    errors = folder / "errors.txt"
    command = [sys.executable, folder / "mine" / "run.py", *changes]
    with errors.open("w") as file:
        process = subprocess.Popen(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=file)
        try:
            yield process, errors
        finally:
            process.kill()
            process.wait()


def answer(on: ArgillaServer, dataset: str, key: str, answers: list[Answer]) -> None:
    """Give `answers` as the person with the API key `key`, in the sides of the screen."""
    by_task = {given.task_id: given for given in answers}
    records = on.call("GET", f"/datasets/{dataset}/records", limit=100)["items"]
    items = []
    for record in records:
        task, shown = record["external_id"], [int(i) for i in record["metadata"]["shown"].split(",")]
        values = to_screen(by_task[task], shown, Form(ask=("strength",)))
        items.append({"record_id": record["id"], "status": "submitted", "values": values})
    replies = on.call("POST", "/me/responses/bulk", {"items": items}, key=key)["items"]
    assert len(replies) == len(answers) and not [r["error"] for r in replies if r["error"]]


def check_both(folder: Path, said: str) -> None:
    """The run's folder and that of run.py, which ended with `said`, hold the same policy and the same win rate."""
    run = folder / "runs" / "mine"
    (code,) = (p for p in (folder / "runs").iterdir() if p != run)
    first, policy, evaluation = (current(run, Ref(n, s)) for n, s in ((0, "policy"), (1, "policy"), (1, "evaluation")))
    assert first is not None and policy is not None and evaluation is not None
    judged = current(run, Ref(1, "blind_result"))
    assert (run / "report.html").stat().st_size > 10_000
    assert policy.summary["steps"] == 2
    assert policy.summary["checkpoint"] != first.summary["checkpoint"] == checkpoint_id(code / "policy_0")
    assert policy.summary["checkpoint"] == checkpoint_id(code / "policy_1"), "the same weights, bit for bit"
    won = (judged or evaluation).summary["win_rate_vs_sft"]
    assert read_json(code / "evaluation_1" / "result.json")["win_rate"] == won
    shown = Estimate(won["mean"], won["low"], won["high"])
    assert re.fullmatch(rf"round 1, win rate over .*: {re.escape(str(shown))}", said.splitlines()[-1])
