"""What a stage takes: one file, and its name in the plan. Everything that shows stages shows it then."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.config.load import load_recipe
from align.pipeline import runner
from align.pipeline.fingerprint import PRINTS, Fingerprints
from align.pipeline.receipts import Receipt, current, stage_folder
from align.pipeline.run import Run, create_run
from align.pipeline.stage import Ref, Step
from align.provenance.lineage import trace
from align.stages import names, plan
from align.store import read_table
from tests import toy_stage
from tests.loop import make_loop
from tests.unit.test_rounds import Nobody

ROOT = Path(__file__).parents[2]
ECHO = Ref(0, "echo")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plan, "PLAN", (plan.data, toy_stage, *plan.PLAN[1:]))
    make_loop(tmp_path, tmp_path / "home")
    return tmp_path / "recipe.yaml"


def do(recipe: Path, *changes: str) -> tuple[Run, runner.Outcome]:
    """The stages up to the new one."""
    run = create_run(load_recipe(recipe, list(changes)), recipe.parent / "runs")
    steps: list[Step] = plan.make_plan(run.recipe, Fingerprints(run.folder / PRINTS))
    upto = [step for step in steps if step.ref.stage in ("prompts", "echo")]
    return run, runner.go(run.folder, upto, Nobody(), lambda event: None)


def receipt_of(run: Run) -> Receipt:
    receipt = current(run.folder, ECHO)
    assert receipt is not None
    return receipt


def test_it_runs_and_is_found_again(recipe: Path) -> None:
    run, done = do(recipe)
    assert (done.state, done.ran) == ("finished", [Ref(0, "prompts"), ECHO])
    assert do(recipe)[1].ran == []
    receipt = receipt_of(run)
    answers = read_table(stage_folder(run.folder, ECHO) / receipt.key / "answers.parquet")
    assert answers.num_rows == receipt.summary["answers"] > 0


def test_every_command_shows_it(recipe: Path) -> None:
    run, _ = do(recipe)
    dry = CliRunner().invoke(app, ["run", str(recipe), "--runs", str(run.folder.parent), "--dry-run", "--json"])
    states = {row["stage"]: row["state"] for row in json.loads(dry.stdout)}
    assert (states["0/echo"], states["0/policy"]) == ("done", "to run")
    shown = CliRunner().invoke(app, ["status", str(run.folder)]).stdout
    assert "0/echo" in shown
    report = CliRunner().invoke(app, ["report", str(run.folder), "--format", "json"])
    assert [s["stage"] for s in json.loads(report.stdout)["stages"]] == ["prompts", "echo"]
    page = CliRunner().invoke(app, ["report", str(run.folder)])
    assert page.exit_code == 0 and "0/echo" in (run.folder / "report.html").read_text()
    answer = read_table(stage_folder(run.folder, ECHO) / receipt_of(run).key / "answers.parquet")["id"].to_pylist()[0]
    assert trace(run.folder, answer)["kind"] == "candidate"
    before = receipt_of(run).key
    do(recipe, "seed=12")
    cleaned = CliRunner().invoke(app, ["clean", str(run.folder), "--json"])
    assert [Path(row["path"]).name for row in json.loads(cleaned.stdout)] == [before]


def test_it_may_stop_the_run(recipe: Path) -> None:
    """What it found is published, and says so each time until something that it depends on changes."""
    for again in (False, True):
        run, done = do(recipe, "seed=13")
        assert (done.state, done.blocked, done.by) == ("blocked", "the echo is too loud", ECHO)
        assert (ECHO in done.ran) != again
    shown = json.loads(CliRunner().invoke(app, ["status", str(run.folder), "--json"]).stdout)
    assert (shown["state"], shown["state_text"]) == ("blocked", "0/echo stops the run: the echo is too loud.")
    everything = CliRunner().invoke(app, ["run", str(recipe), "seed=13", "--runs", str(run.folder.parent)])
    assert everything.exit_code == 76
    assert "0/echo stops the run: the echo is too loud" in everything.output
    assert do(recipe, "seed=12")[1].state == "finished"


def test_no_other_file_names_a_stage() -> None:
    """The names that mean nothing else: whoever needs one takes it from `align.stages.names`."""
    only = {names.SNAPSHOT, names.REWARD_CHECK, names.BLIND_RESULT, names.BLIND_SNAPSHOT}
    found = {}
    for file in [
        path for package in ("align", "annotation", "reward", "rollouts") for path in (ROOT / package).rglob("*.py")
    ]:
        said = {name for name in only if re.search(rf"[\"']{name}[\"']", file.read_text())}
        if said and file.parent.name != "stages" and file.name != "terms.py":  # the glossary of the help
            found[str(file)] = said
    assert found == {}


def test_declarations_are_light() -> None:
    """Lineage, forget, report and dry run read them, and load no torch."""
    import subprocess
    import sys

    program = "import sys, align.stages.plan; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"
