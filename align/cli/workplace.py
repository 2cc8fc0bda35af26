"""Where a verb that does one stage works: a folder beside its `--out`, kept after an error, published when it is done."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TextIO, Unpack

from align.errors import ConfigError
from align.store import (
    LOGS,
    checkpoint_id,
    disk_errors,
    fresh_folder,
    is_ours,
    publish,
    read_json,
    remove_folder,
    working_folder,
    write_json,
)
from align.templates import Chat

PRINTED = "printed.log"


@dataclass(frozen=True, slots=True)
class Workplace:
    """`out` becomes the result; `work` is scratch that the same command goes on from; `terminal` is for our words."""

    out: Path
    work: Path
    terminal: TextIO

    def checkpoint(
        self, model: str, *, revision: str | None, dtype: str, seed: int | None = None, **chat: Unpack[Chat]
    ) -> Path:
        """The given model as a checkpoint folder named by its content, so that another model never meets its work.

        With a `seed` a config without weights gets random ones. A chat template that writes the date gets that of the
        day on which this work began, unless `chat` names another.
        """
        from align.train.checkpoint import import_model

        arriving = self.work / "arriving"
        remove_folder(arriving)  # a kill may have left a part
        chat["date"] = chat.get("date") or self._began()
        import_model(model, arriving, revision=revision, dtype=dtype, seed=seed, **chat)
        known = self.work / f"model-{checkpoint_id(arriving)}"
        remove_folder(known)  # the one of an earlier attempt may have been damaged
        arriving.rename(known)
        return known

    def _began(self) -> str:
        file = self.work / "began.json"
        if not file.is_file():
            write_json(file, {"date": date.today().isoformat()})
        return str(read_json(file)["date"])


@contextmanager
def workplace(out: Path, threads: int | None) -> Iterator[Workplace]:
    """Work on `out` alone; at the end it is there as a whole, after an error it is not there at all.

    It grows in `out.partial`, and `out.work` beside it is removed when `out` is there, so that a kill in between loses
    nothing. What libraries print goes to `out/logs/printed.log`. Raises ConfigError where `out` is there already, or one of
    the two others and we did not make it, ServiceError where another process works on it or the disk refuses.
    """
    from align.pipeline.lock import run_lock
    from align.pipeline.stage import PARTIAL, WORK
    from align.pipeline.stage_worker import thread_settings

    partial, work = out.with_name(out.name + PARTIAL), out.with_name(out.name + WORK)
    if out.exists():
        if is_ours(work):  # a kill came when all but this was done
            with run_lock(work):
                remove_folder(work)
        raise ConfigError(f"{out} is there already", where="--out", hint="name another folder, or remove this one")
    working_folder(work)
    with run_lock(work):
        fresh_folder(partial)  # what an earlier attempt left is made anew: it may have had other settings
        with disk_errors(partial):
            (partial / LOGS).mkdir()
        os.environ.update(thread_settings(threads))
        with _library_output(partial / LOGS / PRINTED) as terminal:
            yield Workplace(partial, work, terminal)
        publish(partial, out)
        remove_folder(work)


def keep_dropped(folder: Path, dropped: Sequence[Any]) -> None:
    """Rows of the user's file that went no further, those that training dropped behind them, with their reasons, beside
    the result."""
    from align.store import read_table, write_rows
    from align.types import as_dict

    trained = folder / "dropped.parquet"
    later = read_table(trained).to_pylist() if trained.is_file() else []
    write_rows(folder / "dropped.jsonl", [*map(as_dict, dropped), *later])


@contextmanager
def _library_output(log: Path) -> Iterator[TextIO]:
    """Send standard output and error, of Python and of the code below it, to `log`; gives the true standard error."""
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
