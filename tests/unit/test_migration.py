"""Runs that the code of November 2026 made (`tests/data/runs_2026_11.tar.xz`) go on under the names of today.

`pairs` asked three personas about 8 pairs and trained by DPO; `thumbs` trained by KTO on a file; `killed` is `thumbs` with
more epochs, killed in its training, without its checkpoint's pickles.
"""

import contextlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.config.load import load_recipe
from align.errors import ConfigError, DataError
from align.ids import with_check
from align.labelling.session import has_session, journal_of, session_of_round
from align.pipeline import migration
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.intact import require_whole
from align.pipeline.receipts import Receipt, current, pointers, stage_key
from align.pipeline.run import create_run, open_run, require_run
from align.pipeline.stage import Ref, Stage
from align.provenance.lineage import trace
from align.stages.plan import make_plan
from align.store import read_json, read_table, write_json
from annotation.journal import read_journal

MADE = Path(__file__).parents[1] / "data" / "runs_2026_11.tar.xz"
NAMES = {'"thumbs": {': '"binary": {', '"resample"': '"max_resamples"', '"noise"': '"label_noise"'}
NAMES |= {'"desensitised"': '"ld"', '"length_alpha"': '"ld_alpha"'}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    with tarfile.open(MADE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def recipe_of(folder: Path) -> Path:
    """The recipe as its owner writes it today."""
    path = folder / "recipe.yaml"
    text = path.read_text()
    for old, new in NAMES.items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


def run_of(folder: Path) -> Path:
    return folder / "runs" / folder.name


def align(*arguments: str | Path, expect: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == expect, done.output
    return done.output


def tree(run: Path) -> dict[str, Any]:
    """What a run's folders hold, logs and times of the move aside."""
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in ("lock", "run.json")]
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


@pytest.mark.parametrize("name", ["pairs", "thumbs"])
def test_a_finished_run_has_nothing_to_do(made: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made / name)
    before = {str(ref): current(run_of(made / name), ref).summary for ref, _ in pointers(run_of(made / name))}  # type: ignore[union-attr]
    assert "nothing to do: the run is finished" in align("run", recipe_of(made / name))
    run = run_of(made / name)
    after = {str(ref): current(run, ref).summary for ref, _ in pointers(run)}  # type: ignore[union-attr]
    assert {ref.replace("selection", "tasks"): s.get("checkpoint") for ref, s in before.items()} == {
        ref: s.get("checkpoint") for ref, s in after.items()
    }
    assert (
        not list(run.rglob("*selection*")) and not list(run.rglob("*thumbs*")) and not (run / migration.PLAN).exists()
    )
    assert align("clean", run).startswith("0 folders")


def test_what_was_said_is_traced_counted_and_shown(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(made / "pairs")
    data = json.loads(align("report", run, "--format", "json"))
    assert caplog.messages == [
        f"{run} was made by an earlier version: its stages and settings have the names of today now"
    ]
    assert [f"{s['round']}/{s['stage']}" for s in data["stages"] if s["round"] == 1] == [
        *("1/rollouts", "1/tasks", "1/snapshot", "1/preferences", "1/policy", "1/evaluation"),
    ]
    assert data["rounds"][0]["labels"] == 8
    assert set(data["rounds"][0]["suggestion_effect"]) == {"shown", "not_shown", "effect"}
    (judged, *_) = read_journal(run / "journal.jsonl").latest.values()
    assert trace(run, judged.id)["into"]["checkpoints"]
    assert open_run(run).recipe.dpo.model_dump(include={"label_noise", "length", "ld_alpha"}) == {  # type: ignore[union-attr]
        "label_noise": 0.1, "length": "ld", "ld_alpha": 0.3,
    }  # fmt: skip
    labels = current(run_of(made / "thumbs"), Ref(1, "preferences"))
    assert labels is not None and "thumbs.parquet" in labels.files
    require_run(run_of(made / "thumbs"))
    labels = current(run_of(made / "thumbs"), Ref(1, "preferences"))
    assert labels is not None and labels.summary["binary"] == 24
    folder = run_of(made / "thumbs") / "round_001" / "preferences" / labels.key
    assert read_table(folder / "binary.parquet").num_rows == 24


def test_a_labelling_in_progress_is_the_same_one(made: Path) -> None:
    """As it was on the server: the same workspace, data set and tasks, and what was said counts."""
    run = open_run(run_of(made / "pairs"))
    asked = current(run.folder, Ref(1, "tasks"))
    assert asked is not None
    session = session_of_round(run, asked)
    assert (session.workspace, session.dataset) == ("pairs-cc5ad84a", "round-1-464c8d84")
    assert len(journal_of(session).judgements([task.id for task in session.tasks], asked.output)) == 8


def test_unfinished_work_lies_under_the_key_that_is_looked_for(made: Path) -> None:
    run = create_run(load_recipe(recipe_of(made / "killed"), []), made / "killed" / "runs")
    receipts: dict[Ref, Receipt] = {}
    for step in make_plan(run.recipe, Fingerprints(made / "prints.json")):
        assert isinstance(step, Stage)
        receipt = current(run.folder, step.ref)
        if receipt is None:
            break
        receipts[step.ref] = receipt
    assert str(step.ref) == "1/policy"
    key = stage_key(step, {name: receipts[ref] for name, ref in step.inputs.items()})
    assert {path.name for path in (run.folder / "round_001" / "policy").iterdir()} == {f"{key}.partial", f"{key}.work"}


class Kill(BaseException):
    """Ends a migration as SIGKILL would: nothing is cleaned up."""


@pytest.mark.parametrize("name", ["pairs", "thumbs", "killed"])
def test_killed_anywhere_it_goes_on(made: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_run(run_of(made / name))
    wanted, replace_file, rename = tree(run_of(made / name)), migration.replace_file, Path.rename
    for step in range(1, 1000, 2):
        with tarfile.open(MADE) as archive:
            archive.extractall(made / str(step), filter="data")
        run, left = run_of(made / str(step) / name), step

        def counted(do: Any) -> Any:
            def counting(*arguments: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Kill
                return do(*arguments)

            return counting

        with monkeypatch.context() as patch:
            for place in ("align.pipeline.migration.replace_file", "align.store.replace_file"):
                patch.setattr(place, counted(replace_file))
            patch.setattr(Path, "rename", counted(rename))
            with contextlib.suppress(Kill):
                require_run(run)
        require_run(run)
        assert tree(run) == wanted
        assert not (run / migration.PLAN).exists() and read_json(run / "run.json")["layout"] == 2
        if left > 0:
            break
    assert step > 8


def test_a_trainers_checkpoint_is_of_the_same_training(made: Path) -> None:
    """What it was made from has the names of today, its model's folder among it; else it would be thrown away."""
    run = run_of(made / "killed")
    (work,) = run.glob("round_001/policy/*.work")
    (path,) = work.glob("checkpoint-*/complete.json")
    mark = read_json(path)
    labels = next(run.glob("round_001/preferences/*/receipt.json")).parent.name
    mark["inputs"] |= {
        "model": f"runs/killed/round_001/policy/{labels}",
        "settings": {"noise": 0.1, "length": "desensitised"},
    }
    write_json(path, mark)
    require_run(run)
    (path,) = run.glob("round_001/policy/*.work/checkpoint-*/complete.json")
    now = next(run.glob("round_001/preferences/*/receipt.json")).parent.name
    inputs = read_json(path)["inputs"]
    assert now != labels and inputs["model"] == f"runs/killed/round_001/policy/{now}"
    assert inputs["settings"] == {"label_noise": 0.1, "length": "ld"}


def test_what_lies_behind_a_link_is_left_alone(made: Path) -> None:
    run, outside = run_of(made / "thumbs"), made / "outside"
    (run / "round_001" / "preferences").rename(outside)
    (run / "round_001" / "preferences").symlink_to(outside)
    before = sorted(path.name for path in outside.rglob("*"))
    require_run(run)
    assert sorted(path.name for path in outside.rglob("*")) == before


def test_a_damaged_file_stays_damaged(made: Path) -> None:
    run = run_of(made / "pairs")
    (path,) = run.glob("round_001/preferences/*/agreement.json")
    path.write_text("{")
    require_run(run)
    receipt = current(run, Ref(1, "preferences"))
    with pytest.raises(DataError, match=r"agreement\.json"):
        require_whole(run, [receipt] if receipt else [], known=False)


def test_a_damaged_receipt_is_left_as_it_is(made: Path) -> None:
    run = run_of(made / "pairs")
    (path,) = run.glob("round_001/selection/*/receipt.json")
    path.write_text("{")
    require_run(run)
    with pytest.raises(DataError, match="the receipt of 1/tasks is damaged"):
        current(run, Ref(1, "tasks"))


def test_a_run_of_a_later_version_is_refused(made: Path) -> None:
    run = run_of(made / "pairs")
    write_json(run / "run.json", with_check({**read_json(run / "run.json"), "layout": 3}))
    with pytest.raises(ConfigError, match=r"a later version of align made this run \(layout 3\)"):
        require_run(run)


def test_a_session_of_ones_own_goes_on(tmp_path: Path) -> None:
    (tmp_path / "desk.json").write_text('{"name": "of somebody else"}')
    assert not has_session(tmp_path) and (tmp_path / "desk.json").is_file()
    write_json(tmp_path / "desk.json", {"tasks_id": "t", "workspace": "w"})
    (tmp_path / "thumbs.jsonl").write_text("{}\n")
    assert has_session(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"session.json", "binary.jsonl"}
    assert not has_session(tmp_path / "none")
