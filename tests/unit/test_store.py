"""Files: rows in and out, what a kill leaves behind, ids of folders."""

import errno
import gzip
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align import store
from align.errors import DataError, ServiceError
from align.ids import content_id, file_id
from align.store import (
    checkpoint_id,
    disk_errors,
    disk_refusal,
    folder_files,
    folder_id,
    publish,
    read_json,
    read_rows,
    read_table,
    remove_folder,
    replace_file,
    write_json,
    write_rows,
    write_table,
)

ROWS = [{"a": 1, "b": "é\u2028 \\"}, {"a": None, "b": ["x", {"c": 0.5}]}]


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    return str(caught.value).replace(f"{path.parent}/", "")


def test_jsonl_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    write_rows(path, ROWS)
    assert list(read_rows(path)) == [("r.jsonl:1", ROWS[0]), ("r.jsonl:2", ROWS[1])]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(path, [{"a": float("nan")}])


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n   \n{"a": 2}')
    assert list(read_rows(path)) == [("r.jsonl:1", {"a": 1}), ("r.jsonl:4", {"a": 2})]


def test_gzip_and_its_damage(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    whole = gzip.compress("".join(f'{{"a": {n}}}\n' for n in range(5000)).encode())
    path.write_bytes(whole)
    assert [row["a"] for _, row in read_rows(path)] == list(range(5000))
    path.write_bytes(whole[:-20])
    assert complaint(path).startswith("r.jsonl.gz: this is not a whole gzip file (")
    path.write_bytes(whole[:500] + b"\xff" * 20 + whole[520:])
    assert complaint(path).startswith("r.jsonl.gz: this is not a whole gzip file (")
    path.write_bytes(b'{"a": 1}\n')
    assert complaint(path).startswith("r.jsonl.gz: this is not a whole gzip file (Not a gzipped file")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": ', "r.jsonl:2: the line is not JSON (Expecting value"),
        (b'{"a": 1}{"a": 2}', "r.jsonl:2: the line is not JSON (Extra data"),
        (b'{"a": NaN}', "r.jsonl:2: the line is not JSON (NaN is no JSON)"),
        (b'{"a": "\xff"}', "r.jsonl:2: the line is not JSON ('utf-8' codec can't decode byte 0xff"),
        (b'{"a": ' + b"9" * 5000 + b"}", "r.jsonl:2: the line is not JSON (Exceeds the limit"),
        (b"[" * 200_000, "r.jsonl:2: the line is not JSON ("),
        (b"[1, 2]", "r.jsonl:2: the line holds list '[1, 2]', not an object; one JSON object a line"),
        (b"null", "r.jsonl:2: the line holds NoneType 'None', not an object"),
    ],
)
def test_lines_that_are_no_objects(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    assert complaint(path).startswith(said)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "there is no such file: none.jsonl" in complaint(tmp_path / "none.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "folder.jsonl is a folder; and it holds no file of rows" in complaint(tmp_path / "folder.jsonl")
    for name, found in (("r.csv", "'.csv'"), ("r", "without a suffix"), ("r.json", "'.json'")):
        (tmp_path / name).touch()
        assert (
            complaint(tmp_path / name) == f"{name}: cannot read the format {found}; use .jsonl, .jsonl.gz or .parquet"
        )
    (tmp_path / "r.parquet").write_bytes(b"PAR1 no")
    assert complaint(tmp_path / "r.parquet").startswith("r.parquet: this is not a readable Parquet file (")


def test_parquet_rows_are_numbered_through_all_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"a": list(range(10))}), path, row_group_size=3)
    assert list(read_rows(path)) == [(f"r.parquet:{n + 1}", {"a": n}) for n in range(10)]


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, pa.table({"x": ["p", None], "y": [[1], []]}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_table(tmp_path / "a").to_pydict() == {"x": ["p", None], "y": [[1], []]}


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    write_json(path, {"a": "é", "path": Path("x")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é", "path": "x"} == read_json(path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(ServiceError) as caught:
        replace_file(path, "{")
    assert str(caught.value) == (
        f"{path}: cannot write (No space left on device); free some disk space or check the permissions, then run the "
        "same command again"
    )
    assert read_json(path)["a"] == "é"


def folder_with(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_publish_moves_the_whole_folder_and_never_over_another(tmp_path: Path) -> None:
    partial = folder_with(tmp_path / "k.partial", a_txt="1", sub__b_txt="2")
    publish(partial, tmp_path / "k")
    assert not partial.exists()
    assert (tmp_path / "k" / "sub" / "b.txt").read_text(encoding="utf-8") == "2"
    again = folder_with(tmp_path / "k.partial", a_txt="other")
    with pytest.raises(ServiceError, match="cannot write"):
        publish(again, tmp_path / "k")
    assert (tmp_path / "k" / "a.txt").read_text(encoding="utf-8") == "1"
    remove_folder(again)
    remove_folder(again)
    assert not again.exists()


def test_every_file_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = folder_with(tmp_path / "k.partial", a_txt="1", sub__b_txt="2")
    wanted = {(p.stat().st_ino) for p in (partial, *partial.rglob("*"))}
    synced: set[int] = set()
    rename = Path.rename

    def check(self: Path, target: Any) -> Path:
        assert wanted <= synced
        return rename(self, target)

    monkeypatch.setattr(store.os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "rename", check)
    publish(partial, tmp_path / "k")
    assert tmp_path.stat().st_ino in synced


def test_ids_of_folders(tmp_path: Path) -> None:
    one = folder_with(tmp_path / "one", a_txt="1", sub__b_txt="2", receipt_json="x", logs__log_txt="now")
    two = folder_with(tmp_path / "two", sub__b_txt="2", a_txt="1", receipt_json="y", logs__log_txt="later")
    assert folder_files(one) == {"a.txt": file_id(one / "a.txt"), "sub/b.txt": file_id(one / "sub" / "b.txt")}
    assert folder_id(one) == folder_id(two) == content_id(folder_files(one))
    (two / "a.txt").rename(two / "c.txt")
    assert folder_id(one) != folder_id(two)


def test_a_checkpoint_is_its_own_files_only(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", config_json="{}", model_safetensors="w")
    identity = checkpoint_id(folder)
    folder_with(folder, adapter__model_safetensors="x", dropped_parquet="x", receipt_json="x", logs__metrics_jsonl="x")
    assert checkpoint_id(folder) == identity
    folder_with(folder, tokenizer_json="{}")
    assert checkpoint_id(folder) != identity


def test_disk_errors_leave_other_errors_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError("x")
    with pytest.raises(ServiceError, match=r"cannot write \(Not a directory\)"), disk_errors(tmp_path):
        (tmp_path / "f").touch()
        (tmp_path / "f" / "g").write_text("")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
    ],
)
def test_a_full_disk_is_seen_however_a_library_says_it(error: Exception, tmp_path: Path) -> None:
    found = disk_refusal(error)
    assert found is not None
    assert found.what == "cannot write (Disk quota exceeded)"
    with (
        pytest.raises(ServiceError, match=r"model: cannot write \(Disk quota exceeded\)"),
        disk_errors(tmp_path / "model"),
    ):
        try:
            raise error
        except Exception as cause:
            raise ValueError("could not be saved") from cause


def test_other_errors_are_not_the_disk(tmp_path: Path) -> None:
    assert disk_refusal(ValueError("28")) is None
    assert disk_refusal(sqlite3.OperationalError("database or disk is full")) is not None
    assert disk_refusal(OSError(errno.EACCES, "Permission denied")) is None
    with pytest.raises(DataError, match=r"^mine$"), disk_errors(tmp_path):
        raise DataError("mine")


def test_rows_that_fail_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"a": 1}])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_rows(path, [{"a": 2}, {"a": float("nan")}])
    assert path.read_text() == '{"a": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_private_file_is_private_while_it_is_replaced_and_after(tmp_path: Path) -> None:
    path, partial, seen = tmp_path / "rows.jsonl", tmp_path / ".rows.jsonl.partial", []
    write_rows(path, [{"a": 1}])
    path.chmod(0o600)
    partial.write_text("left by a kill")

    def rows() -> Iterator[dict[str, Any]]:
        seen.append(stat.S_IMODE(partial.stat().st_mode))
        yield {"a": 2}

    write_rows(path, rows())
    assert seen == [0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600
    replace_file(path, "text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
