"""Folders, locks and private files of the server."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.errors import ServiceError


def data_folder() -> Path:
    """`$XDG_DATA_HOME/align`, by default `~/.local/share/align`."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "align"


def make_private_folder(folder: Path) -> None:
    """Make `folder`, for its owner's eyes only; ServiceError where that cannot be done."""
    with _sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def write_private(path: Path, value: object) -> None:
    """JSON with mode 0600 from its first byte on, replaced atomically, fsynced. One process at a time: see `locked`."""
    partial = path.with_name(f".{path.name}.partial")
    with _sentence(path):
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def read_json(path: Path) -> Any | None:
    """What is in the file; None where there is no file. ServiceError for a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ServiceError(
            f"this file cannot be read ({error})",
            where=str(path),
            hint="restore it, or move it away to have it made again",
        ) from error


@contextlib.contextmanager
def locked(path: Path, *, timeout: float, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `path`; ServiceError after `timeout` seconds. The system frees it when its holder
    dies."""
    from align.lock import acquired, open_lock  # here, since it imports pyarrow, and most calls take no lock

    with contextlib.ExitStack() as held:
        file = held.enter_context(open_lock(path))
        deadline = time.monotonic() + timeout
        while True:
            try:
                held.enter_context(acquired(file, path, wait=False))
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServiceError(
                        f"{what} by another process has not ended for {timeout:.0f} s",
                        where=str(path),
                        hint="wait for it, or end it",
                    ) from None
                time.sleep(0.05)
        yield


@contextlib.contextmanager
def _sentence(path: Path) -> Iterator[None]:
    from align.store import disk_errors  # here, since it imports pyarrow, and most calls never write

    with disk_errors(path):
        yield
