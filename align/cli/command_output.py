"""Where a verb for one stage works: in a folder beside its `--out`, with a log of what libraries print."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from align.pipeline.output_dir import OutputDir, output_dir
from align.store import LOGS, disk_errors

PRINTED = "printed.log"


@dataclass(frozen=True, slots=True)
class CommandOutput(OutputDir):
    """`terminal` is for align's own messages."""

    terminal: TextIO


@contextmanager
def command_output(out: Path, threads: int | None) -> Iterator[CommandOutput]:
    """`output_dir`, with the threads of this process set. What libraries print goes to `out/logs/printed.log`; align's
    own warnings are also shown at once."""
    from align.pipeline.stage_worker import thread_settings

    with output_dir(out, where="--out") as place:
        with disk_errors(place.out):
            (place.out / LOGS).mkdir()
        os.environ.update(thread_settings(threads))
        log = place.out / LOGS / PRINTED
        with _library_output(log) as terminal, _our_warnings(terminal, log):
            yield CommandOutput(place.out, place.work, terminal)


def keep_dropped(folder: Path, dropped: Sequence[Any]) -> None:
    """Write the dropped rows with their reasons beside the result: those dropped from the user's file, then those that
    training dropped."""
    from align.store import read_table, write_rows
    from align.types import as_dict

    trained = folder / "dropped.parquet"
    later = read_table(trained).to_pylist() if trained.is_file() else []
    write_rows(folder / "dropped.jsonl", [*map(as_dict, dropped), *later])


@contextmanager
def _our_warnings(terminal: TextIO, log: Path) -> Iterator[None]:
    from align.cli.display import one_line

    class Plain(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return one_line(record.getMessage())

    handlers: list[logging.Handler] = [logging.StreamHandler(terminal), logging.FileHandler(log, encoding="utf-8")]
    ours = [logging.getLogger(name) for name in ("align", "annotation", "reward", "rollouts")]
    for handler in handlers:
        handler.setLevel(logging.WARNING)
        handler.setFormatter(Plain())
        for logger in ours:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in ours:
            for handler in handlers:
                logger.removeHandler(handler)
        handlers[1].close()


@contextmanager
def _library_output(log: Path) -> Iterator[TextIO]:
    """Redirect standard output and error, of Python and of native code, to `log`; yields the real standard error."""
    sys.stdout.flush()
    sys.stderr.flush()
    out, error = os.dup(1), os.dup(2)
    try:
        with disk_errors(log), log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        with os.fdopen(os.dup(error), "w", encoding="utf-8", errors="replace", buffering=1) as terminal:
            yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out, 1)
        os.dup2(error, 2)
        os.close(out)
        os.close(error)
