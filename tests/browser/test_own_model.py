"""recipes/own-model on a real small model with real prompts: once labelled by clicks in the browser, with closing and
reopening on the way, and once by a scoring function."""

import json
import re
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from align.cli.recipes import shipped
from align.pipeline.receipts import current
from align.pipeline.stage import Ref
from align.stages.sessions import open_session
from align.types import Task
from reward.functions import load_function
from tests.browser.conftest import OpenPage, sign_in
from tests.loop import align, by_name, rows, said
from tests.server_fixtures import ArgillaServer

RECIPE = shipped()["own-model"]
SHARED = Path(__file__).parents[3] / "shared"
MODEL, PROMPTS = SHARED / "models" / "stories260k", SHARED / "data" / "hh_helpful_base_test.jsonl.gz"
SMALL = [
    f"model={{path: {MODEL}, chat_template: plain}}", f"prompts.path={PROMPTS}", "prompts.limit=200", "threads=1",
    "rollouts.prompts=16", "rollouts.max_tokens=24", "annotate.tasks=7", "dpo.learning_rate=1e-3",
    "evaluate.prompts=12", "evaluate.max_tokens=24",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL.is_dir() and PROMPTS.is_file()), reason="../shared has no model and prompts"),
]


class Loop:
    """The recipe with the changes that make it small; every call is one of the command line."""

    def __init__(self, folder: Path, home: Path, *changes: str) -> None:
        self.folder, self.run_folder = folder, folder / "runs" / "own-model"
        self.changes = [*SMALL, f"annotate.server={{type: embedded, home: {home}}}", *changes]

    def run(self, expect: int) -> str:
        """What it says while it works; the table is on standard output."""
        return align("run", RECIPE, *self.changes, cwd=self.folder, expect=expect).stderr

    def annotate(self, verb: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(align("annotate", verb, self.run_folder, "--json", cwd=self.folder).stdout)
        return found

    def labels(self) -> list[dict[str, Any]]:
        """The snapshot that the round is trained on."""
        return rows(self.run_folder, 1, "snapshot", "judgements.parquet")

    def trained(self) -> dict[str, Any]:
        """Receipt of the round's policy, after a look that all is there which belongs to a finished round."""
        assert (self.run_folder / "report.html").stat().st_size > 10_000
        evaluation = current(self.run_folder, Ref(1, "evaluation"))
        policy, parent = (current(self.run_folder, Ref(n, "policy")) for n in (1, 0))
        assert evaluation is not None and policy is not None and parent is not None
        rate = evaluation.summary["win_rate_vs_parent"]
        assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1 and rate["n"] > 2
        assert policy.summary["parent"] == parent.summary["checkpoint"] != policy.summary["checkpoint"]
        return policy.summary


def letters(text: str) -> str:
    """What is the same on the page and in the file, however spaces and markup are shown."""
    return re.sub(r"[\W_]+", "", text)


def on_screen(page: Page, tasks: list[Task], done: dict[str, str]) -> Task:
    """The task that a person sees, once it is not among `done`: by its conversation and by what is under A and B."""
    for _ in range(200):
        seen = [letters(text) for text in page.evaluate(SEEN)]
        for task in tasks:
            texts = ["".join(m["content"] for m in task.messages), *(task.texts[i] for i in task.shown)]
            if task.id not in done and seen == [letters(text) for text in texts]:
                page.wait_for_timeout(300)  # Argilla is ready for the new record a moment after it shows it
                return task
        page.wait_for_timeout(100)
    raise AssertionError(f"no new task came after {len(done)}")


SEEN = """() => {  // at one moment: Argilla makes a new frame for each record
  const inside = document.querySelector("iframe")?.contentDocument;
  return [".chat .bubble", ".answer.a .text", ".answer.b .text"].map(
    place => [...(inside?.querySelectorAll(place) ?? [])].map(node => node.innerText).join(""));
}"""


def click(page: Page, tasks: list[Task], done: dict[str, str], until: int) -> None:
    """Answer tasks until `until` are `done`, by turns for the left and for the right side; notes canonical outcomes."""
    while len(done) < until:
        task = on_screen(page, tasks, done)
        side = len(done) % 2
        submit = page.get_by_role("button", name="Submit")
        for _ in range(10):  # a click that comes while Argilla changes records is lost; Submit shows that one counted
            page.get_by_text(("A is better", "B is better")[side], exact=True).click()
            page.wait_for_timeout(500)
            if submit.is_enabled():
                break
        with page.expect_response(lambda reply: "/responses" in reply.url and reply.request.method != "GET"):
            submit.click()
        done[task.id] = "ab"[task.shown[side]]


def test_people_click_through_a_round_that_is_closed_early_and_reopened(
    tmp_path: Path, argilla_server: ArgillaServer, watched: OpenPage
) -> None:
    loop, name = Loop(tmp_path, argilla_server.home), f"clara-{secrets.token_hex(3)}"
    add = align("server", "users", "add", name, "--home", argilla_server.home, "--json", cwd=tmp_path)
    person = json.loads(add.stdout)

    waiting = loop.run(expect=75)
    (log,) = loop.run_folder.glob("round_001/rollouts/*/logs/stage.log")
    assert "engine transformers: " in log.read_text(), "so small a model is done before vLLM is up"
    found = re.search(
        r"waiting for labels: 0 of 7 answers are in; label at (http://127\.0\.0\.1:\d+/dataset/\S+)", waiting
    )
    assert found, waiting
    tasks = open_session(loop.run_folder).tasks
    assert len(tasks) == 7 and {tuple(t.shown) for t in tasks} == {(0, 1), (1, 0)}

    opened, done = watched(argilla_server.url), dict[str, str]()
    sign_in(opened.page, argilla_server.url, name, person["password"])
    opened.page.goto(found[1])
    click(opened.page, tasks, done, until=2)
    status = loop.annotate("status")
    assert (status["answers"], status["wanted"], status["closed"]) == (2, 7, None)
    assert [by_name(status)[name][what] for what in ("submitted", "skipped")] == [2, 0]

    assert loop.annotate("close")["state"] == "closed"
    loop.run(expect=0)
    assert {label["task_id"]: label["outcome"] for label in loop.labels()} == done
    early = loop.trained()
    assert early["pairs"] == 2 and loop.annotate("status")["closed"] is not None

    assert loop.annotate("reopen")["state"] == "open"
    assert "waiting for labels: 2 of 7" in loop.run(expect=75)
    click(opened.page, tasks, done, until=7)
    expect(opened.page.get_by_text("100.00%")).to_be_visible(timeout=15_000)
    loop.run(expect=0)
    assert {label["task_id"]: label["outcome"] for label in loop.labels()} == done
    assert {(who, revision) for _, who, revision, _ in said(loop.run_folder)} == {(name, 0)}
    assert len(said(loop.run_folder)) == 7 and set(done.values()) == {"a", "b"}
    whole = loop.trained()
    assert whole["pairs"] == 7 and whole["checkpoint"] != early["checkpoint"]
    assert len(list((loop.run_folder / "round_001" / "snapshot").glob("*/receipt.json"))) == 2
    opened.check()


def test_a_scoring_function_labels_and_judges(tmp_path: Path, argilla_server: ArgillaServer) -> None:
    """With vLLM, where it is installed."""
    scorer = "annotate.by={type: personas, utility: score.py:score, personas: [{name: scorer}]}"
    engine = "vllm" if find_spec("vllm") else "transformers"
    loop = Loop(tmp_path, argilla_server.home, scorer, f"rollouts.type={engine}")
    loop.run(expect=0)
    assert loop.trained()["pairs"] == 7
    score, labels = load_function("score.py:score", RECIPE), {label["task_id"]: label for label in loop.labels()}
    tasks = open_session(loop.run_folder).tasks
    assert labels.keys() == {t.id for t in tasks} and {label["annotator"] for label in labels.values()} == {"scorer"}
    for task in tasks:
        a, b = (score(task.messages, text) for text in task.texts)
        assert a is not None and b is not None
        assert labels[task.id]["outcome"] == ("a" if a > b else "b") or a == b
