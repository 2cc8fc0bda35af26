"""One writer per run."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from align.errors import ServiceError
from align.lock import acquired, open_lock
from align.store import disk_errors


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold `<run>/lock`. Raises ServiceError naming the holder when another living process has it.

    A file left by a dead process is no obstacle: the lock is the kernel's, the text inside only names the holder.
    """
    path = run / "lock"
    with ExitStack() as held:
        file = held.enter_context(open_lock(path))
        try:
            held.enter_context(acquired(file, path, wait=False))
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
    file.seek(0)
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
    except (ValueError, KeyError, TypeError):
        return "its holder has not written its name yet"
