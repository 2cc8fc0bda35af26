"""Real preferences go to the server as tasks and come back character for character, where they lie beside the checkout."""

import base64
import gzip
import json
import secrets
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align.data.preferences import load_preferences
from align.escape import unescape
from align.types import Candidate, Message, Prompt, Task, candidate_id, prompt_id
from annotation import server
from annotation.argilla_backend import ArgillaBackend, open_argilla
from annotation.backend import Answer, Submitted
from annotation.form import Form
from annotation.tasks import make_tasks
from tests.server_fixtures import ArgillaServer

DATA = Path(__file__).parents[3] / "shared" / "data"
HH, QA = DATA / "hh_helpful_base_test.jsonl.gz", DATA / "qa_feedback_250.jsonl.gz"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")

HH_DEFECTS = {
    "empty": [121],
    "prompts differ": [169, 355, 568, 744, 961, 1012, 1167, 1308, 1451],
    "roles out of turn": [356, 992, 1133, 1356, 1684, 1848],
    "no difference": [722, 2169],
}


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def hh_text(messages: list[Message], answer: str) -> str:
    """A conversation as the HH files write it."""
    names = {"user": "Human", "assistant": "Assistant"}
    turns = [*messages, {"role": "assistant", "content": answer}]
    return "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)


def to_tasks(asked: list[tuple[list[Message], list[str]]], form: Form) -> list[Task]:
    """One task for each (prompt, answers), in the order that a run would give them."""
    prompts = [Prompt(prompt_id(m), m, "train", f"line {n}") for n, (m, _) in enumerate(asked)]
    answers = [
        Candidate(candidate_id(p.id, text, "given"), p.id, text, "given", k, 0, "stop")
        for p, (_, texts) in zip(prompts, asked, strict=True)
        for k, text in enumerate(texts)
    ]
    tasks, dropped = make_tasks(prompts, answers, round=1, count=len(asked), overlap=1, seed=4, form=form)
    assert dropped == [] and len(tasks) == len(asked)
    return tasks


def served(on: ArgillaServer, backend: ArgillaBackend) -> Iterator[tuple[str, list[int], dict[str, Any]]]:
    """(task, order shown, what the page shows) of every record that the server has."""
    dataset, offset, total = backend.url.split("/")[-2], 0, 1
    while offset < total:
        reply = on.call("GET", f"/datasets/{dataset}/records", offset=offset, limit=500)
        total, offset = reply["total"], offset + 500
        for record in reply["items"]:
            shown = [int(place) for place in record["metadata"]["shown"].split(",")]
            packed = base64.b64decode(record["fields"]["comparison"]["payload"])
            yield record["external_id"], shown, json.loads(packed)


def through(on: ArgillaServer, dataset: str, tasks: list[Task], form: Form) -> tuple[ArgillaBackend, dict[str, Any]]:
    """Submit `tasks`; the backend, and task → {messages, texts in canonical order} as the server gives them back."""
    run = f"real-{secrets.token_hex(4)}"
    backend = open_argilla(on.url, on.api_key, workspace=run, dataset=dataset, guidelines=None, overlap=1, form=form)
    assert backend.submit(tasks) == Submitted(len(tasks), 0)
    back: dict[str, Any] = {}
    for task, shown, seen in served(on, backend):
        texts = [seen["answers"][shown.index(candidate)] for candidate in range(len(shown))]
        back[task] = {"messages": seen["messages"], "texts": texts}
    return backend, back


def test_all_of_hh_goes_in_and_comes_back_and_its_defects_are_told_by_line(argilla_server: ArgillaServer) -> None:
    preferences, dropped = load_preferences(HH)
    defects: dict[str, list[int]] = defaultdict(list)
    for row in dropped:
        defects[row.reason.split(":")[0]].append(int(row.where.rsplit(":", 1)[1]))
    assert dict(defects) == HH_DEFECTS
    bad = {line for lines in defects.values() for line in lines}
    good = [row for line, row in enumerate(rows(HH), 1) if line not in bad]
    assert (len(good), len(bad)) == (2336, 18)

    form = Form()
    tasks = to_tasks([(p.messages, [p.chosen, p.rejected]) for p in preferences], form)
    _, back = through(argilla_server, "hh", tasks, form)
    found = {frozenset(hh_text(seen["messages"], text) for text in seen["texts"]) for seen in back.values()}
    assert found == {frozenset((row["chosen"], row["rejected"])) for row in good}
    for task in tasks:
        assert back[task.id] == {"messages": task.messages, "texts": task.texts}


def test_all_of_qa_feedback_goes_in_and_comes_back_with_what_people_wrote(argilla_server: ArgillaServer) -> None:
    given = rows(QA)
    predictions = [[row[f"prediction {n}"] for n in range(1, 5)] for row in given]
    questions = [
        "\n\n".join([row["question"], *(f"{title}: {' '.join(text)}" for title, *text in row["passages"])]) for row in given
    ]  # fmt: skip
    form = Form("rank", 4, ask=("edit", "reason"))
    asked: list[tuple[list[Message], list[str]]] = [
        ([{"role": "user", "content": question}], texts) for question, texts in zip(questions, predictions, strict=True)
    ]
    tasks = to_tasks(asked, form)
    backend, back = through(argilla_server, "qa", tasks, form)
    found = {(seen["messages"][0]["content"], frozenset(seen["texts"])) for seen in back.values()}
    assert found == {(q, frozenset(texts)) for q, texts in zip(questions, predictions, strict=True)}
    assert len(found) == 250 and all(back[t.id] == {"messages": t.messages, "texts": t.texts} for t in tasks)

    # what people say about them comes back too: a ranking, a whole answer as the better one, and the question as reason
    answers = [
        Answer(
            task.id, "ranked", reason=task.messages[0]["content"], edit=task.texts[n % 4], ranking=[1 + (n + k) % 4 for k in range(4)]
        )
        for n, task in enumerate(tasks)
    ]  # fmt: skip
    person = server.add_user(argilla_server.home, f"ann-{secrets.token_hex(4)}")
    backend.admit()
    backend.answer(person.api_key, answers)
    said = {j.task_id: (j.ranking, unescape(j.edit or ""), unescape(j.reason or "")) for j in backend.collect()}
    assert said == {a.task_id: (a.ranking, a.edit, a.reason) for a in answers}
