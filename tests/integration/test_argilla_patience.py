"""Through a proxy that spoils requests: a labelling comes to its end in one go, nothing lost and nothing done twice."""

import itertools
import json
import os
import secrets
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from align.errors import ServiceError
from annotation import argilla_backend, argilla_records, server
from annotation.argilla_api import Api
from annotation.argilla_api import connect as connect_as_owner
from annotation.argilla_backend import PATIENCE, SUPPORTED, ArgillaBackend, open_argilla
from annotation.argilla_erase import erase
from annotation.form import Form
from annotation.server import process
from annotation.simulate import label
from tests.faulty_proxy import KINDS, faulty_proxy, some
from tests.labelling import pair_tasks
from tests.loop import align, make_loop, said
from tests.server_fixtures import ArgillaServer
from tests.unit.test_simulate import PERSONAS, Memory, taste

PAIR = Form(ask=("strength", "flags", "edit", "reason"))


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small requests where there would be few large ones."""
    monkeypatch.setattr(argilla_records, "RECORDS_A_CALL", 6)
    monkeypatch.setattr(argilla_backend, "ANSWERS_A_CALL", 5)
    monkeypatch.setattr(argilla_records, "RECORDS_A_PAGE", range(10, 21))


def connect(on: ArgillaServer, url: str, workspace: str, **options: Any) -> ArgillaBackend:
    known: dict[str, Any] = {"dataset": "round-1", "guidelines": None, "overlap": 2, "form": PAIR} | options
    return open_argilla(url, on.api_key, workspace=workspace, **known)


def of_dataset(on: ArgillaServer, backend: ArgillaBackend, what: str) -> int:
    key = on.key(backend.url.split("/")[-2])
    records = f"SELECT id FROM records WHERE dataset_id = '{key}'"
    where = f"id IN ({records})" if what == "records" else f"record_id IN ({records})"
    return int(on.sql(f"SELECT count(*) FROM {what} WHERE {where}"))


def labelled_through(on: ArgillaServer, seed: int) -> tuple[set[str], int]:
    """A whole labelling, checked against one in memory; the kinds of faults it met, and how many requests it made."""
    tasks, workspace = pair_tasks(40, overlap=2), f"faulty-{secrets.token_hex(4)}"
    wanted = Memory(tasks=tasks)
    label(wanted, tasks, PERSONAS, taste, seed=5)
    with faulty_proxy(on.url, some(0.3, seed)) as proxy:
        backend = connect(on, proxy.url, workspace)
        assert backend.submit(tasks).added == 40
        assert label(backend, tasks, PERSONAS, taste, seed=5) == len(wanted.said)
        found = [replace(j, time=None) for j in backend.collect()]
        progress = backend.progress()
        erase(
            connect_as_owner(proxy.url, on.api_key, PATIENCE, SUPPORTED), workspace, [PERSONAS[0].name], [tasks[0].id]
        )
    assert found == wanted.collect()
    assert (progress.tasks, progress.open) == (40, 0)
    left = [j for j in wanted.collect() if j.annotator != PERSONAS[0].name and j.task_id != tasks[0].id]
    assert of_dataset(on, backend, "records") == 39
    assert of_dataset(on, backend, "responses") == len(left)
    assert len([w for w in on.call("GET", "/me/workspaces")["items"] if w["name"] == workspace]) == 1
    return set(proxy.faults), proxy.requests


def test_a_labelling_ends_although_three_requests_in_ten_fail(either_server: ArgillaServer, small_calls: None) -> None:
    met, requests = labelled_through(either_server, seed=1)
    assert met == set(KINDS) and requests > 100


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 8))
def test_whichever_requests_fail(either_server: ArgillaServer, small_calls: None, seed: int) -> None:
    labelled_through(either_server, seed)


@pytest.mark.parametrize("kind", ["cut", "lost", "500 after it was done"])
def test_each_call_is_done_once_though_each_first_reply_is_lost(
    either_server: ArgillaServer, small_calls: None, kind: str
) -> None:
    """All that a labelling calls, in order; publishing among them, which Argilla refuses the second time."""
    tries: dict[tuple[str, str], int] = {}

    def first(method: str, path: str) -> str | None:
        tries[method, path] = tries.get((method, path), 0) + 1
        return kind if method != "GET" and tries[method, path] % 2 else None

    workspace, tasks = f"once-{secrets.token_hex(4)}", pair_tasks(12, overlap=2)
    with faulty_proxy(either_server.url, first) as proxy:
        backend = connect(either_server, proxy.url, workspace)
        backend.submit(tasks)
        made = label(backend, tasks, PERSONAS, taste, seed=1)
        assert len(backend.collect()) == made
    assert of_dataset(either_server, backend, "records") == 12
    assert of_dataset(either_server, backend, "responses") == made
    assert any(path.endswith("/publish") for _, path in tries)


def test_people_are_added_and_removed_once_though_each_first_reply_is_lost(
    argilla_server: ArgillaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password that is shown is the one that was set."""
    tries: dict[tuple[str, str], int] = {}

    def first(method: str, path: str) -> str | None:
        tries[method, path] = tries.get((method, path), 0) + 1
        return "lost" if tries[method, path] == 1 else None

    name = f"added-{secrets.token_hex(4)}"
    argilla_server.call("POST", "/workspaces", {"name": name})
    monkeypatch.setenv("ARGILLA_API_KEY", argilla_server.api_key)
    with faulty_proxy(argilla_server.url, first) as proxy:
        made = server.add_user(proxy.url, name, workspace=name)
        assert argilla_server.call("GET", "/me", key=made.api_key)["username"] == name
        form = {"username": name, "password": made.password}
        assert argilla_server.client.post(f"{argilla_server.url}/api/v1/token", data=form).status_code == 201
        assert [w["name"] for w in argilla_server.call("GET", "/me/workspaces", key=made.api_key)["items"]] == [name]
        with pytest.raises(ServiceError, match=f"there is a user '{name}' already"):
            server.add_user(proxy.url, name)
        assert server.remove_user(proxy.url, name) == 0
    assert name not in {user.username for user in server.list_users(argilla_server.home)}


def test_the_first_contact_and_a_server_that_is_busy_are_waited_for(argilla_server: ArgillaServer) -> None:
    workspace, faults = (
        f"busy-{secrets.token_hex(4)}",
        itertools.chain(["429", "refused", "500", "429"], itertools.repeat(None)),
    )
    with faulty_proxy(argilla_server.url, lambda method, path: next(faults)) as proxy:
        assert connect(argilla_server, proxy.url, workspace).progress().tasks == 0
    assert dict(proxy.faults) == {"429": 2, "refused": 1, "500": 1}


def test_what_may_not_be_repeated_is_not_and_says_so(argilla_server: ArgillaServer) -> None:
    name = f"twice-{secrets.token_hex(4)}"
    with (
        faulty_proxy(argilla_server.url, lambda method, path: "lost") as proxy,
        httpx.Client(base_url=proxy.url, headers={"X-Argilla-Api-Key": argilla_server.api_key}) as client,
        pytest.raises(ServiceError, match=r"whether Argilla did POST /workspaces is not known: its reply was lost"),
    ):
        Api(client, proxy.url, 5.0).call("POST", "/workspaces", json={"name": name})
    assert proxy.requests == 1


def test_a_server_that_only_fails_is_named_in_the_time_that_it_has(argilla_server: ArgillaServer) -> None:
    for kind, words in (("429", "HTTP 429"), ("500", "HTTP 500"), ("refused", "does not answer")):
        began = time.monotonic()
        with (
            faulty_proxy(argilla_server.url, lambda method, path, kind=kind: kind) as proxy,
            pytest.raises(ServiceError, match=words),
        ):
            connect(argilla_server, proxy.url, "nobody", patience=2.0)
        assert time.monotonic() - began < 10


@pytest.mark.slow
def test_a_server_that_dies_in_a_labelling_is_started_again_and_one_that_was_stopped_is_not(
    killable_server: ArgillaServer, small_calls: None
) -> None:
    on, tasks, kills = killable_server, pair_tasks(40, overlap=2), [30, 70]
    wanted = Memory(tasks=tasks)
    label(wanted, tasks, PERSONAS, taste, seed=5)
    backend = connect(
        on, on.url, f"revived-{secrets.token_hex(4)}", revive=lambda: server.revive(on.home), patience=3.0
    )
    backend.submit(tasks)
    answer = backend._answer
    sent = itertools.count(5, 5)

    def dies(items: list[dict[str, Any]], key: str) -> None:
        if kills and next(sent) >= kills[0]:
            kills.pop(0)
            alive = process.running(on.home)
            assert alive is not None
            os.kill(alive.pid, signal.SIGKILL)
        answer(items, key)

    backend._answer = dies  # type: ignore[method-assign]
    assert label(backend, tasks, PERSONAS, taste, seed=5) == len(wanted.said) and not kills
    assert [replace(j, time=None) for j in backend.collect()] == wanted.collect()
    server.stop(on.home)
    with pytest.raises(ServiceError, match=r"does not answer.*align server start"):
        backend.progress()
    assert not server.status(on.home).running
    server.start(on.home)


@pytest.mark.full
def test_one_command_goes_through_a_round_although_three_requests_in_ten_fail(
    argilla_server: ArgillaServer, tmp_path: Path
) -> None:
    """The same labels as without a fault, each once."""

    straight = make_loop(tmp_path / "straight", argilla_server.home, name=f"straight-{secrets.token_hex(4)}")
    align("run", straight, cwd=straight.parent)
    name = f"crooked-{secrets.token_hex(4)}"
    with faulty_proxy(argilla_server.url, some(0.3, seed=7)) as proxy:
        crooked = make_loop(tmp_path / "crooked", argilla_server.home, name=name)
        recipe = json.loads(crooked.read_text())
        recipe["annotate"]["server"] = {"type": "remote", "url": proxy.url, "api_key_env": "OWNERS_KEY"}
        crooked.write_text(json.dumps(recipe))
        align("run", crooked, cwd=crooked.parent, env={"OWNERS_KEY": argilla_server.api_key})
    assert len(proxy.faults) > 3
    found = [said(next((recipe.parent / "runs").iterdir())) for recipe in (straight, crooked)]
    assert len(found[0]) >= 40 and found[0] == found[1] and len({row[0] for row in found[1]}) == len(found[1])
