"""Disk: which stage folders no pointer reaches, and their removal."""

import re
from pathlib import Path

from align.pipeline.lock import run_lock
from align.pipeline.receipts import KEY, is_published, pointed_key, stage_folders
from align.pipeline.run import require_run
from align.pipeline.stage import PARTIAL, WORK
from align.store import remove_folder

_WORKING = re.compile(
    rf"{KEY.pattern}(?:{re.escape(PARTIAL)}|{re.escape(WORK)}|\.archived-\d{{8}}T\d+|\.damaged-\d{{8}}T\d+)"
)


def unreachable(run: Path) -> list[tuple[Path, int]]:
    """Superseded, archived and half-made stage folders with their sizes in bytes, largest first.

    Only folders of names that a run gives are among them, and none behind a symbolic link. Where a pointer is missing
    or cannot be read, what the stage has published stays: `align run` finds it again.
    """
    require_run(run)
    found = []
    for _, stage in stage_folders(run):
        if stage.is_symlink() or stage.parent.is_symlink():
            continue
        folders = [path for path in stage.iterdir() if path.is_dir() and not path.is_symlink()]
        key = pointed_key(stage)
        superseded = [path for path in folders if KEY.fullmatch(path.name) and path.name != key]
        if key is None or not is_published(stage / key):
            superseded = []
        found += [(path, _size(path)) for path in folders if path in superseded or _WORKING.fullmatch(path.name)]
    return sorted(found, key=lambda row: -row[1])


def remove(run: Path) -> list[tuple[Path, int]]:
    """Remove what is unreachable, while no other process works on the run; returns it."""
    require_run(run)
    with run_lock(run):
        found = unreachable(run)
        for folder, _ in found:
            remove_folder(folder)
    return found


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
