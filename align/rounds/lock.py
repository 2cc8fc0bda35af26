"""One writer per run: an advisory lock that the kernel lets go of when its holder dies, however it dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from align.errors import ServiceError
from align.store import disk_errors


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold `<run>/lock`. Raises ServiceError naming the holder when another living process has it.

    A file left by a dead process is no obstacle: the lock is the kernel's, the text inside only names the holder.
    """
    path = run / "lock"
    with disk_errors(path):
        file = path.open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ServiceError(
                f"another process works on this run: {_describe(file.read())}",
                where=str(run),
                hint="wait for it, or stop it",
            ) from None
        with disk_errors(path):
            _sign(file)
        yield
        file.truncate(0)


def _sign(file: TextIO) -> None:
    file.truncate(0)
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    file.write(json.dumps(holder))
    file.flush()


def _describe(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):
        return "its holder has not written its name yet"
