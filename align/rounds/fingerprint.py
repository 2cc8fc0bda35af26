"""Ids of outside files and folders, remembered by size and time of change so that large models are hashed once."""

from pathlib import Path

from align.ids import content_id, file_id
from align.store import read_json, write_json


class Fingerprints:
    """Content ids of paths outside the run; the memory lives in `<run>/fingerprints.json`."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[object]] = read_json(memory) if memory.is_file() else {}
        self._changed = False

    def of(self, path: Path) -> str:
        """Content id of a file, or of a folder with everything in it."""
        if path.is_dir():
            return content_id(
                {p.relative_to(path).as_posix(): self._file(p) for p in sorted(path.rglob("*")) if p.is_file()}
            )
        return self._file(path)

    def save(self) -> None:
        if self._changed and self._memory.parent.is_dir():
            write_json(self._memory, self._known)
            self._changed = False

    def _file(self, path: Path) -> str:
        stat = path.stat()
        state: list[object] = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(path.resolve()))
        if known is not None and known[:2] == state:
            return str(known[2])
        identity = file_id(path)
        self._known[str(path.resolve())] = [*state, identity]
        self._changed = True
        return identity
