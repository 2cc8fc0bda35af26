"""The quick start keeps its promises: the model gets better, in time, and not when there is nothing to learn."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.loop import align, said
from tests.server_fixtures import ArgillaServer

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]
RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import subprocess

    folder = tmp_path_factory.mktemp("quickstart") / "support-desk"
    shutil.copytree(RECIPES / "support-desk", folder, ignore=shutil.ignore_patterns("data"))
    subprocess.run([sys.executable, folder / "world.py"], check=True)
    return folder


def run(session: Path, server: ArgillaServer, name: str, *overrides: str) -> dict[str, Any]:
    arguments = [f"name={name}", f"annotate.server={{type: embedded, home: {server.home}}}", *overrides]
    align("run", session, *arguments, cwd=session.parent)
    found: dict[str, Any] = json.loads(
        align("report", session.parent / "runs" / name, "--json", cwd=session.parent).stdout
    )
    return found


def test_three_rounds_beat_sft_within_eight_minutes(session: Path, argilla_server: ArgillaServer) -> None:
    start = time.monotonic()
    data = run(session, argilla_server, "three")
    assert time.monotonic() - start < 480
    assert data["rounds"][2]["win_rate_vs_sft"]["low"] > 0.6
    demonstrations = data["sft"]["demonstrations"]
    assert data["sft"]["mean_score"]["mean"] >= demonstrations["mean"] - 0.2 * demonstrations["sd"]
    assert all(sample["first"]["text"] for sample in data["samples"]["rows"])


def test_shuffled_labels_teach_nothing(session: Path, argilla_server: ArgillaServer) -> None:
    data = run(session, argilla_server, "shuffled", "annotate.by.shuffle_labels=true")
    interval = data["rounds"][2]["win_rate_vs_sft"]
    assert interval["low"] <= 0.5 <= interval["high"]
    outcomes = [outcome for *_, outcome in said(session.parent / "runs" / "shuffled")]
    assert outcomes.count("a") > 100 < outcomes.count("b")
