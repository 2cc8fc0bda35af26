"""What was said and is forgotten is in no file and no database any more: grepped for, on the real server, on SQLite and
PostgreSQL."""

import json
import os
import secrets
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, ServiceError
from align.labelling.session import open_backend, take_in
from align.provenance.forget import wish
from align.stages.sessions import open_session
from annotation import server
from annotation.argilla_api import Api, Refused, open_client
from annotation.argilla_erase import erase
from annotation.backend import Answer
from annotation.journal import read_journal
from annotation.server import process
from annotation.server.installation import python_of
from tests.integration.test_cli_stages import json_of
from tests.loop import align, write_jsonl
from tests.postgres import find_programs
from tests.server_fixtures import ArgillaServer, add_annotator

pytestmark = pytest.mark.slow
TASKS = 4


def make_session(folder: Path, on: ArgillaServer, word: str) -> Path:
    rows = [
        {"prompt": f"question {n} {word}{n}", "text": f"{text} {n}"} for n in range(TASKS) for text in ("good", "bad")
    ]
    write_jsonl(folder / "candidates.jsonl", rows)
    session = folder / f"session-{secrets.token_hex(3)}"
    options = ("--candidates", "candidates.jsonl", "--overlap", "2", "--home", on.home, "--ask", "edit,reason")
    json_of("annotate", "push", session.name, *options, cwd=folder)
    return session


def files_with(folder: Path, *words: str) -> list[str]:
    """The files below `folder` that hold one of `words`."""
    found = [p for p in folder.rglob("*") if p.is_file() and any(word.encode() in p.read_bytes() for word in words)]
    return sorted(str(p.relative_to(folder)) for p in found)


def rows_with(on: ArgillaServer, word: str) -> dict[str, int]:
    """Table of the PostgreSQL database → how many rows hold `word`; the planner's statistics among them."""
    tables = on.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").split()
    counts = {t: int(on.sql(f"SELECT count(*) FROM {t} t WHERE CAST(t AS text) LIKE '%{word}%'")) for t in tables}
    counts["pg_stats"] = int(on.sql(f"SELECT count(*) FROM pg_stats s WHERE CAST(s AS text) LIKE '%{word}%'"))
    return {table: count for table, count in counts.items() if count}


def in_database(on: ArgillaServer, request: pytest.FixtureRequest, word: str) -> list[str]:
    """Where in the database's own files `word` stands."""
    if on.database is None:
        return files_with(on.home, word)
    assert rows_with(on, word) == {}
    cluster = request.getfixturevalue("postgres")
    cluster.as_superuser("CHECKPOINT")
    return files_with(Path(cluster.as_superuser("SHOW data_directory")) / "base", word) + files_with(on.home, word)


@pytest.fixture
def webhook(either_server: ArgillaServer) -> Iterator[None]:
    """A receiver that is away, so that deliveries wait in the database."""
    body = {"url": "http://127.0.0.1:9/", "events": ["response.created", "response.updated", "response.deleted"]}
    made = either_server.call("POST", "/webhooks", body | {"description": "away"})
    yield
    either_server.call("DELETE", f"/webhooks/{made['id']}")


def test_the_words_of_an_annotator_are_nowhere_any_more(
    tmp_path: Path, either_server: ArgillaServer, webhook: None, request: pytest.FixtureRequest
) -> None:
    on, word = either_server, f"zq{secrets.token_hex(6)}"
    folder = make_session(tmp_path, on, "shown")
    session = open_session(folder)
    backend = open_backend(session)
    (bob, key), (_, other) = (
        add_annotator(on, f"{n}-{secrets.token_hex(3)}", session.workspace) for n in ("bob", "ann")
    )
    backend.answer(key, [Answer(t.id, "a", reason=f"{word} first") for t in session.tasks[:2]])
    backend.answer(key, [Answer(session.tasks[0].id, "b", reason=f"{word} second", edit=f"{word} edit")])
    backend.answer(other, [Answer(t.id, "a", reason=f"kept {t.id[:6]}") for t in session.tasks])
    json_of("annotate", "pull", folder, cwd=tmp_path)
    dataset = backend.url.split("/")[-2]
    (record,) = [
        r["id"]
        for r in on.call("GET", f"/datasets/{dataset}/records")["items"]
        if r["external_id"] == session.tasks[3].id
    ]
    draft = {"status": "draft", "values": {"reason": {"value": f"{word} draft"}}}
    on.call("POST", f"/records/{record}/responses", draft, key=key)
    assert files_with(folder, word) == [
        "demonstrations.jsonl",
        "journal.jsonl",
        "judgements.jsonl",
        "preferences.jsonl",
    ]
    if on.database is None:
        assert "argilla.db" in " ".join(files_with(on.home, word))
    else:
        assert {"responses", "align_outbox"} <= rows_with(on, word).keys()

    done = json_of("forget", folder, "--annotator", bob, "--yes", cwd=tmp_path)
    assert (done["erased"], done["withdrawn"], done["drafts"]) == (2, 2, 1)
    assert files_with(folder, word) == []
    assert in_database(on, request, word) == []
    name = done["name"]
    account = (
        f"the account {name}, and what was said by it in other runs and sessions of this server; "
        f"`align server users remove {name} --home {on.home} --with-answers` removes it with all of that"
    )
    assert done["remains"][-1] == account
    assert len(done["remains"]) == (1 if on.database is None else 2)
    kept = json_of("annotate", "pull", folder, cwd=tmp_path)
    assert (kept["new"], kept["judgements"]) == (0, TASKS), "nothing comes back, and nobody else lost anything"
    again = json_of("forget", folder, "--annotator", bob, "--yes", cwd=tmp_path)
    assert (again["erased"], again["withdrawn"], again["drafts"]) == (0, 0, 0)


def test_what_was_said_about_a_prompt_goes_with_the_tasks(
    tmp_path: Path, either_server: ArgillaServer, request: pytest.FixtureRequest
) -> None:
    on, word = either_server, f"zp{secrets.token_hex(6)}"
    folder = make_session(tmp_path, on, word)
    session = open_session(folder)
    backend = open_backend(session)
    _, key = add_annotator(on, f"bob-{secrets.token_hex(3)}", session.workspace)
    backend.answer(key, [Answer(t.id, "a", reason=f"said {word}") for t in session.tasks[:1]])
    take_in(session, backend)
    prompt, shown = session.tasks[0].prompt_id, session.tasks[0].messages[0]["content"].split()[-1]
    done = json_of("forget", folder, "--prompt", prompt, "--yes", cwd=tmp_path)
    assert (done["erased"], done["withdrawn"], done["drafts"]) == (1, 1, 0)
    assert in_database(on, request, shown) == [], "neither in the index of words nor in what was shown"
    assert f"said {word}" not in (folder / "journal.jsonl").read_text()
    assert backend.progress().tasks == TASKS - 1


def test_who_was_renamed_since_is_found_by_the_new_name(tmp_path: Path, either_server: ArgillaServer) -> None:
    """And whoever took the old name is somebody else."""
    on = either_server
    folder = make_session(tmp_path, on, "x")
    session = open_session(folder)
    backend = open_backend(session)
    before, after = (f"{name}-{secrets.token_hex(3)}" for name in ("maria", "mary"))
    who, key = add_annotator(on, before, session.workspace)
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks[:3]])
    take_in(session, backend)
    on.call("PATCH", f"/users/{who}", {"username": after})
    with pytest.raises(ConfigError, match=f"'{after}' has said nothing here; "):
        wish(folder, annotator=after)
    found = json_of("forget", folder, "--annotator", after, cwd=tmp_path)
    assert (found["annotator"], found["name"], len(found["judgements"])) == (who, after, 3)
    other, _ = add_annotator(on, before, session.workspace)
    assert json_of("forget", folder, "--annotator", before, cwd=tmp_path)["annotator"] == other
    wrong = align("forget", folder, "--annotator", f"{after}x", cwd=tmp_path, expect=2)
    assert f"'{after}x' has said nothing here; did you mean {after}?" in wrong.stderr


def test_a_server_that_is_away_is_told_of_and_the_same_command_goes_on(
    tmp_path: Path, argilla_server: ArgillaServer
) -> None:
    folder = make_session(tmp_path, argilla_server, "x")
    session = open_session(folder)
    backend = open_backend(session)
    who, key = add_annotator(argilla_server, f"bob-{secrets.token_hex(3)}", session.workspace)
    backend.answer(key, [Answer(t.id, "a", reason="zaway") for t in session.tasks])
    take_in(session, backend)
    settings: dict[str, Any] = json.loads((folder / "session.json").read_text())
    there = settings["annotate"]["server"]
    settings["annotate"]["server"] = {"type": "remote", "url": "http://127.0.0.1:9", "api_key_env": "NO_KEY"}
    (folder / "session.json").write_text(json.dumps(settings))
    away = align("forget", folder, "--annotator", who, "--yes", cwd=tmp_path, expect=2, env={"NO_KEY": "x"})
    assert "remains: all that was said on the annotation server, which was not reached" in away.stdout
    assert "erased: 4 judgements in the journal, 0 answers and 0 drafts" in away.stdout
    assert "Argilla does not answer" in away.stderr
    assert "zaway" not in (folder / "journal.jsonl").read_text()
    (folder / "session.json").write_text(json.dumps(settings | {"annotate": settings["annotate"] | {"server": there}}))
    assert json_of("forget", folder, "--annotator", who, "--yes", cwd=tmp_path)["withdrawn"] == 4


def test_a_server_that_refuses_is_named(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    """Another Argilla, of whose files we know nothing; and a key that may not delete."""
    folder = make_session(tmp_path, argilla_server, "x")
    session = open_session(folder)
    backend = open_backend(session)
    who, key = add_annotator(argilla_server, f"bob-{secrets.token_hex(3)}", session.workspace)
    backend.answer(key, [Answer(session.tasks[0].id, "a")])

    class Stranger(Api):
        def call(self, method: str, path: str, **given: Any) -> Any:
            if path == "/status":
                return {"search_engine": {"cluster_name": "elasticsearch"}}
            if method == "DELETE" and path.startswith("/responses"):
                raise Refused("the API key's user may not delete")
            return super().call(method, path, **given)

    with open_client(argilla_server.url, server.credentials(argilla_server.home).api_key) as client:
        done = erase(Stranger(client, argilla_server.url, 5.0), session.workspace, {who}, set())
    assert (done.answers, done.remains) == (
        0,
        [
            f"an answer in {session.title} at {argilla_server.url}: the API key's user may not delete; whoever runs that "
            "server can delete it",
            f"deleted rows, logs and an index at {argilla_server.url}, a server that is not ours: ask whoever runs it to "
            "erase them",
        ],
    )


def test_a_journal_line_keeps_its_place(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    folder = make_session(tmp_path, argilla_server, "x")
    session = open_session(folder)
    backend = open_backend(session)
    who, key = add_annotator(argilla_server, f"bob-{secrets.token_hex(3)}", session.workspace)
    backend.answer(key, [Answer(t.id, "a") for t in session.tasks])
    take_in(session, backend)
    following = read_journal(session.journal)
    size = session.journal.stat().st_size
    json_of("forget", folder, "--annotator", who, "--yes", cwd=tmp_path)
    with session.journal.open("rb") as file:
        kinds = [json.loads(line)["type"] for line in file.read(size).splitlines()]
    assert kinds == ["person", "tombstone", "tombstone", "tombstone", "tombstone"]
    assert following.read_on().latest == {}
    assert replace(following.forgotten, judgements=frozenset()) == replace(
        read_journal(session.journal).forgotten, judgements=frozenset()
    )


def test_words_that_wait_for_a_webhook_go_when_forgetting_was_cut_off(
    tmp_path: Path, either_server: ArgillaServer, webhook: None, request: pytest.FixtureRequest
) -> None:
    """The answers are deleted, the server does not come to its files: the next call finds none to delete, and erases all."""
    on, word = either_server, f"zc{secrets.token_hex(6)}"
    folder = make_session(tmp_path, on, "shown")
    session = open_session(folder)
    backend = open_backend(session)
    (bob, key), (_, other) = (
        add_annotator(on, f"{n}-{secrets.token_hex(3)}", session.workspace) for n in ("bob", "ann")
    )
    backend.answer(key, [Answer(t.id, "a", reason=f"{word} said") for t in session.tasks])
    backend.answer(other, [Answer(t.id, "a", reason=f"kept {word[2:]}") for t in session.tasks])

    class CutOff(Api):
        def call(self, method: str, path: str, **given: Any) -> Any:
            if path == "/align/erased":
                raise ServiceError("the database is busy")
            return super().call(method, path, **given)

    with open_client(on.url, server.credentials(on.home).api_key) as client:
        with pytest.raises(ServiceError, match="the database is busy"):
            erase(CutOff(client, on.url, 5.0), session.workspace, {bob}, set())
        assert in_outbox(on, word) == TASKS * 2, "created, and deleted"
        done = erase(Api(client, on.url, 5.0), session.workspace, {bob}, set())
    assert (done.answers, len(done.remains)) == (0, 0 if on.database is None else 1)
    assert in_database(on, request, word) == []
    assert in_outbox(on, f"kept {word[2:]}") == TASKS, "what is not forgotten is delivered as it was said"


def in_outbox(on: ArgillaServer, word: str) -> int:
    return int(on.sql(f"SELECT count(*) FROM align_outbox WHERE data LIKE '%{word}%'"))


ERASE_EACH = """
import asyncio, os
from pathlib import Path
from types import SimpleNamespace
from argilla_embedded import home
home.prepare_environment(Path(os.environ["ARGILLA_HOME_PATH"]))
from fastapi import HTTPException
from argilla_embedded import erasing, pragmas
erasing.PATIENCE = 0.0

async def main():
    for statement in list(erasing.dialect.SCRUB):
        erasing.dialect.SCRUB = [statement]
        try:
            await erasing.erased(current_user=SimpleNamespace(is_owner=True))
            print("done")
        except HTTPException as error:
            print(error.status_code, error.detail)

asyncio.run(main())
"""


@contextmanager
def in_the_way(on: ArgillaServer) -> Iterator[None]:
    """Somebody holds what the statements need, and connections wait for it a second at most."""
    if on.database is None:
        with closing(sqlite3.connect(on.home / "argilla.db", isolation_level=None)) as writing:
            writing.execute("BEGIN IMMEDIATE")
            yield
        return
    programs = find_programs()
    assert programs is not None
    on.sql("ALTER ROLE align SET lock_timeout = '1s'")
    tables = "responses, suggestions, records, align_text, align_outbox"
    with subprocess.Popen(
        [programs / "psql", "-XAtq", on.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reading:
        assert reading.stdin is not None and reading.stdout is not None
        reading.stdin.write(f"BEGIN; LOCK TABLE {tables} IN ACCESS SHARE MODE; SELECT 'held';\n")
        reading.stdin.flush()
        assert reading.stdout.readline() == "held\n"
        yield
        reading.stdin.close()
    on.sql("ALTER ROLE align RESET lock_timeout")


def test_a_database_that_others_keep_busy_is_no_failure_of_the_server(either_server: ArgillaServer) -> None:
    on = either_server
    env = os.environ | {"PYTHONPATH": str(process.PLUGIN), "ARGILLA_HOME_PATH": str(on.home)}
    env |= {"ARGILLA_DATABASE_SQLITE_TIMEOUT": "1"}
    command = [python_of(server.environment()), "-c", ERASE_EACH]
    with in_the_way(on):
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.splitlines()
    assert found == ["503 the database is busy; try again in a moment"] * (3 if on.database is None else 6)
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.splitlines()
    assert found == ["done"] * (3 if on.database is None else 6)
