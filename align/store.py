"""Files: JSONL and Parquet in and out, atomic publishing, durable appends, content ids of folders."""

import errno
import gzip
import json
import os
import re
import shutil
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.errors import AlignError, ConfigError, DataError, ServiceError
from align.ids import content_id, file_id

LOGS = "logs"
"""The one subfolder of a stage that is for people and not part of its content id (it holds wall times)."""


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a `.jsonl`, `.jsonl.gz` or `.parquet` file, each with its `file:line` (for Parquet `file:row`).

    Raises DataError for a missing file, a folder, a line that is not a JSON object (with its line number) or another
    format.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder", hint=_rows_in(path))
    if not path.is_file():
        begin = "a recipe's relative ones start at its folder" if path.is_absolute() else f"it starts at {Path.cwd()}"
        raise DataError(f"there is no such file: {path}", hint=f"check the path; {begin}")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_jsonl(path)
    else:
        found = repr(path.suffix) if path.suffix else "without a suffix"
        raise DataError(f"cannot read the format {found}", where=str(path), hint="use .jsonl, .jsonl.gz or .parquet")


def _rows_in(folder: Path) -> str:
    """Which file of a folder is meant, perhaps: our verbs write rows beside those that they dropped."""
    found = [p for p in sorted(folder.iterdir()) if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet"))]
    found = [p for p in found if not p.name.startswith("dropped.")] or found
    if not found:
        return "and it holds no file of rows (.jsonl, .jsonl.gz or .parquet)"
    return f"name the file of rows in it: {' or '.join(str(p) for p in found[:4])}"


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = (row for batch in pq.ParquetFile(path).iter_batches() for row in batch.to_pylist())
        yield from ((f"{path.name}:{number}", row) for number, row in enumerate(rows, 1))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"this is not a readable Parquet file ({error})", where=str(path)) from error


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", _parse(line, f"{path.name}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        kind = "a whole gzip file" if path.suffix == ".gz" else "a readable file"
        raise DataError(f"this is not {kind} ({error})", where=str(path)) from error


def _parse(line: bytes, where: str) -> dict[str, Any]:
    row = parse_json(line, where, "one JSON object a line, in UTF-8")
    if not isinstance(row, dict):
        found = f"{type(row).__name__} {str(row)[:40]!r}"
        raise DataError(f"the line holds {found}, not an object", where=where, hint="one JSON object a line")
    return row


def parse_json(text: bytes, where: str, hint: str | None = None) -> Any:
    """JSON that somebody else wrote: no key twice, no NaN, not too deep. DataError where it is not so."""
    what = "line" if hint else "file"
    try:
        _require_shallow(text)
        return json.loads(text.decode("utf-8-sig"), parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError, numbers of too many digits
        raise DataError(f"the {what} is not JSON ({error})", where=where, hint=hint) from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand in it once: of a key that is given twice nobody can say which value is meant."""
    built = dict(pairs)
    if len(built) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:40]!r} stands in it twice")
    return built


_DEEPEST = 64


def _require_shallow(line: bytes) -> None:
    """ValueError for lists and objects that lie more than 64 deep in each other: whoever walks through them would
    fail."""
    if line.count(b"[") + line.count(b"{") <= _DEEPEST:
        return
    depth = 0
    for bracket in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', line):
        depth += (bracket in (b"[", b"{")) - (bracket in (b"]", b"}"))
        if depth > _DEEPEST:
            raise ValueError(f"its lists and objects lie more than {_DEEPEST} deep in each other")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSONL, in UTF-8, one object a line; replaced atomically, so that nobody sees a part."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def write_table(path: Path, table: pa.Table) -> None:
    """Parquet, with a checksum on each page; the same table gives the same bytes."""
    with disk_errors(path):
        pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or the named columns of it alone. Raises DataError for a damaged one."""
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except FileNotFoundError:
        raise DataError("this file is missing", where=str(path), hint=_COPY) from None
    except (pa.ArrowException, OSError, ValueError) as error:  # text that is not UTF-8, compressed bytes that are none
        raise DataError(f"this is not a whole Parquet file ({_line(error)})", where=str(path), hint=_COPY) from error


def remove_damaged(folder: Path, schema: pa.Schema) -> None:
    """Of a folder of tables that are made again where they are missing, remove those that are not whole."""
    for path in folder.glob("*.parquet"):
        try:
            whole = read_table(path).schema.equals(schema)
        except DataError:
            whole = False
        if not whole:
            path.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Readable JSON, replaced atomically, fsynced."""
    replace_file(path, json_text(value))


def json_text(value: object) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def read_json(path: Path) -> Any:
    """What a JSON file of ours holds. Raises DataError for a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is not JSON ({_line(error)})", where=str(path), hint=_COPY) from error


_COPY = "it was damaged after it was written; put it back from a copy"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def replace_file(path: Path, text: str) -> None:
    """Write `text` so that a reader, or a kill, sees the old file or the new one and never a part."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with disk_errors(path):
        sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, which takes its place when it is filled; where that fails it is gone again."""
    with disk_errors(path):
        partial = fresh_partial(path)
        try:
            yield partial
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def fresh_partial(path: Path) -> Path:
    """Make the empty file that is to replace `path`, without what a kill left of an earlier one.

    Nobody may read it who may not read what it replaces, from its first byte on.
    """
    partial = partial_of(path)
    partial.unlink(missing_ok=True)
    there = stat.S_IMODE(path.stat().st_mode) | 0o600 if path.is_file() else None  # it is we who write it
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # a link of that name is not followed
    with os.fdopen(os.open(partial, flags, 0o666 if there is None else there), "wb") as file:
        if there not in (None, stat.S_IMODE(os.fstat(file.fileno()).st_mode)):  # some file systems take no modes
            os.fchmod(file.fileno(), there)  # what the umask took off
    return partial


def partial_of(path: Path) -> Path:
    """What a file is called until it takes the place of `path`."""
    return path.with_name(f".{path.name}.partial")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_MARK = ".made-by-align"
"""In a working folder of ours beside a result; one that bears another's name for it is never removed."""
_MARKED = "A working folder of align, which removes it.\n"


def working_folder(folder: Path) -> Path:
    """Make `folder` for work, or find it as a killed command left it. Raises ConfigError where it is somebody
    else's."""
    if not is_ours(folder):
        if folder.is_symlink() or (folder.exists() and not _is_empty(folder)):
            what = f"{folder} is in the way: align works in a folder of that name, and did not make this one"
            raise ConfigError(what, hint="move it, or give the result another name")
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _MARK).write_text(_MARKED, encoding="utf-8")
    return folder


def fresh_folder(folder: Path) -> Path:
    """`working_folder`, without what a killed command left in it."""
    working_folder(folder)
    with disk_errors(folder):
        for path in folder.iterdir():
            if path.name != _MARK:
                remove_folder(path) if path.is_dir() else path.unlink()
    return folder


def is_ours(folder: Path) -> bool:
    """Whether a working folder was made by `working_folder`."""
    try:
        return not folder.is_symlink() and (folder / _MARK).read_text(encoding="utf-8") == _MARKED
    except (OSError, UnicodeDecodeError):
        return False


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


def publish(partial: Path, final: Path) -> None:
    """Turn a finished working folder (or file) into a published one: fsync every file, then rename.

    Who may read a file of it is who may read the folder: some libraries write for the owner alone.
    """
    with disk_errors(final):
        readers = stat.S_IMODE(partial.stat().st_mode) & 0o444
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                found = path.stat()
                if found.st_nlink == 1 and not path.is_symlink():  # a file with a second name is not ours alone
                    path.chmod(stat.S_IMODE(found.st_mode) | readers)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            elif path.is_dir():
                sync_folder(path)
        sync_folder(partial)
        partial.rename(final)
        if final.is_dir():
            (final / _MARK).unlink(missing_ok=True)
        sync_folder(final.parent)


def folder_files(folder: Path) -> dict[str, str]:
    """Relative path → content id of each file that belongs to a folder's content (not `receipt.json`, not `logs/`)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [(p, p.relative_to(folder).as_posix()) for p in files]
    return {name: file_id(p) for p, name in names if name != "receipt.json" and not name.startswith(LOGS + "/")}


def folder_id(folder: Path) -> str:
    """Content id of a folder."""
    return content_id(folder_files(folder))


def checkpoint_id(folder: Path) -> str:
    """Content id of a checkpoint: the model's and the tokenizer's own files, and nothing that lies beside them."""
    endings = (".safetensors", ".json", ".jinja", ".model", ".txt")
    return content_id(
        {
            name: identity
            for name, identity in folder_files(folder).items()
            if "/" not in name and name.endswith(endings)
        }
    )


def remove_folder(folder: Path) -> None:
    """Remove a folder and all that is in it, of a link the link alone; one that is not there is fine."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


_FREE = "free some disk space or check the permissions, then run the same command again"
_SAID_BY_OTHERS = ("PytorchStreamWriter failed writing", "database or disk is full")  # torch.save, SQLite
_REFUSALS = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}


def disk_refusal(error: BaseException) -> ServiceError | None:
    """The disk that is full, if that is what is behind `error`: libraries wrap it, some of them in words alone."""
    cause: BaseException | None = error
    while cause is not None:
        for code, words in _REFUSALS.items():
            if getattr(cause, "errno", None) == code or words in str(cause) or f"(os error {code})" in str(cause):
                where = getattr(cause, "filename", None)
                return ServiceError(f"cannot write ({words})", where=str(where) if where else None, hint=_FREE)
        for words in _SAID_BY_OTHERS:
            if words in str(cause):
                return ServiceError(f"cannot write ({words})", hint=_FREE)
        cause = cause.__cause__ or cause.__context__
    return None


class disk_errors:  # noqa: N801 - used as a statement: `with disk_errors(path):`
    """Turns an OSError of the file system, however wrapped, into one sentence with the path and the way out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise ServiceError(f"cannot write ({error.strerror or error})", where=str(self.path), hint=_FREE) from error
        if isinstance(error, Exception) and not isinstance(error, AlignError) and (found := disk_refusal(error)):
            raise ServiceError(found.what, where=str(self.path), hint=found.hint) from error
