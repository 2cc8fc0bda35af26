"""A person labels in the browser; and whatever the texts are, nothing happens but text."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from align.types import Task
from annotation import server
from annotation.argilla_backend import ArgillaBackend, open_argilla
from annotation.form import Form
from annotation.page import FIELD, page, payload
from tests.browser.conftest import OpenPage, Watched, sign_in
from tests.labelling import make_task
from tests.server_fixtures import ArgillaServer

ORIGIN = "http://stock.argilla.test"

# name → (text, what is seen of it)
HOSTILE = {
    "script": ("</script><script>alert(1)</script>",) * 2,
    "image": ("<img src=x onerror=alert(1)>",) * 2,
    "svg": ("<svg/onload=alert(1)>",) * 2,
    "attribute": ('"><a href=//evil.test onmouseover=alert(1)>x</a>',) * 2,
    "replacement": ("$& $' $` $$ $1 $<x>",) * 2,
    "template": ("{{constructor.constructor('alert(1)')()}} ${alert(1)}",) * 2,
    "placeholder": ("#TEMPLATE# #RECORD_OBJECT#",) * 2,
    "javascript link": ("[here](javascript:alert)", "here (javascript:alert)"),
    "remote image": ("![pixel](https://evil.test/p.png)", "pixel (https://evil.test/p.png)"),
    "data address": ("data:text/html,<script>alert(1)</script>",) * 2,
    "frame": ("<iframe src=https://evil.test></iframe><object data=https://evil.test>",) * 2,
    "head": ("<base href=//evil.test><meta http-equiv=refresh content=0;url=//evil.test>",) * 2,
    "style": ("<style>@import 'https://evil.test/x.css'; * { display: none }</style><!--",) * 2,
    "separators": ("one\u2028two\u2029three", "three"),
    "controls": ("NUL \0 escape \x1b", "NUL ␀ escape ␛"),
    "surrogate": ("half \ud83d of one", "half"),
    "right to left": ("مرحبا \u202e <b>hello</b>", "مرحبا"),
    "markup inside markup": (
        "**<b onclick=alert(1)>** `</code><script>alert(1)</script>`",
        "</code><script>alert(1)</script>",
    ),
    "long": ("x" * 1_000_000, "x" * 1000),
    "brackets": ("[" * 200_000 + "**" * 100_000, "[" * 1000),
}


def stock_argilla(task: Task) -> str:
    """A page that puts the field together exactly as Argilla 2.8's own UI does, without our server's mending."""
    record = json.dumps({"fields": {FIELD: payload(task, Form())}})
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


def show(watched: OpenPage, task: Task, **options: Any) -> tuple[Watched, FrameLocator]:
    opened = watched(ORIGIN, **options)
    return opened, load(opened.page, task)


def load(page: Page, task: Task) -> FrameLocator:
    page.unroute_all()
    page.route("**/*", lambda route: route.fulfill(body=stock_argilla(task), content_type="text/html; charset=utf-8"))
    page.goto(f"{ORIGIN}/")
    frame = page.frame_locator("iframe")
    frame.locator(".answer.b").wait_for()
    return frame


def test_hostile_text_is_text_on_any_argilla(watched: OpenPage) -> None:
    opened = watched(ORIGIN)
    for name, (text, seen) in HOSTILE.items():
        task = make_task("t", texts=("plain", text), shown=(1, 0))
        task.messages[0]["content"] = text
        frame = load(opened.page, task)
        for place in (".answer.a .text", ".chat .bubble"):
            assert seen in frame.locator(place).evaluate("node => node.textContent"), (name, place)
        assert frame.locator(".answer.b .text").evaluate("node => node.textContent") == "plain", name
        inside = "node => [...node.querySelectorAll('*')].flatMap(n => [n.tagName, ...n.getAttributeNames()])"
        assert set(frame.locator("#task").evaluate(inside)) <= MADE_BY_THE_PAGE, name
        opened.check()


MADE_BY_THE_PAGE = {"DIV", "SPAN", "P", "SECTION", "HEADER", "STRONG", "EM", "CODE", "PRE", "H4"} | {
    "class",
    "dir",
    "aria-label",
    "style",
}


def test_the_page_may_request_nothing_even_if_a_script_got_in(watched: OpenPage) -> None:
    opened, frame = show(watched, make_task("t"))
    left: list[str] = []
    opened.page.on("response", lambda response: left.append(response.url))
    sent = "() => fetch('https://evil.test/').then(() => 'sent', () => 'blocked')"
    assert frame.locator("body").evaluate(sent) == "blocked"
    shown = "body => new Promise(done => { const i = new Image(); i.onload = () => done('loaded'); i.onerror = () => done('blocked'); i.src = 'https://evil.test/p.svg'; body.append(i); })"
    assert frame.locator("body").evaluate(shown) == "blocked"
    assert left == []


def test_markdown_is_shown_as_people_expect(watched: OpenPage) -> None:
    text = "# Title\n\nUse **bold**, *italic*, 2*3*4, a_b_c and `code`:\n\n1. one\n2. two\n   - inner\n\n```python\nx = 1 < 2\n```\n[docs](https://a.test/b)"
    _, frame = show(watched, make_task("t", texts=(text, "")))
    answer = frame.locator(".answer.a .text")
    assert answer.locator("h4").inner_text() == "Title"
    assert answer.locator("em").all_inner_texts() == ["italic"]
    assert answer.locator("strong").inner_text() == "bold" and answer.locator("code").inner_text() == "code"
    assert [item.inner_text().split() for item in answer.locator(".item").all()] == [
        ["1.", "one"],
        ["2.", "two"],
        ["•", "inner"],
    ]
    assert answer.locator("pre").inner_text() == "x = 1 < 2"
    assert answer.locator("a").count() == 0 and "docs (https://a.test/b)" in answer.inner_text()
    assert frame.locator(".answer.b .text").inner_text() == "(empty answer)"


@pytest.mark.parametrize(("width", "beside"), [(1280, True), (820, True), (600, False), (390, False)])
def test_answers_stand_side_by_side_where_there_is_room(watched: OpenPage, width: int, beside: bool) -> None:
    opened, frame = show(watched, make_task("t", texts=("short", "much longer " * 60)), width=width)
    a, b = (frame.locator(f".answer.{name}").bounding_box() for name in "ab")
    assert a and b
    assert (a["y"] == b["y"] and a["height"] == b["height"]) if beside else a["y"] + a["height"] < b["y"]
    frame_box = opened.page.locator("iframe").bounding_box()
    assert frame_box and b["y"] + b["height"] <= frame_box["y"] + frame_box["height"], "the frame cuts the page off"


def test_right_to_left_text_starts_at_the_right(watched: OpenPage) -> None:
    _, frame = show(watched, make_task("t", texts=("مرحبا بكم", "hello")))
    edges = "node => { const r = document.createRange(); r.selectNodeContents(node); const a = r.getBoundingClientRect(), b = node.getBoundingClientRect(); return [a.left - b.left, b.right - a.right]; }"
    right, left = (frame.locator(f".answer.{name} p").evaluate(edges) for name in "ab")
    assert right[1] < 2 < right[0] and left[0] < 2 < left[1]


def desk(
    on: ArgillaServer, name: str, tasks: list[Task], watched: OpenPage, **options: Any
) -> tuple[ArgillaBackend, Watched]:
    """An annotator who has logged in and stands before the first of `tasks`."""
    guidelines = "Choose the answer that helps the customer more."
    backend = open_argilla(on.url, on.api_key, workspace=name, dataset="round-1", guidelines=guidelines, overlap=1)
    backend.submit(tasks)
    person = server.add_user(on.home, f"ann-{name}", workspace=name)
    opened = watched(on.url, **options)
    sign_in(opened.page, on.url, person.username, person.password)
    opened.page.goto(backend.url)
    return backend, opened


def current(page: Page, tasks: dict[str, Task], done: dict[str, str]) -> str:
    """The task on the screen, once it is one that is not `done`; its conversation begins with its id."""
    bubble = page.frame_locator("iframe").locator(".chat .bubble").first
    for _ in range(100):
        if (name := bubble.inner_text().split(":")[0]) in tasks.keys() - done.keys():
            page.wait_for_timeout(300)  # Argilla takes keys for the new record a moment after it shows it
            return name
        page.wait_for_timeout(100)
    raise AssertionError(f"no new task came after {len(done)}")


def test_a_person_labels_by_clicks_and_keys_and_the_labels_arrive(
    argilla_server: ArgillaServer, watched: OpenPage
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    tasks = {f"task {n}": make_task(f"task {n}", prompt=f"p{n}", shown=(n % 2, 1 - n % 2)) for n in range(6)}
    for name, task in tasks.items():
        task.messages[0]["content"] = f"{name}: my lamp is late"
    backend, opened = desk(argilla_server, run, list(tasks.values()), watched)
    page, frame, said = opened.page, opened.page.frame_locator("iframe"), {}

    def click(label: str) -> None:
        page.get_by_text(label, exact=True).click()
        page.get_by_role("button", name="Submit").click()

    def keys(*pressed: str) -> None:
        for key in pressed:
            page.keyboard.press(key)
            page.wait_for_timeout(300)

    def keys_in_frame(*pressed: str) -> None:
        for key in pressed:
            frame.locator(".answer.a .text").click()
            keys(key)

    # Three tasks of each order: among four that are answered by their side both orders occur.
    steps: list[tuple[str, Callable[[], None]]] = [
        ("left", lambda: click("A is better")),
        ("right", lambda: click("B is better")),
        ("left", lambda: keys("1", "Enter")),
        ("right", lambda: keys_in_frame("2", "Enter")),
        ("tie", lambda: keys_in_frame("3", "Enter")),
        ("skipped", lambda: keys_in_frame("Backspace")),
    ]
    for side, act in steps:
        name = current(page, tasks, said)
        canonical = {"left": "ab"[tasks[name].shown[0]], "right": "ab"[tasks[name].shown[1]]}
        act()
        said[name] = canonical.get(side, side)
    expect(page.get_by_text("no pending records")).to_be_visible()
    assert {j.task_id: j.outcome for j in backend.collect()} == said
    assert {j.annotator for j in backend.collect()} == {f"ann-{run}"}
    opened.check()


def test_hostile_text_is_text_on_our_server(argilla_server: ArgillaServer, watched: OpenPage) -> None:
    tasks = {}
    for name in ("script", "replacement", "controls", "surrogate", "placeholder"):
        tasks[name] = make_task(name, prompt=name, texts=(HOSTILE[name][0], "plain"))
        tasks[name].messages[0]["content"] = f"{name}: {HOSTILE[name][0]}"
    _, opened = desk(argilla_server, f"run-{secrets.token_hex(4)}", list(tasks.values()), watched)
    seen: dict[str, str] = {}
    for _ in tasks:
        name = current(opened.page, tasks, seen)
        answer = opened.page.frame_locator("iframe").locator(".answer.a .text")
        assert HOSTILE[name][1] in answer.inner_text()
        seen[name] = "a"
        opened.page.keyboard.press("1")
        opened.page.wait_for_timeout(300)
        opened.page.keyboard.press("Enter")
    opened.check()


ANSWER_A = """Hello Maria, I am sorry that your **desk lamp** arrived with a cracked shade.

Here is what happens now:

1. a new shade leaves our store today, at no cost to you;
2. it is with you by Thursday;
3. please keep the broken one, nobody needs it back.

Your reference is `LAMP-4471`."""
ANSWER_B = """Thank you for reaching out! We take great pride in all our products, and many people write to us every day.

Your order was charged correctly. A refund for the *kettle* takes 14 days; see [our terms](https://shop.example/terms)."""


def test_the_page_looks_as_in_the_picture(argilla_server: ArgillaServer, watched: OpenPage, tmp_path: Path) -> None:
    """With ALIGN_SCREENSHOTS set to a folder, the picture for the README is made there."""
    task = make_task("t", texts=(ANSWER_A, ANSWER_B))
    task.messages[:] = [
        {"role": "system", "content": "You answer the customers of a small shop for household goods."},
        {
            "role": "user",
            "content": "Hello! My desk lamp (order 4471) came today, and its shade is cracked. What now? — Maria",
        },
    ]
    # One server serves many tests: the run's name has to be its own, and fit for the picture.
    _, opened = desk(argilla_server, f"support-desk-{secrets.token_hex(2)}", [task], watched, height=890)
    frame = opened.page.frame_locator("iframe")
    frame.locator(".answer.b").wait_for()
    opened.page.keyboard.press("1")
    opened.page.wait_for_timeout(1000)
    a, b = (frame.locator(f".answer.{name}").bounding_box() for name in "ab")
    assert a and b and a["height"] == b["height"] > 150 and a["width"] == pytest.approx(b["width"], abs=1)
    folder = Path(os.environ.get("ALIGN_SCREENSHOTS", tmp_path))
    opened.page.screenshot(path=folder / "labelling.png")
    assert (folder / "labelling.png").stat().st_size < 300_000
    opened.check()
