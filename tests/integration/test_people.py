"""Who people are, what of a record is trusted, and what a closing freezes: on the real server, on either database."""

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from align.config.recipe import Annotate
from align.errors import ServiceError
from align.labelling.folder import make_session as make_session_of_file
from align.labelling.session import (
    Session,
    finish,
    judgements_of,
    offer,
    open_backend,
    session_of_folder,
    take_in,
    waits,
)
from align.labelling.survey import survey
from align.provenance.forget import erase, used_by, wish, write_tombstones
from align.store import write_json
from align.types import judgement_id
from annotation.argilla_backend import ArgillaBackend
from annotation.backend import Answer
from annotation.journal import close, read_journal, reopen
from tests.labelling import pair_tasks, session_of_tasks
from tests.loop import write_jsonl
from tests.server_fixtures import ArgillaServer, add_annotator

MakeSession = Callable[[int], tuple[Session, ArgillaBackend]]


@pytest.fixture
def make_session(tmp_path: Path, either_server: ArgillaServer) -> MakeSession:
    """A session with so many pairs, on the server."""

    def make(count: int) -> tuple[Session, ArgillaBackend]:
        folder = tmp_path / f"session-{secrets.token_hex(3)}"
        folder.mkdir()
        write_json(folder / "run.json", {"id": "r"})
        annotate = Annotate.model_validate({"server": {"type": "embedded", "home": str(either_server.home)}})
        session = session_of_tasks(pair_tasks(count), folder, annotate, round=1, seed=0)
        return session, offer(session)[0]

    return make


def person(on: ArgillaServer, session: Session, name: str) -> tuple[str, str, str]:
    """A new person: id, key, name."""
    called = f"{name}-{secrets.token_hex(3)}"
    return *add_annotator(on, called, session.workspace), called


def rename(on: ArgillaServer, who: str, name: str) -> None:
    on.call("PATCH", f"/users/{who}", {"username": name})


def add_member(on: ArgillaServer, who: str, workspace: str) -> None:
    (place,) = [w["id"] for w in on.call("GET", "/me/workspaces")["items"] if w["name"] == workspace]
    on.call("POST", f"/workspaces/{place}/users", {"user_id": who})


def as_before(journal: Path, name: str) -> None:
    """Rewrite a journal as the version before wrote it: with names, and without lines about people."""
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    said = [e for e in events if e["type"] == "judgement"]
    for event in said:
        event |= {"annotator": name, "id": judgement_id(event["task_id"], name, event["revision"])}
    journal.write_text("".join(json.dumps(event) + "\n" for event in said))


def people_of(session: Session) -> set[str]:
    return {j.annotator for j in judgements_of(session)}


def test_somebody_who_is_renamed_stays_one_person(either_server: ArgillaServer, make_session: MakeSession) -> None:
    session, backend = make_session(3)
    who, key, before = person(either_server, session, "maria")
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks])
    assert len(take_in(session, backend)) == 3
    after = f"mary-{secrets.token_hex(3)}"
    rename(either_server, who, after)
    assert take_in(session, backend) == [], "nothing new was said"
    assert [(j.annotator, j.outcome) for j in judgements_of(session)] == [(who, "a")] * 3
    journal = read_journal(session.journal)
    assert (journal.called(who), journal.find(after), journal.find(before)) == (after, [who], [who])
    found = survey(session, backend)
    assert {who: (p["name"], p["submitted"]) for who, p in found.people.items() if p["submitted"]} == {who: (after, 3)}
    assert found.people[who]["agreement"]["value"] is None, "nobody agrees with herself"
    backend.answer(key, [Answer(session.tasks[0].id, "b")])
    (changed,) = take_in(session, backend)
    assert (changed.annotator, changed.revision) == (who, 1)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_journal_that_has_names_counts_once(
    either_server: ArgillaServer, make_session: MakeSession, renamed: bool
) -> None:
    session, backend = make_session(3)
    who, key, before = person(either_server, session, "maria")
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks])
    take_in(session, backend)
    as_before(session.journal, before)
    assert people_of(session) == {before}
    after = f"mary-{secrets.token_hex(3)}"
    if renamed:
        rename(either_server, who, after)
        person(either_server, session, "somebody")
        rename(either_server, person(either_server, session, "new")[0], before)  # somebody else has the old name now
    written = [j.id for j in judgements_of(session)]
    assert sum(p["submitted"] for p in survey(session, backend).people.values()) == 3, "also where nothing is written"
    assert take_in(session, backend) == []
    assert (people_of(session), [j.id for j in judgements_of(session)]) == ({who}, written), (
        "an id that was given stays"
    )
    backend.answer(key, [Answer(session.tasks[0].id, "b")])
    assert [(j.annotator, j.revision) for j in take_in(session, backend)] == [(who, 1)]
    assert len(judgements_of(session)) == 3


@pytest.mark.parametrize("by", ["name", "id", "earlier name", "name in an old journal"])
def test_who_is_forgotten_stays_forgotten_under_any_name(
    either_server: ArgillaServer, make_session: MakeSession, by: str
) -> None:
    session, backend = make_session(4)
    who, key, before = person(either_server, session, "maria")
    other, other_key, _ = person(either_server, session, "bob")
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks[:3]])
    take_in(session, backend)
    if by == "name in an old journal":
        as_before(session.journal, before)
    after = f"mary-{secrets.token_hex(3)}"
    if by in ("name", "earlier name", "id"):
        rename(either_server, who, after)
        take_in(session, backend)
    folder = session.journal.parent
    wanted = wish(folder, annotator={"name": after, "id": who}.get(by, before))
    assert len(used_by(wanted)["judgements"]) == 3
    write_tombstones(wanted)
    if by == "name in an old journal":
        done = erase(session, wanted)
        assert (done.answers, done.judgements) == (3, 3), "before anybody was asked whose the name is"
        add_member(either_server, who, session.workspace)
    take_in(session, backend)
    assert judgements_of(session) == []
    if by == "name in an old journal":
        rename(either_server, who, after)
    backend.answer(key, [Answer(t.id, "b") for t in session.tasks])
    backend.answer(other_key, [Answer(session.tasks[0].id, "b")])
    take_in(session, backend)
    assert people_of(session) == {other}
    assert erase(session, wanted).answers == 4
    offer(session)
    members = either_server.call("GET", f"/users/{who}/workspaces")["items"]
    assert session.workspace not in {w["name"] for w in members}, "she is not let in again"


def test_a_renamed_persona_is_the_same_persona(either_server: ArgillaServer, make_session: MakeSession) -> None:
    session, backend = make_session(2)
    name = f"ann-{secrets.token_hex(3)}"
    key = backend.ensure_annotator(name)
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks])
    assert len(take_in(session, backend)) == 2
    rename(either_server, either_server.call("GET", "/me", key=key)["id"], f"{name}-x")
    assert take_in(session, backend) == []
    assert backend.ensure_annotator(name) == key
    assert people_of(session) == {name}


def records_of(on: ArgillaServer, backend: ArgillaBackend) -> dict[str, dict[str, Any]]:
    dataset = backend.url.split("/")[-2]
    found = on.call("GET", f"/datasets/{dataset}/records", include="responses", limit=100)["items"]
    return {r["external_id"]: r for r in found}


def test_what_is_not_as_we_left_it_costs_itself_alone(either_server: ArgillaServer, make_session: MakeSession) -> None:
    """A record's metadata gone, its page edited, the record deleted, one of somebody else's, an answer of no question."""
    session, backend = make_session(6)
    _, key, _ = person(either_server, session, "maria")
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks])
    records, tasks = records_of(either_server, backend), [t.id for t in session.tasks]
    dataset = backend.url.split("/")[-2]
    either_server.call("PATCH", f"/records/{records[tasks[0]]['id']}", {"metadata": {"purpose": "train"}})
    edited = {"comparison": {"payload": "e30=", "words": ""}}
    either_server.call("PATCH", f"/records/{records[tasks[1]]['id']}", {"fields": edited})
    either_server.call("DELETE", f"/datasets/{dataset}/records", ids=records[tasks[2]]["id"])
    foreign = {"external_id": "theirs", "fields": records[tasks[3]]["fields"]}
    either_server.call("POST", f"/datasets/{dataset}/records/bulk", {"items": [foreign]})
    values = json.dumps({"preference": {"value": "neither"}})
    answer = records[tasks[4]]["responses"][0]["id"]
    written = f"UPDATE responses SET \"values\" = '{values}' WHERE id = '{either_server.key(answer)}'"
    execute(either_server, written)

    backend = open_backend(session)
    take_in(session, backend)
    assert sorted(j.task_id for j in judgements_of(session)) == sorted([tasks[0], tasks[3], tasks[5]])
    state = backend.progress()
    assert (state.tasks, state.completed, state.open) == (4, 3, 1)
    dropped = {row.where: (row.what, row.reason) for row in state.dropped}
    assert dropped == {
        tasks[1]: ("record", "its page was edited on the server"),
        tasks[2]: ("task", "the task is not on the server any more"),
        "theirs": ("record", "the record is of no task that was asked here"),
        tasks[4]: ("answer", "a submitted response has the unknown value 'neither' for 'preference'"),
    }
    assert survey(session, backend).as_dict()["dropped"] == [asdict(row) for row in state.dropped]
    assert offer(session)[1].added == 1, "what was deleted is asked again"


def execute(on: ArgillaServer, statement: str) -> None:
    """Change the database behind the server's back."""
    if on.database is not None:
        on.sql(statement)
        return
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(on.home / "argilla.db", timeout=30)) as database, database:
        database.execute(statement)


def test_what_is_said_after_a_closing_waits_for_a_person(
    either_server: ArgillaServer, make_session: MakeSession
) -> None:
    session, backend = make_session(3)
    _, key, _ = person(either_server, session, "maria")
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks[:2]])
    take_in(session, backend)
    close(session.journal, session.round, session.tasks_id, "closed by `align annotate close`")
    frozen = judgements_of(session)
    backend.answer(key, [Answer(session.tasks[0].id, "b"), Answer(session.tasks[2].id, "a")])
    assert survey(session, backend).late == 2, "also before anybody takes them in"
    assert len(take_in(session, backend)) == 2
    found = survey(session, backend)
    assert (found.late, sorted(j.id for j in found.judgements)) == (2, sorted(j.id for j in frozen))
    assert judgements_of(session) == frozen
    reopen(session.journal, session.round, session.tasks_id)
    assert sorted((j.task_id, j.outcome) for j in judgements_of(session)) == sorted(
        (t.id, o) for t, o in zip(session.tasks, "baa", strict=True)
    )
    assert survey(session, backend).late == 0


def test_a_data_set_whose_place_another_took_is_closed(either_server: ArgillaServer, make_session: MakeSession) -> None:
    """As when `annotate.tasks` is changed while people label: annotators see the new one alone, an answer to the old one
    is refused and told of, and going back takes it in."""
    old, backend = make_session(2)
    old = replace(old, family="round-1-")
    new = replace(old, tasks=pair_tasks(5), tasks_id="5", dataset="round-1-new")
    who, key, _ = person(either_server, old, "maria")
    assert (seen(either_server, key), old.title) == ([old.title], f"{called(old)}: which answer is better? (round 1)")
    backend.answer(key, [Answer(old.tasks[0].id, "a")])
    take_in(old, backend)
    backend.answer(key, [Answer(old.tasks[1].id, "a")])  # before anything is superseded, and not taken in
    replaced, _ = offer(new)
    assert seen(either_server, key) == [f"{new.title} #2"], (
        "one data set, and of two with one name the later is numbered"
    )
    with pytest.raises(ServiceError, match="refused an answer"):
        backend.answer(key, [Answer(old.tasks[0].id, "b")])
    record = records_of(either_server, backend)[old.tasks[0].id]
    for method, path in (
        ("PUT", f"/responses/{record['responses'][0]['id']}"),
        ("POST", f"/records/{record['id']}/responses"),
    ):
        body = {"status": "submitted", "values": {"preference": {"value": "tie"}}}
        with pytest.raises(AssertionError, match="403"):
            either_server.call(method, path, body, key=key)
    assert survey(new, replaced).superseded == {old.title: 1}
    assert next(waits(new)).note == (
        f"answers to what is no longer asked do not count: 1 in {old.title}; ask as before to take them in"
    )
    assert open_backend(new).given_in_others()[old.title][0][1] == who
    again, _ = offer(old)
    assert seen(either_server, key) == [old.title]
    assert [j.task_id for j in take_in(old, again)] == [old.tasks[1].id]
    backend.answer(key, [Answer(old.tasks[0].id, "b")])
    dataset = either_server.call("GET", f"/datasets/{again.url.split('/')[-2]}")
    assert dataset["guidelines"] is None


def seen(on: ArgillaServer, key: str) -> list[str]:
    """What an annotator is shown on the server's home page."""
    return sorted(d["name"] for d in on.call("GET", "/me/datasets", key=key)["items"])


def called(session: Session) -> str:
    return session.journal.parent.name.replace("-", " ").capitalize()


def next_record(on: ArgillaServer, backend: ArgillaBackend, key: str) -> int:
    """How many records the page has for a person who looks for what is not answered yet."""
    pending = {"type": "terms", "scope": {"entity": "response", "property": "status"}, "values": ["pending"]}
    body = {"filters": {"type": "and", "and": [pending]}}
    path = f"/me/datasets/{backend.url.split('/')[-2]}/records/search"
    return int(on.call("POST", path, body, key=key)["total"])


def test_a_labelling_that_is_done_is_gone_from_the_home_page_and_loses_nothing(
    either_server: ArgillaServer, make_session: MakeSession
) -> None:
    """Whoever has a record on the screen may still answer it; there is no next one, and what comes late is told of."""
    first, backend = make_session(3)
    first = replace(first, family="round-1-")
    _, key, _ = person(either_server, first, "maria")
    backend.answer(key, [Answer(first.tasks[0].id, "a")])
    assert next_record(either_server, backend, key) == 2
    finish(first, backend, "closed by `align annotate close`")
    assert seen(either_server, key) == []
    assert next_record(either_server, backend, key) == 0
    backend.answer(key, [Answer(first.tasks[1].id, "b")])
    found = survey(first, open_backend(first))
    assert (found.closed, found.late) == ("closed by `align annotate close`", 1)
    assert len(take_in(first, backend)) == 1
    assert seen(either_server, key) == [], "looking opens nothing"

    other = replace(first, tasks=pair_tasks(1), tasks_id="1", dataset="blind-1-x", family="blind-1-", title="Compare!")
    newer, _ = offer(other)
    assert seen(either_server, key) == ["Compare!"]
    assert survey(other, newer).superseded == {}, "nothing is read that nobody changed"
    backend.answer(key, [Answer(first.tasks[2].id, "a")])
    assert survey(other, newer).superseded == {first.title: 1}
    reopen(first.journal, first.round, first.tasks_id)
    again, _ = offer(first)
    assert seen(either_server, key) == [first.title]
    assert len(take_in(first, again)) == 1
    assert next_record(either_server, again, key) == 0, "all three are answered"


def test_a_session_of_an_earlier_version_goes_on(either_server: ArgillaServer, make_session: MakeSession) -> None:
    """Its data set is called by the name that it has for us."""
    session, backend = make_session(2)
    _, key, _ = person(either_server, session, "maria")
    backend.answer(key, [Answer(session.tasks[0].id, "a")])
    dataset = backend.url.split("/")[-2]
    where = f"WHERE id = '{either_server.key(dataset)}'"
    execute(either_server, f"UPDATE datasets SET name = '{session.dataset}', metadata = NULL {where}")
    again, submitted = offer(session)
    assert (again.url, submitted.present, submitted.added) == (backend.url, 2, 0)
    assert seen(either_server, key) == [session.dataset]
    assert [j.task_id for j in take_in(session, again)] == [session.tasks[0].id]
    offer(replace(session, dataset="round-1-new", tasks=pair_tasks(5), family="round-1-"))
    assert seen(either_server, key) == [session.title], "it is closed as any other"


def test_people_are_not_asked_to_compare_what_reads_the_same(either_server: ArgillaServer, tmp_path: Path) -> None:
    """A file as three programs wrote it: two prompts that read the same, and of the answers two that do."""
    rows = [
        {"prompt": "cafe\u0301 or\r\ntea?", "text": "one\ntwo"},
        {"prompt": "caf\u00e9 or\ntea?", "text": "one\r\ntwo"},
        {"prompt": "caf\u00e9 or\ntea?\u200b", "text": "tea"},
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    folder = tmp_path / f"session-{secrets.token_hex(3)}"
    annotate = Annotate.model_validate({"server": {"type": "embedded", "home": str(either_server.home)}})
    make_session_of_file(folder, tmp_path / "candidates.jsonl", annotate, seed=0)
    session = session_of_folder(folder)
    backend, submitted = offer(session)
    assert submitted.added == 1
    (record,) = records_of(either_server, backend).values()
    seen = json.loads(base64.b64decode(record["fields"]["comparison"]["payload"]))
    assert seen["messages"] == [{"role": "user", "content": "cafe\u0301 or\r\ntea?"}], "as it was written first"
    assert len(seen["answers"]) == 2 and "tea" in seen["answers"]
