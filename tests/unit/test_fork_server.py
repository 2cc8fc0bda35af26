"""Processes forked from one that has imported what they need: as fresh ones in all but the time that they take."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from align.pipeline import fork_server as fs

TOLD = """
import json, os, signal, sys
told = {
    "name": __name__, "arguments": sys.argv[1:], "mark": os.environ.get("MARK"), "cwd": os.getcwd(),
    "imported": "colorsys" in sys.modules, "handles": len(os.listdir("/proc/self/fd")), "given": sys.stdin.read(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "safe": "" not in sys.path,
}
print(json.dumps(told))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where modules of the test's lie; children find them."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "told.py").write_text(TOLD)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[None]:
    with fs.fork_server("colorsys"):
        yield


def start(folder: Path, module: str, *arguments: str, **environment: str) -> tuple[fs.Child, Path]:
    (folder / "in").write_text("what it is given")
    with (folder / "in").open() as given, (folder / "out").open("w") as out:
        whole = {**os.environ, **environment}
        child = fs.start_python(module, *arguments, stdin=given.fileno(), output=out.fileno(), environment=whole)
    return child, folder / "out"


def code_of(folder: Path, program: str) -> int:
    (folder / "program.py").write_text(textwrap.dedent(program))
    return start(folder, "program")[0].wait()


def test_a_child_is_as_a_fresh_process_with_its_imports_done(
    server: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    for times in range(2):
        child, out = start(folder, "told", "a", "b c")
        assert isinstance(child, fs.Forked)
        assert child.wait() == 0
        assert child.wait() == 0, "it can be asked again"
        told = json.loads(out.read_text())
        assert told == {
            "name": "__main__", "arguments": ["a", "b c"], "mark": None, "cwd": str(folder / "here"),
            "imported": True, "handles": 4, "given": "what it is given", "interrupt": True, "safe": True,
        }, times  # fmt: skip


def test_exit_codes_are_those_of_a_fresh_process(server: None, folder: Path) -> None:
    assert code_of(folder, "import sys; sys.exit(3)") == 3
    assert code_of(folder, "raise SystemExit('a reason')") == 1
    assert code_of(folder, "import os; os._exit(7)") == 7
    assert code_of(folder, "import os; os.kill(os.getpid(), 9)") == -9
    assert code_of(folder, "1 / 0") == 1
    assert "ZeroDivisionError" in (folder / "out").read_text()
    assert code_of(folder, "import no_such_module") == 1
    assert code_of(folder, "") == 0, "those before it cost themselves alone"


def test_children_work_side_by_side_and_are_killed_one_by_one(server: None, folder: Path) -> None:
    (folder / "waits.py").write_text("import time; time.sleep(60)")
    first, second = start(folder, "waits")[0], start(folder, "waits")[0]
    first.kill()
    assert first.wait() == -signal.SIGKILL
    first.kill()  # it is gone: nothing happens
    assert code_of(folder, "import sys; sys.exit(5)") == 5
    second.kill()
    assert second.wait() == -signal.SIGKILL


def test_another_environment_takes_a_fresh_process(server: None, folder: Path) -> None:
    """What a library read when it was imported could be another thing there."""
    assert isinstance(start(folder, "told")[0], fs.Forked)
    child, out = start(folder, "told", MARK="here")
    assert not isinstance(child, fs.Forked)
    assert child.wait() == 0
    told = json.loads(out.read_text())
    assert (told["mark"], told["imported"]) == ("here", False)
    child, out = start(folder, "told", ALIGN_MARK="ours alone")
    assert isinstance(child, fs.Forked)
    assert child.wait() == 0


def test_where_no_server_is_the_process_is_fresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(start(folder, "told")[0], fs.Forked)
    monkeypatch.setattr(fs, "GPUS", ("/dev/null",))
    with fs.fork_server("colorsys"):
        child, out = start(folder, "told")
        assert child.wait() == 0
        assert not json.loads(out.read_text())["imported"]


@pytest.mark.parametrize("how", ["killed", "cannot import"])
def test_a_server_that_dies_is_done_without(folder: Path, how: str) -> None:
    with fs.fork_server("colorsys" if how == "killed" else "no_such_module"):
        if how == "killed":
            assert start(folder, "told")[0].wait() == 0
            os.kill(server_id(), signal.SIGKILL)
        child, out = start(folder, "told")
        assert child.wait() == 0
        assert not json.loads(out.read_text())["imported"]


def test_a_child_outlives_a_server_that_is_killed(server: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "waits.py").write_text("import pathlib, time; time.sleep(1); pathlib.Path('done').touch()")
    monkeypatch.chdir(folder)
    child = start(folder, "waits")[0]
    os.kill(server_id(), signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "nobody can tell its code any more"
    assert (folder / "done").exists(), "it was waited for"


def test_the_server_ends_with_the_block_and_with_its_process(folder: Path) -> None:
    with fs.fork_server("colorsys"):
        start(folder, "told")[0].wait()
        pid = server_id()
    assert not Path(f"/proc/{pid}").exists()
    program = """
        import os, sys
        from align.pipeline import fork_server as fs
        with fs.fork_server("colorsys"):
            handle = os.open(os.devnull, os.O_RDWR)
            fs.start_python("told", stdin=handle, output=handle, environment=dict(os.environ)).wait()
            print(fs._server.get()._process.pid, flush=True)
            os.kill(os.getpid(), 9)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    until = time.monotonic() + 10
    while _alive(int(done.stdout)):
        assert time.monotonic() < until, "the server outlives the process that began it"
        time.sleep(0.01)


def server_id() -> int:
    server = fs._server.get()
    assert server is not None and server._process is not None
    return server._process.pid


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
