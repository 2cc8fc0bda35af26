"""200 annotators at once, on either database: no answer lost, none doubled, and the command line counts right."""

import json
import os
import random
import secrets
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from align.labelling.session import open_backend
from align.stages.sessions import open_session
from annotation import server
from annotation.argilla_backend import ArgillaBackend
from annotation.backend import Answer
from annotation.server import process
from tests.loop import align, write_jsonl
from tests.server_fixtures import ArgillaServer

PEOPLE, THREADS = 200, 16
OUTCOMES = ("a", "b", "tie", "both_bad", "skipped")

Given = dict[tuple[str, str], str]
"""(Person, task) → outcome."""


@pytest.mark.slow
def test_a_thousand_answers_with_the_server_killed_in_the_middle(
    killable_either: ArgillaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(killable_either, tmp_path, monkeypatch, each=5, kill=True)


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kill", [False, True], ids=["undisturbed", "killed"])
def test_five_thousand_answers(
    killable_either: ArgillaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: bool
) -> None:
    check(killable_either, tmp_path, monkeypatch, each=25, kill=kill)


def check(on: ArgillaServer, folder: Path, monkeypatch: pytest.MonkeyPatch, *, each: int, kill: bool) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", on.api_key)
    overlap, tasks = 20, PEOPLE * each // 20
    rows = [
        {"messages": [{"role": "user", "content": f"Where is parcel {n}?"}], "text": f"{text} {n}"}
        for n in range(tasks)
        for text in ("on its way", "who knows")
    ]
    write_jsonl(folder / "candidates.jsonl", rows)
    session_folder = folder / f"load-{secrets.token_hex(3)}"
    options = ["--candidates", "candidates.jsonl", "--server", on.url, "--tasks", str(tasks), "--overlap", str(overlap)]
    align("annotate", "push", session_folder, *options, cwd=folder)
    session = open_session(session_folder)
    backend = open_backend(session)
    keys = make_people(on, session.workspace)
    wanted = share_out([task.id for task in session.tasks], list(keys), overlap)
    give_all(on, backend, keys, wanted, kill=kill)
    check_stored(on, backend, wanted)
    check_status(folder, session_folder, wanted, overlap)


def make_people(on: ArgillaServer, workspace: str) -> dict[str, str]:
    """Annotators of that workspace by name, with their keys. Past the API, whose password hash takes a quarter second."""
    place = next(w["id"] for w in on.call("GET", "/me/workspaces")["items"] if w["name"] == workspace)
    tag, keys = secrets.token_hex(3), dict[str, str]()
    now = "2026-01-01 00:00:00.000000"
    people, members = [], []
    for n in range(PEOPLE):
        name, user = f"p{n:03}-{tag}", on.key(new_id())
        keys[name] = secrets.token_hex(16)
        people.append(f"('{user}', 'x', '{name}', 'annotator', '{keys[name]}', 'none', '{now}', '{now}')")
        members.append(f"('{on.key(new_id())}', '{on.key(place)}', '{user}', '{now}', '{now}')")
    columns = "id, first_name, username, role, api_key, password_hash, inserted_at, updated_at"
    on.sql(f"INSERT INTO users ({columns}) VALUES {', '.join(people)}")
    columns = "id, workspace_id, user_id, inserted_at, updated_at"
    on.sql(f"INSERT INTO workspaces_users ({columns}) VALUES {', '.join(members)}")
    return keys


def new_id() -> str:
    digits = secrets.token_hex(16)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def share_out(tasks: list[str], people: list[str], overlap: int) -> Given:
    """Each task to `overlap` people, each person as many tasks, in an order that puts many at one task at once."""
    draw = random.Random(5)
    return {
        (people[(n * overlap + k) % len(people)], task): draw.choice(OUTCOMES)
        for n, task in enumerate(tasks)
        for k in range(overlap)
    }


def give_all(on: ArgillaServer, backend: ArgillaBackend, keys: dict[str, str], wanted: Given, *, kill: bool) -> None:
    confirmed = threading.Semaphore(0)

    def give(person: str, task: str, outcome: str) -> None:
        backend.answer(keys[person], [Answer(task, outcome)])
        confirmed.release()

    first, *rest = [(person, task, outcome) for (person, task), outcome in wanted.items()]
    give(*first)  # after which the backend knows the records of all tasks
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = [pool.submit(give, *one) for one in rest]
        if kill:
            for _ in range(len(wanted) // 2):
                assert confirmed.acquire(timeout=120)
            kill_and_restart(on)
            assert not all(future.done() for future in waiting), "the kill came in the middle"
        for future in waiting:
            future.result(timeout=300)


def kill_and_restart(on: ArgillaServer) -> None:
    alive = process.running(on.home)
    assert alive is not None
    os.kill(alive.pid, signal.SIGKILL)
    while process.began(alive.pid) == alive.began:
        time.sleep(0.01)
    assert server.start(on.home).started


def check_stored(on: ArgillaServer, backend: ArgillaBackend, wanted: Given) -> None:
    stored, names = backend.collect(), backend.people()
    assert len(stored) == len(wanted), "none doubled"
    assert {(names[j.annotator], j.task_id): j.outcome for j in stored} == wanted, "none lost, none changed"


def check_status(folder: Path, session: Path, wanted: Given, overlap: int) -> None:
    submitted = Counter(task for (_, task), outcome in wanted.items() if outcome != "skipped")
    tasks = {task for _, task in wanted}
    said = json.loads(align("annotate", "status", session, "--json", cwd=folder).stdout)
    assert said["tasks"] == len(tasks) and said["wanted"] == overlap * len(tasks)
    assert said["answers"] == submitted.total()
    assert said["completed"] == sum(submitted[task] >= overlap for task in tasks)
    given = Counter(person for (person, _), outcome in wanted.items() if outcome != "skipped")
    skipped = Counter(person for (person, _), outcome in wanted.items() if outcome == "skipped")
    people = {row["name"]: (row["submitted"], row["skipped"]) for row in said["annotators"].values()}
    assert people == {person: (given[person], skipped[person]) for person, _ in wanted}
