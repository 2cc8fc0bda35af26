"""Locks that the kernel lets go of when their holder dies, however it dies.

Where a file system knows no locks, the lock lies among this machine's temporary files and keeps out its processes
alone.
"""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from align.errors import ServiceError
from align.ids import content_id
from align.store import disk_errors

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def open_lock(path: Path) -> TextIO:
    """The file of a lock, made where it is not there. ServiceError for a link and all else whose content is not
    ours."""
    with disk_errors(path):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise _not_ours(path) from error
            raise
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(handle)
            raise _not_ours(path)
        return os.fdopen(handle, "r+", encoding="utf-8", errors="replace")


def _not_ours(path: Path) -> ServiceError:
    return ServiceError(
        "the lock is a link, a folder or a device", where=str(path), hint="remove it; a lock is made again"
    )


@contextmanager
def acquired(file: IO[Any], path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of `file`, which lies at `path`. Without `wait` raises BlockingIOError where another process has
    it."""
    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        with _elsewhere(path).open("a") as other:
            fcntl.flock(other, how)
            yield
        return
    yield


def _elsewhere(path: Path) -> Path:
    """The lock for `path` where locks are known; each user has a folder of their own."""
    folder = Path(tempfile.gettempdir()) / f"align-locks-{os.getuid()}"
    with disk_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ServiceError(
            "this folder of locks is another user's", where=str(folder), hint="set TMPDIR to another folder"
        )
    return folder / content_id(str(path.absolute().parent.resolve() / path.name))
