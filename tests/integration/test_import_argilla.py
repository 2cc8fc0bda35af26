"""What the real server exports, by its API and by Argilla's SDK, is imported as the judgements that we collect ourselves."""

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from align.config.recipe import Annotate
from align.errors import DataError
from align.labelling.folder import make_session
from align.labelling.outside.load import load_judgements
from align.labelling.outside.words import Reading
from align.labelling.session import Session, offer
from align.provenance.imported import import_into
from align.stages.sessions import open_session
from align.types import Judgement, Rating
from annotation.backend import Answer
from tests.loop import write_jsonl
from tests.server_fixtures import ArgillaServer, add_annotator

pytestmark = pytest.mark.slow

FORMS: dict[str, dict[str, Any]] = {
    "pair": {"kind": "pair"},
    "rank": {"kind": "rank", "rank_of": 3},
    "single": {"kind": "single"},
    "rating": {"kind": "rating", "criteria": ["helpful", "brief"]},
}
BESIDE = {"flags": ["a:wrong"], "edit": "a better one", "reason": "it is wrong"}


def answers(session: Session, turn: int) -> list[Answer]:
    """What one person says: everything that can be said of the kind, by turns."""
    found = []
    for number, task in enumerate(session.tasks):
        more: dict[str, Any] = BESIDE if number == turn else {}
        match task.kind:
            case "pair":
                outcome = ("a", "b", "tie", "both_bad")[(number + turn) % 4]
                strength = 2 if outcome in "ab" else None
                found.append(Answer(task.id, outcome, strength=strength, **more))
            case "rank":
                found.append(Answer(task.id, "ranked", ranking=[1, 2, 2] if number % 2 else [3, 1, 2], **more))
            case "single":
                found.append(Answer(task.id, "good" if (number + turn) % 2 else "bad", **more))
            case _:
                scores = [Rating(criterion=c, score=1 + (number + turn) % 5) for c in ("helpful", "brief")]
                found.append(Answer(task.id, "rated", ratings=scores, **more))
    return found


@pytest.fixture(params=FORMS)
def labelled(
    request: pytest.FixtureRequest, tmp_path: Path, argilla_server: ArgillaServer
) -> tuple[Path, Any, str, list[str]]:
    """A folder whose tasks two people answered, its backend, its data set's id, and their keys."""
    rows = [{"prompt": f"question {n}?", "text": f"answer {k} <b>to</b> {n}"} for n in range(3) for k in range(3)]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    folder = tmp_path / f"session-{secrets.token_hex(3)}"
    server = {"type": "embedded", "home": str(argilla_server.home)}
    make_session(
        folder, tmp_path / "candidates.jsonl", Annotate(**FORMS[request.param], tasks=6, server=server), seed=0
    )
    session = open_session(folder)
    backend, _ = offer(session)
    keys = [
        add_annotator(argilla_server, f"{name}-{secrets.token_hex(3)}", session.workspace)[1] for name in ("ann", "bob")
    ]
    for turn, key in enumerate(keys):
        backend.answer(key, answers(session, turn))
    return folder, backend, backend.url.split("/dataset/")[1].split("/")[0], keys


def alike(judgements: list[Judgement], *, time: bool) -> list[Judgement]:
    """Criteria are in no order on the server; the SDK's exports have no times."""
    return [
        replace(j, time=j.time if time else None, ratings=sorted(j.ratings, key=str) if j.ratings else None)
        for j in judgements
    ]


def test_exports_of_our_own_page(labelled: Any, argilla_server: ArgillaServer, tmp_path: Path) -> None:
    import argilla

    folder, backend, dataset, keys = labelled
    session, collected = open_session(folder), backend.collect()
    assert len(collected) == 2 * len(session.tasks)
    client = argilla.Argilla(api_url=argilla_server.url, api_key=argilla_server.api_key)
    (found,) = [each for each in client.datasets if each.workspace.name == session.workspace]
    records = found.records
    records(with_responses=True).to_json(tmp_path / "sdk.json")
    records(with_responses=True).to_datasets().to_parquet(tmp_path / "hub.parquet")
    for name in ("sdk.json", "hub.parquet"):
        if session.form.kind == "rank":
            with pytest.raises(DataError, match="Argilla's SDK writes rankings without their ranks"):
                load_judgements(tmp_path / name)
            continue
        found = load_judgements(tmp_path / name)
        assert alike(found.judgements, time=False) == alike(collected, time=False), name
        assert found.dropped == []
        tasks = {task.id: task for task in session.tasks}
        assert all((t.texts, t.shown) == (tasks[t.id].texts, tasks[t.id].shown) for t in found.tasks)

    backend.answer(keys[0], [Answer(session.tasks[0].id, "skipped")])  # the SDK fails on it: a discard has no values
    page = argilla_server.call("GET", f"/datasets/{dataset}/records", include="responses", limit=100)
    (tmp_path / "api.json").write_text(json.dumps(page), encoding="utf-8")
    again = backend.collect()
    found = load_judgements(tmp_path / "api.json")
    assert alike(found.judgements, time=True) == alike(again, time=True)
    assert found.report["skips"] == 1

    taken = import_into([tmp_path / "api.json"], session, folder, Reading())
    assert (taken["new"], taken["dropped"]) == (len(again), {})
    assert import_into([tmp_path / "api.json"], session, folder, Reading())["new"] == 0


def test_an_export_of_somebody_else_s_data_set(argilla_server: ArgillaServer, tmp_path: Path) -> None:
    import argilla

    client = argilla.Argilla(api_url=argilla_server.url, api_key=argilla_server.api_key)
    name = f"theirs-{secrets.token_hex(3)}"
    client.workspaces.add(argilla.Workspace(name=name))
    settings = argilla.Settings(
        fields=[argilla.TextField(name=field) for field in ("instruction", "response-1", "response-2")],
        questions=[
            argilla.LabelQuestion(name="better", labels=["response-1", "response-2", "tie"]),
            argilla.TextQuestion(name="reason", required=False),
        ],
    )
    dataset = argilla.Dataset(name=name, workspace=name, settings=settings, client=client).create()
    rows = [{"instruction": f"p{n}", "response-1": f"one {n}", "response-2": f"two {n}"} for n in range(3)]
    me = client.me.id
    dataset.records.log(
        [
            argilla.Record(fields=row, responses=[argilla.Response("better", label, user_id=me, status="submitted")])
            for row, label in zip(rows, ("response-2", "tie", "response-1"), strict=True)
        ]
    )
    dataset.records(with_responses=True).to_json(tmp_path / "sdk.json")
    dataset.records(with_responses=True).to_datasets().to_parquet(tmp_path / "hub.parquet")
    for file in ("sdk.json", "hub.parquet"):
        found = load_judgements(tmp_path / file)
        tasks = {task.id: task for task in found.tasks}
        said = {
            tasks[j.task_id].messages[0]["content"]: tasks[j.task_id].texts["ab".index(j.outcome)]
            if j.outcome in ("a", "b")
            else j.outcome
            for j in found.judgements
        }
        assert said == {"p0": "two 0", "p1": "tie", "p2": "one 2"}, file
        assert {j.annotator for j in found.judgements} == {str(me)}
