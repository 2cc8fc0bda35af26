"""Forgetting in a run of invented answers: what used it, what is marked, what does not come back."""

from dataclasses import replace
from pathlib import Path

import pytest

from align.errors import ConfigError, DataError
from align.ids import with_check
from align.pipeline.receipts import current
from align.pipeline.stage import Job, Ref
from align.provenance.browse import browse
from align.provenance.forget import tainted, used_by, wish, write_tombstones
from align.provenance.lineage import trace
from align.report.data import report_data
from align.stages.labels import snapshot
from align.store import read_json, read_table, remove_folder, write_json
from align.types import Judgement, from_table
from annotation.journal import Tombstones, append, close, read_journal, record
from tests.fake_run import make_run
from tests.loop import rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path, rounds=2)
    return folder


def checkpoint(run: Path, round: int) -> str:
    receipt = current(run, Ref(round, "policy"))
    assert receipt is not None
    return str(receipt.summary["checkpoint"])


def test_an_annotators_judgements_and_all_that_used_them(run: Path) -> None:
    found = used_by(wish(run, annotator="bo"))
    said = {j["id"] for n in (1, 2) for j in rows(run, n, "snapshot", "judgements.parquet") if j["annotator"] == "bo"}
    assert len(said) > 100
    assert found["judgements"] == sorted(said)
    made = [p for n in (1, 2) for p in rows(run, n, "preferences", "preferences.parquet")]
    cited = sorted(p["id"] for p in made if said & set(p["judgements"]))
    assert found["preferences"] == cited
    assert 0 < len(cited) < len(made)
    assert [(c["id"], c["stage"], c["valid"]) for c in found["checkpoints"]] == [
        (checkpoint(run, 1), "1/policy", True),
        (checkpoint(run, 2), "2/policy", True),
    ]
    assert found["reward_models"] == []
    assert read_journal(run / "journal.jsonl").forgotten == Tombstones(), "looking changes nothing"


def test_a_prompt_is_found_by_its_beginning_and_in_all_rounds(run: Path) -> None:
    tasks = [t for n in (1, 2) for t in rows(run, n, "tasks", "tasks.parquet")]
    judged = {j["task_id"] for j in rows(run, 2, "snapshot", "judgements.parquet")}
    prompt = next(t["prompt_id"] for t in tasks if t["id"] in judged)
    asked = {t["id"] for t in tasks if t["prompt_id"] == prompt}
    assert len(asked) == 2, "once in each round"
    wanted = wish(run, prompt=prompt[:12])
    assert (wanted.name, wanted.tombstones) == (prompt, Tombstones(tasks=frozenset(asked)))
    about = [j for n in (1, 2) for j in rows(run, n, "snapshot", "judgements.parquet") if j["task_id"] in asked]
    found = used_by(wanted)
    assert found["judgements"] == sorted(j["id"] for j in about)
    made = [p for n in (1, 2) for p in rows(run, n, "preferences", "preferences.parquet")]
    assert found["preferences"] == sorted(p["id"] for p in made if p["prompt_id"] == prompt)


def test_what_descends_is_marked_and_nothing_else(run: Path) -> None:
    assert tainted(run) == []
    assert not any("forgotten" in note for note in report_data(run)["notes"])
    write_tombstones(wish(run, annotator="bo"))
    assert [(m["stage"], m["id"]) for m in tainted(run)] == [
        ("1/policy", checkpoint(run, 1)),
        ("2/policy", checkpoint(run, 2)),
    ]
    (note,) = [note for note in report_data(run)["notes"] if "forgotten" in note]
    assert note == (
        f"Made with judgements that are forgotten since: 1/policy ({checkpoint(run, 1)[:12]}), 2/policy "
        f"({checkpoint(run, 2)[:12]}). The next `align run` trains without them."
    )


def test_a_checkpoint_whose_labels_were_cleaned_away_stays_marked(run: Path) -> None:
    """Nobody can tell any more what it was made with; and lineage still answers."""
    receipt = current(run, Ref(1, "preferences"))
    assert receipt is not None
    write_tombstones(wish(run, annotator="bo"))
    remove_folder(run / "round_001" / "preferences" / receipt.key)
    remove_folder(run / "round_001" / "snapshot")
    assert [m["stage"] for m in tainted(run)] == ["1/policy", "2/policy"]
    assert trace(run, checkpoint(run, 1))["kind"] == "checkpoint"


def test_forgotten_once_is_forgotten_for_good(run: Path) -> None:
    path = run / "journal.jsonl"
    before = list(read_journal(path).latest.values())
    write_tombstones(wish(run, annotator="bo"))
    size = path.stat().st_size
    write_tombstones(wish(run, annotator="bo"))
    assert path.stat().st_size == size
    assert record(path, before) == []
    journal = read_journal(path)
    assert {j.annotator for j in journal.judgements(j.task_id for j in before)} == {"ada", "chi"}


def test_mistakes_are_answered_with_the_way_out(run: Path) -> None:
    with pytest.raises(ConfigError, match="'boo' has said nothing here; did you mean bo"):
        wish(run, annotator="boo")
    with pytest.raises(ConfigError, match="no task asks about a prompt 'zz'"):
        wish(run, prompt="zz")
    with pytest.raises(ConfigError, match="no task asks about a prompt ''"):
        wish(run, prompt="")
    with pytest.raises(ConfigError, match=r"prompts begin with '\w'; give more of its id"):
        wish(run, prompt=rows(run, 1, "tasks", "tasks.parquet")[0]["prompt_id"][:1])
    with pytest.raises(ConfigError, match="give either --annotator NAME or --prompt ID"):
        wish(run)
    with pytest.raises(ConfigError, match="there is no run in"):
        wish(run.parent, annotator="bo")


def test_a_person_is_one_person_in_snapshots_of_any_age(run: Path) -> None:
    """The snapshots have the name of an earlier version; since then the journal says who that is, and was renamed."""
    before, led_to = used_by(wish(run, annotator="bo")), trace(run, "bo")["into"]
    labels = {row["name"]: row["labels"] for row in report_data(run)["annotators"]}
    append(run / "journal.jsonl", [{"type": "person", "id": "id-of-bo", "name": "robert", "was": ["bo"]}])
    for text in ("robert", "bo", "id-of-bo"):
        wanted = wish(run, annotator=text)
        assert (wanted.id, wanted.name) == ("id-of-bo", "robert")
        assert used_by(wanted) == before
        found = trace(run, text)
        assert (found["id"], found["names"]) == ("id-of-bo", {"id-of-bo": "robert"})
        assert found["into"] == led_to
    people = {row["annotator"]: row for row in report_data(run)["annotators"]}
    assert people.keys() == {"ada", "chi", "id-of-bo"}
    assert (people["id-of-bo"]["name"], people["id-of-bo"]["labels"]) == ("robert", labels["bo"])
    assert {label["name"] for entry in browse(run, 1, None) for label in entry["labels"]} == {"ada", "chi", "robert"}
    write_tombstones(wish(run, annotator="robert"))
    assert [m["stage"] for m in tainted(run)] == ["1/policy", "2/policy"]
    append(run / "journal.jsonl", [{"type": "person", "id": "chi", "name": "robert"}])
    with pytest.raises(
        ConfigError, match="2 annotators are or were called 'robert'; give the id of one: chi, id-of-bo"
    ):
        wish(run, annotator="robert")


def test_a_snapshot_is_of_the_bytes_that_its_key_was_made_of(run: Path, tmp_path: Path) -> None:
    """People write on between the two."""
    receipt = current(run, Ref(1, "tasks"))
    assert receipt is not None
    tasks = [row["id"] for row in rows(run, 1, "tasks", "tasks.parquet")]
    journal = read_journal(run / "journal.jsonl")
    first = journal.judgements(tasks)[0]
    record(run / "journal.jsonl", [replace(first, outcome="both_bad" if first.outcome != "both_bad" else "tie")])
    out = tmp_path / "out"
    out.mkdir()
    runtime = {"journal": str(run / "journal.jsonl"), "labelling": receipt.output, "until": journal.length}
    source = run / "round_001" / "tasks" / receipt.key
    snapshot(Job(1, "snapshot", {"tasks": source}, {}, runtime, out), lambda done, total: None)
    assert from_table(Judgement, read_table(out / "judgements.parquet")) == journal.judgements(tasks)


def test_what_is_said_after_a_closing_is_in_the_report_and_in_no_snapshot(run: Path) -> None:
    receipt = current(run, Ref(1, "tasks"))
    assert receipt is not None
    path, tasks = run / "journal.jsonl", [row["id"] for row in rows(run, 1, "tasks", "tasks.parquet")]
    close(path, 1, receipt.output, "done")
    assert report_data(run)["notes"] == []
    counted = read_journal(path).judgements(tasks, receipt.output)
    record(path, [replace(j, outcome="tie") for j in counted if j.outcome in ("a", "b")][:3])
    assert read_journal(path).judgements(tasks, receipt.output) == counted
    text = "Round 1: 3 answers came after the closing and do not count; `align annotate reopen` counts them."
    assert report_data(run)["notes"] == [text]


def test_receipts_of_other_versions_and_damaged_ones(run: Path) -> None:
    write_tombstones(wish(run, annotator="bo"))
    path = next(run.glob("round_001/snapshot/*/receipt.json"))
    found = read_json(path)
    write_json(path, with_check({**found, "of_tomorrow": 1}))
    assert len(tainted(run)) == 2
    path.write_text("{")
    with pytest.raises(DataError, match="this receipt is damaged"):
        tainted(run)
