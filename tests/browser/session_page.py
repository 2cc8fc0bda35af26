"""The labelling page in tests: alone, put together as a stock Argilla does, or on a real server with a person before it."""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from playwright.sync_api import FrameLocator, Page

from align.types import Message, Task
from annotation import server
from annotation.argilla_backend import ArgillaBackend, open_argilla
from annotation.form import ANSWERS, Form
from annotation.page import FIELD, page, payload
from tests.browser.conftest import OpenPage, Watched, sign_in
from tests.labelling import make_task
from tests.server_fixtures import ArgillaServer

ORIGIN = "http://stock.argilla.test"
ASK = ("strength", "flags", "edit", "reason")
FORMS = {
    "pair": Form("pair", ask=ASK),
    "rank": Form("rank", 4, ask=("flags", "edit", "reason")),
    "single": Form("single", 1, ask=("flags", "edit", "reason")),
    "rating": Form("rating", 1, ("helpful", "to the point"), ("flags", "edit", "reason")),
    "blind_ab": Form("blind_ab", ask=("reason",)),
}


def kind_task(name: str, kind: str, texts: Collection[str], shown: Collection[int] = (), question: str = "?") -> Task:
    """A task of any kind; the first message is its question."""
    messages: list[Message] = [{"role": "user", "content": question}]
    return replace(
        make_task(name, prompt=f"prompt of {name}"),
        kind=kind,
        messages=messages,
        texts=list(texts),
        candidates=[f"c{n}" for n in range(len(texts))],
        shown=list(shown) or list(range(len(texts))),
    )


def stock_argilla(task: Task, form: Form | None) -> str:
    """A page that puts the field together exactly as Argilla 2.8's own UI does, without our server's mending."""
    known = form or Form(task.kind, max(len(task.texts), ANSWERS[task.kind]))
    record = json.dumps({"fields": {FIELD: payload(task, known)}})
    template = json.dumps(page()).replace("</", "<\\/")
    return STOCK.replace("@record@", record).replace("@template@", template)


STOCK = r"""<!doctype html><html data-theme="light"><body><input type="checkbox" data-keyboard="1"><script>
  const record = @record@, template = @template@;
  const frame = document.createElement("iframe");
  frame.width = innerWidth - 20;
  frame.srcdoc = "\n<script>\n  const record = #RECORD_OBJECT#;\n<\/script>\n#TEMPLATE#\n"
    .replace("#RECORD_OBJECT#", JSON.stringify(record)).replace("#TEMPLATE#", template);
  document.body.append(frame);
</script></body></html>"""


def load(page: Page, task: Task, form: Form | None = None) -> FrameLocator:
    page.unroute_all()
    body = stock_argilla(task, form)
    page.route("**/*", lambda route: route.fulfill(body=body, content_type="text/html; charset=utf-8"))
    page.goto(f"{ORIGIN}/")
    frame = page.frame_locator("iframe")
    frame.locator(".hint").wait_for(state="attached")
    return frame


def show(watched: OpenPage, task: Task, form: Form | None = None, **options: Any) -> tuple[Watched, FrameLocator]:
    """`task` on a page of its own."""
    opened = watched(ORIGIN, **options)
    return opened, load(opened.page, task, form)


def session(on: ArgillaServer, workspace: str, kind: str, tasks: Collection[Task], **options: Any) -> ArgillaBackend:
    """A dataset with `tasks` of one kind, of the name of the kind."""
    known: dict[str, Any] = {
        "dataset": kind,
        "guidelines": "Choose what helps more.",
        "overlap": 1,
        "form": FORMS[kind],
    }
    backend = open_argilla(on.url, on.api_key, workspace=workspace, **known | options)
    backend.submit(list(tasks))
    return backend


def annotator(on: ArgillaServer, name: str, workspace: str, watched: OpenPage, **options: Any) -> Watched:
    """A new annotator of `workspace` who has logged in."""
    person = server.add_user(on.home, name, workspace=workspace)
    opened = watched(on.url, **options)
    sign_in(opened.page, on.url, person.username, person.password)
    return opened


def current(page: Page, names: Collection[str], done: Collection[str]) -> str:
    """The task on the screen, once it is one that is not `done`; its conversation begins with its name and a colon."""
    bubble = page.frame_locator("iframe").locator(".chat .bubble").first
    for _ in range(200):
        if (name := bubble.inner_text().split(":")[0]) in set(names) - set(done):
            page.wait_for_timeout(300)  # Argilla takes keys for the new record a moment after it shows it
            return name
        page.wait_for_timeout(50)
    raise AssertionError(f"no new task came after {len(done)}")


def sent(page: Page, act: Callable[[], object]) -> dict[str, Any]:
    """What Argilla's page sends to its server as the answer when `act` is done."""
    with page.expect_response(lambda reply: "/responses" in reply.url and reply.request.method != "GET") as caught:
        act()
    assert caught.value.ok, caught.value.text()
    found: dict[str, Any] = caught.value.request.post_data_json
    return found
