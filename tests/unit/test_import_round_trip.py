"""What we export comes back as it was; judgements taken into a labelling's journal are doubled by nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from align.cli.app import app
from align.config.recipe import Annotate
from align.data.binary import load_binary
from align.data.preferences import load_preferences
from align.errors import ConfigError
from align.labelling.folder import make_session
from align.labelling.outside.load import load_judgements
from align.labelling.session import journal_of, judgements_of
from align.provenance.export import _judgement, export, pseudonymous, pull_files
from align.provenance.forget import wish, write_tombstones
from align.stages.sessions import open_session
from align.store import read_json, read_rows, write_rows
from align.types import FLAGS, LETTERS, OUTCOMES, Judgement, Task, judgement_id, task_id
from annotation.controls import repeats
from annotation.form import Form
from annotation.journal import close, record, reopen
from annotation.tasks import blind_tasks, make_tasks
from tests.labelling import judge, make_prompt, world
from tests.loop import write_jsonl


def all_tasks() -> list[Task]:
    """Some of every kind, repeats and gold among them."""
    prompts, candidates = world(3, answers=4)
    found = []
    for form in (Form(), Form("rank", 4), Form("single", 1), Form("rating", 1, ("helpful", "brief"))):
        found += make_tasks(prompts, candidates, round=2, count=3, overlap=1, seed=1, form=form)[0]
    found += repeats(found[:3], share=1.0, seed=0)
    held = [make_prompt(f"held {n}", "test") for n in range(2)]
    answers = [
        replace(c, prompt_id=p.id, id=f"{n:032x}") for n, (p, c) in enumerate(zip(held * 2, candidates, strict=False))
    ]
    found += blind_tasks(held, answers[:2], answers[2:], round=1, count=2, overlap=1, seed=0)[0]
    gold = found[0]
    name = task_id(gold.kind, gold.prompt_id, gold.candidates, "gold", 0, gold.round)
    return [*found, replace(gold, id=name, purpose="gold", expected="a")]


TASKS = all_tasks()
texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9).filter(str.strip)
people = st.sampled_from(["kim", "lee", "3f2a-77", "annotator-1", "Ünal "])


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    task = draw(st.sampled_from(TASKS))
    outcome = draw(st.sampled_from(OUTCOMES[task.kind]))
    letters = LETTERS[: len(task.candidates)]
    flags = draw(
        st.none() | st.sets(st.sampled_from([f"{x}:{f}" for x in letters for f in FLAGS]), min_size=1, max_size=3)
    )
    ranks = draw(st.lists(st.integers(1, 4), min_size=len(letters), max_size=len(letters)))
    order = sorted(set(ranks))
    scores = {name: draw(st.integers(1, 5)) for name in ("helpful", "brief")}
    who, revision = draw(people), draw(st.integers(0, 2))
    return Judgement(
        id=judgement_id(task.id, who, revision),
        task_id=task.id,
        kind=task.kind,
        annotator=who,
        revision=revision,
        outcome=outcome,
        strength=draw(st.sampled_from([None, 1, 2, 3])) if outcome in ("a", "b") else None,
        flags=sorted(flags) if flags else None,
        edit=draw(texts),
        reason=draw(texts),
        time=draw(st.none() | st.sampled_from(["2026-11-02T10:00:00.123456+00:00", "2026-11-02T10:00:00Z"])),
        seconds=draw(st.none() | st.floats(0, 1e6)),
        ranking=[order.index(rank) + 1 for rank in ranks] if outcome == "ranked" else None,
        ratings=[{"criterion": n, "score": s} for n, s in scores.items()] if outcome == "rated" else None,
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(judgements(), min_size=1, max_size=6, unique_by=lambda j: (j.task_id, j.annotator)))
def test_export_and_import_give_the_same_judgements(tmp_path: Path, said: list[Judgement]) -> None:
    by_id = {task.id: task for task in TASKS}
    write_rows(tmp_path / "judgements.jsonl", (_judgement(j, by_id[j.task_id], None, False) for j in said))
    found = load_judgements(tmp_path / "judgements.jsonl")
    assert found.judgements == sorted(said, key=lambda j: j.id)
    assert (found.dropped, found.report["ignored"]) == ([], {})
    asked = [replace(by_id[name], wanted=1, priority=0.0, expected=None) for name in sorted({j.task_id for j in said})]
    assert found.tasks == asked


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A folder with twelve pairs, on which two people say which is the good one."""
    rows = [{"prompt": f"p{n}", "text": f"{word} {n}"} for n in range(12) for word in ("good", "bad")]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    make_session(tmp_path / "session", tmp_path / "candidates.jsonl", Annotate(tasks=12, overlap=2), seed=0)
    return tmp_path / "session"


def right(task: Task) -> str:
    return "ab"[[text.startswith("good") for text in task.texts].index(True)]


def label(folder: Path) -> list[Judgement]:
    opened = open_session(folder)
    said = [
        replace(judge(t.id, who, right(t)), time="2026-11-02T10:00:00+00:00")
        for t in opened.tasks
        for who in ("kim", "lee")
    ]
    return record(opened.journal, said)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_data_set_comes_back_and_trains_alike(session: Path, tmp_path: Path, format: Any) -> None:
    said = label(session)
    export(session, tmp_path / "named", names=True, format=format)
    found = load_judgements(tmp_path / "named" / "data" / f"judgements.{format}")
    assert found.judgements == sorted(said, key=lambda j: j.id)
    export(session, tmp_path / "out", names=False, format=format)
    anonymous = load_judgements(tmp_path / "out" / "data" / f"judgements.{format}")
    assert anonymous.judgements == sorted(pseudonymous(said, open_session(session).workspace), key=lambda j: j.id)
    pull_files(open_session(session), session)
    assert load_judgements(session / "judgements.jsonl").judgements == found.judgements
    done = run("import", tmp_path / "named" / "data" / f"judgements.{format}", "--out", tmp_path / "back")
    assert (
        "understood: 24 judgements (24 of kind pair) by 2 annotators on 12 tasks, 12 prompts; 0 ties, 0 skips" in done
    )
    ours, theirs = (load_preferences(folder / "preferences.jsonl")[0] for folder in (session, tmp_path / "back"))
    assert {(p.chosen, p.rejected) for p in theirs} == {(f"good {n}", f"bad {n}") for n in range(12)}
    assert {p.id: p.target for p in theirs} == pytest.approx({p.id: p.target for p in ours}, abs=1e-9)


def test_two_pseudonymous_exports_are_not_mixed(session: Path, tmp_path: Path) -> None:
    label(session)
    for name in ("one", "two"):
        export(session, tmp_path / name, names=False, format="jsonl")
        (tmp_path / name / "data" / "judgements.jsonl").rename(tmp_path / f"{name}.jsonl")
    with pytest.raises(ConfigError, match=r"annotator-. is another person in one.jsonl than in two.jsonl; import"):
        load_judgements([tmp_path / "one.jsonl", tmp_path / "two.jsonl"])


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, ["annotate", *map(str, arguments)])
    assert (done.exit_code, done.exception) == (expect, None) or expect, done.output
    return done.output


def outside(tmp_path: Path, **more: Any) -> Path:
    rows = [
        {"prompt": f"p{n}", "answers": [f"bad {n}", f"good {n} "], "outcome": "b", "annotator": "max"} | more
        for n in range(12)
    ]
    write_jsonl(tmp_path / "outside.jsonl", [*rows, {**rows[0], "prompt": "other"}])
    return tmp_path / "outside.jsonl"


def test_into_a_labelling_by_content_and_never_twice(session: Path, tmp_path: Path) -> None:
    label(session)
    first = json.loads(run("import", outside(tmp_path), "--into", session, "--json"))
    assert (first["new"], first["judgements"], first["dropped"]) == (12, 12, {"unknown task": 1})
    opened = open_session(session)
    tasks = {task.id: task for task in opened.tasks}
    mine = [j for j in judgements_of(opened) if j.annotator == "max"]
    assert len(mine) == 12 and all(j.outcome == right(tasks[j.task_id]) for j in mine)
    before = (session / "journal.jsonl").read_bytes()
    again = json.loads(run("import", outside(tmp_path), "--into", session, "--json"))
    assert (again["new"], again["dropped"]["duplicate"], again["mostly_dropped"]) == (0, 12, None)
    assert (session / "journal.jsonl").read_bytes() == before
    lost = {row["where"]: row["reason"] for _, row in read_rows(session / "imported_dropped.jsonl")}
    assert lost.pop("outside.jsonl:13").startswith("unknown task: ")
    assert lost == {f"outside.jsonl:{n}": "duplicate: the journal has it" for n in range(1, 13)}


def test_a_name_in_a_file_is_nobody_on_the_server(session: Path, tmp_path: Path) -> None:
    """A user called max who labels on the server is another person than the file's max."""
    run("import", outside(tmp_path), "--into", session)
    opened = open_session(session)
    task = opened.tasks[0]
    record(opened.journal, [judge(task.id, "7c1e", "tie")], {"7c1e": "max", "55": "kim"})
    said = {j.annotator: j.outcome for j in judgements_of(opened) if j.task_id == task.id}
    assert said == {"7c1e": "tie", "max": right(task)}
    assert journal_of(opened).strangers == set()


def test_what_the_journal_has_of_a_later_time_stays(session: Path, tmp_path: Path) -> None:
    label(session)
    older = outside(tmp_path, annotator="kim", outcome="a", time="2026-11-01T10:00:00Z")
    found = json.loads(run("import", older, "--into", session, "--json"))
    assert (found["dropped"]["superseded"], found["known_annotators"]) == (12, {"kim": 12})
    assert "annotators assumed to be the same people as in the journal: kim (12)" in run(
        "import", older, "--into", session
    )
    timeless = outside(tmp_path, annotator="kim", outcome="a")
    assert json.loads(run("import", timeless, "--into", session, "--json"))["dropped"]["contradiction"] == 12
    later = outside(tmp_path, annotator="kim", outcome="a", time="2026-11-03T10:00:00Z")
    assert json.loads(run("import", later, "--into", session, "--json"))["new"] == 12
    assert {j.revision for j in judgements_of(open_session(session)) if j.annotator == "kim"} == {1}


def test_who_is_forgotten_does_not_come_back_by_a_file(session: Path, tmp_path: Path) -> None:
    run("import", outside(tmp_path), "--into", session)
    write_tombstones(wish(session, annotator="max"))
    found = json.loads(run("import", outside(tmp_path), "--into", session, "--json"))
    assert (found["new"], found["forgotten"], judgements_of(open_session(session))) == (0, 12, [])


def test_into_a_labelling_that_is_closed(session: Path, tmp_path: Path) -> None:
    """What comes in is kept, and said not to count yet."""
    label(session)
    opened = open_session(session)
    close(opened.journal, opened.round, opened.tasks_id, "enough")
    text = run("import", outside(tmp_path), "--into", session)
    assert f"12 new judgements in {session}" in text
    assert "12 answers came after the closing and do not count; `align annotate reopen` counts them" in text
    assert {j.annotator for j in judgements_of(opened)} == {"kim", "lee"}
    reopen(opened.journal, opened.round, opened.tasks_id)
    assert {j.annotator for j in judgements_of(opened)} == {"kim", "lee", "max"}


def test_what_the_verb_writes_and_says(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for n in range(8):
        pair = {"prompt": f"p{n}", "answer_a": f"good {n}", "answer_b": f"bad {n}", "mood": "fine"}
        rows += [pair | {"annotator": who, "outcome": "a", "shown": [n % 2, 1 - n % 2]} for who in ("kim", "lee")]
        rows += [{"prompt": f"p{n}", "answer": f"other {n}", "label": n % 2 == 0, "annotator": "kim"}]
    write_jsonl(tmp_path / "said.jsonl", [*rows, {"prompt": "p", "annotator": "kim"}])
    text = run("import", tmp_path / "said.jsonl", "--out", tmp_path / "out")
    assert text.splitlines()[:5] == [
        "read: said.jsonl (rows); 25 rows",
        "understood: 24 judgements (16 of kind pair, 8 of kind single) by 2 annotators on 16 tasks, 8 prompts; 0 ties, 0 skips",
        "sides: known of 16 judgements, so a habit of choosing one side can be seen",
        "ignored fields: mood (16)",
        "dropped: 1 × missing field",
    ]
    assert "compiled by " in text
    preferences, dropped = load_preferences(tmp_path / "out" / "preferences.jsonl")
    assert (len(preferences), dropped) == (8, []) and all(p.chosen.startswith("good") for p in preferences)
    binary, _ = load_binary(tmp_path / "out" / "binary.jsonl")
    assert {t.text: t.target > 0.5 for t in binary} == {f"other {n}": n % 2 == 0 for n in range(8)}
    [lost] = [row for _, row in read_rows(tmp_path / "out" / "dropped.jsonl") if row["what"] == "judgement"]
    assert lost["where"] == "said.jsonl:25" and lost["reason"].startswith("missing field: needs `answers`")
    report = read_json(tmp_path / "out" / "report.json")
    assert report["compiled"] == {"preferences": 8, "binary": 8, "demonstrations": 0}
    assert report["agreement"]["percent_agreement"]["value"] == 1.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "say where the judgements go; give either --out FOLDER or --into FOLDER"),
        (["--out", "o", "--into", "o"], "say where the judgements go"),
        (
            ["--into", "o", "--compiler", "majority"],
            "--compiler: nothing is compiled here; leave it out, or give --out",
        ),
        (["--out", "o", "--scale", "5:1"], "--scale: '5:1' is not a scale; lowest:highest, as 1:10"),
        (["--out", "o", "--outcome", "left"], "--outcome: 'left' does not say what a label means; as 'Option 1=a'"),
        (["--out", "o", "--answers", "x,x"], "--answers: 'x,x' does not name each field once; as left,right"),
        (["--out", "o", "--annotator", " "], "--annotator: the name is empty"),
        (["--out", "."], "--out: . is there already"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["annotate", "import", str(outside(tmp_path)), *options])
    assert isinstance(done.exception, ConfigError) and sentence in str(done.exception)
