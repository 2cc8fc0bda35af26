"""A process that checks texts and that can be killed: a pattern or a formula may take forever on a hostile text.

with the parent                          in the child (`python -m reward.guard`)
{"check": "regex", "settings": …}   →
                                    ←    {"ready": true}
["text", …]                         →
                                    ←    {"score": 1.0}, or {"failed": "MemoryError"}
"""

import ctypes
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

from align.errors import StageError
from align.python import python_module

SECONDS = 5.0
"""How long one check may take by the clock."""
START_SECONDS = 120.0
"""How long the child may take to start and import, on a busy machine."""
MEMORY = 4 << 30
"""Bytes of address space of the child."""
PR_SET_PDEATHSIG = 1
ROOT = str(Path(__file__).resolve().parents[1])
"""Where the package is found."""


class Guard:
    """One check of `reward.checks` in a process of its own, started at its first use and again after a kill."""

    def __init__(self, check: str, settings: dict[str, Any], seconds: float = SECONDS) -> None:
        """`check` is a name of `reward.checks.MAKERS`, `settings` its maker's arguments."""
        self._order, self._seconds = {"check": check, "settings": settings, "parent": os.getpid()}, seconds
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, *texts: str) -> float | str:
        """The check's score of `texts`, or why there is none: it took too long, or it failed.

        Raises StageError where the child cannot be started.
        """
        child = self._child or self._start()
        told = _exchange(child, list(texts), self._seconds)
        if told is None:
            self._child = None
            ended = child.poll()
            _kill(child)
            return f"the check took longer than {self._seconds:g} s" if ended is None else "the check's process ended"
        return float(told["score"]) if "score" in told else f"the check failed ({told['failed']})"

    def close(self) -> None:
        """End the process, if one runs."""
        if self._child is not None:
            _kill(self._child)
            self._child = None

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: a file of the user's in the working directory must not pass for a module
        child = subprocess.Popen(
            python_module("reward.guard"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])},
        )  # fmt: skip
        weakref.finalize(self, _kill, child)
        if _exchange(child, self._order, START_SECONDS) is None:
            _kill(child)
            raise StageError("the process that checks answers does not start", hint="its words are in this one's log")
        self._child = child
        return child


def _exchange(child: subprocess.Popen[bytes], message: Any, seconds: float) -> dict[str, Any] | None:
    """The child's reply to `message`; None where it ended, or gave none within `seconds`."""
    assert child.stdin and child.stdout
    try:
        child.stdin.write(json.dumps(message).encode() + b"\n")  # ASCII, so that any string survives
        child.stdin.flush()
    except BrokenPipeError:
        return None
    until, said = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not said.endswith(b"\n"):
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            block = os.read(child.stdout.fileno(), 1 << 16)
            if not block:
                child.wait()
                return None
            said += block
    return dict(json.loads(said))


def _kill(child: subprocess.Popen[bytes]) -> None:
    with child:
        child.kill()


def main() -> None:
    """The child's side."""
    from reward.checks import MAKERS

    tells = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not be taken for a reply
    order = json.loads(sys.stdin.readline())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:
        return
    check = MAKERS[order["check"]](**order["settings"])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    _tell(tells, {"ready": True})
    for line in sys.stdin:
        try:
            told: dict[str, Any] = {"score": check(*json.loads(line))}
        except Exception as error:  # noqa: BLE001 - whatever a library makes of a hostile text, the parent says it
            told = {"failed": type(error).__name__}
        _tell(tells, told)


def _tell(descriptor: int, message: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
