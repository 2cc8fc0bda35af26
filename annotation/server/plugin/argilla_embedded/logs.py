"""The server's log: bounded in what one message takes, and rotated by size.

One annotator could otherwise fill the disk: an error of the database quotes its whole statement. What no logger writes
(a crash of the interpreter, a library that prints) goes to the same file, for the file is standard output and error
too.
"""

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

SIZE, KEPT = 10 * 2**20, 3
"""Bytes of one file, and how many older ones are kept; `annotation.server.process` rotates the same files at a
start."""
LINE, LINES = 500, 200
"""Characters of a line and lines of a message; what is longer is cut in the middle."""


class Bounded(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return bounded(super().format(record))


def bounded(message: str) -> str:
    """At most LINES lines of at most LINE characters, for the end of a traceback says the most as its beginning
    does."""
    lines = [line if len(line) <= LINE else f"{line[:LINE]} … ({len(line)} characters)" for line in message.split("\n")]
    if len(lines) > LINES:
        left_out = len(lines) - LINES
        lines = [*lines[: LINES // 2], f"… ({left_out} lines)", *lines[-LINES // 2 :]]
    return "\n".join(lines)


class LogFile(RotatingFileHandler):
    """Standard output and error follow the file when it is rotated."""

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        super().doRollover()
        follow(self.stream.fileno())


def follow(descriptor: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for target in (1, 2):
        os.dup2(descriptor, target)


def install(path: Path | None) -> None:
    """Log to `path`, else to standard error. Called before Argilla is imported, which then adds no handler of its
    own."""
    handler = LogFile(path, maxBytes=SIZE, backupCount=KEPT) if path else logging.StreamHandler()
    handler.setFormatter(Bounded("%(levelname)s: %(asctime)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
