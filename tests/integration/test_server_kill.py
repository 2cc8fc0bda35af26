"""`kill -9` at the worst moments: no answer lost, none doubled, statuses right, webhooks delivered."""

import base64
import hashlib
import hmac
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from annotation import server
from annotation.server import process
from tests.server_fixtures import ArgillaServer, add_annotator, add_records, make_dataset


def kill(on: ArgillaServer) -> None:
    alive = process.running(on.home)
    assert alive is not None
    os.kill(alive.pid, signal.SIGKILL)
    while process.began(alive.pid) == alive.began:
        time.sleep(0.01)


class Labeller(threading.Thread):
    """Answers its records one after another, trying each again until the server has confirmed it."""

    def __init__(self, on: ArgillaServer, key: str, records: list[str]) -> None:
        super().__init__(daemon=True)
        self.on, self.key, self.records, self.confirmed = on, key, list(records), dict[str, str]()
        random.Random(key).shuffle(self.records)

    def run(self) -> None:
        for number, record in enumerate(self.records):
            choice = ("a", "b", "tie")[number % 3]
            body = {"items": [{"record_id": record, "status": "submitted", "values": {"choice": {"value": choice}}}]}
            while not self._submitted(body):
                time.sleep(0.02)
            self.confirmed[record] = choice

    def _submitted(self, body: dict[str, Any]) -> bool:
        headers = {"X-Argilla-Api-Key": self.key}
        try:
            answer = self.on.client.post(f"{self.on.url}/api/v1/me/responses/bulk", json=body, headers=headers)
        except httpx.TransportError:  # the server was killed
            return False
        return answer.is_success and answer.json()["items"][0]["error"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "killable_either", ["sqlite", pytest.param("postgresql", marks=pytest.mark.full)], indirect=True
)
def test_answers_survive_kills_while_they_are_given(killable_either: ArgillaServer) -> None:
    dataset = make_dataset(killable_either, "kills", overlap=2)
    records = add_records(killable_either, dataset, [{"fields": {"text": f"t{i}"}} for i in range(60)])
    people = [add_annotator(killable_either, f"killed{n}", "kills") for n in range(3)]
    labellers = [Labeller(killable_either, key, records) for _, key in people]
    for labeller in labellers:
        labeller.start()
    for wanted in (25, 90):
        while sum(len(labeller.confirmed) for labeller in labellers) < wanted:
            time.sleep(0.005)
        kill(killable_either)
        assert server.status(killable_either.home).running is False
        before = {
            (labeller.key, record): choice
            for labeller in labellers
            for record, choice in labeller.confirmed.copy().items()
        }
        assert server.start(killable_either.home).started
        stored = _answers(killable_either, dataset)
        user = {key: user_id for user_id, key in people}
        assert all(stored[user[key], record] == choice for (key, record), choice in before.items()), (
            "what was confirmed is there"
        )
    for labeller in labellers:
        labeller.join(timeout=60)
    stored = _answers(killable_either, dataset)
    expected = {
        (user_id, record): labeller.confirmed[record]
        for (user_id, _), labeller in zip(people, labellers, strict=True)
        for record in records
    }
    assert stored == expected and len(stored) == 180
    _check_statuses(killable_either, dataset, completed=60)


def _answers(on: ArgillaServer, dataset: str) -> dict[tuple[str, str], str]:
    """By (user, record); fails where one person has two answers to one record."""
    found: dict[tuple[str, str], str] = {}
    for record in on.call("GET", f"/datasets/{dataset}/records", include="responses", limit=1000)["items"]:
        for answer in record["responses"]:
            assert (answer["user_id"], record["id"]) not in found
            found[answer["user_id"], record["id"]] = answer["values"]["choice"]["value"]
    return found


def _check_statuses(on: ArgillaServer, dataset: str, *, completed: int) -> None:
    for record in on.call("GET", f"/datasets/{dataset}/records", include="responses", limit=1000)["items"]:
        submitted = sum(answer["status"] == "submitted" for answer in record["responses"])
        assert record["status"] == ("completed" if submitted >= 2 else "pending")
    assert on.call("GET", f"/datasets/{dataset}/progress")["completed"] == completed


@pytest.mark.slow
def test_a_status_follows_in_the_answers_own_transaction(killable_either: ArgillaServer) -> None:
    dataset = make_dataset(killable_either, "stale", overlap=1)
    records = add_records(killable_either, dataset, [{"fields": {"text": f"t{i}"}} for i in range(3)])
    _, key = add_annotator(killable_either, "stale", "stale")

    def statuses() -> str:
        found = {r["id"]: r["status"] for r in killable_either.call("GET", f"/datasets/{dataset}/records")["items"]}
        return "".join(found[record][0] for record in records)

    for record in records[:2]:
        _answer(killable_either, record, key)
    assert statuses() == "ccp"
    where = f"record_id = '{killable_either.key(records[1])}'"
    killable_either.sql(f"UPDATE responses SET status = 'discarded' WHERE {where}")
    assert statuses() == "cpp", "whoever changes an answer"
    killable_either.sql(f"UPDATE responses SET status = 'submitted' WHERE {where}")
    this = f"WHERE id = '{killable_either.key(dataset)}'"
    wants = """UPDATE datasets SET distribution = '{"strategy": "overlap", "min_submitted": %d}' """ + this
    killable_either.sql(wants % 2)
    assert statuses() == "ppp"
    killable_either.sql(wants % 1)
    assert statuses() == "ccp"
    killable_either.sql(f"DELETE FROM responses WHERE {where}")
    assert statuses() == "cpp"
    killable_either.sql(f"UPDATE records SET status = 'completed' WHERE id = '{killable_either.key(records[2])}'")
    killable_either.sql("UPDATE align_meta SET value = 'older' WHERE key = 'migrated'")
    kill(killable_either)
    server.start(killable_either.home)
    assert statuses() == "cpp", "what an older version left wrong is mended when the database is brought up to date"


@pytest.mark.slow
def test_records_are_announced_to_webhooks_that_want_them(killable_either: ArgillaServer, receiver: "Receiver") -> None:
    dataset = make_dataset(killable_either, "told", overlap=1)
    records = add_records(killable_either, dataset, [{"fields": {"text": "t"}}])
    _, key = add_annotator(killable_either, "told", "told")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    wanted = {"url": url, "events": ["record.updated", "record.completed"], "description": "test"}
    hook = killable_either.call("POST", "/webhooks", wanted)
    _answer(killable_either, records[0], key)
    receiver.wait_for(2)
    told = [(d["type"], d["data"]["id"], d["data"]["status"]) for _, d, _, _ in receiver.deliveries]
    assert told == [("record.updated", records[0], "completed"), ("record.completed", records[0], "completed")]
    killable_either.call("DELETE", f"/webhooks/{hook['id']}")


# webhooks -----------------------------------------------------------------------------------------------------------


class Receiver(ThreadingHTTPServer):
    """Notes every delivery; refuses all while `refusing`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusing, self.attempts, self.deliveries = (
            False,
            0,
            list[tuple[str, dict[str, Any], dict[str, str], bytes]](),
        )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.deliveries) < count:
            assert time.monotonic() < deadline, f"{len(self.deliveries)} of {count} deliveries"
            time.sleep(0.05)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.server.attempts += 1
        if not self.server.refusing:
            self.server.deliveries.append(
                (self.headers["webhook-id"], json.loads(content), dict(self.headers), content)
            )
        self.send_response(503 if self.server.refusing else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.shutdown()
    opened.server_close()


@pytest.mark.slow
def test_webhooks_outlive_a_kill(killable_either: ArgillaServer, receiver: Receiver) -> None:
    dataset = make_dataset(killable_either, "hooks", overlap=1)
    records = add_records(killable_either, dataset, [{"fields": {"text": f"t{i}"}} for i in range(4)])
    person, key = add_annotator(killable_either, "hooked", "hooks")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    hook = killable_either.call(
        "POST", "/webhooks", {"url": url, "events": ["response.created", "response.updated"], "description": "test"}
    )
    receiver.refusing = True
    made = [_answer(killable_either, record, key) for record in records[:3]]
    logged = {"user_id": person, "status": "submitted", "values": {"choice": {"value": "a"}}}
    add_records(killable_either, dataset, [{"fields": {"text": "t"}, "responses": [logged]}])  # which nobody announces
    while not receiver.attempts:
        time.sleep(0.02)
    kill(killable_either)
    # the last as if killed before it was enqueued
    killable_either.sql("DELETE FROM align_outbox WHERE id = (SELECT max(id) FROM align_outbox)")
    note = f"('response.created', '{killable_either.key(made[2])}')"
    killable_either.sql(f"INSERT INTO align_unsent (event, response_id) VALUES {note}")
    receiver.refusing = False
    server.start(killable_either.home)
    receiver.wait_for(3)
    made.append(_answer(killable_either, records[3], key))
    receiver.wait_for(4)
    assert [(d["type"], d["data"]["id"]) for _, d, _, _ in receiver.deliveries] == [
        ("response.created", i) for i in made
    ]
    assert (
        receiver.deliveries[0][1]["data"]["values"] == {"choice": {"value": "b"}}
        and receiver.deliveries[0][1]["data"]["record"]["id"] == records[0]
    )
    assert len({message for message, *_ in receiver.deliveries}) == 4
    _, _, headers, content = receiver.deliveries[3]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + content
    wanted = base64.b64encode(hmac.new(base64.b64decode(hook["secret"]), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert _left_over(killable_either) == (0, 0)
    killable_either.call("DELETE", f"/webhooks/{hook['id']}")


@pytest.mark.slow
def test_a_refused_delivery_keeps_its_id_and_goes_with_its_webhook(
    killable_either: ArgillaServer, receiver: Receiver
) -> None:
    dataset = make_dataset(killable_either, "refused", overlap=1)
    records = add_records(killable_either, dataset, [{"fields": {"text": "t"}}])
    _, key = add_annotator(killable_either, "refused", "refused")
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    hook = killable_either.call(
        "POST", "/webhooks", {"url": url, "events": ["response.created"], "description": "test"}
    )
    receiver.refusing = True
    _answer(killable_either, records[0], key)
    while not receiver.attempts:
        time.sleep(0.02)
    receiver.refusing = False
    receiver.wait_for(1)
    assert receiver.attempts >= 2 and len(receiver.deliveries) == 1
    receiver.refusing = True
    killable_either.call("DELETE", f"/responses/{receiver.deliveries[0][1]['data']['id']}", key=key)
    _answer(killable_either, records[0], key)
    killable_either.call("DELETE", f"/webhooks/{hook['id']}")
    assert _left_over(killable_either) == (0, 0)


def _answer(on: ArgillaServer, record: str, key: str) -> str:
    made = on.call(
        "POST", f"/records/{record}/responses", {"values": {"choice": {"value": "b"}}, "status": "submitted"}, key=key
    )
    return str(made["id"])


def _left_over(on: ArgillaServer) -> tuple[int, int]:
    """Rows in the outbox and notes of unannounced answers, once deliveries that were under way are struck out."""
    for _ in range(100):
        counts = tuple(int(on.sql(f"SELECT count(*) FROM {table}")) for table in ("align_outbox", "align_unsent"))
        if counts == (0, 0):
            break
        time.sleep(0.05)
    return counts[0], counts[1]
