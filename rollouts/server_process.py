"""vLLM's server as a process of ours: begun, found again, ended. Imports no vLLM.

A server has a home, a private folder:

    vllm-home.json     the mark of a folder that we made: nothing is begun, and nothing removed, in one without it
    vllm-owner.lock    held by the process for which the server runs; when that one dies, however, the server goes too
    vllm-keeper.lock   held by the keeper while the server lives; inside are its process id and the server's
    vllm-server.json   where it listens, its key, what it serves (mode 0600)
    vllm-server.log    what it prints

No name here is one of the annotation server's, whose home also has a server and a log.

Between us and vLLM stands a keeper, this file run as a program: vLLM is several processes, of which one that is killed
leaves the others behind. The keeper is their parent, adopts orphans, and ends the whole group.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from align.errors import ServiceError
from align.python import SAFE_PATH, python_module

HOME = "ALIGN_VLLM_HOME"
"""The environment variable that tells child processes of a home whose server outlives them: its mark and its folder."""
MARK = "vllm-home.json"
OWNER, KEEPER, NOTE, LOG = "vllm-owner.lock", "vllm-keeper.lock", "vllm-server.json", "vllm-server.log"
KEY = "VLLM_API_KEY"
"""Where vLLM looks for the key that it demands; an option would stand in the list of processes."""
POLITE_SECONDS, FORCED_SECONDS = 10.0, 5.0
LAST_LINES = 12


@dataclass(frozen=True, slots=True)
class Server:
    """A server of ours. `serves` says which model it was begun with, and its settings."""

    home: Path
    url: str
    key: str = field(repr=False)
    serves: Mapping[str, Any]


@contextlib.contextmanager
def new_home() -> Iterator[Path]:
    """A home for as long as the `with` block lasts, and this process; its server is ended afterwards."""
    home = Path(tempfile.mkdtemp(prefix="align-vllm-"))  # mode 0700
    mark = secrets.token_hex(16)
    _write_private(home / MARK, json.dumps({"mark": mark}))
    owner = _locked(home / OWNER)
    assert owner is not None
    try:
        yield home
    finally:
        try:
            stop(home)
        finally:
            owner.close()
            _remove(home, mark)


@contextlib.contextmanager
def kept_server() -> Iterator[None]:
    """Inside the `with` block one server serves all that is sampled by the server engine, here and in child processes.

    It begins when it is first needed. Where a block is open already, that one's server is used.
    """
    if kept_home() is not None:
        yield
        return
    with new_home() as home:
        os.environ[HOME] = f"{_mark(home)}:{home}"
        try:
            yield
        finally:
            del os.environ[HOME]


def kept_home() -> Path | None:
    """The home of `kept_server`, in its block or in a child process; None where there is none.

    ServiceError where the variable names a folder that no process of ours made: it was not set by us.
    """
    told = os.environ.get(HOME)
    if not told:
        return None
    mark, _, folder = told.partition(":")
    if not folder or _mark(Path(folder)) != mark:
        raise ServiceError(
            f"{told!r} is no home of a vLLM server that we began", where=HOME, hint="the variable is ours; unset it"
        )
    return Path(folder)


def _mark(home: Path) -> str | None:
    """What `new_home` wrote into the folder that it made; None for any other folder."""
    try:
        return str(json.loads((home / MARK).read_text(encoding="utf-8"))["mark"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(home: Path, mark: str | None) -> None:
    """Remove a home that we made, and nothing else: by now another folder may have its name."""
    if mark is not None and not home.is_symlink() and _mark(home) == mark:
        shutil.rmtree(home, ignore_errors=True)


def start(home: Path, command: Sequence[str], environment: Mapping[str, str], serves: Mapping[str, Any]) -> Server:
    """Begin `command` with `--host`, `--port` and a key of its own; returns without waiting for it to answer."""
    if _mark(home) is None:
        raise ServiceError("this folder was not made for vLLM's server", where=str(home), hint="begin it in `new_home`")
    stop(home)
    port, key = _free_port(), secrets.token_urlsafe(32)
    server = Server(home, f"http://127.0.0.1:{port}", key, dict(serves))
    _write_private(home / NOTE, json.dumps({**asdict(server), "home": str(home)}))
    with _private(home / LOG, "ab") as log:
        keeper = subprocess.Popen(
            [*python_module("rollouts.server_process", str(home)), *command, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **SAFE_PATH, **environment, KEY: key},
        )  # fmt: skip
    while not _processes(home):
        if keeper.poll() is not None:
            raise ServiceError(f"the server cannot be begun; {last_lines(home)}", where=str(home / LOG))
        time.sleep(0.02)
    return server


def running(home: Path) -> Server | None:
    """The server of `home`, if it lives."""
    if not alive(home) or not (home / NOTE).is_file():
        return None
    noted = json.loads((home / NOTE).read_text(encoding="utf-8"))
    return Server(**{**noted, "home": home})


def alive(home: Path) -> bool:
    """Whether a keeper holds its lock."""
    held = _locked(home / KEEPER)
    if held is not None:
        held.close()
    return held is None


def stop(home: Path) -> None:
    """End the server of `home` with all its processes: politely, then by force. One that is not there is fine."""
    deadline = time.monotonic() + POLITE_SECONDS + 2 * FORCED_SECONDS
    told = False
    while alive(home):
        processes, late = _processes(home), time.monotonic() > deadline
        if processes and (not told or late):
            told = True
            _signal(os.kill, processes[0], signal.SIGKILL if late else signal.SIGTERM)
            if late:
                _signal(os.killpg, processes[1], signal.SIGKILL)
        if time.monotonic() > deadline + FORCED_SECONDS:
            raise ServiceError("the server does not end, even by force", where=str(home), hint="look at it with ps")
        time.sleep(0.05)
    for name in (NOTE, KEEPER):
        (home / name).unlink(missing_ok=True)


def _processes(home: Path) -> list[int]:
    """The ids of the keeper and of the server, whose group has the same id; empty while they begin."""
    try:
        return [int(word) for word in (home / KEEPER).read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        return []


def _signal(send: Callable[[int, int], None], pid: int, sent: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        send(pid, sent)


def last_lines(home: Path) -> str:
    """The end of what the server said, for an error; without its key."""
    try:
        said = (home / LOG).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "it said nothing"
    lines = [line.strip() for line in said.splitlines() if line.strip()][-LAST_LINES:]
    with contextlib.suppress(OSError, ValueError, KeyError):
        key = json.loads((home / NOTE).read_text(encoding="utf-8"))["key"]
        lines = [line.replace(key, "…") for line in lines]
    return "\n  ".join(["its last lines are", *lines]) if lines else "it said nothing"


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _private(path: Path, mode: str) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), mode)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _locked(path: Path) -> IO[bytes] | None:
    """The file with an exclusive lock, which the system takes back when the holder dies; None where another holds
    it."""
    file = _private(path, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


# The keeper's side.


def _keep(home: Path, command: Sequence[str]) -> int:
    """Run `command` until it ends, the owner is gone or SIGTERM comes; leave none of its processes behind."""
    held, mark = None, _mark(home)
    deadline = time.monotonic() + FORCED_SECONDS
    while held is None:  # whoever asks whether a server lives has the lock for a moment
        held = _locked(home / KEEPER)
        if held is None and time.monotonic() > deadline:
            print("another server lives in this home", file=sys.stderr)
            return 1
    _adopt_orphans()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent)
    held.truncate(0)
    held.write(f"{os.getpid()} {child.pid}".encode())
    held.flush()
    asked = threading.Event()
    orphaned = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    threading.Thread(target=_await_owner, args=(home / OWNER, orphaned), daemon=True).start()
    while child.poll() is None and not asked.wait(0.1) and not orphaned.is_set():
        continue
    _end_group(child)
    if orphaned.is_set():
        _remove(home, mark)
    return child.returncode or 0


def _await_owner(lock: Path, gone: threading.Event) -> None:
    """Whoever gets this lock knows that the owner has let it go, or has died."""
    with _private(lock, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    gone.set()


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    group = child.pid
    for sent, patience in ((signal.SIGTERM, POLITE_SECONDS), (signal.SIGKILL, FORCED_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, sent)
        deadline = time.monotonic() + patience
        while _any_left(child, group) and time.monotonic() < deadline:
            time.sleep(0.05)


def _any_left(child: "subprocess.Popen[bytes]", group: int) -> bool:
    child.poll()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:  # adopted orphans
            continue
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _adopt_orphans() -> None:
    """On Linux, grandchildren whose parent dies become children of this process."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _die_with_parent() -> None:
    """On Linux, the server hears of it when its keeper is killed."""
    _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


if __name__ == "__main__":
    sys.exit(_keep(Path(sys.argv[1]), sys.argv[2:]))
