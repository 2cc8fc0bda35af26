"""The journal: appended, never rewritten; a torn end is cut; changed minds become revisions."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import DataError
from align.rounds.journal import append, close, forget, read_journal, record, reopen
from align.types import Judgement, judgement_id


def judged(task: str, annotator: str, outcome: str = "a") -> Judgement:
    return Judgement(judgement_id(task, annotator, 0), task, "pair", annotator, 0, outcome, time="2026-01-01T00:00:00")


def test_a_judgement_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert len(record(path, [judged("t1", "ann"), judged("t2", "ann")])) == 2
    before = path.read_bytes()
    assert record(path, [judged("t2", "ann"), judged("t1", "ann")]) == []
    assert path.read_bytes() == before


def test_a_changed_mind_is_a_new_revision(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "ann", "a")])
    record(path, [judged("t1", "ann", "b")])
    (row,) = read_journal(path).judgements(["t1"])
    assert (row.outcome, row.revision, row.id) == ("b", 1, judgement_id("t1", "ann", 1))
    assert path.read_bytes().count(b"\n") == 2


@settings(deadline=None)  # the disk's time
@given(st.integers(min_value=1, max_value=200))
def test_a_kill_in_mid_line_costs_that_line_alone(cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        record(path, [judged("t1", "ann")])
        whole = path.read_bytes()
        record(path, [judged("t2", "ann")])
        path.write_bytes(whole + path.read_bytes()[len(whole) :][:-1][:cut])  # the second line without its end
        assert [j.task_id for j in read_journal(path).judgements(["t1", "t2"])] == ["t1"]
        record(path, [judged("t1", "ann"), judged("t2", "ann")])
        assert sorted(j.task_id for j in read_journal(path).judgements(["t1", "t2"])) == ["t1", "t2"]
        assert path.read_bytes().count(b"\n") == 2


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "ann"), judged("t2", "ann")])
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0][:20], *lines[1:]]))
    with pytest.raises(DataError, match=r"journal\.jsonl:1: the line is damaged"):
        read_journal(path)


def test_a_tombstone_hides_and_keeps(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    (row,) = record(path, [judged("t1", "ann")])
    append(path, [{"type": "tombstone", "judgement": row.id}])
    assert read_journal(path).judgements(["t1"]) == []
    assert b'"ann"' in path.read_bytes()


@pytest.mark.parametrize(("what", "name", "left"), [("annotator", "ann", ["bob"] * 2), ("task", "t1", ["ann", "bob"])])
def test_what_is_forgotten_does_not_come_back(tmp_path: Path, what: str, name: str, left: list[str]) -> None:
    path = tmp_path / "journal.jsonl"
    everything = [judged(task, annotator) for task in ("t1", "t2") for annotator in ("ann", "bob")]
    record(path, everything)
    forget(path, what, [name])
    assert sorted(j.annotator for j in read_journal(path).judgements(["t1", "t2"])) == left
    size = path.stat().st_size
    forget(path, what, [name])
    changed = [judged(task, annotator, "b") for task in ("t1", "t2") for annotator in ("ann", "bob")]
    fresh = record(path, [*everything, *changed])
    assert sorted(j.annotator for j in fresh) == left, "the others may change their minds"
    assert sorted(j.annotator for j in read_journal(path).judgements(["t1", "t2"])) == left
    assert path.read_bytes()[size:].count(b"\n") == 2


def test_a_judgement_that_utf8_cannot_say_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    row = replace(judged("t1", "ann"), reason="half a pair \ud83d, NUL \0, and é")
    record(path, [row])
    assert read_journal(path).judgements(["t1"]) == [row]
    assert record(path, [row]) == []


def test_a_closing_holds_for_its_tasks_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    close(path, 1, "tasks-1", "done")
    assert read_journal(path).closed == {"tasks-1": "done"}
    reopen(path, 1, "tasks-1")
    assert read_journal(path).closed == {}


def record_much(path: Path, name: str) -> None:
    for number in range(30):
        record(path, [judged(f"t{number}", "shared"), judged(f"t{number}", name)])


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    """People close a labelling while a runner follows it."""
    path = tmp_path / "journal.jsonl"
    others = [multiprocessing.Process(target=record_much, args=(path, name)) for name in ("ann", "bob")]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert path.read_bytes().count(b"\n") == 90, "what both saw is written once"
    assert len(read_journal(path).judgements(f"t{n}" for n in range(30))) == 90
