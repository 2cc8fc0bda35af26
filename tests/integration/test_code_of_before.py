"""A labelling that the code of November 2026 began goes on, on either database: same data set, nothing asked twice.

That code is taken from the project's own history.
"""

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from annotation.form import Form
from annotation.questions import Answer, to_screen
from tests.loop import make_loop
from tests.server_fixtures import ArgillaServer, add_annotator

pytestmark = [pytest.mark.slow, pytest.mark.full]

ROOT = Path(__file__).parents[2]
BEFORE = "67085fd59d77"
"""The last commit before stages and names moved."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = subprocess.run(
        ["git", "archive", BEFORE, "align", "annotation", "reward", "rollouts"], cwd=ROOT, capture_output=True
    )
    if done.returncode != 0:
        pytest.skip(f"this clone has no commit {BEFORE}: {done.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def align(code: Path, recipe: Path, *, expect: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "align", "run", str(recipe)],
        cwd=recipe.parent, env={**os.environ, "PYTHONPATH": str(code)}, text=True, capture_output=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == expect, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


class Annotator:
    """Answers the records of a run's only data set, one after the other."""

    def __init__(self, on: ArgillaServer, run: Path) -> None:
        identity = json.loads((run / "run.json").read_text())["id"]
        (self.workspace,) = (w for w in on.call("GET", "/me/workspaces")["items"] if w["name"].endswith(identity))
        self.on, self.given = on, 0
        _, self.key = add_annotator(on, f"kim-{identity}", self.workspace["name"])

    def datasets(self) -> list[str]:
        found = self.on.call("GET", "/me/datasets")["items"]
        return [d["id"] for d in found if d["workspace_id"] == self.workspace["id"]]

    def records(self) -> list[dict[str, Any]]:
        (dataset,) = self.datasets()
        return list(self.on.call("GET", f"/datasets/{dataset}/records", limit=100)["items"])

    def answer(self, count: int) -> None:
        items = []
        for record in self.records()[self.given : self.given + count]:
            shown = [int(i) for i in record["metadata"]["shown"].split(",")]
            values = to_screen(Answer(record["external_id"], "a"), shown, Form(ask=()))
            items.append({"record_id": record["id"], "status": "submitted", "values": values})
        replies = self.on.call("POST", "/me/responses/bulk", {"items": items}, key=self.key)["items"]
        assert not [reply["error"] for reply in replies if reply["error"]]
        self.given += count


def test_a_labelling_in_progress_goes_on(either_server: ArgillaServer, before: Path, tmp_path: Path) -> None:
    recipe = make_loop(tmp_path / "loop", either_server.home, sft=None)
    settings = json.loads(recipe.read_text())
    settings["annotate"] |= {"by": {"type": "people"}, "overlap": 1, "tasks": 10}
    recipe.write_text(json.dumps(settings))
    align(before, recipe, expect=75)
    run = recipe.parent / "runs" / "loop"
    kim = Annotator(either_server, run)
    asked, datasets = kim.records(), kim.datasets()
    kim.answer(4)
    assert "4 of 10 answers" in align(before, recipe, expect=75)
    kim.answer(2)
    assert "6 of 10 answers" in align(ROOT, recipe, expect=75)
    assert kim.datasets() == datasets and [r["id"] for r in kim.records()] == [r["id"] for r in asked]
    kim.answer(4)
    align(ROOT, recipe, expect=0)
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    judged = [event["task_id"] for event in events if event["type"] == "judgement"]
    assert len(judged) == 10 == len(set(judged))
