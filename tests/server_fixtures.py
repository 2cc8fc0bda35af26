"""A real embedded Argilla server for tests, in a folder of their own, and a small client for its API."""

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from annotation import server
from tests.postgres import Postgres, find_programs, psql, running


@dataclass(frozen=True)
class ArgillaServer:
    """A running server: `call` talks to its API as the owner, or as whoever `key` belongs to."""

    home: Path
    url: str
    username: str
    password: str
    api_key: str
    client: httpx.Client = field(repr=False)
    database: str | None = None
    """Where it is on PostgreSQL: the database's URL."""

    def sql(self, statement: str) -> str:
        """What the database itself answers: one line a row, columns separated by `|`."""
        if self.database is not None:
            return psql(self.database, statement)
        with contextlib.closing(
            sqlite3.connect(self.home / "argilla.db", timeout=30, isolation_level=None)
        ) as database:
            return "\n".join("|".join(map(str, row)) for row in database.execute(statement))

    def key(self, id: str) -> str:
        """An id as the database writes it."""
        return id if self.database is not None else id.replace("-", "")

    def call(self, method: str, path: str, body: object = None, *, key: str | None = None, **query: Any) -> Any:
        headers = {"X-Argilla-Api-Key": key or self.api_key}
        answer = self.client.request(method, f"{self.url}/api/v1{path}", json=body, params=query, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None


def open_server(home: Path, database: str | None = None) -> ArgillaServer:
    """Start the server of `home` (or find it running) and say how to talk to it."""
    server.install()
    server.start(home, database=database)
    known = server.credentials(home)
    client = httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=20))
    return ArgillaServer(home, known.url, known.username, known.password, known.api_key, client, database)


@pytest.fixture(scope="session")
def argilla_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgillaServer]:
    """One server for the whole test session; tests make workspaces and datasets of their own on it."""
    opened = open_server(tmp_path_factory.mktemp("argilla") / "home")
    yield opened
    opened.client.close()
    server.stop(opened.home)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL cluster for the whole test session."""
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL on this machine: no initdb in /usr/lib/postgresql/*/bin or on the path")
    with running(programs) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def argilla_on_postgres(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgillaServer]:
    """Like `argilla_server`, on PostgreSQL."""
    opened = open_server(tmp_path_factory.mktemp("argilla-pg") / "home", postgres.make_database("argilla"))
    yield opened
    opened.client.close()
    server.stop(opened.home)


DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="module", params=DATABASES)
def either_server(request: pytest.FixtureRequest) -> ArgillaServer:
    """The session's server on SQLite, then the one on PostgreSQL."""
    name = "argilla_server" if request.param == "sqlite" else "argilla_on_postgres"
    found: ArgillaServer = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="module", params=DATABASES)
def killable_either(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ArgillaServer]:
    """A server on either database that a module may kill and start again."""
    database = None
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres").make_database(f"killed_{secrets.token_hex(4)}")
    opened = open_server(tmp_path_factory.mktemp("argilla-kill") / "home", database)
    yield opened
    opened.client.close()
    server.stop(opened.home)


@pytest.fixture(scope="module")
def killable_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgillaServer]:
    """A server that a module may kill and start again (it keeps its port)."""
    opened = open_server(tmp_path_factory.mktemp("argilla-kill") / "home")
    yield opened
    opened.client.close()
    server.stop(opened.home)


def make_dataset(
    on: ArgillaServer,
    name: str,
    *,
    overlap: int = 1,
    fields: tuple[str, ...] = ("text",),
    metadata: dict[str, str] | None = None,
    hidden: dict[str, str] | None = None,
    tags: tuple[str, ...] = (),
    vector: int = 0,
    template: str = "<p>x</p>",
) -> str:
    """A published dataset in a workspace of the same name, with a label and a rating question; returns its id.

    Annotators see `metadata` and do not see `hidden` (name → type). With `tags` there is a question with several of
    them as its answer, with `vector` a vector `v` of so many dimensions.
    """
    workspace = on.call("POST", "/workspaces", {"name": name})["id"]
    body = {"name": name, "workspace_id": workspace, "distribution": {"strategy": "overlap", "min_submitted": overlap}}
    dataset: str = on.call("POST", "/datasets", body)["id"]
    for title in fields:
        kind = (
            {"type": "chat"}
            if title == "chat"
            else {"type": "custom", "template": template, "advanced_mode": True}
            if title == "custom"
            else {"type": "text"}
        )
        on.call(
            "POST",
            f"/datasets/{dataset}/fields",
            {"name": title, "title": title, "required": title == fields[0], "settings": kind},
        )
    options = [{"value": v, "text": v} for v in ("a", "b", "tie")]
    on.call(
        "POST",
        f"/datasets/{dataset}/questions",
        {
            "name": "choice",
            "title": "choice",
            "required": True,
            "settings": {"type": "label_selection", "options": options},
        },
    )
    rating = {"type": "rating", "options": [{"value": n} for n in range(1, 6)]}
    on.call(
        "POST",
        f"/datasets/{dataset}/questions",
        {"name": "stars", "title": "stars", "required": False, "settings": rating},
    )
    if tags:
        several = {"type": "multi_label_selection", "options": [{"value": v, "text": v} for v in tags]}
        body = {"name": "tags", "title": "tags", "required": False, "settings": several}
        on.call("POST", f"/datasets/{dataset}/questions", body)
    if vector:
        body = {"name": "v", "title": "v", "dimensions": vector}
        on.call("POST", f"/datasets/{dataset}/vectors-settings", body)
    for key, kind_name in ((metadata or {}) | (hidden or {})).items():
        on.call(
            "POST",
            f"/datasets/{dataset}/metadata-properties",
            {
                "name": key,
                "title": key,
                "settings": {"type": kind_name},
                "visible_for_annotators": key not in (hidden or {}),
            },
        )
    on.call("PUT", f"/datasets/{dataset}/publish")
    return dataset


def add_records(on: ArgillaServer, dataset: str, records: list[dict[str, Any]]) -> list[str]:
    """Log records in bulks of 500; returns their ids in order."""
    ids: list[str] = []
    for begin in range(0, len(records), 500):
        made = on.call("POST", f"/datasets/{dataset}/records/bulk", {"items": records[begin : begin + 500]})
        ids += [item["id"] for item in made["items"]]
    return ids


def add_annotator(on: ArgillaServer, name: str, workspace: str) -> tuple[str, str]:
    """A member of `workspace`; returns their user id and API key."""
    made = server.add_user(on.home, name, workspace=workspace)
    return on.call("GET", "/me", key=made.api_key)["id"], made.api_key
