"""Which folder a run has: named after its recipe's folder, and nobody else's."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.cli.chat import newest_policy
from align.cli.recipes import copy_recipe
from align.cli.status import session_or_run
from align.config.load import load_recipe
from align.errors import ConfigError, DataError
from align.ids import content_id, with_check
from align.pipeline import hub
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.hub import with_commit
from align.pipeline.receipts import current, point_to, stage_folder
from align.pipeline.run import create_run, find_run, noted, open_run, planned_run
from align.pipeline.stage import Ref, Stage
from align.provenance.lineage import trace
from align.report.data import report_data
from align.stages.plan import make_plan
from align.store import read_json, write_json
from tests.fake_run import make_run


def copied(folder: Path, name: str = "own-model") -> Path:
    return copy_recipe(name, folder)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("my-loop", "my-loop"), ("Mein Modell (2)", "Mein-Modell-2"), ("v1.2_b", "v1.2_b"), (".x", "x")],
)
def test_a_run_is_named_after_its_recipes_folder(tmp_path: Path, folder: str, name: str) -> None:
    recipe = copied(tmp_path / folder)
    assert load_recipe(recipe).recipe.name == name
    assert load_recipe(recipe, ["name=other"]).recipe.name == "other"


def test_a_folder_without_a_name_that_a_run_can_have(tmp_path: Path) -> None:
    recipe = copied(tmp_path / "模型")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: name: .*found ''"):
        load_recipe(recipe)


def test_two_copies_of_a_recipe_have_two_runs(tmp_path: Path) -> None:
    runs = [create_run(load_recipe(copied(tmp_path / name)), tmp_path / "runs") for name in ("one", "two")]
    assert [run.folder for run in runs] == [tmp_path / "runs" / "one", tmp_path / "runs" / "two"]
    assert runs[0].id != runs[1].id


def test_another_recipes_run_is_not_taken_over(tmp_path: Path) -> None:
    one, two = (load_recipe(copied(tmp_path / name), ["name=shared"]) for name in ("one", "two"))
    first = create_run(one, tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    for take in (create_run, planned_run):
        with pytest.raises(ConfigError) as caught:
            take(two, tmp_path / "runs")
        assert str(caught.value) == (
            f"{first.folder} is the run of another recipe, {tmp_path / 'one' / 'recipe.yaml'}; give this one another name "
            "(`name: …` in the recipe, or name=… behind it), or another --runs"
        )
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before


def test_a_recipe_whose_folder_was_moved_keeps_its_run(tmp_path: Path) -> None:
    first = create_run(load_recipe(copied(tmp_path / "one"), ["name=mine"]), tmp_path / "runs")
    (tmp_path / "one").rename(tmp_path / "two")
    again = create_run(load_recipe(tmp_path / "two", ["name=mine"]), tmp_path / "runs")
    assert again.id == first.id
    assert noted(first.folder)["recipe"] == "../../two"


def test_a_recipe_and_its_run_that_are_copied_together_go_on(tmp_path: Path) -> None:
    first = create_run(load_recipe(copied(tmp_path / "here" / "one")), tmp_path / "here" / "runs")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    again = create_run(load_recipe(tmp_path / "there" / "one"), tmp_path / "there" / "runs")
    assert (again.id, again.folder) == (first.id, tmp_path / "there" / "runs" / "one")


def test_a_run_of_a_version_that_noted_no_recipe_goes_on(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text('{"id": "0123abcd"}')
    assert create_run(load_recipe(copied(tmp_path / "one")), tmp_path / "runs").id == "0123abcd"


def test_a_folder_that_is_no_run_is_not_made_one(tmp_path: Path) -> None:
    recipe = load_recipe(copied(tmp_path / "one"))
    with pytest.raises(
        ConfigError, match=re.escape(f"{tmp_path / 'one'} is there already, and is no run; give the recipe")
    ):
        create_run(recipe, tmp_path)
    assert not (tmp_path / "one" / "resolved.yaml").exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"id": 3}', b'{"id": ".."}', b"\xff"])
def test_a_damaged_id_is_said(tmp_path: Path, text: bytes) -> None:
    recipe = load_recipe(copied(tmp_path / "one"))
    run = create_run(recipe, tmp_path / "runs").folder
    (run / "run.json").write_bytes(text)
    for take in (lambda: create_run(recipe, tmp_path / "runs"), lambda: open_run(run)):
        with pytest.raises(
            DataError, match=r"run\.json: this file does not hold the run's id; put it back from a copy, or"
        ):
            take()


@pytest.mark.parametrize("name", ["env.json", "resolved.yaml", "recipe.yaml"])
def test_what_is_written_anew_may_be_damaged(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(copied(tmp_path / "one"))
    run = create_run(recipe, tmp_path / "runs").folder
    whole = (run / name).read_bytes()
    for damaged in (b"", b"\xff\xfe", whole[: len(whole) // 2]):
        (run / name).write_bytes(damaged)
        create_run(recipe, tmp_path / "runs")
        assert (run / name).read_bytes() == whole


def test_a_hub_models_commit_is_in_the_key_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = ["a" * 40, "b" * 40]
    monkeypatch.setattr(hub, "find_commit", lambda name, revision: commits[0])
    keys = []
    for folder in ("one", "two", "one"):
        recipe = tmp_path / folder if (tmp_path / folder).is_dir() else copied(tmp_path / folder)
        run = with_commit(create_run(load_recipe(recipe), tmp_path / "runs"))
        (policy,) = (
            step for step in make_plan(run.recipe, Fingerprints(tmp_path / "none"))
            if isinstance(step, Stage) and str(step.ref) == "0/policy"
        )  # fmt: skip
        keys.append(policy.files["model"])
        commits.reverse()
    name = "hub:Qwen/Qwen2.5-0.5B-Instruct@"
    assert keys == [name + "a" * 40, name + "b" * 40, name + "a" * 40]


def test_a_look_at_the_plan_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_commit", lambda name, revision: pytest.fail("the Hub was asked"))
    run = planned_run(load_recipe(copied(tmp_path / "one")), tmp_path / "runs")
    assert with_commit(run, look=False) == run
    named = planned_run(load_recipe(tmp_path / "one", [f"model.revision={'c' * 40}"]), tmp_path / "runs")
    assert with_commit(named) == named
    assert not (tmp_path / "runs").exists()


def test_the_commit_of_a_cached_model_is_known_without_network(tmp_path: Path) -> None:
    """As huggingface_hub lays its cache out; in a process of its own, since it reads its settings at import."""
    cache, commit = tmp_path / "models--owner--name", "0123456789abcdef0123456789abcdef01234567"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / "snapshots" / commit / "config.json").write_text("{}")
    program = "from align.pipeline.hub import find_commit; print(find_commit('owner/name', None)); find_commit('owner/other', None)"
    settings = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.stdout == commit + "\n"
    assert "ServiceError: model.path: 'owner/other' is no local folder, and the Hub cannot be reached" in done.stderr


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    recipe = copied(tmp_path / "one")
    for first in (True, False):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        done = CliRunner().invoke(app, ["run", str(recipe), "--runs", str(tmp_path / "runs"), "--dry-run"])
        assert done.exit_code == 0 and "0/policy" in done.output
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        if first:
            create_run(load_recipe(recipe), tmp_path / "runs")


def test_verbs_that_look_take_the_recipes_folder(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", rounds=1, name="mine")
    copied(tmp_path / "mine")
    with chdir(tmp_path):
        for verb in (["status"], ["report", "--format", "text"], ["samples"], ["lineage", "ada"], ["clean"]):
            name, *options = verb
            outputs = [CliRunner().invoke(app, [name, folder, *options]).output for folder in ("mine", "runs/mine")]
            assert outputs[0] == outputs[1] and "there is no" not in outputs[0]
        done = CliRunner().invoke(app, ["status", str(copied(tmp_path / "other"))])
    assert str(done.exception).startswith("runs/other: there is no run (no resolved.yaml)")


def test_lineage_takes_a_models_stage_key_and_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    receipt = current(run, Ref(1, "policy"))
    assert receipt is not None
    folder = stage_folder(run, receipt.ref) / receipt.key
    found = trace(run, receipt.summary["checkpoint"])
    assert found["kind"] == "checkpoint"
    for name in ("1/policy", receipt.key, receipt.key[:8], str(folder)):
        assert trace(run, name) == found
    with pytest.raises(ConfigError, match="nothing in this run has the id '7/policy'"):
        trace(run, "7/policy")


def test_every_verb_that_looks_finds_the_run_by_its_recipe_its_folder_or_a_path_inside(tmp_path: Path) -> None:
    recipe = copied(tmp_path / "my-loop")
    with chdir(tmp_path):
        run = make_run(Path("runs"), rounds=2)
        run = run.rename("runs/my-loop")
        policy = next(path for path in (run / "round_001" / "policy").iterdir() if path.is_dir())
        inside = [run / "round_001", policy, run / "journal.jsonl", policy / "receipt.json"]
        for path in (recipe, recipe / "recipe.yaml", Path("my-loop"), run, *inside):
            assert find_run(path) == run, path
            for verb in (
                ["status"],
                ["samples", "--limit", "1"],
                ["lineage", "1/policy"],
                ["report", "--format", "text"],
            ):
                done = CliRunner().invoke(app, [verb[0], str(path), *verb[1:]])
                assert done.exit_code == 0 and done.exception is None, (verb, path, done.exception)
        assert find_run(Path("my-loop")) == Path("runs/my-loop")
        assert [find_run(tmp_path / name) for name in ("absent", "runs")] == [None, None]
        session = run / "own-questions"
        session.mkdir()
        assert [session_or_run(path) for path in (Path("my-loop"), session)] == [run, run]
        (session / "session.json").write_text("{}")
        assert session_or_run(session) == session, "it asks on its own account"
        with chdir(run / "round_002"):
            assert find_run(Path("policy")) == tmp_path / run
            assert find_run(Path("org/model")) is None, "a Hub id is no place in the run where one happens to be"
        latest = newest_policy(run)
        assert latest is not None and latest.parent.parent.name == "round_002"
        assert [newest_policy(path) for path in (Path("my-loop"), recipe / "recipe.yaml")] == [latest, latest]
        assert newest_policy(run / "round_001") == policy
        with pytest.raises(ConfigError, match=r"there is no policy in runs/my-loop/round_001/snapshot yet"):
            newest_policy(run / "round_001" / "snapshot")
        (policy / "config.json").write_text("{}")
        assert newest_policy(policy) is None, "a checkpoint means itself"


def test_a_part_of_a_run_is_not_cleaned_as_the_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    done = CliRunner().invoke(app, ["clean", str(run / "round_001")])
    assert isinstance(done.exception, ConfigError) and "there is no run in" in str(done.exception)


def test_a_stage_done_anew_with_the_same_result_leaves_the_report_whole(tmp_path: Path) -> None:
    """It is younger than what was made from the old one, which is valid all the same."""
    run = make_run(tmp_path / "runs", rounds=1)
    before = report_data(run)
    rollouts = current(run, Ref(1, "rollouts"))
    assert rollouts is not None
    old = stage_folder(run, rollouts.ref) / rollouts.key
    again = old.with_name(content_id("another key"))
    shutil.copytree(old, again)
    told = {**read_json(again / "receipt.json"), "key": again.name, "started": "2026-12-01", "ended": "2026-12-01"}
    write_json(again / "receipt.json", with_check({name: value for name, value in told.items() if name != "check"}))
    point_to(run, rollouts.ref, again.name)
    after = report_data(run)
    for data in (before, after):
        data["rounds"][0]["seconds"] = round(data["rounds"][0]["seconds"], 3)  # a sum in another order
    assert (after["state"], after["notes"], after["rounds"]) == (before["state"], before["notes"], before["rounds"])
    assert len(after["stages"]) == len(before["stages"])
