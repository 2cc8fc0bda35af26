"""Files of a run that were changed, torn or lost, and folders that are not ours: found, repaired or left alone."""

import errno
import fcntl
import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from align import lock
from align.cli.command_output import command_output
from align.cli.recipes import copy_recipe
from align.config.rollouts import Cpu
from align.errors import ConfigError, DataError, ServiceError
from align.ids import file_id
from align.pipeline import runner
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.lock import run_lock
from align.pipeline.receipts import current, partial_folder, pointed_key, stage_folder
from align.pipeline.run import noted, noting
from align.pipeline.stage import Ref
from align.provenance.clean import remove, unreachable
from align.provenance.lineage import build_index, trace
from align.report.html import renew_derived, write_report
from align.store import (
    fresh_folder,
    publish,
    read_json,
    read_table,
    remove_damaged,
    remove_folder,
    working_folder,
    write_table,
)
from annotation.journal import append, read_journal
from annotation.server.files import locked
from rollouts.sample import _begun_with
from tests.fake_run import make_run
from tests.unit.test_rounds import CALLS, Nobody, chain, go, number


@pytest.fixture(autouse=True)
def _light() -> None:
    CALLS.clear()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three finished stages: 0/first, 1/second, 1/third."""
    (tmp_path / "run.json").write_text('{"id": "0123abcd"}')
    go(tmp_path, chain())
    return tmp_path


def folder(run: Path, round: int, name: str) -> Path:
    receipt = current(run, Ref(round, name))
    assert receipt is not None
    return stage_folder(run, receipt.ref) / receipt.key


# What is published is compared with its receipt.


def test_a_published_file_that_was_changed_is_not_read(run: Path) -> None:
    file = folder(run, 0, "first") / "number"
    assert file.read_text() == "1"
    file.write_text("7")
    with pytest.raises(DataError) as caught:
        go(run, chain(second=5))
    assert str(caught.value) == (
        f"{file}: number of 0/first is not what was published; put the file back from a copy, or `align run RECIPE "
        "--from 0/first` does this stage and what follows again"
    )
    file.write_text("1")
    assert go(run, chain(second=5)) == ["1/second", "1/third"]
    assert number(run, 1, "third") == "9"


def test_a_file_with_the_old_time_is_found_on_request(run: Path) -> None:
    file = folder(run, 1, "third") / "number"
    before = file.stat()
    file.write_text("7")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert go(run, chain()) == []
    with pytest.raises(DataError, match="number of 1/third is not what was published"):
        runner.go(run, chain(), Nobody(), lambda event: None, verify=True)


def test_a_published_file_that_is_gone(run: Path) -> None:
    (folder(run, 0, "first") / "number").unlink()
    with pytest.raises(DataError, match=r"number of 0/first is missing; put the file back"):
        go(run, chain(second=5))


def test_a_copied_run_is_read_once_and_goes_on(run: Path, tmp_path: Path) -> None:
    """Other times, the same content."""
    for path in run.rglob("number"):
        os.utime(path, (1, 1))
    assert go(run, chain(second=5)) == ["1/second", "1/third"]


def test_from_does_a_damaged_stage_again_whatever_is_damaged(run: Path) -> None:
    for name, text in (("receipt.json", "{"), ("receipt.json", '{"stage": "first"}'), ("number", "7")):
        (folder(run, 0, "first") / name).write_text(text)
        with pytest.raises(DataError, match="0/first"):
            go(run, chain(second=len(CALLS)))
        runner.archive(run, chain()[:1])
        assert go(run, chain()[:1]) == ["0/first"]
        assert number(run, 0, "first") == "1"


# Damage that one command repairs.


def test_a_missing_receipt_has_the_stage_done_again(run: Path) -> None:
    place = folder(run, 1, "third")
    (place / "receipt.json").unlink()
    assert go(run, chain()) == ["1/third"]
    assert number(run, 1, "third") == "6"
    names = sorted(path.name for path in place.parent.iterdir())
    assert [re.sub(r"\d{8}T\d+", "T", name) for name in names] == sorted(
        [place.name, f"{place.name}.damaged-T", "current"]
    )
    assert [path.name for path, _ in remove(run)] == [name for name in names if "damaged" in name]
    assert go(run, chain()) == []


def test_a_receipt_is_checked_as_a_whole(run: Path) -> None:
    path = folder(run, 1, "second") / "receipt.json"
    receipt = json.loads(path.read_text())
    for name, value in (("summary", {"add": 3}), ("seconds", 5.0), ("key", "0" * 32), ("files", {}), ("round", 2)):
        path.write_text(json.dumps(receipt | {name: value}))
        with pytest.raises(DataError, match=r"the receipt of 1/second is damaged; put the file back from a copy"):
            go(run, chain())
    old = {name: value for name, value in receipt.items() if name != "check"}
    path.write_text(json.dumps(old))
    assert go(run, chain()) == []  # of a version that wrote no check
    path.write_text(json.dumps(old | {"colour": "blue"}))
    assert go(run, chain()) == []  # of a version that says more


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"../../..", b"f" * 31, b"0" * 32 + b"\n"])
def test_a_pointer_that_names_nothing_is_mended(run: Path, text: bytes) -> None:
    pointer = stage_folder(run, Ref(1, "third")) / "current"
    key = pointed_key(pointer.parent)
    pointer.write_bytes(text)
    assert current(run, Ref(1, "third")) is None
    assert unreachable(run) == [], "what the stage has published stays"
    assert go(run, chain()) == []
    assert pointed_key(pointer.parent) == key


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"check": 1}', '{"/x": [1, 2, "id"]}', "\ud800"])
def test_a_damaged_memory_of_fingerprints_is_made_again(run: Path, text: str) -> None:
    (run / "fingerprints.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    file = folder(run, 1, "third") / "number"
    prints = Fingerprints(run / "fingerprints.json")
    assert prints.of(file) == current(run, Ref(1, "third")).files["number"]  # type: ignore[union-attr]
    prints.save()
    assert Fingerprints(run / "fingerprints.json").of(file) == prints.of(file)


def test_a_memory_of_fingerprints_that_lies_is_not_believed(run: Path) -> None:
    memory, file = run / "fingerprints.json", folder(run, 1, "third") / "number"
    right = Fingerprints(memory).of(file)
    memory.write_text(memory.read_text().replace(right, "0" * 32))
    assert Fingerprints(memory).of(file) == right


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    before = trace(run, "ada")
    whole = build_index(run).read_bytes()
    for damaged in (b"", b"not a database", whole[: len(whole) // 2], whole[:5000] + b"\x00" * 3000 + whole[8000:]):
        (run / "lineage.sqlite").write_bytes(damaged)
        assert trace(run, "ada") == before
    with sqlite3.connect(run / "lineage.sqlite") as index:
        index.execute("DELETE FROM edges WHERE source = 'ada'")
    assert trace(run, "ada") == before


def test_an_index_is_told_by_what_it_was_made_from_and_not_by_the_clock(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    index = build_index(run)
    os.utime(index, (2**32, 2**32))  # made before the clock was put back
    pointer = stage_folder(run, Ref(1, "snapshot")) / "current"
    pointer.unlink()
    with pytest.raises(ConfigError, match="nothing in this run has the id 'ada'"):
        trace(run, "ada")


def test_damaged_tables_and_json_are_one_sentence(tmp_path: Path) -> None:
    write_table(tmp_path / "rows.parquet", pa.table({"text": ["one", "two"] * 50}))
    whole = (tmp_path / "rows.parquet").read_bytes()
    for damaged in (b"", whole[:40], whole[:-20], whole[:60] + b"\xff" * 30 + whole[90:]):
        (tmp_path / "rows.parquet").write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"rows\.parquet: this is not a whole Parquet file \(.*; it was damaged after"
        ):
            read_table(tmp_path / "rows.parquet")
    for text in (b"", b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "one.json").write_bytes(text)
        with pytest.raises(DataError, match=r"one\.json: this is not JSON \(.*; it was damaged after"):
            read_json(tmp_path / "one.json")


def test_shards_that_are_not_whole_are_removed_and_made_again(tmp_path: Path) -> None:
    schema = pa.schema([("pair", pa.string()), ("chosen", pa.float64())])
    table = pa.table({"pair": ["one", "two"] * 50, "chosen": [0.5, 0.25] * 50}, schema=schema)
    names = ["whole", "torn", "empty", "flipped", "other"]
    for name in names:
        write_table(tmp_path / f"{name}.parquet", table.select(["pair"]) if name == "other" else table)
    whole = (tmp_path / "whole.parquet").read_bytes()
    page = whole.index(b"PAR1") + 60
    flipped = whole[:page] + bytes([whole[page] ^ 4]) + whole[page + 1 :]
    for name, damaged in (("torn", whole[:-30]), ("empty", b""), ("flipped", flipped)):
        (tmp_path / f"{name}.parquet").write_bytes(damaged)
    remove_damaged(tmp_path, schema)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.parquet"]


def test_what_may_name_a_person_goes_with_forgetting_and_cleaning(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    build_index(run)
    write_report(run)
    assert b"ada" in (run / "lineage.sqlite").read_bytes() and "ada" in (run / "report.html").read_text()
    for name in (
        "snapshot",
        "preferences",
        "policy",
        "evaluation",
    ):  # as they are when nothing is left of what ada said
        (stage_folder(run, Ref(1, name)) / "current").unlink()
    for path in (run / "journal.jsonl", run / "recipe.yaml", run / "resolved.yaml"):
        path.write_text(path.read_text().replace("ada", "eve"))
    noting(run, texts={name: file_id(run / name) for name in noted(run)["texts"]})
    renew_derived(run)
    assert not (run / "lineage.sqlite").exists()
    assert "ada" not in re.findall(r"\w+", (run / "report.html").read_text())


# What is not ours stays.


def test_clean_follows_no_link_and_leaves_what_a_run_does_not_make(run: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / ("a" * 32)).mkdir(parents=True)
    (theirs / ("a" * 32) / "novel.txt").write_text("chapter 1")
    (theirs / "stage").mkdir()
    (run / "round_001" / "extra").symlink_to(theirs)
    (run / "round_009").symlink_to(theirs)
    third = stage_folder(run, Ref(1, "third"))
    (third / ("b" * 32)).symlink_to(theirs)
    (third / "notes").mkdir()
    (run / "round_001" / "third-backup" / ("c" * 32)).mkdir(parents=True)
    (run / "round_x" / "third" / ("d" * 32 + ".work")).mkdir(parents=True)
    assert unreachable(run) == remove(run) == []
    assert (theirs / ("a" * 32) / "novel.txt").read_text() == "chapter 1"
    assert (third / "notes").is_dir()
    ours = partial_folder(run, Ref(1, "third"), "e" * 32)
    (ours / "link").symlink_to(theirs)
    assert [path for path, _ in remove(run)] == [ours]
    assert (theirs / "stage").is_dir()


def test_clean_looks_again_when_it_has_the_lock(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that took a folder back between the list and the lock keeps it."""
    go(run, chain(second=5))
    old = [path for path, _ in unreachable(run)]
    assert len(old) == 2
    go(run, chain())
    assert {path for path, _ in remove(run)}.isdisjoint(old)
    assert go(run, chain()) == []


def test_a_users_folder_of_a_working_folders_name_stays(tmp_path: Path) -> None:
    for ending in (".partial", ".work"):
        theirs = tmp_path / f"foo{ending}"
        theirs.mkdir()
        (theirs / "novel.txt").write_text("chapter 1")
        message = re.escape(
            f"{theirs} is in the way: align works in a folder of that name, and did not make this one; move"
        )
        if ending == ".partial":
            with pytest.raises(ConfigError, match=message):
                copy_recipe("own-model", tmp_path / "foo")
        with pytest.raises(ConfigError, match=message), command_output(tmp_path / "foo", 1):
            pass
        assert [path.name for path in theirs.iterdir()] == ["novel.txt"]
        for path in (tmp_path / "foo.partial", tmp_path / "foo.work"):
            remove_folder(path)
    (tmp_path / "foo.partial").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is in the way"):
        fresh_folder(tmp_path / "foo.partial")


def test_a_working_folder_of_ours_is_found_again_and_its_mark_is_not_published(tmp_path: Path) -> None:
    (working_folder(tmp_path / "foo.partial") / "half").write_text("left by a kill")
    copy_recipe("own-model", tmp_path / "foo")
    assert {path.name for path in (tmp_path / "foo").iterdir()} == {
        "README.md", "guidelines.md", "prompts.jsonl", "recipe.yaml", "run.py", "score.py",
    }  # fmt: skip
    assert not (tmp_path / "foo.partial").exists()


def test_of_a_link_the_link_alone_is_removed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "novel.txt").write_text("chapter 1")
    (tmp_path / "link").symlink_to("theirs")
    remove_folder(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "theirs" / "novel.txt").read_text() == "chapter 1"


@pytest.mark.parametrize("kind", ["symbolic", "hard", "folder", "pipe"])
def test_a_lock_that_is_no_file_of_its_own_is_refused(tmp_path: Path, kind: str) -> None:
    theirs, path = tmp_path / "novel.txt", tmp_path / "lock"
    theirs.write_text("chapter 1")
    make: dict[str, Any] = {
        "symbolic": lambda: path.symlink_to(theirs),
        "hard": lambda: path.hardlink_to(theirs),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    with pytest.raises(ServiceError, match="the lock is a link, a folder or a device; remove it"), run_lock(tmp_path):
        pass
    assert theirs.read_text() == "chapter 1"


# File systems that cannot do everything.


@pytest.fixture
def no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks, but for the folder of temporary files."""
    real = fcntl.flock

    def flock(file: Any, how: int) -> None:
        if str(tmp_path / "temporary") not in str(Path(f"/proc/self/fd/{file.fileno()}").readlink()):
            raise OSError(errno.ENOLCK, "No locks available")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(lock.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


def test_where_files_cannot_be_locked_the_lock_lies_elsewhere(tmp_path: Path, no_locks: None) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    refused = pytest.raises(ServiceError, match="another process works on this run")
    with run_lock(tmp_path / "one"), run_lock(tmp_path / "two"), refused, run_lock(tmp_path / "one"):
        pass
    with run_lock(tmp_path / "one"):
        pass


def test_a_server_and_a_journal_need_no_locks_of_the_file_system(tmp_path: Path, no_locks: None) -> None:
    home, waits = (
        tmp_path / "server.lock",
        pytest.raises(ServiceError, match=r"server.lock: a start by another process"),
    )
    with locked(home, timeout=0.0, what="a start"), waits, locked(home, timeout=0.0, what="a start"):
        pass
    with locked(home, timeout=0.0, what="a start"):
        pass
    append(tmp_path / "journal.jsonl", [{"type": "closed", "round": 1, "tasks": "t", "reason": "done"}])
    assert read_journal(tmp_path / "journal.jsonl").closed == {"t": "done"}


def test_a_hard_link_that_the_system_forbids_becomes_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from align.train import publishing

    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "given").write_text("weights")
    monkeypatch.setattr(publishing.os, "link", forbidden)
    publishing.place(tmp_path / "given", tmp_path / "placed", link=True)
    assert (tmp_path / "placed").read_text() == "weights"
    assert (tmp_path / "placed").stat().st_nlink == 1


def test_who_may_read_a_published_file_is_who_may_read_its_folder(tmp_path: Path) -> None:
    partial, given = tmp_path / "out.partial", tmp_path / "given"
    partial.mkdir()
    partial.chmod(0o755)
    for path in (partial / "model.safetensors", partial / "config.json", given):
        path.write_text("x")
        path.chmod(0o644 if path.suffix == ".json" else 0o600)
    (partial / "linked.safetensors").hardlink_to(given)
    publish(partial, tmp_path / "out")
    modes = {path.name: oct(path.stat().st_mode)[-3:] for path in (tmp_path / "out").iterdir()}
    assert modes == {"model.safetensors": "644", "config.json": "644", "linked.safetensors": "600"}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"sequences": "many"}', b'{"colour": 1}', b"\xff"])
def test_a_damaged_note_of_the_machine_is_chosen_again(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "machine.json").write_bytes(text)
    assert _begun_with(tmp_path / "machine.json") == Cpu()
