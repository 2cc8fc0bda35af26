"""The journal: appended, and blotted at most; a torn end is cut; changed minds become revisions."""

import json
import multiprocessing
import stat
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import DataError
from align.types import Judgement, judgement_id
from annotation import journal_io
from annotation.journal import append, close, erase, forget, read_journal, record, reopen, said


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


MARIA, BOB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def test_a_changed_name_is_noted_and_makes_nobody_new(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", MARIA)], {MARIA: "maria", BOB: "bob"})
    size = path.stat().st_size
    assert record(path, [judged("t1", MARIA)], {MARIA: "maria", BOB: "bob"}) == []
    assert path.stat().st_size == size
    assert record(path, [judged("t1", MARIA)], {MARIA: "mary", BOB: "bob"}) == []
    journal = read_journal(path)
    assert (journal.names, journal.everybody()) == ({MARIA: "mary"}, {MARIA: "mary"}), "who said nothing is not noted"
    assert (journal.find("mary"), journal.find("maria"), journal.find(MARIA), journal.find("bob")) == (
        [MARIA],
        [MARIA],
        [MARIA],
        [],
    )


def test_two_who_are_called_the_same_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", MARIA)], {MARIA: "maria"})
    record(path, [judged("t1", MARIA), judged("t2", BOB)], {BOB: "maria"})  # the first user was removed
    journal = read_journal(path)
    assert journal.everybody() == {MARIA: "maria (11111111)", BOB: "maria (22222222)"}
    assert journal.find("maria") == [MARIA, BOB]


def test_lines_with_names_become_the_persons_and_keep_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    old = record(path, [judged("t1", "maria"), judged("t2", "maria"), judged("t1", "bob")])
    now = [replace(judged(task, MARIA), time="2026-01-01T00:00:00") for task in ("t1", "t2")]
    assert record(path, now, {MARIA: "mary", BOB: "bob"}) == [], "maria's answers of the same moment are mary's"
    found = read_journal(path).judgements(["t1", "t2"])
    assert sorted((j.id, j.annotator) for j in found) == sorted(
        (j.id, {"maria": MARIA, "bob": BOB}[j.annotator]) for j in old
    )
    lines = [json.loads(line) for line in path.read_text().splitlines()][3:]
    assert lines == [
        {"type": "person", "id": MARIA, "name": "mary", "was": ["maria"]},
        {"type": "person", "id": BOB, "name": "bob", "was": ["bob"]},
    ]
    (changed,) = record(path, [judged("t1", MARIA, "b")], {MARIA: "mary", BOB: "bob"})
    assert (changed.revision, changed.id) == (1, judgement_id("t1", MARIA, 1))


def test_simulated_annotators_keep_their_names(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    (row,) = record(path, [judged("t1", "ann")], {"ann": "ann"})
    assert (row.annotator, path.read_bytes().count(b"\n")) == ("ann", 1)


def test_a_tombstone_by_name_holds_for_the_person(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "maria")])
    forget(path, "annotator", ["maria"])
    assert record(path, [judged("t1", MARIA, "b")], {MARIA: "maria"}) == []
    journal = read_journal(path)
    assert journal.forgotten.annotators == {"maria", MARIA}
    assert journal.judgements(["t1"]) == []


def test_a_closing_freezes_what_stands_before_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = record(path, [judged("t1", "ann"), judged("t2", "ann")])
    close(path, 1, "tasks-1", "done")
    record(path, [judged("t1", "ann", "b"), judged("t3", "ann")])
    record(path, [judged("t1", "ann", "tie")])
    tasks = ["t1", "t2", "t3"]
    journal = read_journal(path)
    assert journal.judgements(tasks, "tasks-1") == sorted(first, key=lambda j: j.id)
    assert sorted((j.task_id, j.outcome) for j in journal.late(tasks, "tasks-1")) == [("t1", "tie"), ("t3", "a")]
    assert [j.outcome for j in journal.judgements(["t1"])] == ["tie"], "another labelling of the task has the last word"
    record(path, [judged("t1", "ann", "a")])
    assert [j.task_id for j in read_journal(path).late(tasks, "tasks-1")] == ["t3"], (
        "who says the same again is not late"
    )
    forget(path, "annotator", ["ann"])
    assert read_journal(path).judgements(tasks, "tasks-1") == [], "who is forgotten is forgotten in what is frozen too"
    reopen(path, 1, "tasks-1")
    assert read_journal(path).late(tasks, "tasks-1") == []


def test_a_closing_keeps_the_names_that_were_written_before_it(tmp_path: Path) -> None:
    """A finished round keeps its key, though its people are known by now."""
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "maria")])
    close(path, 1, "tasks-1", "done")
    assert said(read_journal(path).judgements(["t1"], "tasks-1")[0]) == "3edbad671fdcbe47ca6ab9f1228bff92"
    record(path, [judged("t1", MARIA), judged("t2", MARIA)], {MARIA: "maria"})
    journal = read_journal(path)
    (frozen,) = journal.judgements(["t1", "t2"], "tasks-1")
    assert (frozen.annotator, said(frozen)) == ("maria", "3edbad671fdcbe47ca6ab9f1228bff92")
    assert [j.annotator for j in journal.judgements(["t1", "t2"])] == [MARIA, MARIA]
    assert [j.task_id for j in journal.late(["t1", "t2"], "tasks-1")] == ["t2"]


BROKEN = {
    b"[1]": r"it holds list, not an object",
    b'"text"': r"it holds str, not an object",
    b"\xff\xfe": r"can't decode byte 0xff",
    b'{"type": "judgement", "id": "x", "task_id": "t", "kind": "pair", "annotator": "a", "revision": 0}': r"a judgement without `outcome`",
    b'{"type": "judgement", "id": "x", "task_id": 7, "kind": "pair", "annotator": "a", "revision": 0, "outcome": "a"}': r"`task_id` is '7'",
    b'{"type": "closed", "round": 1, "reason": "done"}': r"a line of type closed without `tasks`",
    b'{"type": "tombstone", "whom": "ann"}': r"a line of type tombstone without `judgement`",
    b'{"type": ["closed"]}': r"unknown entry \"\['closed'\]\"",
    b"[" * 100_000: r"the line is damaged",
}


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_whatever_stands_in_a_line_is_one_sentence(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "ann")])
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(DataError, match=BROKEN[line]) as caught:
        read_journal(path)
    assert str(caught.value).startswith(f"{path}:2: ") and "\n" not in str(caught.value)


def test_a_field_of_a_newer_version_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    (row,) = record(path, [judged("t1", "ann")])
    event = json.loads(path.read_text()) | {"mood": "good"}
    path.write_text(json.dumps(event) + "\n")
    assert read_journal(path).judgements(["t1"]) == [row]


def test_a_journal_is_followed_from_where_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    journal = read_journal(path, {"t1", "t2"})
    record(path, [judged(task, "ann") for task in ("t1", "t2", "t3")])
    assert [j.task_id for j in sorted(journal.read_on().judgements(["t1", "t2", "t3"]), key=lambda j: j.task_id)] == [
        "t1",
        "t2",
    ], "of other tasks nothing is kept"
    seen: list[bytes] = []
    parsed = journal_io._parsed
    monkeypatch.setattr(journal_io, "_parsed", lambda raw, *where: (seen.append(raw), parsed(raw, *where))[1])
    record(path, [judged("t1", "ann", "b"), judged("t3", "ann", "b")], journal=journal)
    assert [j.outcome for j in journal.read_on().judgements(["t1"])] == ["b"]
    assert len(seen) == 1, "only the new line about a task that was asked for"
    with path.open("ab") as file:
        file.write(b'{"type": "judg')
    journal.read_on()
    record(path, [judged("t1", "ann", "a")], journal=journal)
    assert [(j.outcome, j.revision) for j in journal.read_on().judgements(["t1"])] == [("a", 2)]
    path.unlink()
    record(path, [judged("t2", "bob")])
    assert [j.annotator for j in journal.read_on().judgements(["t1", "t2"])] == ["bob"], "another file is read again"


def test_what_is_read_up_to_a_byte_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "ann")])
    until = read_journal(path).length
    record(path, [judged("t1", "ann", "b"), judged("t1", "bob")])
    assert [j.outcome for j in read_journal(path, until=until).judgements(["t1"])] == ["a"]


def test_the_memory_does_not_grow_with_what_nobody_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged(f"t{n}", "ann") for n in range(20_000)])
    size = path.stat().st_size
    assert size > 5_000_000
    tracemalloc.start()
    journal = read_journal(path, {"t7"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [j.task_id for j in journal.judgements(["t7", "t8"])] == ["t7"]
    assert peak < size / 2
    assert journal.everybody() == {"ann": "ann"}


def test_a_line_that_nobody_asked_for_is_known_by_its_head(tmp_path: Path) -> None:
    """Whatever is in it: names and reasons with quotes, backslashes and other scripts, and lines of any order of fields."""
    path = tmp_path / "journal.jsonl"
    names = ["ann", 'an"n', "a\\nn", "аня", "an\ud83dn"]
    record(path, [replace(judged("t1", name), reason='"task_id": "t2"') for name in names])
    turned = dict(reversed(json.loads(path.read_text().splitlines()[0]).items())) | {"annotator": "eve"}
    append(path, [turned])
    journal = read_journal(path, {"t2"})
    assert (journal.judgements(["t1", "t2"]), journal.strangers) == ([], {*names, "eve"})
    assert {j.annotator for j in read_journal(path, {"t1"}).judgements(["t1"])} == {*names, "eve"}


def test_erasing_leaves_every_other_byte_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    said_by = {
        name: record(path, [replace(judged("t1", name), reason=f"{name} said it \ud83d é"), judged("t2", name)])
        for name in ("ann", "bob")
    }
    close(path, 1, "tasks-1", "done")
    record(path, [judged("t1", "bob", "b")])
    following, before = read_journal(path), path.read_bytes()
    frozen = following.judgements(["t1", "t2"], "tasks-1")
    forget(path, "annotator", ["bob"])
    tombstones = path.read_bytes()[len(before) :]
    assert erase(path) == 3
    after = path.read_bytes()
    assert len(after) == len(before) + len(tombstones) and after.endswith(tombstones)
    changed = [
        n for n, (old, new) in enumerate(zip(before.splitlines(), after.splitlines(), strict=False)) if old != new
    ]
    assert changed == [2, 3, 5]
    lines = after.splitlines()
    assert [json.loads(lines[n]) for n in (2, 3)] == [{"type": "tombstone", "judgement": j.id} for j in said_by["bob"]]
    assert b"bob said" not in after and after.count(b"bob") == 1, "but for the name in the tombstone"
    now = read_journal(path)
    assert now.judgements(["t1", "t2"], "tasks-1") == [j for j in frozen if j.annotator == "ann"]
    assert following.read_on().judgements(["t1", "t2"]) == now.judgements(["t1", "t2"])
    assert following.length == now.length == len(after)
    assert erase(path) == 0 and path.read_bytes() == after
    assert list(tmp_path.iterdir()) == [path]


def test_erasing_keeps_whose_identity_is_still_to_be_found_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "maria"), judged("t1", "bob")])
    forget(path, "annotator", ["maria", "bob"])
    assert erase(path, {"maria"}) == 1
    assert {j.annotator for j in read_journal(path).latest.values()} == {"maria"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_while_erasing_leaves_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged("t1", "ann"), judged("t1", "bob")])
    forget(path, "annotator", ["bob"])
    before = path.read_bytes()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*{"fsync": (journal_io.os, "fsync"), "replace": (Path, "replace")}[step], killed)
        with pytest.raises(KeyboardInterrupt):
            erase(path)
    assert path.read_bytes() == before
    record(path, [judged("t2", "ann")])
    assert erase(path) == 1
    assert {j.task_id for j in read_journal(path).judgements(["t1", "t2"])} == {"t1", "t2"}


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_nobody_reads_the_journal_that_is_being_made_who_may_not_read_the_journal(tmp_path: Path, mode: int) -> None:
    path, partial = tmp_path / "journal.jsonl", tmp_path / ".journal.jsonl.partial"
    record(path, [judged("t1", "ann"), judged("t1", "bob")])
    path.chmod(mode)
    seen = []

    def hidden(judgement: dict[str, Any]) -> bool:
        seen.append(stat.S_IMODE(partial.stat().st_mode))
        return judgement["annotator"] == "bob"

    assert journal_io.blot(path, hidden) == 1
    assert seen == [mode, mode] and stat.S_IMODE(path.stat().st_mode) == mode


def test_what_a_kill_left_of_an_erased_journal_goes_with_the_next_line(tmp_path: Path) -> None:
    path, partial = tmp_path / "journal.jsonl", tmp_path / ".journal.jsonl.partial"
    record(path, [judged("t1", "ann")])
    partial.write_text("what people said")
    record(path, [judged("t2", "ann")])
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"no journal\n")
    with pytest.raises(DataError):
        journal_io.blot(path, lambda judgement: True)
    assert list(tmp_path.iterdir()) == [path]


def erase_much(path: Path) -> None:
    for number in range(30):
        forget(path, "task", [f"t{number}"])
        erase(path)


def test_what_is_written_while_others_erase_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record(path, [judged(f"t{n}", "eve") for n in range(30)])
    others = [multiprocessing.Process(target=record_other, args=(path, name)) for name in ("ann", "bob")]
    others.append(multiprocessing.Process(target=erase_much, args=(path,)))
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert len(read_journal(path).judgements(f"u{n}" for n in range(60))) == 120
    assert read_journal(path).judgements(f"t{n}" for n in range(30)) == []


def record_other(path: Path, name: str) -> None:
    for number in range(60):
        record(path, [judged(f"u{number}", name)])
