"""A process that has imported torch and TRL once, and from which each stage's process is forked.

The imports take three to five seconds of processor time, which is most of a short stage. A forked process starts with
them done, and otherwise as a fresh one: no generator of random numbers has been drawn from, no thread of ours runs.

A server belongs to the process that began it, and ends with it. `multiprocessing` has such a server too, but there a
child imports the user's main module again and takes over `sys.path` with the working directory in it.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from align.python import import_for_good, python_module

GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/accel")
"""Where one of these is there, processes start fresh: a driver that an import has touched does not survive a fork."""
OURS = ("ALIGN_", "PYTEST_")
"""Environment variables that no library reads when it is imported."""
REQUEST_BYTES = 1 << 20


class Child(Protocol):
    """What callers use of `subprocess.Popen`."""

    def wait(self) -> int:
        """The exit code; the negative signal that ended it."""
        ...

    def kill(self) -> None: ...


class Forked:
    """A child of the fork server. `status` gives its exit code, as `Popen` does, once it has ended."""

    def __init__(self, handle: int, status: socket.socket) -> None:
        self._handle, self._status = handle, status
        self._lock = threading.Lock()
        self._code: int | None = None

    def wait(self) -> int:
        """Its exit code; the negative signal that ended it; -9 where the server died before it could tell."""
        with self._lock:
            if self._code is None:
                _readable(self._handle)  # a process that has ended is
                told = self._status.recv(16)
                self._code = int(told) if told else -signal.SIGKILL
                self._status.close()
                os.close(self._handle)
            return self._code

    def kill(self) -> None:
        with suppress(OSError):  # it has ended, and may have been waited for
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)


class _Server:
    """This process's fork server: begun with the first child that it could start, used by all others that it fits."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._environment: dict[str, str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def fork(
        self, module: str, arguments: Sequence[str], stdin: int, output: int, environment: Mapping[str, str]
    ) -> Forked | None:
        """A child; None where the server was begun with another environment, or has died."""
        known = {name: text for name, text in environment.items() if not name.startswith(OURS)}
        if self._control is None:
            self._begin(known)
        if known != self._environment or self._control is None:
            return None
        request = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "cwd": str(Path.cwd()),
        }
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [stdin, output, theirs.fileno()])
                _, handles, _, _ = socket.recv_fds(self._control, 1, 1)
            except OSError:
                handles = []
        if not handles:
            ours.close()
            return None
        return Forked(handles[0], ours)

    def _begin(self, environment: dict[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST_BYTES)
        self._environment = environment
        with theirs:
            self._process = subprocess.Popen(
                python_module(__name__, *self._modules),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what cannot be imported is said by the fresh process that starts instead
                env=environment,
            )

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


_server: ContextVar[_Server | None] = ContextVar("server", default=None)


@contextmanager
def fork_server(*modules: str) -> Iterator[None]:
    """Inside the block `start_python` forks from a process that has imported `modules`, where that can be done.

    Where a block is open already, that one's server is used.
    """
    if _server.get() is not None or not _can_fork():
        yield
        return
    server = _Server(modules)
    token = _server.set(server)
    try:
        yield
    finally:
        _server.reset(token)
        server.close()


def _can_fork() -> bool:
    return sys.platform == "linux" and not any(Path(gpu).exists() for gpu in GPUS)


def start_python(module: str, *arguments: str, stdin: int, output: int, environment: Mapping[str, str]) -> Child:
    """Start `python -m module arguments` with this whole environment: forked from the server where there is one that
    fits, else fresh. What it prints goes to `output`."""
    server = _server.get()
    child = server.fork(module, arguments, stdin, output, environment) if server is not None else None
    if child is not None:
        return child
    command = python_module(module, *arguments)
    return subprocess.Popen(command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, env=environment)


def serve(control: socket.socket) -> None:
    """The server: fork a child for each request, tell its exit code, and end with the process at the other end."""
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who began us
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    statuses: dict[int, socket.socket] = {}
    while True:
        readable = _readable(control.fileno(), ended.fileno())
        if ended.fileno() in readable:
            ended.recv(4096)
            _tell_who_ended(statuses)
        if control.fileno() not in readable:
            continue
        message, handles, _, _ = socket.recv_fds(control, REQUEST_BYTES, 3)
        if not message:
            return
        stdin, output, status = handles
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, interrupted)
            for other in (control, ended, wake, *statuses.values()):
                other.close()
            os.close(status)
            _become(json.loads(message), stdin, output)
        handle = os.pidfd_open(pid)
        socket.send_fds(control, [b"."], [handle])
        for used in (stdin, output, handle):
            os.close(used)
        statuses[pid] = socket.socket(fileno=status)


def _readable(*handles: int) -> set[int]:
    """Wait until there is something to read from one of them. (`select` takes no numbers from 1024 on.)"""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll()}


def _tell_who_ended(statuses: dict[int, socket.socket]) -> None:
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        if (told := statuses.pop(pid, None)) is not None:
            with told, suppress(OSError):
                told.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, Any], stdin: int, output: int) -> None:
    """The child: do as `python -m` does with the request's module, and leave."""
    code = 1
    try:
        for number, handle in ((0, stdin), (1, output), (2, output)):
            os.dup2(handle, number)
        os.close(stdin)
        os.close(output)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.argv[1:] = request["arguments"]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:  # noqa: BLE001 - nothing of the child may go on in the server's loop
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 0)
    import_for_good(*sys.argv[1:])
    serve(control)
    os._exit(0)


if __name__ == "__main__":
    main()
