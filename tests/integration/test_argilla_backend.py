"""The backend against the real Argilla server."""

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from align.errors import AlignError, ConfigError, DataError, ServiceError
from align.escape import escape, unescape
from align.types import Judgement, Rating, Task
from annotation import argilla_backend, argilla_records, server
from annotation.argilla_backend import ArgillaBackend, open_argilla
from annotation.backend import Answer, Count, Submitted
from annotation.form import Form
from annotation.server import process
from annotation.simulate import label
from tests.labelling import make_task, pair_tasks
from tests.server_fixtures import ArgillaServer, add_annotator, make_dataset
from tests.unit.test_simulate import PERSONAS, Memory, taste

PAIR = Form(ask=("strength", "flags", "edit", "reason"))


def connect(on: ArgillaServer, workspace: str, **options: Any) -> ArgillaBackend:
    known: dict[str, Any] = {"dataset": "round-1", "guidelines": "Be fair.", "overlap": 1, "form": PAIR} | options
    return open_argilla(on.url, on.api_key, workspace=workspace, **known)


@pytest.fixture
def workspace() -> str:
    return f"run-{secrets.token_hex(4)}"


def records(on: ArgillaServer, backend: ArgillaBackend) -> dict[str, dict[str, Any]]:
    dataset = backend.url.split("/")[-2]
    return {
        r["external_id"]: r
        for r in on.call("GET", f"/datasets/{dataset}/records", include="responses", limit=1000)["items"]
    }


def without_time(judgements: list[Judgement]) -> list[Judgement]:
    """What the backend in memory keeps."""
    return [replace(j, time=None) for j in judgements]


@pytest.mark.parametrize(
    ("side", "shown", "outcome"),
    [("left", (0, 1), "a"), ("left", (1, 0), "b"), ("right", (0, 1), "b"), ("right", (1, 0), "a")],
)
def test_a_side_on_the_screen_becomes_the_canonical_answer(
    argilla_server: ArgillaServer, workspace: str, side: str, shown: tuple[int, int], outcome: str
) -> None:
    backend = connect(argilla_server, workspace)
    backend.submit([make_task("t", shown=shown)])
    who, key = add_annotator(argilla_server, workspace, workspace)
    values = {"preference": {"value": side}, "reason": {"value": "the tone\0"}}
    argilla_server.call(
        "POST",
        f"/records/{records(argilla_server, backend)['t']['id']}/responses",
        {"status": "submitted", "values": values},
        key=key,
    )
    [found] = backend.collect()
    assert (found.task_id, found.annotator, found.outcome, found.reason, found.revision) == (
        "t",
        who,
        outcome,
        "the tone␛u0000",
        0,
    )
    assert found.time is not None and found.time.endswith(("Z", "+00:00"))
    # and the same way out: what is answered canonically stands on that side
    backend.answer(key, [Answer("t", outcome)])
    assert records(argilla_server, backend)["t"]["responses"][0]["values"]["preference"]["value"] == side


def test_tasks_are_pushed_once(argilla_server: ArgillaServer, workspace: str) -> None:
    tasks = pair_tasks(230)
    backend = connect(argilla_server, workspace)
    assert backend.submit(tasks[:130]) == Submitted(130, 0)
    assert backend.submit(tasks) == Submitted(100, 130)
    assert connect(argilla_server, workspace).submit(tasks) == Submitted(0, 230)
    assert records(argilla_server, backend).keys() == {t.id for t in tasks}
    assert backend.progress().tasks == 230


def test_a_kill_between_two_batches_leaves_nothing_twice(
    argilla_server: ArgillaServer, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = pair_tasks(50)
    monkeypatch.setattr(argilla_records, "RECORDS_A_CALL", 20)
    backend = connect(argilla_server, workspace)
    call, puts = backend._api.call, []

    def dying(method: str, path: str, **options: Any) -> Any:
        if method == "PUT":
            puts.append(path)
            if len(puts) == 2:
                call(method, path, **options)  # the server has it, and we never hear so
                raise KeyboardInterrupt
        return call(method, path, **options)

    monkeypatch.setattr(backend._api, "call", dying)
    with pytest.raises(KeyboardInterrupt):
        backend.submit(tasks)
    assert connect(argilla_server, workspace).submit(tasks) == Submitted(10, 40)
    assert backend.progress().tasks == 50


def test_a_task_with_another_order_is_not_taken_for_the_same(argilla_server: ArgillaServer, workspace: str) -> None:
    backend = connect(argilla_server, workspace)
    backend.submit([make_task("t", shown=(0, 1))])
    with pytest.raises(DataError, match="in another order"):
        backend.submit([make_task("t", shown=(1, 0))])


def test_tasks_that_do_not_fit_are_refused(argilla_server: ArgillaServer, workspace: str) -> None:
    backend = connect(argilla_server, workspace, overlap=2)
    with pytest.raises(DataError, match="wants 1 answers, and its dataset 2"):
        backend.submit([make_task("t")])
    with pytest.raises(DataError, match="of kind rank with 2 answers, and its dataset takes kind pair with up to 2"):
        backend.submit([replace(make_task("t"), kind="rank", wanted=2)])
    with pytest.raises(DataError, match="of kind pair with 3 answers"):
        backend.submit([replace(make_task("t"), texts=["1", "2", "3"], wanted=2)])


def test_whatever_a_response_looks_like_it_is_collected(argilla_server: ArgillaServer, workspace: str) -> None:
    backend = connect(argilla_server, workspace)
    backend.submit([make_task(f"t{n}") for n in range(5)])
    who, key = add_annotator(argilla_server, workspace, workspace)
    ids = {name: record["id"] for name, record in records(argilla_server, backend).items()}
    for name, body in {
        "t0": {"status": "discarded", "values": None},
        "t1": {"status": "discarded", "values": {"preference": {"value": "left"}, "reason": {"value": "unclear"}}},
        "t2": {"status": "draft", "values": {"preference": {"value": "left"}}},
        "t3": {"status": "submitted", "values": {"preference": {"value": "both_bad"}}},
    }.items():
        argilla_server.call("POST", f"/records/{ids[name]}/responses", body, key=key)
    found = {j.task_id: (j.outcome, j.reason) for j in backend.collect()}
    assert found == {"t0": ("skipped", None), "t1": ("skipped", "unclear"), "t3": ("both_bad", None)}
    assert backend.collect() == sorted(backend.collect(), key=lambda j: j.id)
    progress = backend.progress()
    assert (progress.tasks, progress.completed, progress.exhausted, progress.answers, progress.open) == (5, 1, 2, 1, 2)
    assert progress.annotators == {who: Count(1, 2, drafts=1, left=2)}
    assert (progress.drafts, progress.reachable) == (1, 2)


def test_annotators_see_neither_purpose_nor_order_nor_suggestions(
    argilla_server: ArgillaServer, workspace: str
) -> None:
    backend = connect(argilla_server, workspace)
    backend.submit([replace(make_task("t", purpose="gold"), priority=0.5, expected="a", suggested="b")])
    _, key = add_annotator(argilla_server, workspace, workspace)
    dataset = backend.url.split("/")[-2]
    found = argilla_server.call("POST", f"/me/datasets/{dataset}/records/search", {}, key=key, include="suggestions")[
        "items"
    ][0]["record"]
    assert found["metadata"] == {} and found["suggestions"] == []
    assert "expected" not in json.dumps(found)
    assert records(argilla_server, backend)["t"]["metadata"] == {
        "purpose": "gold",
        "shown": "0,1",
        "item": "t",
        "repeat": 0,
        "priority": 0.5,
    }


EVERY_KIND = {
    "pair": (PAIR, 2, [Answer("", "b", "sharper", 3, ["a:unsafe", "b:format"], "Better:\n  so"), Answer("", "tie")]),
    "blind_ab": (Form("blind_ab", ask=("reason",)), 2, [Answer("", "a", "clearer"), Answer("", "both_bad")]),
    "rank": (
        Form("rank", 4, ask=("flags", "reason")),
        3,
        [Answer("", "ranked", ranking=[2, 1, 2], flags=["c:off_topic"]), Answer("", "ranked", ranking=[3, 2, 1])],
    ),
    "single": (Form("single", 1, ask=("flags",)), 1, [Answer("", "good"), Answer("", "bad", flags=["a:wrong"])]),
    "rating": (
        Form("rating", 1, ("helpful", "to the point"), ("reason",)),
        1,
        [
            Answer(
                "", "rated", ratings=[Rating(criterion="helpful", score=h), Rating(criterion="to the point", score=t)]
            )
            for h, t in ((1, 5), (4, 2))
        ],
    ),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_is_answered_and_collected(argilla_server: ArgillaServer, workspace: str, kind: str) -> None:
    form, size, answers = EVERY_KIND[kind]
    backend = connect(argilla_server, workspace, form=form)
    tasks = [kind_task(f"t{n}", kind, tuple(reversed(range(size)))) for n in range(len(answers) + 1)]
    backend.submit(tasks)
    given = [replace(a, task_id=f"t{n}") for n, a in enumerate(answers)] + [Answer(f"t{len(answers)}", "skipped")]
    backend.answer(backend.ensure_annotator(f"ann-{workspace}"), given)
    found = {j.task_id: j for j in backend.collect()}
    for answer in given:
        judgement = found[answer.task_id]
        assert judgement.kind == kind
        assert {name: getattr(judgement, name) for name in Answer.__slots__} == {
            name: getattr(answer, name) for name in Answer.__slots__
        }
    assert (backend.progress().completed, backend.progress().exhausted) == (len(answers), 1)
    assert connect(argilla_server, workspace, form=form).submit(tasks) == Submitted(0, len(tasks))


def kind_task(name: str, kind: str, shown: tuple[int, ...]) -> Task:
    size = len(shown)
    texts, ids = [f"text {k}" for k in range(size)], [f"c{k}" for k in range(size)]
    return replace(make_task(name), kind=kind, texts=texts, candidates=ids, shown=list(shown))


def test_a_dataset_that_asks_other_questions_is_not_used(argilla_server: ArgillaServer, workspace: str) -> None:
    connect(argilla_server, workspace)
    with pytest.raises(ConfigError, match=r"it asks preference, strength, .* in another form .*keep annotate.kind"):
        connect(argilla_server, workspace, form=Form(ask=("reason",)))
    ratings = Form("rating", 1, ("helpful", "honest"))
    connect(argilla_server, workspace, dataset="ratings", form=ratings)
    with pytest.raises(ConfigError, match="in another form"):
        connect(argilla_server, workspace, dataset="ratings", form=replace(ratings, criteria=("helpful",)))


@pytest.mark.parametrize("shown", [(0, 1), (1, 0)])
def test_a_suggestion_is_shown_where_the_form_suggests_and_stands_on_the_right_side(
    argilla_server: ArgillaServer, workspace: str, shown: tuple[int, int]
) -> None:
    backend = connect(argilla_server, workspace, form=replace(PAIR, suggest=True))
    backend.submit([replace(make_task("t", shown=shown), suggested="b"), make_task("u", prompt="other", shown=shown)])
    dataset = backend.url.split("/")[-2]
    _, key = add_annotator(argilla_server, workspace, workspace)
    seen = argilla_server.call("POST", f"/me/datasets/{dataset}/records/search", {}, key=key, include="suggestions")
    found = {item["record"]["external_id"]: item["record"]["suggestions"] for item in seen["items"]}
    assert found["u"] == []
    assert [(s["value"], s["score"], s["agent"]) for s in found["t"]] == [(("right", "left")[shown[0]], None, None)]
    assert backend.collect() == []  # a suggestion is nobody's answer


def test_texts_of_annotators_come_back_whatever_is_in_them(argilla_server: ArgillaServer, workspace: str) -> None:
    backend = connect(argilla_server, workspace)
    backend.submit([make_task("t")])
    _, key = add_annotator(argilla_server, workspace, workspace)
    raw = "NUL \0, ␛, \u202e, </script>\n\ttabs `$&` \\x00 😀"
    values = {"preference": {"value": "tie"}, "edit": {"value": raw}, "reason": {"value": raw[::-1]}}
    path = f"/records/{records(argilla_server, backend)['t']['id']}/responses"
    argilla_server.call("POST", path, {"status": "submitted", "values": values}, key=key)
    [found] = backend.collect()
    assert (unescape(found.edit or ""), unescape(found.reason or "")) == (raw, raw[::-1])
    backend.answer(key, [Answer("t", "tie", reason=found.reason, edit=found.edit)])
    assert [(j.edit, j.reason) for j in backend.collect()] == [(found.edit, found.reason)]
    with pytest.raises(DataError, match="no text with a lone surrogate"):
        backend.answer(key, [Answer("t", "tie", reason=escape("half \ud83d"))])


def test_records_are_read_again_only_when_something_changed(
    argilla_server: ArgillaServer, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(argilla_server, workspace, overlap=2)
    backend.submit(pair_tasks(3, overlap=2))
    keys = [backend.ensure_annotator(f"{name}-{workspace}") for name in ("ann", "bob")]
    first = pair_tasks(3, overlap=2)[0].id
    pages: list[str] = []
    call = backend._api.call

    def counting(method: str, path: str, **options: Any) -> Any:
        pages.append(path) if path.endswith("/records") else None
        return call(method, path, **options)

    monkeypatch.setattr(backend._api, "call", counting)

    def outcomes() -> list[str]:
        return sorted(j.outcome for j in backend.collect())

    before = backend.version()
    assert outcomes() == [] and backend.version() == before
    pages.clear()
    assert outcomes() == [] and backend.progress().answers == 0 and pages == []
    steps: list[tuple[str, Answer, list[str]]] = [
        (keys[0], Answer(first, "a"), ["a"]),
        (keys[0], Answer(first, "tie"), ["tie"]),  # a change of mind changes no count
        (keys[1], Answer(first, "skipped"), ["skipped", "tie"]),
    ]
    for key, answer, expected in steps:
        backend.answer(key, [answer])
        assert outcomes() == expected and backend.version() != before
        pages.clear()
        assert outcomes() == expected and pages == []
        before = backend.version()
    backend.ensure_annotator(f"cyd-{workspace}")
    assert backend.version() != before


def test_hostile_and_huge_texts_are_stored(argilla_server: ArgillaServer, workspace: str) -> None:
    texts = ["\0 and \ud800 and </script>", "x" * 1_000_000]
    tasks = [make_task(f"t{n}", texts=(texts[n % 2], texts[n % 2] + "!")) for n in range(6)]
    assert connect(argilla_server, workspace).submit(tasks) == Submitted(6, 0)


def test_people_are_admitted_and_personas_are_not(argilla_server: ArgillaServer, workspace: str) -> None:
    backend = connect(argilla_server, workspace)
    person = server.add_user(argilla_server.home, f"person-{workspace}")
    connect(argilla_server, workspace + "x").ensure_annotator(f"persona-{workspace}")
    admitted = backend.admit()
    assert person.username in admitted and not any(name.startswith("persona-") for name in admitted)
    assert backend.admit() == []
    assert workspace in {w["name"] for w in argilla_server.call("GET", "/me/workspaces", key=person.api_key)["items"]}


def test_a_persona_is_a_user_with_a_key_and_a_person_is_never_one(
    argilla_server: ArgillaServer, workspace: str
) -> None:
    backend = connect(argilla_server, workspace)
    key = backend.ensure_annotator(f"ann-{workspace}")
    assert backend.ensure_annotator(f"ann-{workspace}") == key
    assert argilla_server.call("GET", "/me", key=key)["role"] == "annotator"
    server.add_user(argilla_server.home, f"eve-{workspace}")
    with pytest.raises(ConfigError, match="is a person"):
        backend.ensure_annotator(f"eve-{workspace}")
    with pytest.raises(ConfigError, match="is a person"):
        backend.ensure_annotator(argilla_server.username)


def test_many_personas_label_and_a_second_call_does_nothing(
    argilla_server: ArgillaServer, workspace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(argilla_backend, "ANSWERS_A_CALL", 20)
    tasks = pair_tasks(50, overlap=2)
    personas = [p.model_copy(update={"name": f"{p.name}-{workspace}"}) for p in PERSONAS]
    backend = connect(argilla_server, workspace, overlap=2)
    backend.submit(tasks)
    wanted = Memory(tasks=tasks)
    total = label(wanted, tasks, personas, taste, seed=3)
    assert total > 100 and label(backend, tasks, personas, taste, seed=3) == total
    assert without_time(backend.collect()) == wanted.collect()
    assert label(backend, tasks, personas, taste, seed=3) == 0
    progress = backend.progress()
    assert progress.open == 0 and progress.exhausted > 0 and progress.completed + progress.exhausted == 50


def test_answers_to_unknown_tasks_are_refused(argilla_server: ArgillaServer, workspace: str) -> None:
    backend = connect(argilla_server, workspace)
    with pytest.raises(DataError, match="submit it first"):
        backend.answer(backend.ensure_annotator(f"ann-{workspace}"), [Answer("nowhere", "a")])


def test_a_dataset_of_another_overlap_or_make_is_not_used(argilla_server: ArgillaServer, workspace: str) -> None:
    connect(argilla_server, workspace, overlap=2)
    with pytest.raises(ConfigError, match="made for an overlap of 2, and 3 is asked for"):
        connect(argilla_server, workspace, overlap=3)
    make_dataset(argilla_server, workspace + "x")
    with pytest.raises(ConfigError, match="so it is not ours"):
        connect(argilla_server, workspace + "x", dataset=workspace + "x")


def test_a_dataset_that_a_kill_left_unpublished_is_made_anew(argilla_server: ArgillaServer, workspace: str) -> None:
    place = argilla_server.call("POST", "/workspaces", {"name": workspace})["id"]
    argilla_server.call("POST", "/datasets", {"name": "round-1", "workspace_id": place})
    assert connect(argilla_server, workspace).submit([make_task("t")]) == Submitted(1, 0)


def test_guidelines_that_argilla_cannot_take(argilla_server: ArgillaServer, workspace: str) -> None:
    with pytest.raises(ConfigError, match="10001 characters, and Argilla takes 10000"):
        connect(argilla_server, workspace, guidelines="x" * 10_001)


def test_new_guidelines_reach_a_dataset_that_is_there(argilla_server: ArgillaServer, workspace: str) -> None:
    for guidelines in ("Be fair.", "Be kind.", None):
        dataset = connect(argilla_server, workspace, guidelines=guidelines).url.split("/")[-2]
        assert argilla_server.call("GET", f"/datasets/{dataset}")["guidelines"] == guidelines


class _Impostor(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def impostor(body: bytes) -> Iterator[str]:
    handler = type("Handler", (_Impostor,), {"body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


def refusal(url: str, key: str) -> AlignError:
    with pytest.raises(AlignError) as caught:
        open_argilla(url, key, workspace="w", dataset="d", guidelines=None, overlap=1)
    said = str(caught.value) + repr(caught.value)
    assert key not in said and "\n" not in said and said.startswith("http")
    return caught.value


def test_no_server_a_wrong_server_and_a_wrong_key_are_one_sentence_each(argilla_server: ArgillaServer) -> None:
    key = "a-secret-key"
    assert "does not answer" in refusal("http://127.0.0.1:9", key).what
    assert "does not answer" in refusal("http://no.such.host.invalid", key).what
    with impostor(b"<html>hello</html>") as url:
        assert refusal(url, key).what == "what answers here is not Argilla"
    with impostor(b'{"version": "1.29.0"}') as url:
        assert refusal(url, key).what == "this is Argilla 1.29.0"
    assert refusal(argilla_server.url, key).what == "Argilla refuses the API key"
    annotator = server.add_user(argilla_server.home, f"ann-{secrets.token_hex(4)}")
    assert "who is not an owner" in refusal(argilla_server.url, annotator.api_key).what


@pytest.mark.slow
def test_a_server_that_goes_away_is_waited_for_and_then_named(killable_server: ArgillaServer, workspace: str) -> None:
    backend = connect(killable_server, workspace, patience=0.5)
    server.stop(killable_server.home)
    begin = time.monotonic()
    with pytest.raises(ServiceError, match=r"does not answer.*run the same command again") as caught:
        backend.collect()
    assert time.monotonic() - begin < 5 and killable_server.api_key not in str(caught.value)
    server.start(killable_server.home)


@pytest.mark.slow
def test_a_server_killed_while_labelling_loses_and_repeats_nothing(
    killable_server: ArgillaServer, workspace: str
) -> None:
    tasks = pair_tasks(150, overlap=2)
    wanted = Memory(tasks=tasks)
    label(wanted, tasks, PERSONAS, taste, seed=5)
    backend = connect(killable_server, workspace, overlap=2, patience=60.0)
    backend.submit(tasks)
    crashes: list[threading.Thread] = []

    def crash(done: int, _: int, said: str = "") -> None:
        if len(crashes) < 2 and not any(thread.is_alive() for thread in crashes):
            crashes.append(
                threading.Timer(0.2, _kill_and_restart, [killable_server])
            )  # in the middle of the next answers
            crashes[-1].start()

    assert label(backend, tasks, PERSONAS, taste, seed=5, progress=crash) == len(wanted.said)
    assert len(crashes) == 2, "the server was killed less than twice"
    for thread in crashes:
        thread.join()
    assert without_time(backend.collect()) == wanted.collect()


def _kill_and_restart(on: ArgillaServer) -> None:
    alive = process.running(on.home)
    assert alive is not None
    os.kill(alive.pid, signal.SIGKILL)
    while process.began(alive.pid) == alive.began or not process.port_is_free(alive.port):
        time.sleep(0.01)
    server.start(on.home)
