"""Progress lines: what training says of itself, and an honest estimate of the time left."""

import io
from types import SimpleNamespace
from typing import Any

import pytest

from align.cli import display
from align.cli.display import counting, telling
from align.pipeline.runner import Event
from align.pipeline.stage import Ref
from align.pipeline.subprocess_runner import _told
from align.progress import TimeLeft, besides, line


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_said_of_the_time_left_before_there_is_an_estimate() -> None:
    clock = Clock()
    left, found = TimeLeft(clock), []
    for done, now in ((1, 20.0), (2, 21.0), (3, 22.0), (4, 24.0), (9, 29.0), (10, 30.0)):
        clock.now = now
        found.append(left.seconds(done, 10))
    # the first step took 20 s of warming up, which the others do not; at 3 only two seconds were seen
    assert found == [None, None, None, pytest.approx(4 / 3 * 6), pytest.approx(9 / 8), None]


def test_steps_of_before_a_kill_and_other_work_do_not_count() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    for done, now in ((80, 0.0), (82, 10.0)):
        clock.now = now
        estimate = left.seconds(done, 100)
    assert estimate == pytest.approx(5.0 * 18), "eighty steps took no time of this process"
    clock.now = 11.0
    assert left.seconds(1, 40) is None, "sampling is over, training begins"
    assert left.seconds(1, 100) is None


def test_a_line_has_what_is_known() -> None:
    assert line("dpo", 3, 40, "loss 0.6931", 75) == "dpo: 3 of 40; loss 0.6931; about 1 min 15 s left"
    assert line("rollout", 3, 40, "", None) == "rollout: 3 of 40"
    assert besides("reward −0.25", None) == "reward −0.25"
    assert (besides("", 3.2), besides("", 59.5)) == ("about 4 s left", "about 1 min 0 s left")


def test_a_verb_says_loss_and_time_left_on_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(display.time, "monotonic", clock)
    stream = io.StringIO()
    with counting("dpo", stream) as tell:
        for done in range(1, 5):
            clock.now += 4.0
            tell(done, 4, f"loss 0.{9 - done}\x1b")
    assert stream.getvalue() == "dpo: 2 of 4; loss 0.7\\x1b\ndpo: 4 of 4; loss 0.5\\x1b\n"
    with counting("dpo", stream := io.StringIO()) as tell:
        for done in range(1, 101):
            clock.now += 4.0
            tell(done, 100, "loss 0.5")
    assert stream.getvalue().splitlines()[3] == "dpo: 8 of 100; loss 0.5; about 6 min 8 s left"


def test_a_run_without_a_terminal_says_so_too_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    clock = Clock()
    monkeypatch.setattr(display.time, "monotonic", clock)
    with telling() as tell:
        tell(Event("start", Ref(1, "policy")))
        for done in range(1, 20):
            clock.now += 10.0
            tell(Event("progress", Ref(1, "policy"), done, 20, text="reward 0.4120"))
        tell(Event("done", Ref(1, "policy"), seconds=200))
    assert capsys.readouterr().err.splitlines() == [
        "1/policy: start",
        "1/policy: 3 of 20; reward 0.4120; about 2 min 50 s left",
        "1/policy: 6 of 20; reward 0.4120; about 2 min 20 s left",
        "1/policy: 9 of 20; reward 0.4120; about 1 min 50 s left",
        "1/policy: 12 of 20; reward 0.4120; about 1 min 20 s left",
        "1/policy: 15 of 20; reward 0.4120; about 50 s left",
        "1/policy: 18 of 20; reward 0.4120; about 20 s left",
        "1/policy: done in 3 min 20 s",
    ]


def test_a_child_tells_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from align.pipeline import subprocess_runner as child

    told: list[Any] = []
    monkeypatch.setattr(child, "_tell", told.append)
    _told(1, 2, "loss 0.5")
    _told(2, 2)
    assert told == [[1, 2, "loss 0.5"], [2, 2, ""]]


def test_a_trainers_step_is_told_with_its_own_figure() -> None:
    pytest.importorskip("transformers")
    from align.train.loop import figure

    assert figure({"loss": 0.693147, "rewards/margins": 1.0}) == "loss 0.6931"
    assert figure({"loss": 0.01, "reward": -0.25}) == "reward −0.25"
    assert figure({"loss": 0.01, "reward": None}) == figure({"loss": 0.01, "reward": float("nan")}) == "loss 0.01"


def metrics(path: Any, told: list[Any]) -> Any:
    from align.train.loop import _Metrics

    made = _Metrics(path / "metrics.jsonl", lambda done, total, said="": told.append((done, total, said)))
    made.path.parent.mkdir(parents=True, exist_ok=True)
    return made


def test_steps_without_a_logged_figure_say_the_last_one(tmp_path: Any) -> None:
    """Every second step is logged: step 1 has nothing to say, 2 its own loss, 3 that of 2."""
    told: list[Any] = []
    made, args = metrics(tmp_path, told), SimpleNamespace(disable_tqdm=True)
    for step in (1, 2, 3):
        logged = step % 2 == 0
        state = SimpleNamespace(global_step=step, max_steps=4, log_history=[{"loss": step / 10, "step": step}])
        made.on_step_end(args, state, SimpleNamespace(should_log=logged))
        if logged:
            made.on_log(args, state, None, {"loss": step / 10})
    made.on_log(args, state, None, {"train_runtime": 1.0})
    assert told == [(1, 4, ""), (2, 4, "loss 0.2"), (3, 4, "loss 0.2")]
