"""Ids of files and folders, remembered by size and time of change so that large models are hashed once."""

from pathlib import Path

from align.errors import DataError
from align.ids import content_id, file_id, is_whole, with_check
from align.store import read_json, write_json

PRINTS = "fingerprints.json"
"""The memory in a run's folder; it may be deleted at any time."""


class Fingerprints:
    """Content ids of paths; the memory lives in `<run>/fingerprints.json`, and is begun again where it is damaged."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known = _remembered(memory)
        self._changed = False

    def of(self, path: Path, *, known: bool = True) -> str:
        """Content id of a file, or of a folder with everything in it; `known=False` reads what is remembered too."""
        if path.is_dir():
            return content_id(
                {p.relative_to(path).as_posix(): self._file(p, known) for p in sorted(path.rglob("*")) if p.is_file()}
            )
        return self._file(path, known)

    def note(self, path: Path, identity: str) -> None:
        """Remember the content id of a file that has just been read."""
        self._known[str(path.resolve())] = [*_state(path), identity]
        self._changed = True

    def save(self) -> None:
        """Write what is new, without files that are gone."""
        if self._changed and self._memory.parent.is_dir():
            known = {name: entry for name, entry in self._known.items() if Path(name).exists()}
            write_json(self._memory, with_check({"files": known}))
            self._changed = False

    def _file(self, path: Path, known: bool) -> str:
        remembered = self._known.get(str(path.resolve()))
        if known and remembered is not None and remembered[:2] == _state(path):
            return str(remembered[2])
        identity = file_id(path)
        self.note(path, identity)
        return identity


def _state(path: Path) -> list[object]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _remembered(memory: Path) -> dict[str, list[object]]:
    """What the file holds; nothing where it is missing or not as it was written: it is made again."""
    try:
        found = read_json(memory) if memory.is_file() else {}
        files: dict[str, list[object]] = found["files"]
        return files if found["check"] and is_whole(found) else {}
    except (DataError, TypeError, KeyError, ValueError):
        return {}
