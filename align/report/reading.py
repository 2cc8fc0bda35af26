"""A run's folder as the report sees it: the valid stages, their files, what was asked and on what."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from align.errors import ConfigError, DataError
from align.pipeline.intact import require_readable
from align.pipeline.receipts import Receipt, current, pointers, stage_folder, valid
from align.pipeline.run import RUN, require_run, require_texts
from align.pipeline.stage import Ref
from align.store import read_json, read_rows, read_table


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`receipts` holds the valid stages, in the order in which they ran; `stale` those that a later change of an
    earlier stage left behind, which no report may mix in."""

    path: Path
    recipe: dict[str, Any]
    text: str
    environment: dict[str, Any]
    receipts: dict[Ref, Receipt]
    stale: list[Ref]

    def has(self, round: int, stage: str) -> bool:
        return Ref(round, stage) in self.receipts

    def file(self, round: int, stage: str, name: str) -> Path | None:
        """A file of a valid stage, or None."""
        receipt = self.receipts.get(Ref(round, stage))
        path = stage_folder(self.path, Ref(round, stage)) / receipt.key / name if receipt else None
        return path if path is not None and path.is_file() else None

    def rows(self, round: int, stage: str, name: str) -> list[dict[str, Any]] | None:
        """The rows of a Parquet file of a stage, or None where the stage has none."""
        path = self.file(round, stage, name)
        return None if path is None else read_table(path).to_pylist()

    def json(self, round: int, stage: str, name: str) -> dict[str, Any] | None:
        path = self.file(round, stage, name)
        return None if path is None else dict(read_json(path))

    def log(self, round: int, stage: str, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL log of a stage; none where there is no such log."""
        path = self.file(round, stage, f"logs/{name}")
        return [] if path is None else [row for _, row in read_rows(path)]

    def summary(self, round: int, stage: str) -> dict[str, Any]:
        receipt = self.receipts.get(Ref(round, stage))
        return receipt.summary if receipt else {}


def read_run(path: Path) -> RunFolder:
    """Raises ConfigError where `path` is no run, DataError where a file of the run is damaged."""
    if not (path / "resolved.yaml").is_file():
        runs = sorted(p.parent.name for p in path.parent.glob("*/resolved.yaml")) if path.parent.is_dir() else []
        hint = f"the runs there are {', '.join(runs[:8])}" if runs else "name a folder under runs/"
        raise ConfigError("there is no run (no resolved.yaml)", where=str(path), hint=hint)
    if (path / RUN).is_file():
        require_run(path)
    require_texts(path)
    recipe = _yaml(path / "resolved.yaml")
    require_readable(path)
    known: dict[Ref, Receipt | None] = {}
    # a stage that was done again with the same result is younger than those made from it
    found = sorted(_receipts(path, recipe.get("rounds", 1)), key=lambda r: (r.round, r.started, r.ended))
    receipts = {receipt.ref: receipt for receipt in found if valid(path, receipt.ref, known) is not None}
    stale = [receipt.ref for receipt in found if receipt.ref not in receipts]
    asked, environment = path / "recipe.yaml", path / "env.json"
    return RunFolder(
        path=path,
        recipe=recipe,
        text=asked.read_text(encoding="utf-8") if asked.is_file() else "",
        environment=_environment(environment),
        receipts=receipts,
        stale=stale,
    )


def _receipts(path: Path, rounds: int) -> Iterator[Receipt]:
    for ref, _ in pointers(path):
        receipt = current(path, ref)
        if receipt is not None and ref.round <= rounds:
            yield receipt


def _environment(file: Path) -> dict[str, Any]:
    """On what the run was made; empty where the file is missing or damaged, for each `align run` writes it again."""
    try:
        found = read_json(file) if file.is_file() else {}
    except DataError:
        found = {}
    return found if isinstance(found, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        hint = "`align run RECIPE` writes it again"
        raise DataError(f"this is not YAML ({' '.join(str(error).split())})", where=str(path), hint=hint) from error
    if not isinstance(value, dict):
        raise DataError(f"this holds {type(value).__name__}, not a recipe", where=str(path))
    return value
