"""Disk: which stage folders no pointer reaches, and their removal."""

from pathlib import Path

from align.rounds.lock import run_lock
from align.rounds.run import require_run
from align.rounds.stage import CURRENT
from align.store import remove_folder


def unreachable(run: Path) -> list[tuple[Path, int]]:
    """Superseded, retired and half-made stage folders with their sizes in bytes, largest first."""
    require_run(run)
    found = []
    for stage in sorted(run.glob("round_*/*")):
        pointer = stage / CURRENT
        key = pointer.read_text().strip() if pointer.is_file() else None
        found += [(path, _size(path)) for path in stage.iterdir() if path.is_dir() and path.name != key]
    return sorted(found, key=lambda row: -row[1])


def remove(run: Path, folders: list[Path]) -> None:
    """Remove `folders`, while no other process works on the run."""
    with run_lock(run):
        for folder in folders:
            remove_folder(folder)


def _size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
