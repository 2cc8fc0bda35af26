"""A child process, or several that train together, whose life is tied to the parent's.

The parent holds the other end of the child's standard input, a socket: when the parent dies, by whatever signal, the
child sees its end and leaves too, so that two processes never write into one folder. Progress, and in the end the
summary or the error, come back over it as JSON lines (a full disk must not swallow them); everything that libraries
print goes to a log. Of several processes each watches; the first one tells, the others only what went wrong.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from align.errors import KINDS, AlignError, StageError
from align.lock import acquired, open_lock
from align.pipeline.fork_server import Child, start_python
from align.progress import Progress
from align.python import SAFE_PATH
from align.store import disk_errors, disk_refusal
from align.train.launch import launch_command
from align.train.world import rank
from align.types import Summary


def run_subprocess(
    module: str,
    order: Path,
    *,
    nproc: int,
    named: str,
    environment: Mapping[str, str],
    log: Path,
    progress: Progress,
) -> Summary:
    """Run `python -m module order`, which calls `serve`, in `nproc` processes, and return its summary; what it prints
    is appended to `log`.

    Raises the AlignError that the child raised, or StageError with the log's path when it failed otherwise.
    """
    with disk_errors(log):
        output = log.open("ab")
    ours, theirs = socket.socketpair()
    summary: Summary | None = None
    errors: list[dict[str, Any]] = []
    with output, ours:
        with theirs:
            given = {**os.environ, **SAFE_PATH, **environment}
            child = _start(module, order, nproc, given, theirs.fileno(), output.fileno())
        threading.Thread(target=_hang_up, args=(child, ours), daemon=True).start()
        try:
            with ours.makefile(encoding="utf-8") as lines:
                for line in lines:
                    told = json.loads(line)
                    if isinstance(told, list):
                        progress(*told)
                    elif "summary" in told:
                        summary = told["summary"]
                    else:
                        errors.append(told)
            code = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
    if summary is not None:
        return summary
    raise _failure(named, code, errors, log)


def _start(module: str, order: Path, nproc: int, environment: dict[str, str], stdin: int, output: int) -> Child:
    if nproc == 1:
        return start_python(module, str(order), stdin=stdin, output=output, environment=environment)
    command = launch_command(module, str(order), nproc=nproc)
    return subprocess.Popen(command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, env=environment)


def _hang_up(child: Child, ours: socket.socket) -> None:
    """End the reading when the child has ended: what it started may still hold its standard input."""
    child.wait()
    with suppress(OSError):
        ours.shutdown(socket.SHUT_RD)


def _failure(named: str, code: int, errors: list[dict[str, Any]], log: Path) -> AlignError:
    """What to raise. Where one of several processes says what is wrong, the others only lost their company."""
    told = next((error for error in errors if error["kind"] in KINDS), errors[0] if errors else None)
    if told is not None and told["kind"] in KINDS:
        return KINDS[told["kind"]](told["what"], where=told["where"], hint=told["hint"])
    what = told["what"] if told is not None else f"its process ended with code {code}"
    if code == -9 and told is None:
        what += " (killed, perhaps for want of memory)"
    return StageError(
        f"{named} failed: {what}", where=str(log), hint="the log has the details; the same command goes on from here"
    )


def serve(work: Callable[[Progress], Summary], lock: Path) -> None:
    """The child's side: do `work` while holding `lock`, tell the parent the summary or the error, and end the process.

    Of several processes each holds a lock of its own, and the first one alone tells progress and the summary.
    """
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    first, code = rank() == 0, 0
    own = lock.with_name(f"{lock.name}.{rank()}")
    with (
        open_lock(own) as held,
        acquired(held, own, wait=True),
    ):  # a child of a killed parent may need a moment to leave
        try:
            summary = work(_told if first else _untold)
            if first:
                _tell({"summary": summary})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, the parent has to say it
            _tell(_describe(error))
            code = 1
            with suppress(OSError):  # a full disk takes no log either, and the parent knows already
                traceback.print_exc()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # open files are flushed by now, and engines' own threads may hang at exit


def _describe(error: BaseException) -> dict[str, str | None]:
    if not isinstance(error, AlignError):
        error = disk_refusal(error) or error
    if isinstance(error, AlignError):
        return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    return {"kind": "other", "what": f"{type(error).__name__}: {error}", "where": None, "hint": None}


def _told(done: int, total: int, said: str = "") -> None:
    _tell([done, total, said])


def _untold(done: int, total: int, said: str = "") -> None:
    """Of several processes one tells."""


def _tell(message: list[int | str] | dict[str, Any]) -> None:
    """A line to the parent: progress, the summary or the error."""
    os.write(0, (json.dumps(message, default=str) + "\n").encode())


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        continue
    os._exit(3)
