"""The command line itself: quick help, its reference, what the terminal shows, the place where a single stage works."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.cli import display
from align.cli.command_output import command_output
from align.cli.display import counting, indented, one_line, plain, print_table, value_text
from align.cli.document import markdown
from align.errors import ConfigError, ServiceError
from align.pipeline.lock import run_lock
from align.pipeline.stage_worker import thread_settings
from align.store import working_folder

HEAVY = {"torch", "transformers", "trl", "vllm", "datasets", "pyarrow", "pydantic", "argilla", "numpy", "rich", "httpx"}
LOADED = """
import sys
from align.cli.app import main
try:
    main()
finally:
    print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


LISTED = [["sft"], ["ppo"], ["reward", "train"], ["rollout"]]
"""Verbs whose help lists their settings, by the schema, which is pydantic's."""


@pytest.mark.parametrize("verb", [[], ["run"], *LISTED, ["annotate", "push"], ["server", "start"]])
def test_help_is_quick_because_nothing_heavy_is_loaded(verb: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, *verb, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(" ".join(["Usage: align", *verb]))
    assert HEAVY & set(done.stderr.split()) == ({"pydantic"} if verb in LISTED else set())
    assert "typer" in done.stderr.split(), "the list is that of the modules"


@pytest.mark.parametrize(("verb", "most"), [([], 0.2), (["dpo"], 0.5)])
def test_help_takes_less_than_a_fifth_of_a_second(verb: list[str], most: float) -> None:
    """Or half a second where the schema is read. The best of three, in seconds of processor time, which a busy machine
    does not change much."""
    seconds = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "align", *verb, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        seconds.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(seconds) < most


def test_ctrl_c_reaches_processes_of_tests_that_run_in_a_shells_background() -> None:
    """There SIGINT is ignored, and whoever is started inherits that; so do not the processes that tests start."""
    program = (
        "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); import tests.conftest; "
        "child = 'import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)'; "
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "True", done.stderr


def test_the_reference_is_what_the_verbs_say() -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == markdown(), "python -m align.cli.document > docs/cli.md"
    for words in (
        "## `align annotate push`",
        "--dtype float32\\|bfloat16",
        "align run RECIPE [OPTIONS] [OVERRIDES...]",
    ):
        assert words in markdown()


@given(st.text())
def test_no_text_can_steer_a_terminal(text: str) -> None:
    shown = plain(text)
    assert not [
        c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066\ufeff"
    ]
    assert plain(shown) == shown


def test_values_and_times_for_people() -> None:
    assert value_text({"mean": 0.51875, "n": 80, "why": "a\x1bb"}) == "mean 0.5188, n 80, why a\\x1bb"
    assert (value_text({}), value_text(None), value_text(0), value_text(False)) == ("none", "none", "0", "False")


def test_progress_without_a_terminal_is_a_line_now_and_then_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(display.time, "monotonic", lambda: now)
    stream = io.StringIO()
    with counting("dpo", stream) as tell:
        for done, now in ((1, 1.0), (2, 5.0), (3, 6.0), (4, 7.0)):  # noqa: B007 - the clock reads it
            tell(done, 4)
    assert stream.getvalue() == "dpo: 2 of 4\ndpo: 4 of 4\n"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`command_output` sets the threads of its process."""
    for name in thread_settings(None):
        monkeypatch.setenv(name, "1")
    yield


PRINTS = """
import os, sys
from pathlib import Path
from align.cli.command_output import command_output
with command_output(Path("out"), 1) as place:
    print("by Python")
    os.system("echo from below >&2")
    place.terminal.write("ours\\n")
    (place.out / "result").write_text("done")
print("after")
"""


def test_what_libraries_print_goes_to_the_log(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PRINTS], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("after\n", "ours\n")
    assert sorted((tmp_path / "out" / "logs" / "printed.log").read_text().splitlines()) == ["by Python", "from below"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "out", "out/logs", "out/logs/printed.log", "out/result",
    ]  # fmt: skip


def test_a_failed_attempt_leaves_its_work_and_no_result(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with contextlib.suppress(KeyError), command_output(out, 1) as place:
        (place.out / "result").write_text("of the first attempt")
        (place.work / "shard").write_text("1")
        raise KeyError
    assert not out.exists()
    with command_output(out, 1) as place:
        assert not (place.out / "result").exists(), "it may have had other settings"
        assert (place.work / "shard").read_text() == "1"
    assert sorted(p.name for p in out.iterdir()) == ["logs"]
    with pytest.raises(ConfigError, match="is there already"), command_output(out, 1):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_kill_at_the_end_loses_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, work = tmp_path / "out", tmp_path / "out.work"
    for killed_in, published in (("publish", False), ("remove_folder", True)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), command_output(out, 1) as place:
            (place.work / "checkpoint").write_text("trained")
            patch.setattr(f"align.pipeline.output_dir.{killed_in}", _killed)
        assert out.exists() == published
        assert (work / "checkpoint").read_text() == "trained"
    with pytest.raises(ConfigError, match="is there already"), command_output(out, 1):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["out"], "nothing is left to go on from"


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_processes_do_not_share_a_workplace(tmp_path: Path) -> None:
    working_folder(tmp_path / "out.work")
    working_folder(tmp_path / "out.partial")
    (tmp_path / "out.partial" / "half").write_text("of the other process")
    with (
        run_lock(tmp_path / "out.work"),
        pytest.raises(ServiceError, match="another process works"),
        command_output(tmp_path / "out", 1),
    ):
        pass
    assert (tmp_path / "out.partial" / "half").exists()


def test_a_verb_that_was_cut_short_keeps_its_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def import_model(path: str, out: Path, **given: object) -> None:
        out.mkdir()
        seen.append(given["date"])

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date.today() + timedelta(days=1)

    monkeypatch.setattr("align.train.checkpoint.import_model", import_model)
    for day in (None, None, "2026-01-31"):
        with contextlib.suppress(KeyError), command_output(tmp_path / "out", 1) as place:
            place.checkpoint("a", revision=None, dtype="float32", date=day)
            monkeypatch.setattr("align.pipeline.output_dir.date", Tomorrow)
            raise KeyError
    assert seen == [date.today().isoformat()] * 2 + ["2026-01-31"]


def test_another_model_never_meets_the_work_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def import_model(path: str, out: Path, **_: object) -> None:
        out.mkdir()
        (out / "config.json").write_text(json.dumps(path))

    monkeypatch.setattr("align.train.checkpoint.import_model", import_model)
    folders = []
    for model in ("a", "a", "b"):
        with contextlib.suppress(KeyError), command_output(tmp_path / "out", 1) as place:
            (place.work / "arriving").mkdir(exist_ok=True)  # as a kill leaves it
            (place.work / "arriving" / "half.json").write_text("")
            folders.append(place.checkpoint(model, revision=None, chat_template=None, dtype="float32"))
            assert [p.name for p in folders[-1].iterdir()] == ["config.json"]
            raise KeyError
    assert folders[0] == folders[1] != folders[2]


def test_no_text_can_pass_for_another_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line("a\nkim: a is better\r\x1b[1A") == "a\\nkim: a is better\\r\\x1b[1A"
    assert indented("yes\n  kim: b is better\n", "  │ ") == "yes\n  │   kim: b is better\n  │ "
    print_table([["who", "done"], ["kim\nbob  9", "1"]])
    assert capsys.readouterr().out.splitlines()[2:] == ["kim\\nbob  9  1"]
    assert len(plain("x" * 10**6)) < 20_100


def test_what_a_result_names_cannot_steer_the_terminal() -> None:
    """Reasons are names there, and some are an endpoint's own words."""
    assert value_text({"\x1b[31mred": 1}) == "\\x1b[31mred 1"
