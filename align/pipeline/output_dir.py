"""Where work becomes a result: a folder beside the one asked for, kept after an error, published when it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Unpack

from align.errors import ConfigError
from align.pipeline.lock import run_lock
from align.pipeline.stage import PARTIAL, WORK
from align.store import (
    checkpoint_id,
    fresh_folder,
    is_ours,
    publish,
    read_json,
    remove_folder,
    working_folder,
    write_json,
)
from align.templates import Chat


@dataclass(frozen=True, slots=True)
class OutputDir:
    """`out` becomes the result; `work` is scratch that the same call goes on from."""

    out: Path
    work: Path

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
def output_dir(out: Path, work: Path | None = None, *, where: str = "out") -> Iterator[OutputDir]:
    """Work on `out` alone; at the end it is there as a whole, after an error it is not there at all.

    It grows in `out.partial`, and `work` (`out.work` beside it where not given) is removed when `out` is there, so that
    a kill in between loses nothing. Raises ConfigError where `out`, which errors call `where`, is there already, or one
    of the two others and we did not make it; ServiceError where another process works on it or the disk refuses.
    """
    partial, work = out.with_name(out.name + PARTIAL), work or out.with_name(out.name + WORK)
    if out.exists():
        if is_ours(work):  # a kill came when all but this was done
            with run_lock(work):
                remove_folder(work)
        raise ConfigError(f"{out} is there already", where=where, hint="name another folder, or remove this one")
    working_folder(work)
    with run_lock(work):
        fresh_folder(partial)  # what an earlier attempt left is made again: it may have had other settings
        yield OutputDir(partial, work)
        publish(partial, out)
        remove_folder(work)
