"""Ctrl-C at any moment of a verb: it ends soon with 130 and one sentence, its children with it, and nothing is half there."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.store import write_rows
from tests.tiny import make_tiny_model

SAID = "align: stopped; run the same command again to continue\n"
SWALLOWERS = {
    "a destructor": """
class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for n in range(10): pass
def verb():
    Held()
""",
    "an except for everything": """
def verb():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        for n in range(10): pass
    except BaseException:
        pass
""",
    "three of them": """
def verb():
    for n in range(3):
        try:
            os.kill(os.getpid(), signal.SIGINT) if n == 0 else time.sleep(5)
        except BaseException:
            pass
""",
    "code that makes an error of it": """
def verb():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except BaseException as error:
        raise RuntimeError("cannot be loaded") from error
""",
    "an import that ignores errors": """
def verb():
    sys.path.insert(0, sys.argv[1])
    import ignorant
""",
    "nobody": """
def verb():
    os.kill(os.getpid(), signal.SIGINT)
""",
}
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
import align.cli.app as app
{verb}
def run(arguments):
    verb()
    time.sleep(5)
    Path(sys.argv[1], "went-on").touch()
    return 0
app._run = run
app.main()
"""


@pytest.mark.parametrize("who", SWALLOWERS)
def test_an_interrupt_that_somebody_swallows_comes_through(tmp_path: Path, who: str) -> None:
    (tmp_path / "ignorant.py").write_text(
        "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(1)\nexcept BaseException:\n    pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(verb=SWALLOWERS[who]), str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", SAID)
    assert not (tmp_path / "went-on").exists()


def test_where_it_is_ignored_it_stays_so(tmp_path: Path) -> None:
    """As in the background of a shell."""
    program = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + PROGRAM.format(
        verb="def verb():\n    os.kill(os.getpid(), signal.SIGINT)\n"
    ).replace("time.sleep(5)", "time.sleep(0.2)")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "went-on").exists()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupt")
    make_tiny_model(folder / "model")
    write_rows(folder / "demos.jsonl", [{"prompt": f"Case {n}?", "completion": "Thank you."} for n in range(64)])
    return folder


def interrupted(session: Path, out: str, seconds: float, *more: str) -> tuple[int, str, float]:
    """`align sft` with Ctrl-C after so many seconds: exit code, what it said, and how long it took to end."""
    verb = ["sft", "--model", "model", "--demonstrations", "demos.jsonl", "--out", out, "--threads", "1", "epochs=2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "align", *verb, *more],
        cwd=session, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        time.sleep(seconds)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        took = time.monotonic() - began
        _require_nobody(process.pid)
    finally:
        process.kill()
    return process.returncode, said, took


def _require_nobody(session: int) -> None:
    """Nobody of the session is left, after a moment."""
    for _ in range(100):
        left = [entry for entry in Path("/proc").glob("[0-9]*") if _session(entry) == session]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {[(entry / 'cmdline').read_text() for entry in left]}")


def _session(entry: Path) -> int | None:
    try:
        state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def check(session: Path, seconds: float, *more: str) -> None:
    out = f"out-{seconds:.2f}"
    code, said, took = interrupted(session, out, seconds, *more)
    if code == -signal.SIGINT:  # Python itself was still starting
        assert not (session / f"{out}.work").exists(), (seconds, said)
    else:
        assert code == 130, (seconds, code, said)
        assert said.endswith(SAID) and "Traceback" not in said, (seconds, said)
    assert took < 30, seconds
    assert not (session / out).exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.15, 0.6, 1.2, 2.0, 3.0, 4.5, 7.0])
def test_while_sft_starts(session: Path, seconds: float) -> None:
    check(session, seconds)


@pytest.mark.slow
def test_with_two_processes(session: Path) -> None:
    check(session, 6.0, "--nproc", "2")


@pytest.mark.full
def test_at_many_moments(session: Path) -> None:
    for n in range(80):
        check(session, 0.1 + 0.07 * n)
