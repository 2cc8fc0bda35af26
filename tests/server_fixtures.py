"""A real embedded Argilla server for tests, in a folder of their own, and a small client for its API."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from annotation import server


@dataclass(frozen=True)
class ArgillaServer:
    """A running server: `call` talks to its API as the owner, or as whoever `key` belongs to."""

    home: Path
    url: str
    username: str
    password: str
    api_key: str
    client: httpx.Client = field(repr=False)

    def call(self, method: str, path: str, body: object = None, *, key: str | None = None, **query: Any) -> Any:
        headers = {"X-Argilla-Api-Key": key or self.api_key}
        answer = self.client.request(method, f"{self.url}/api/v1{path}", json=body, params=query, headers=headers)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None


def open_server(home: Path) -> ArgillaServer:
    """Start the server of `home` (or find it running) and say how to talk to it."""
    server.install()
    server.start(home)
    known = server.credentials(home)
    client = httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_connections=20))
    return ArgillaServer(home, known.url, known.username, known.password, known.api_key, client)


@pytest.fixture(scope="session")
def argilla_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgillaServer]:
    """One server for the whole test session; tests make workspaces and datasets of their own on it."""
    opened = open_server(tmp_path_factory.mktemp("argilla") / "home")
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
    template: str = "<p>x</p>",
) -> str:
    """A published dataset in a workspace of the same name, with a label and a rating question; returns its id."""
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
    for key, kind_name in (metadata or {}).items():
        on.call(
            "POST",
            f"/datasets/{dataset}/metadata-properties",
            {"name": key, "title": key, "settings": {"type": kind_name}, "visible_for_annotators": True},
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
