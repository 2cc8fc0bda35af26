"""The runner with light stages: keys, publishing, going on after a failure, doing nothing twice."""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, DataError, ServiceError, StageError
from align.pipeline import runner
from align.pipeline import stage_worker as worker
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.lock import run_lock
from align.pipeline.receipts import Receipt, current, partial_folder, published, stage_folder, stage_key
from align.pipeline.runner import Event, find_stage
from align.pipeline.stage import Declaration, Job, Ref, Stage, Step, Waiting
from align.progress import Progress
from align.provenance.clean import remove, unreachable

CALLS: list[str] = []


def write_number(job: Job, progress: Any) -> dict[str, Any]:
    CALLS.append(f"{job.round}/{job.stage}")
    before = sum(int((folder / "number").read_text()) for folder in job.inputs.values())
    (job.out / "number").write_text(str(before + job.settings["add"]))
    (job.out / "logs").mkdir(exist_ok=True)
    (job.out / "logs" / "calls").write_text(str(len(CALLS)))
    progress(1, 1)
    return {"add": job.settings["add"]}


def fail_once(job: Job, progress: Any) -> dict[str, Any]:
    marker = job.scratch / "tried"
    if not marker.exists():
        marker.write_text("yes")
        raise DataError("the row is empty", where="pairs.jsonl:7", hint="remove it")
    return write_number(job, progress)


class Nobody:
    """The people of a plan that asks none."""

    def closed(self, tasks: Receipt) -> str | None:
        raise AssertionError(tasks)

    def waits(self, tasks: Receipt, progress: Progress) -> Iterator[Waiting]:
        raise AssertionError(tasks)


@pytest.fixture(autouse=True)
def _light() -> None:
    CALLS.clear()


def stage(
    round: int, name: str, add: int, inputs: dict[str, Ref] | None = None, function: str = "write_number"
) -> Stage:
    declared = Declaration(name, f"{__name__}:{function}")
    return declared.stage(round, inputs=inputs or {}, settings={"add": add})


def chain(second: int = 2) -> list[Step]:
    first = stage(0, "first", 1)
    return [first, stage(1, "second", second, {"first": first.ref}), stage(1, "third", 3, {"second": Ref(1, "second")})]


def go(folder: Path, steps: list[Step]) -> list[str]:
    """Run the steps; the refs of those that were not done before."""
    return [str(ref) for ref in runner.go(folder, steps, Nobody(), lambda event: None).ran]


def number(folder: Path, round: int, name: str) -> str:
    receipt = current(folder, Ref(round, name))
    assert receipt is not None
    return (stage_folder(folder, receipt.ref) / receipt.key / "number").read_text()


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    assert go(tmp_path, chain()) == ["0/first", "1/second", "1/third"]
    assert number(tmp_path, 1, "third") == "6"
    assert go(tmp_path, chain()) == []
    assert len(CALLS) == 3


def test_a_changed_setting_redoes_what_depends_on_it_and_the_old_result_is_found_again(tmp_path: Path) -> None:
    go(tmp_path, chain())
    assert go(tmp_path, chain(second=5)) == ["1/second", "1/third"]
    assert number(tmp_path, 1, "third") == "9"
    assert go(tmp_path, chain()) == []
    assert number(tmp_path, 1, "third") == "6"


def test_logs_are_no_content(tmp_path: Path) -> None:
    """A stage done again with another log but the same content leaves what follows as it is."""
    go(tmp_path, chain())
    receipt = current(tmp_path, Ref(0, "first"))
    assert receipt is not None
    runner.archive(tmp_path, chain()[:1])
    assert go(tmp_path, chain()) == ["0/first"]
    again = current(tmp_path, Ref(0, "first"))
    assert again is not None
    assert again.output == receipt.output
    assert "logs/calls" not in again.files


def test_a_failed_stage_publishes_nothing_and_goes_on_from_its_scratch(tmp_path: Path) -> None:
    steps: list[Step] = [stage(0, "first", 1, function="fail_once")]
    with pytest.raises(DataError, match=r"pairs\.jsonl:7: the row is empty; remove it"):
        go(tmp_path, steps)
    assert current(tmp_path, Ref(0, "first")) is None
    assert go(tmp_path, steps) == ["0/first"]
    receipt = current(tmp_path, Ref(0, "first"))
    assert receipt is not None
    assert set(receipt.files) == {"number"}, "scratch is not published"
    assert {path.name for path in stage_folder(tmp_path, Ref(0, "first")).iterdir()} == {receipt.key, "current"}


def test_work_under_another_key_is_not_left_without_a_word(tmp_path: Path) -> None:
    def told(add: int, rate: float) -> list[str]:
        settings = {"add": add, "dpo": {"learning_rate": rate, "text": "x" * 100 * add}}
        steps: list[Step] = [replace(stage(0, "first", add, function="fail_once"), settings=settings)]
        said: list[Event] = []
        with pytest.raises(DataError):
            runner.go(tmp_path, steps, Nobody(), said.append)
        return [event.text for event in said if event.kind == "note"]

    assert told(1, 1e-5) == []
    wanted = (
        "starts over; 0.1 MiB of unfinished work were made with other settings ({}): with those again the stage goes on from "
        "there, and `align clean` removes it"
    )
    assert told(1, 1e-6) == [wanted.format("dpo.learning_rate: 1e-05 then, 1e-06 now")]
    old = next(tmp_path.rglob("*.work"))
    for folder in tmp_path.rglob("*.work"):
        if folder != old:
            (folder / "tried").unlink()  # begun, and nothing is done there
    (old / "made_from.json").write_text("{")
    (first,) = told(2, 1e-6)
    assert first == wanted.format("by an earlier version, or its note is damaged")
    for folder in tmp_path.rglob("*.work"):
        if folder == old:
            (folder / "tried").unlink()
    (second,) = told(3, 1e-6)
    assert "(add: 2 then, 3 now, another dpo.text)" in second


def test_a_kill_while_publishing_loses_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    steps: list[Step] = [stage(0, "first", 1, function="fail_once")]
    with pytest.raises(DataError):
        go(tmp_path, steps)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("align.pipeline.receipts.publish", killed)
        go(tmp_path, steps)
    (scratch,) = stage_folder(tmp_path, Ref(0, "first")).glob("*.work")
    assert (scratch / "tried").read_text() == "yes"
    assert go(tmp_path, steps) == ["0/first"]
    assert not scratch.exists()


def test_a_receipt_says_from_what_by_what_and_what_came_out(tmp_path: Path) -> None:
    go(tmp_path, chain())
    first, second = current(tmp_path, Ref(0, "first")), current(tmp_path, Ref(1, "second"))
    assert first is not None
    assert second is not None
    assert second.inputs == {"first": {"stage": "first", "round": 0, "key": first.key, "output": first.output}}
    assert second.settings == {"add": 2}
    assert second.key == stage_key(chain()[1], {"first": first})  # type: ignore[arg-type]
    assert {"align", "python", "torch"} <= set(second.code)


def test_clean_removes_what_no_pointer_reaches(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    go(tmp_path, chain(second=5))
    go(tmp_path, chain())
    partial_folder(tmp_path, Ref(1, "second"), "0" * 32)
    found = [path for path, _ in unreachable(tmp_path)]
    assert len(found) == 3
    assert [path for path, _ in remove(tmp_path)] == found
    assert unreachable(tmp_path) == []
    assert number(tmp_path, 1, "third") == "6"


def _hold(folder: Path, ready: Any, leave: Any) -> None:
    with run_lock(folder):
        ready.set()
        leave.wait(30)


def test_one_writer_and_a_dead_holder_is_no_obstacle(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, leave))
    holder.start()
    assert ready.wait(30)
    with (
        pytest.raises(ServiceError, match=rf"another process works on this run: process {holder.pid} on"),
        run_lock(tmp_path),
    ):
        pass
    holder.kill()
    holder.join()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == holder.pid, "its name is still there"
    with run_lock(tmp_path):
        pass


def test_fingerprints_see_a_change_and_remember_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    memory = tmp_path / "fingerprints.json"
    prints = Fingerprints(memory)
    first = prints.of(folder)
    prints.save()
    assert Fingerprints(memory).of(folder) == first
    (folder / "weights").write_bytes(b"22")
    assert Fingerprints(memory).of(folder) != first


def job_of(folder: Path, **settings: Any) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(1, "policy", {}, settings, {"threads": 1}, folder)


def test_an_error_crosses_from_the_subprocess_with_its_kind(tmp_path: Path) -> None:
    """A real child process: the prompts' file is missing there."""
    job = replace(job_of(tmp_path / "out", limit=None, test_share=0.2), runtime={"path": str(tmp_path / "no.jsonl")})
    with pytest.raises(DataError, match=r"there is no .*no\.jsonl"):
        worker.run_apart("align.stages.data:prompts", job, lambda done, total: None)


def test_a_defect_in_a_subprocess_names_the_log_and_shows_no_traceback(tmp_path: Path) -> None:
    job = job_of(tmp_path / "out")
    with pytest.raises(StageError) as caught:
        worker.run_apart("align.stages.data:prompts", job, lambda done, total: None)
    assert "KeyError" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" in (tmp_path / "out" / "logs" / "stage.log").read_text()


def test_an_unknown_stage_after_from_names_those_there_are() -> None:
    assert find_stage(chain(), "1/third") == 2
    assert find_stage(chain(), "second") == 1
    with pytest.raises(ConfigError, match="0/first, 1/second, 1/third"):
        find_stage(chain(), "fourth")


def test_published_is_none_for_a_half_made_folder(tmp_path: Path) -> None:
    partial_folder(tmp_path, Ref(0, "first"), "k")
    assert published(tmp_path, Ref(0, "first"), "k") is None


def test_events_tell_what_happened(tmp_path: Path) -> None:
    told: list[Event] = []
    runner.go(tmp_path, chain()[:1], Nobody(), told.append)
    runner.go(tmp_path, chain()[:1], Nobody(), told.append)
    assert [event.kind for event in told] == ["start", "progress", "done", "kept"]
    assert isinstance(current(tmp_path, Ref(0, "first")), Receipt)
