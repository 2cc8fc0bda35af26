"""Every shipped recipe, as `align init` copies it, runs for two optimiser steps; and run.py gives the same result."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.cli.recipes import shipped
from align.rounds.stage import Ref, current
from align.store import checkpoint_id, read_json
from tests.loop import align
from tests.server_fixtures import ArgillaServer
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow

SMALL = [
    "threads=1",
    "rounds=1",
    "rollouts.type=transformers",
    "rollouts.prompts=8",
    "rollouts.max_tokens=12",
    "evaluate.prompts=6",
    "evaluate.max_tokens=12",
    "dpo.learning_rate=1e-2",  # so that two steps show
    "dpo.batch_size=4",
    "dpo.trainer={max_steps: 2}",
]
SCORER = "annotate.by={type: personas, utility: score.py:score, personas: [{name: scorer}]}"


def small_world(folder: Path) -> list[str]:
    sizes = ["--demonstrations", "200", "--prompts", "120"]
    subprocess.run([sys.executable, folder / "world.py", *sizes], check=True, capture_output=True)
    return ["sft.trainer={max_steps: 2}"]


def tiny_model(folder: Path) -> list[str]:
    """The one-line change: another model's path; type and adapter stay as they are shipped."""
    make_tiny_model(folder / "tiny", vocab_words=["bread", "water", "story"])
    return ["model.path=./tiny", SCORER]


PREPARE = {"support-desk": small_world, "own-model": tiny_model}


def test_every_shipped_recipe_is_tried() -> None:
    assert PREPARE.keys() == shipped().keys()


@pytest.mark.parametrize("name", PREPARE)
def test_a_copy_runs_and_run_py_gives_the_same_policy(name: str, tmp_path: Path, argilla_server: ArgillaServer) -> None:
    align("init", name, "mine", cwd=tmp_path)
    server = f"annotate.server={{type: embedded, home: {argilla_server.home}}}"
    changes = [*SMALL, *PREPARE[name](tmp_path / "mine"), server]

    align("run", "mine", *changes, cwd=tmp_path)
    run = tmp_path / "runs" / name
    policy = current(run, Ref(1, "policy"))
    assert policy is not None and policy.summary["steps"] == 2
    assert (run / "report.html").stat().st_size > 10_000
    first = current(run, Ref(0, "policy"))
    assert first is not None and first.summary["checkpoint"] != policy.summary["checkpoint"]

    in_code = [sys.executable, tmp_path / "mine" / "run.py", *changes]
    done = subprocess.run(in_code, cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (p for p in (tmp_path / "runs").iterdir() if p != run)
    assert checkpoint_id(folder / "policy_1") == policy.summary["checkpoint"], "the same weights, bit for bit"
    won = result(run)["win_rate_vs_sft"]
    assert read_json(folder / "evaluation_1" / "result.json")["win_rate_vs_sft"] == won
    assert re.search(rf"^round 1, win rate over .*'mean': {won['mean']}, ", done.stdout, re.MULTILINE)


def result(run: Path) -> dict[str, Any]:
    found = current(run, Ref(1, "evaluation"))
    assert found is not None
    return found.summary
