"""Runs a Python program that nobody trusts, such as a model's answer, in a process with walls and limits around it.

With `isolation="namespaces"` (Linux that lets users make namespaces) the program sees no network, no other process, no
environment and no files but Python's own, which it cannot write, and an empty folder in memory. With
`isolation="limits"` (Linux with Landlock) the same kernel shows it the machine, but it opens no file beyond Python's
own and its folder, makes no socket, and neither signals nor looks into a process that is not its own. With either it
has limits on CPU seconds of each process, seconds by the clock, address space of each process, what it writes, and
processes and threads; a filter of system calls refuses memory that no limit counts (System V's, memfds, message
queues), namespaces, tracing, io_uring and the kernel's other large parts. Where root trains, each program runs as a
user of its own. Nothing of it runs on when `run` returns, or when the process that called it is killed (a temporary
folder then stays, empty with namespaces).

What this does **not** protect against:

- a defect of the kernel: the program makes most system calls that any other does (there is no virtual machine). Where
  answers may come from somebody who wants to break in, run training in a virtual machine;
- use of the machine within the limits: `processes` times `memory_mb`, `disk_mb` and some megabytes in pipes and socket
  pairs on top, and all cores for `wall_seconds`; no control group holds them together;
- with `isolation="limits"`: it sees which files are there, how large they are and whose (it cannot open them); many
  small
  files may fill a disk; before Linux 6.12 its own processes cannot signal each other; in a container with few users
  root's programs share nobody's; a program that moved to the background lives until it is found, and a `kill -9` of the
  sandbox's own small process lets it live on. That is why it is refused for programs that are not `trusted`;
- an answer that cheats its tests: see `reward.code`.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.errors import ConfigError

CHILD = Path(__file__).with_name("sandbox_child.py")
OUTPUT = 1 << 20
"""Bytes of standard output and error, each, that a program may write."""
PATIENCE = 10.0
"""Seconds for building the walls and for taking them down, beside those that the program has."""
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
"""What of the machine a dynamically linked Python needs."""

Isolation = Literal["namespaces", "limits"]
End = Literal["exit", "signal", "cpu", "clock", "output"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program; units as in the recipe's `reward.functions` with `type: code`."""

    seconds: int = 5
    wall_seconds: float = 15.0
    memory_mb: int = 512
    disk_mb: int = 16
    processes: int = 16
    isolation: Isolation = "namespaces"
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: by itself with exit code `code` ("exit") or by signal `code` ("signal"), or killed for using
    up its CPU seconds, its time or its output. `output` and `error` are what it printed, at most `OUTPUT` bytes
    each."""

    end: End
    code: int
    output: str
    error: str

    @property
    def succeeded(self) -> bool:
        return self.end == "exit" and self.code == 0


def run(program: str, limits: Limits, *, given: str = "", files: Mapping[str, str] | None = None) -> Outcome:
    """Run `program` with `given` on standard input; `files` (name → text) stand beside it in its folder.

    Raises ConfigError where this machine does not let us build the walls, or `limits` are asked for alone.
    """
    if limits.isolation == "limits" and not limits.trusted:
        raise ConfigError(
            "`limits` alone are for programs of your own, and a model's answers are not",
            where="isolation", hint="take `isolation: namespaces`, or say `trusted: true` if you would run them by hand",
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="align-sandbox-") as folder:
        python = sys.executable
        order = {
            "parent": os.getpid(),
            "folder": folder,
            "files": {**(files or {}), "program.py": program},
            "stdin": given,
            "command": [python, "-I", "-B", "program.py"],
            "environment": {"PATH": "/usr/bin:/bin", "HOME": ".", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"},
            "visible": visible(),
            **{name: getattr(limits, name) for name in Limits.__slots__},
        }
        told, tells = os.pipe()
        try:
            child = subprocess.Popen(
                [python, "-I", "-S", "-B", str(CHILD), str(tells)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=[tells], cwd="/", start_new_session=True, env={"LANG": "C.UTF-8"},
            )  # fmt: skip
        finally:
            os.close(tells)
        with child, os.fdopen(told, "rb") as report:
            try:
                printed, end = _watch(child, json.dumps(order).encode(), limits.wall_seconds)
            finally:
                _end(child)
            said = report.read()
        return _outcome(said, printed, end, limits)


def require(limits: Limits) -> None:
    """Run a program of nothing. Raises ConfigError, with the way out, where the sandbox does not work on this
    machine."""
    found = run("print(1)", limits)
    if not found.succeeded or found.output != "1\n":
        raise ConfigError(
            f"Python does not run in the sandbox ({found.end} {found.code}: {found.error.strip()[-200:]})",
            where="isolation", hint=_way_out(limits),
        )  # fmt: skip


def visible() -> list[str]:
    """What a program sees of the machine's files: Python with its packages, and the libraries that it is linked
    with."""
    prefixes = [sys.prefix, sys.base_prefix, sys.base_exec_prefix]
    wanted = [*SYSTEM, *prefixes, *(os.path.realpath(prefix) for prefix in prefixes)]
    found: list[str] = []
    for path in sorted(filter(os.path.lexists, dict.fromkeys(wanted)), key=len):
        if not any(path.startswith(f"{above}/") and not Path(above).is_symlink() for above in found):
            found.append(path)
    return found


def _watch(child: subprocess.Popen[bytes], order: bytes, seconds: float) -> tuple[list[bytes], End | None]:
    """What it prints until it ends, or until it has to be ended for the reason given."""
    assert child.stdin and child.stdout and child.stderr
    try:
        child.stdin.write(order)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it ended at once; its report is empty, and that is said
    printed, until = [b"", b""], time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for place, stream in enumerate((child.stdout, child.stderr)):
            selector.register(stream, selectors.EVENT_READ, place)
        while selector.get_map():  # the streams end with the child, which holds them too
            if (left := until - time.monotonic()) <= 0:
                return printed, "clock"
            for key, _ in selector.select(left):
                block = os.read(key.fd, 1 << 16)
                if not block:
                    selector.unregister(key.fileobj)
                printed[key.data] += block
                if len(printed[key.data]) > OUTPUT:
                    return printed, "output"
    return printed, None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let it take down what it built; it does so in no time, else it is killed."""
    child.terminate()
    try:
        child.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _outcome(said: bytes, printed: list[bytes], end: End | None, limits: Limits) -> Outcome:
    output, error = (text[:OUTPUT].decode(errors="replace") for text in printed)
    told: dict[str, Any] = json.loads(said) if said else {}
    if end is not None:
        return Outcome(end, signal.SIGKILL, output, error)
    if "status" not in told:
        why = told.get("refused") or error.strip()[-200:] or "its process ended"
        raise ConfigError(f"the sandbox cannot be built: {why}", where="isolation", hint=_way_out(limits))
    status = told["status"]
    if not os.WIFSIGNALED(status):
        return Outcome("exit", os.WEXITSTATUS(status), output, error)
    number = os.WTERMSIG(status)
    return Outcome("cpu" if number == signal.SIGXCPU else "signal", number, output, error)


def _way_out(limits: Limits) -> str:
    if limits.isolation == "limits":
        return "it needs Linux with Landlock (5.13 or later) on x86-64 or ARM, and a Python that other users may read"
    return (
        "allow user namespaces (in a container: --security-opt); for programs that you would run by hand, "
        "`isolation: limits` with `trusted: true`"
    )
