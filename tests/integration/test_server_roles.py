"""Who may see and do what, through the API, on both databases: what the server refuses, no page can give away."""

import secrets
from dataclasses import dataclass
from typing import Any

import pytest

from annotation import server
from tests.integration.test_server_queue import HIDDEN
from tests.server_fixtures import ArgillaServer, add_annotator, add_records, make_dataset


@dataclass
class Office:
    """Two annotators who both answered, an admin of the workspace, and an annotator of another one."""

    on: ArgillaServer
    dataset: str
    records: list[str]
    workspace: str
    ids: dict[str, str]
    keys: dict[str, str]

    def status(self, who: str, method: str, path: str, body: object = None, **query: Any) -> int:
        headers = {"X-Argilla-Api-Key": self.keys[who]} if who else {}
        url = f"{self.on.url}/api/v1{path}"
        return self.on.client.request(method, url, json=body, params=query, headers=headers).status_code

    def call(self, who: str, method: str, path: str, body: object = None, **query: Any) -> Any:
        return self.on.call(method, path, body, key=self.keys[who], **query)


@pytest.fixture(scope="module")
def office(either_server: ArgillaServer) -> Office:
    name = f"roles-{secrets.token_hex(4)}"
    dataset = make_dataset(either_server, name, overlap=3, metadata={"topic": "terms"}, hidden=HIDDEN)
    metadata = {"topic": "lamps", "purpose": "gold", "shown": "1,0", "item": "i", "repeat": 0, "priority": 2.5}
    records = add_records(
        either_server,
        dataset,
        [{"fields": {"text": f"t{n}"}, "metadata": metadata | {"item": f"i{n}"}} for n in range(4)],
    )
    workspace = next(w["id"] for w in either_server.call("GET", "/me/workspaces")["items"] if w["name"] == name)
    people = {who: add_annotator(either_server, f"{name}-{who}", name) for who in ("ada", "bob")}
    admin = server.add_user(either_server.home, f"{name}-admin", "admin", workspace=name)
    people["admin"] = (either_server.call("GET", "/me", key=admin.api_key)["id"], admin.api_key)
    make_dataset(either_server, f"{name}-other")
    people["stranger"] = add_annotator(either_server, f"{name}-stranger", f"{name}-other")
    made = Office(
        either_server,
        dataset,
        records,
        workspace,
        {who: person for who, (person, _) in people.items()},
        {who: key for who, (_, key) in people.items()} | {"owner": either_server.api_key},
    )
    for who, choice in (("ada", "a"), ("bob", "b")):
        items = [{"record_id": r, "status": "submitted", "values": {"choice": {"value": choice}}} for r in records[:3]]
        made.call(who, "POST", "/me/responses/bulk", {"items": items})
    return made


def test_an_annotator_sees_their_own_answers_and_nobody_elses(office: Office) -> None:
    everyone = {office.ids["ada"], office.ids["bob"]}
    for who in ("ada", "bob"):
        found = office.call(who, "POST", f"/me/datasets/{office.dataset}/records/search", {}, include="responses")
        single = [office.call(who, "GET", f"/records/{r}") for r in office.records]
        for records in ([item["record"] for item in found["items"]], single):
            authors = [answer["user_id"] for record in records for answer in record["responses"]]
            assert authors == [office.ids[who]] * 3
    for who in ("owner", "admin"):
        assert {a["user_id"] for a in office.call(who, "GET", f"/records/{office.records[0]}")["responses"]} == everyone
    assert (
        office.on.sql(
            "SELECT count(*) FROM responses r JOIN users u ON u.id = r.user_id WHERE u.username LIKE '"
            + office.on.call("GET", f"/workspaces/{office.workspace}")["name"]
            + "-%'"
        )
        == "6"
    ), "hidden, not lost"


def test_filters_and_metrics_are_about_ones_own_answers(office: Office) -> None:
    def found(who: str, choice: str) -> int:
        terms = {"type": "terms", "scope": {"entity": "response", "question": "choice"}, "values": [choice]}
        body = {"filters": {"and": [terms]}}
        return int(office.call(who, "POST", f"/me/datasets/{office.dataset}/records/search", body)["total"])

    assert (found("ada", "a"), found("ada", "b"), found("bob", "a"), found("bob", "b")) == (3, 0, 0, 3)
    mine = office.call("ada", "GET", f"/me/datasets/{office.dataset}/metrics")["responses"]
    assert (mine["submitted"], mine["pending"]) == (3, 1)
    progress = office.call("ada", "GET", f"/datasets/{office.dataset}/users/progress")["users"]
    assert [user["username"].rpartition("-")[2] for user in progress] == ["ada"]
    everyone = office.call("owner", "GET", f"/datasets/{office.dataset}/users/progress")["users"]
    assert sorted(user["username"].rpartition("-")[2] for user in everyone) == ["ada", "bob"]


def test_progress_is_what_oneself_has_done_of_what_is_left_for_one(office: Office) -> None:
    """Three of four records answered, which want three answers each: Argilla says 0 of 4, on the page and on the tile."""
    path = f"/datasets/{office.dataset}/progress"
    ada = office.call("ada", "GET", path)
    assert (ada["completed"], ada["pending"], ada["total"]) == (3, 1, 4)
    assert [user["username"].rpartition("-")[2] for user in ada["users"]] == ["ada"], "who else labels is not said"
    owner = office.call("owner", "GET", path)
    assert (owner["completed"], owner["total"], len(owner["users"])) == (0, 4, 2)
    mine = office.call("ada", "GET", f"/me/datasets/{office.dataset}/metrics")["responses"]
    assert (mine["submitted"], mine["pending"], mine["total"]) == (3, 1, 4)


def test_what_others_have_completed_is_not_pending_and_a_draft_is_not_done(either_server: ArgillaServer) -> None:
    name = f"done-{secrets.token_hex(4)}"
    dataset = make_dataset(either_server, name, overlap=1)
    records = add_records(either_server, dataset, [{"fields": {"text": f"t{n}"}} for n in range(5)])
    keys = {who: add_annotator(either_server, f"{name}-{who}", name)[1] for who in ("ada", "bob")}

    def answer(who: str, record: str, status: str) -> None:
        body = {"record_id": record, "status": status, "values": {"choice": {"value": "a"}}}
        either_server.call("POST", "/me/responses/bulk", {"items": [body]}, key=keys[who])

    for who, record, status in (
        ("bob", 0, "submitted"),
        ("bob", 1, "submitted"),
        ("ada", 2, "submitted"),
        ("ada", 3, "draft"),
        ("ada", 1, "draft"),
    ):
        answer(who, records[record], status)
    found = either_server.call("GET", f"/datasets/{dataset}/progress", key=keys["ada"])
    assert (found["completed"], found["pending"], found["total"]) == (1, 2, 3)
    mine = either_server.call("GET", f"/me/datasets/{dataset}/metrics", key=keys["ada"])["responses"]
    assert mine == {"total": 4, "submitted": 1, "discarded": 0, "draft": 2, "pending": 1}, (
        "a draft of what bob completed"
    )


def test_what_is_left_is_what_the_queue_serves(either_server: ArgillaServer) -> None:
    """Two records of one item are one question; a repeat is another."""
    name = f"left-{secrets.token_hex(4)}"
    dataset = make_dataset(either_server, name, overlap=2, hidden=HIDDEN)
    shown = [("i0", 0), ("i0", 0), ("i1", 0), ("i1", 1), ("i2", 0)]
    records = add_records(
        either_server,
        dataset,
        [{"fields": {"text": f"t{n}"}, "metadata": {"item": i, "repeat": r}} for n, (i, r) in enumerate(shown)],
    )
    key = add_annotator(either_server, f"{name}-ada", name)[1]

    def counted() -> tuple[int, int, int]:
        found = either_server.call("GET", f"/datasets/{dataset}/progress", key=key)
        terms = {"type": "terms", "scope": {"entity": "response", "property": "status"}, "values": ["pending"]}
        body = {"filters": {"and": [terms]}}
        served = either_server.call("POST", f"/me/datasets/{dataset}/records/search", body, key=key)["total"]
        return found["completed"], found["pending"], served

    assert counted() == (0, 4, 4)
    body = {"record_id": records[0], "status": "submitted", "values": {"choice": {"value": "a"}}}
    either_server.call("POST", "/me/responses/bulk", {"items": [body]}, key=key)
    assert counted() == (1, 3, 3)


def test_hidden_metadata_are_hidden_also_from_filters_sorts_and_metrics(office: Office) -> None:
    visible = [
        p["name"] for p in office.call("ada", "GET", f"/me/datasets/{office.dataset}/metadata-properties")["items"]
    ]
    assert visible == ["topic"]
    found = office.call("ada", "POST", f"/me/datasets/{office.dataset}/records/search", {}, include="suggestions")
    for record in [
        *(item["record"] for item in found["items"]),
        office.call("ada", "GET", f"/records/{office.records[0]}"),
    ]:
        assert record["metadata"] == {"topic": "lamps"} and not record["suggestions"]
    path = f"/me/datasets/{office.dataset}/records/search"
    for name in HIDDEN:
        scope = {"entity": "metadata", "metadata_property": name}
        for body in (
            {"filters": {"and": [{"type": "terms", "scope": scope, "values": ["gold"]}]}},
            {"sort": [{"scope": scope, "order": "asc"}]},
        ):
            assert office.status("ada", "POST", path, body) == 422
            assert (
                office.status("admin", "POST", path, body) == 403 or office.status("owner", "POST", path, body) == 200
            )
    by_topic = {"type": "terms", "scope": {"entity": "metadata", "metadata_property": "topic"}, "values": ["lamps"]}
    assert office.call("ada", "POST", path, {"filters": {"and": [by_topic]}})["total"] == 4
    for made in office.call("owner", "GET", f"/me/datasets/{office.dataset}/metadata-properties")["items"]:
        wanted = 200 if made["name"] == "topic" else 403
        assert office.status("ada", "GET", f"/metadata-properties/{made['id']}/metrics") == wanted


def test_an_annotator_cannot_touch_what_is_not_theirs(office: Office) -> None:
    record, dataset = office.records[0], office.dataset
    theirs = next(
        a["id"]
        for a in office.call("owner", "GET", f"/records/{record}")["responses"]
        if a["user_id"] == office.ids["bob"]
    )
    question = office.call("owner", "GET", f"/datasets/{dataset}/questions")["items"][0]["id"]
    answer = {"values": {"choice": {"value": "a"}}, "status": "submitted"}
    hook = {"url": "http://127.0.0.1:9/x", "events": ["response.created"], "description": "x"}
    person = {"username": "made-by-ada", "first_name": "x", "role": "owner", "password": "12345678"}
    for method, path, body in [
        ("PUT", f"/responses/{theirs}", answer),
        ("DELETE", f"/responses/{theirs}", None),
        ("GET", f"/datasets/{dataset}/records", None),
        ("POST", f"/datasets/{dataset}/records/search", {}),
        ("POST", f"/datasets/{dataset}/records/bulk", {"items": [{"fields": {"text": "x"}}]}),
        ("PUT", f"/datasets/{dataset}/records/bulk", {"items": [{"fields": {"text": "x"}}]}),
        ("PATCH", f"/records/{record}", {"metadata": {}}),
        ("DELETE", f"/records/{record}", None),
        ("PUT", f"/records/{record}/suggestions", {"question_id": question, "value": "a"}),
        ("PATCH", f"/datasets/{dataset}", {"guidelines": "x"}),
        ("DELETE", f"/datasets/{dataset}", None),
        ("GET", "/users", None),
        ("GET", f"/users/{office.ids['bob']}", None),
        ("POST", "/users", person),
        ("PATCH", f"/users/{office.ids['ada']}", {"role": "owner"}),
        ("DELETE", f"/users/{office.ids['bob']}", None),
        ("GET", f"/workspaces/{office.workspace}/users", None),
        ("POST", f"/workspaces/{office.workspace}/users", {"user_id": office.ids["stranger"]}),
        ("POST", "/workspaces", {"name": "made-by-ada"}),
        ("GET", "/webhooks", None),
        ("POST", "/webhooks", hook),
    ]:
        status = office.status("ada", method, path, body)
        assert status == 403, f"{method} {path}: {status}"
        assert office.status("", method, path, body) == 401


def test_another_workspace_is_closed(office: Office) -> None:
    record, dataset = office.records[0], office.dataset
    answer = {"record_id": record, "status": "submitted", "values": {"choice": {"value": "a"}}}
    assert office.call("stranger", "POST", "/me/responses/bulk", {"items": [answer]})["items"][0]["error"]
    assert dataset not in [d["id"] for d in office.call("stranger", "GET", "/me/datasets")["items"]]
    for method, path, body in [
        ("GET", f"/datasets/{dataset}", None),
        ("GET", f"/datasets/{dataset}/fields", None),
        ("GET", f"/datasets/{dataset}/questions", None),
        ("GET", f"/datasets/{dataset}/progress", None),
        ("GET", f"/datasets/{dataset}/users/progress", None),
        ("GET", f"/me/datasets/{dataset}/metrics", None),
        ("GET", f"/me/datasets/{dataset}/metadata-properties", None),
        ("GET", f"/datasets/{dataset}/records/search/suggestions/options", None),
        ("POST", f"/me/datasets/{dataset}/records/search", {}),
        ("GET", f"/records/{record}", None),
        ("GET", f"/records/{record}/suggestions", None),
        ("POST", f"/records/{record}/responses", {k: answer[k] for k in ("status", "values")}),
        ("GET", f"/workspaces/{office.workspace}", None),
    ]:
        status = office.status("stranger", method, path, body)
        assert status == 403, f"{method} {path}: {status}"
