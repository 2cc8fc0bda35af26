"""The whole loop through the command line and the real Argilla server: undisturbed, killed, called again."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from align.pipeline.receipts import current
from align.pipeline.stage import Ref
from annotation import server
from tests.loop import align, kill_at, make_loop, rows, said
from tests.server_fixtures import ArgillaServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, argilla_server: ArgillaServer) -> Path:
    """A finished run of the small loop."""
    recipe = make_loop(tmp_path_factory.mktemp("loop") / "recipe", argilla_server.home)
    align("run", recipe, cwd=recipe.parent)
    return recipe


def run_of(recipe: Path) -> Path:
    return recipe.parent / "runs" / "loop"


def test_the_loop_ends_with_a_policy_a_win_rate_and_a_report(finished: Path) -> None:
    run = run_of(finished)
    data = json.loads(align("report", run, "--format", "json", cwd=finished.parent).stdout)
    (first,) = data["rounds"]
    assert first["labels"] == 40
    assert (
        0
        <= first["win_rate_vs_sft"]["low"]
        <= first["win_rate_vs_sft"]["mean"]
        <= first["win_rate_vs_sft"]["high"]
        <= 1
    )
    assert first["seconds"] > 0
    assert data["state"] == "finished"
    assert (run / "report.html").stat().st_size > 10_000
    policy, parent = current(run, Ref(1, "policy")), current(run, Ref(0, "policy"))
    assert policy is not None
    assert parent is not None
    assert policy.summary["parent"] == parent.summary["checkpoint"] != policy.summary["checkpoint"]
    assert policy.summary["step0_logp_difference"] < 1e-4
    answers = policy.summary["answers"]  # nobody's text was edited, and few answers hold tokens that no text has
    assert answers["as_sampled"] > 5 * answers["encoded"]
    assert len(list(run.glob("reference/*/*.parquet"))) == 1, "what the parent says of the pairs is kept"
    assert not [p for p in run.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")], "no pickle is published"


def test_a_finished_run_called_again_does_nothing_and_says_so_within_three_seconds(finished: Path) -> None:
    """Seconds of processor time, which a busy machine does not change much."""
    before = {p: p.stat().st_mtime_ns for p in run_of(finished).rglob("*") if p.is_file() and p.name != "lock"}
    align("run", finished, cwd=finished.parent)  # warms the file cache
    before_it = os.times()
    done = align("run", finished, cwd=finished.parent)
    after_it = os.times()
    seconds = after_it.children_user - before_it.children_user + after_it.children_system - before_it.children_system
    assert seconds < 3
    assert done.stdout.startswith("nothing to do: the run is finished")
    assert {p: p.stat().st_mtime_ns for p in run_of(finished).rglob("*") if p.is_file() and p.name != "lock"} == before


def test_dry_run_says_what_is_done_and_writes_nothing(finished: Path, tmp_path: Path) -> None:
    plan = json.loads(align("run", finished, "--dry-run", "--json", cwd=finished.parent).stdout)
    assert {entry["state"] for entry in plan} == {"done"}
    plan = json.loads(align("run", finished, "dpo.beta=0.7", "--dry-run", "--json", cwd=finished.parent).stdout)
    assert [e["stage"] for e in plan if e["state"] == "to run"] == ["1/policy", "1/evaluation"]
    align("run", finished, "--dry-run", "--runs", tmp_path / "runs", cwd=finished.parent)
    assert not (tmp_path / "runs").exists()


def test_samples_lineage_and_annotators_can_be_looked_at(finished: Path) -> None:
    run = run_of(finished)
    found = json.loads(align("samples", run, "--json", cwd=finished.parent).stdout)
    assert all(len(entry["answers"]) == 2 for entry in found if entry["labels"])
    judged = said(run)[0][0]
    traced = json.loads(align("lineage", run, judged, "--json", cwd=finished.parent).stdout)
    assert traced["kind"] == "judgement"
    assert len(traced["from"]["annotators"]) == 1
    state = json.loads(align("annotate", "status", run, "--json", cwd=finished.parent).stdout)
    assert (state["completed"], state["answers"], state["wanted"]) == (20, 40, 40)
    before = (run / "lineage.sqlite").read_bytes()
    (run / "lineage.sqlite").unlink()
    align("lineage", run, judged, cwd=finished.parent)
    assert (run / "lineage.sqlite").read_bytes() == before, "it is rebuilt from the receipts"


KILLS: list[tuple[str, str | float]] = [
    ("0/policy: start", "*/round_000/policy/*.partial/logs/metrics.jsonl"),
    ("1/rollouts: start", "*/round_001/rollouts/*.work/shards/*/*.parquet"),
    ("1/tasks: done", 0.0),
    ("1/labelling: start", 0.3),
    ("1/policy: start", "*/round_001/policy/*.partial/logs/metrics.jsonl"),
    ("1/evaluation: start", 1.0),
]


def test_kills_at_several_points_change_nothing(finished: Path, tmp_path: Path, argilla_server: ArgillaServer) -> None:
    """The runner is killed in SFT, in sampling, before, in and after the labelling; then the same command finishes."""
    shutil.copytree(finished.parent, tmp_path / "again", ignore=shutil.ignore_patterns("runs"))
    recipe = tmp_path / "again" / "recipe.yaml"
    killed = [line for line, sign in KILLS if kill_at(recipe, line, sign)]
    assert len(killed) >= 4, f"only {killed} were reached alive"
    align("run", recipe, cwd=recipe.parent)
    undisturbed, disturbed = run_of(finished), run_of(recipe)
    assert said(disturbed) == said(undisturbed)
    for name in ("rollouts/candidates", "tasks/tasks", "preferences/preferences"):
        stage, _, file = name.partition("/")
        assert rows(disturbed, 1, stage, f"{file}.parquet") == rows(undisturbed, 1, stage, f"{file}.parquet"), name
    policies = [current(run, Ref(1, "policy")) for run in (undisturbed, disturbed)]
    assert len({p.summary["checkpoint"] for p in policies if p is not None}) == 1, "the same weights, bit for bit"
    records = json.loads(align("server", "status", "--home", argilla_server.home, "--json", cwd=tmp_path).stdout)
    totals = [d["total"] for d in records["datasets"] if d["workspace"].startswith("loop-")]
    assert totals == [20, 20], "no record is pushed twice"


def test_the_server_killed_while_people_simulated_label(finished: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    recipe = make_loop(tmp_path / "recipe", home)
    runs = recipe.parent / "runs"
    shutil.copytree(finished.parent / "runs", runs)  # what came before the labelling is not the matter here
    shutil.rmtree(runs / "loop" / "round_001" / "snapshot")
    (runs / "loop" / "journal.jsonl").unlink()
    try:
        server.start(home)
        assert kill_at(recipe, "1/labelling: start", 0.8)
        running = server.status(home).pid
        assert running is not None
        os.kill(running, signal.SIGKILL)
        align("run", recipe, cwd=recipe.parent)
        assert said(run_of(recipe)) == said(run_of(finished))
    finally:
        server.stop(home)


def test_shut_out_by_a_running_process_and_by_a_missing_file(finished: Path, tmp_path: Path) -> None:
    done = align("run", finished, f"prompts.path={tmp_path}/none.jsonl", cwd=finished.parent, expect=2)
    assert "none.jsonl" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
