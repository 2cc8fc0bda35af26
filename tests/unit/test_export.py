"""What people said as files: rows that TRL, `datasets` and our own verbs read, and nobody's name in them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from align.config.recipe import Annotate
from align.data.demonstrations import load_demonstrations
from align.data.preferences import load_preferences
from align.errors import ConfigError
from align.labelling.folder import make_session
from align.labelling.outside.load import load_judgements
from align.provenance.export import export, pseudonymous, pull_files
from align.provenance.forget import used_by, wish, write_tombstones
from align.stages.sessions import open_session
from align.store import read_rows, read_table
from align.types import Judgement, judgement_id
from annotation.journal import record
from tests.labelling import judge, make_task, session_of_tasks
from tests.loop import write_jsonl
from tests.unit.test_tool_templates import CONVERSATIONS, PARIS, TOOLS

CLOCK = "2026-11-02T10:00:00+00:00"


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A folder with twelve pairs, of which xaver says which is the good one, and zoltan too, but on the last with a better answer."""
    candidates = [{"prompt": f"p{n}", "text": f"{word} {n}"} for n in range(12) for word in ("good", "bad")]
    write_jsonl(tmp_path / "candidates.jsonl", candidates)
    folder = tmp_path / "session"
    make_session(folder, tmp_path / "candidates.jsonl", Annotate(tasks=12, overlap=2), seed=0)
    opened = open_session(folder)
    said = [
        replace(judge(t.id, name, _good(t.texts)), time=CLOCK) for t in opened.tasks for name in ("xaver", "zoltan")
    ]
    said[-1] = replace(said[-1], edit="best", reason="it is true")
    record(opened.journal, said)
    return folder


def _good(texts: list[str]) -> str:
    return "ab"[[text.startswith("good") for text in texts].index(True)]


def parts(out: Path, suffix: str = "parquet") -> dict[str, list[dict[str, Any]]]:
    return {p.stem: [row for _, row in read_rows(p)] for p in sorted((out / "data").glob(f"*.{suffix}"))}


def test_the_data_set_has_its_parts_and_a_card(session: Path, tmp_path: Path) -> None:
    counts = export(session, tmp_path / "out", names=False, format="parquet")
    found = parts(tmp_path / "out")
    assert counts == {name: len(rows) for name, rows in found.items()}
    assert counts["judgements"] == 24
    assert "binary" not in counts, "a part without rows is not there"
    (edited,) = found["demonstrations"]
    assert edited["completion"] == [{"role": "assistant", "content": "best"}]
    good = [row for row in found["preferences"] if row["chosen"][0]["content"].startswith("good")]
    assert len(good) == 12
    assert good[0]["prompt"][0]["role"] == "user"
    assert all(row["rejected"][0]["content"].startswith("bad") and row["target"] > 0.5 for row in good)
    first = found["judgements"][0]
    assert first["answers"]["ab".index(first["outcome"])].startswith("good")
    text = (tmp_path / "out" / "README.md").read_text()
    matter = yaml.safe_load(text.split("---")[1])
    assert {c["config_name"]: c["data_files"][0]["path"] for c in matter["configs"]} == {
        name: f"data/{name}.parquet" for name in found
    }
    assert matter["size_categories"] == ["n<1K"]
    assert "Human preferences: 24 judgements by 2 annotators on 12 tasks (12 of kind pair)." in text
    assert "two annotators say the same: 1.00" in text
    assert "Model `bradley_terry`" in text


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_datasets_and_our_verbs_read_it(
    session: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    out = tmp_path / "out"
    counts = export(session, out, names=False, format=format)
    for part, count in counts.items():
        loaded = datasets.load_dataset(str(out), part, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(loaded) == count
    default = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "chosen", "rejected"} <= set(default.column_names), "preferences, where no part is named"
    preferences, dropped = load_preferences(out / "data" / f"preferences.{format}")
    rows = parts(out, format)["preferences"]
    assert dropped == []
    assert sorted((p.chosen, p.target, p.weight) for p in preferences) == sorted(
        (row["chosen"][0]["content"], row["target"], row["weight"]) for row in rows
    )
    demonstrations, dropped = load_demonstrations(out / "data" / f"demonstrations.{format}")
    assert (dropped, [d.answer for d in demonstrations]) == ([], ["best"])


def test_nobody_can_be_found_by_name_id_or_time(session: Path, tmp_path: Path) -> None:
    export(session, tmp_path / "out", names=False, format="jsonl")
    text = "".join(p.read_text() for p in (tmp_path / "out").rglob("*") if p.is_file())
    real = [judgement_id(t.id, name, 0) for t in open_session(session).tasks for name in ("xaver", "zoltan")]
    assert not [secret for secret in ("xaver", "zoltan", CLOCK, *real) if secret in text]
    assert {row["annotator"] for row in parts(tmp_path / "out", "jsonl")["judgements"]} == {
        "annotator-1",
        "annotator-2",
    }
    export(session, tmp_path / "named", names=True, format="jsonl")
    rows = parts(tmp_path / "named", "jsonl")["judgements"]
    assert {(row["annotator"], row["time"]) for row in rows} == {("xaver", CLOCK), ("zoltan", CLOCK)}
    assert sorted(row["id"] for row in rows) == sorted(real)
    written = [
        {
            row["chosen_id"]
            for row in parts(tmp_path / name, "jsonl")["preferences"]
            if row["chosen"][0]["content"] == "best"
        }
        for name in ("out", "named")
    ]
    assert len(written[0]) == 1 and written[0].isdisjoint(written[1]), (
        "a corrected answer's id is made of its judgement"
    )


def test_pseudonyms_depend_on_the_folder_and_not_on_the_order_of_names() -> None:
    said = [judge("t1", f"name {n}", "a") for n in range(8)]

    def called(rows: list[Judgement], salt: str) -> dict[str, str]:
        return {was.annotator: now.annotator for was, now in zip(rows, pseudonymous(rows, salt), strict=True)}

    assert called(said, "one") == called(said[::-1], "one")
    assert called(said, "one") != called(said, "two")
    assert sorted(called(said, "one").values()) == [f"annotator-{n}" for n in range(1, 9)]


def test_binary_labels_are_in_ktos_form(tmp_path: Path) -> None:
    tasks = [
        replace(
            make_task(f"t{n}", prompt=f"p{n}"), kind="single", candidates=[f"c{n}"], texts=[f"answer {n}"], shown=[0]
        )
        for n in range(6)
    ]
    session = session_of_tasks(tasks, tmp_path, Annotate(kind="single", ask=[]), round=1, seed=0)
    verdicts = ["good", "bad"] * 3
    record(
        session.journal, [replace(judge(t.id, "xaver", v), kind="single") for t, v in zip(tasks, verdicts, strict=True)]
    )
    counts, notes = pull_files(session, tmp_path)
    assert (counts["binary"], counts["preferences"]) == (6, 0) and notes[0].startswith("No task was judged twice")
    rows = {row["completion"][0]["content"]: row for _, row in read_rows(tmp_path / "binary.jsonl")}
    assert [rows[f"answer {n}"]["label"] for n in range(6)] == [True, False] * 3
    assert all(row["weight"] > 0 and (row["target"] > 0.5) == row["label"] for row in rows.values())


def test_what_a_session_wrote_is_found_by_its_annotator(session: Path) -> None:
    assert used_by(wish(session, annotator="zoltan"))["preferences"] == [], "nothing is written yet"
    pull_files(open_session(session), session)
    found = used_by(wish(session, annotator="zoltan"))
    assert len(found["judgements"]) == 12
    assert found["preferences"] == sorted(row["id"] for _, row in read_rows(session / "preferences.jsonl"))
    assert found["edits"] == [row["id"] for _, row in read_rows(session / "demonstrations.jsonl")]
    assert used_by(wish(session, annotator="xaver"))["edits"] == []


def test_what_is_forgotten_is_not_exported(session: Path, tmp_path: Path) -> None:
    write_tombstones(wish(session, annotator="zoltan"))
    counts = export(session, tmp_path / "out", names=True, format="parquet")
    assert counts["judgements"] == 12
    assert "demonstrations" not in counts
    assert set(read_table(tmp_path / "out" / "data" / "judgements.parquet")["annotator"].to_pylist()) == {"xaver"}


def test_a_folder_that_is_there_and_one_where_nobody_spoke(session: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out is there already"):
        export(session, tmp_path / "out", names=False, format="parquet")
    (session / "journal.jsonl").write_text("")
    with pytest.raises(ConfigError, match="there are no judgements in"):
        export(session, tmp_path / "new", names=False, format="parquet")
    assert json.loads((session / "session.json").read_text()), "the session is untouched"


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_tools_go_out_in_openais_form_and_come_back_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    asked = [*CONVERSATIONS["two calls"][:4], {"role": "user", "content": "And tomorrow?"}]
    asked.insert(4, {"role": "assistant", "content": "No."})
    rows: list[dict[str, Any]] = [{"messages": asked, "tools": TOOLS, "text": "good", "tool_calls": [PARIS]}]
    rows += [{"messages": asked, "tools": TOOLS, "text": "bad"}]
    rows += [{"prompt": "p", "text": text} for text in ("good", "bad")]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    make_session(tmp_path / "session", tmp_path / "candidates.jsonl", Annotate(tasks=2, overlap=1), seed=0)
    opened = open_session(tmp_path / "session")
    record(opened.journal, [judge(t.id, "xaver", _good(t.texts)) for t in opened.tasks])
    export(tmp_path / "session", tmp_path / "out", names=False, format=format)
    found = {len(row["prompt"]): row for row in parts(tmp_path / "out", format)["preferences"]}
    assert found[1]["rejected"][0]["content"] == "bad"
    tools = found[6]["tools"]
    assert (json.loads(tools) if format == "parquet" else tools) == TOOLS
    chosen = found[6]["chosen"][0]
    assert (chosen["content"], chosen["tool_calls"]) == ("good", [PARIS])
    if format == "jsonl":
        assert (found[6]["prompt"], "tools" in found[1]) == (asked, False)
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 2
    pairs, dropped = load_preferences(tmp_path / "out" / "data" / f"preferences.{format}")
    by_task = {t.prompt_id: t for t in opened.tasks}
    assert (len(pairs), dropped) == (2, [])
    for pair in pairs:
        task = by_task[pair.prompt_id]
        assert (pair.messages, sorted([pair.chosen, pair.rejected])) == (task.messages, sorted(task.texts))
        assert pair.chosen.startswith("good")
    words = load_judgements(tmp_path / "out" / "data" / f"judgements.{format}")
    assert {task.id for task in words.tasks} == {task.id for task in opened.tasks}
