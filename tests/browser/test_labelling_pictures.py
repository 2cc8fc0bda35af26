"""The pictures in docs/images: with ALIGN_SCREENSHOTS set to a folder they are made there. Each is looked at by the test
too: what belongs on a screen is on it."""

import os
import re
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import FrameLocator, Page

from align.types import Task
from tests.browser.conftest import OpenPage, Watched
from tests.browser.session_page import annotator, kind_task, sent, session
from tests.server_fixtures import ArgillaServer

QUESTION = "Hello! My session lamp (order 4471) came today, and its shade is cracked. What now? — Maria"
KIND = """Hello Maria, I am sorry that your **session lamp** arrived with a cracked shade.

Here is what happens now:

1. a new shade leaves our store today, at no cost to you;
2. it is with you by Thursday;
3. please keep the broken one, nobody needs it back.

Your reference is `LAMP-4471`."""
COLD = """Thank you for reaching out! We take great pride in all our products, and many people write to us every day.

Your order was charged correctly. A refund for the *kettle* takes 14 days; see [our terms](https://shop.example/terms)."""
SHORT = """Sorry about that, Maria. You can choose:

| what | when |
|------|------|
| a new shade | Thursday |
| your money back | 3 days |

> Order 4471, session lamp

Just reply with one of the two."""
ALMOST = (
    KIND.replace("by Thursday", "within two weeks")
    .replace(", at no cost to you", "; postage is yours")
    .replace("3. please keep the broken one, nobody needs it back.", "3. please send the broken one back.")
)
EMPTY = "I am a language model and cannot help with lamps."

PICTURES = {
    "labelling": ("pair", [KIND, COLD]),
    "labelling-differences": ("pair", [KIND, ALMOST]),
    "labelling-rank": ("rank", [SHORT, KIND, EMPTY, COLD]),
    "labelling-single": ("single", [COLD]),
    "labelling-rating": ("rating", [SHORT]),
}


def picture_task(kind: str, texts: list[str]) -> Task:
    task = kind_task("t", kind, texts, question=QUESTION)
    system = "You answer the customers of a small shop for household goods."
    return replace(task, messages=[{"role": "system", "content": system}, *task.messages])


def stand(on: ArgillaServer, watched: OpenPage, *names: str, **options: object) -> tuple[Watched, dict[str, str]]:
    """A person who has logged in, and where the task of each of the pictures `names` is."""
    # One server serves many tests: the run's name has to be its own, and fit for the picture.
    run = f"support-desk-{secrets.token_hex(2)}"
    found = {}
    for n, name in enumerate(names):
        kind, texts = PICTURES[name]
        found[name] = session(on, run, kind, [picture_task(kind, texts)], dataset=f"round-{n + 1}").url
    return annotator(on, f"ann-{run}", run, watched, **options), found


def go(opened: Watched, url: str) -> FrameLocator:
    """The page of the task at `url`, ready for keys."""
    opened.page.goto(url)
    frame = opened.page.frame_locator("iframe")
    frame.locator(".hint").wait_for(state="attached")
    opened.page.wait_for_timeout(700)
    return frame


def keep(page: Page, name: str, folder: Path) -> None:
    page.wait_for_timeout(700)
    path = Path(os.environ.get("ALIGN_SCREENSHOTS", folder)) / f"{name}.png"
    page.screenshot(path=path)
    assert 10_000 < path.stat().st_size < 300_000


DONE = {
    "labelling": ["1", "2"],
    "labelling-differences": ["d", "1"],
    "labelling-rank": ["2", "1"],
    "labelling-single": ["2", "3"],
    "labelling-rating": ["4"],
}


INSIDE = """form => { const box = form.querySelector(".questions-form__content");
  return [box.scrollHeight - box.clientHeight, form.getBoundingClientRect().bottom - innerHeight]; }"""


@pytest.mark.slow
def test_the_page_looks_as_in_the_pictures(argilla_server: ArgillaServer, watched: OpenPage, tmp_path: Path) -> None:
    opened, places = stand(argilla_server, watched, *PICTURES)
    page = opened.page
    for name, url in places.items():
        page.set_viewport_size({"width": 1280, "height": 1100 if name == "labelling-rank" else 900})
        frame = go(opened, url)
        for key in DONE[name]:
            page.keyboard.press(key)
            page.wait_for_timeout(600)
        marks = frame.locator("mark").count()
        assert (marks > 3) if name == "labelling-differences" else marks == 0
        keep(page, name, tmp_path)

    page.set_viewport_size({"width": 1280, "height": 860})
    go(opened, places["labelling"])
    hidden, below = page.locator("form").evaluate(INSIDE)
    assert hidden <= 1 and below <= 0, "one has to scroll to see all questions about a pair"

    page.emulate_media(color_scheme="dark")
    frame = go(opened, places["labelling-differences"])
    page.keyboard.press("d")
    color = frame.locator(".answer.a p").first.evaluate("node => getComputedStyle(node).color")
    assert min(int(part) for part in re.findall(r"\d+", color)[:3]) > 180, "the text is as dark as the ground"
    keep(page, "labelling-dark", tmp_path)
    opened.check()


@pytest.mark.parametrize(("width", "height"), [(768, 1024), pytest.param(820, 1180, marks=pytest.mark.full)])
def test_a_tablet_shows_answers_and_questions_and_takes_touches(
    argilla_server: ArgillaServer, watched: OpenPage, width: int, height: int
) -> None:
    opened, places = stand(argilla_server, watched, "labelling", width=width, height=height, has_touch=True)
    page, frame = opened.page, go(opened, places["labelling"])
    a, b = (frame.locator(f".answer.{name}").bounding_box() for name in "ab")
    assert a and b and a["y"] == b["y"] and a["height"] == b["height"] and b["x"] + b["width"] <= width
    frame.locator(".differences").tap()
    assert frame.locator("mark").count() > 3
    frame.locator(".differences").tap()
    page.get_by_text("B is better", exact=True).tap()
    assert page.locator("form label.label-active").all_inner_texts() == ["2\nB is better"]
    sent(page, lambda: page.get_by_role("button", name="Submit").tap())
    opened.check()
