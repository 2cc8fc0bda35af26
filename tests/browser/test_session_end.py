"""What an annotator sees before the first task and behind the last one, on the real server in a real browser."""

import os
import re
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from annotation.argilla_backend import ArgillaBackend
from tests.browser.conftest import OpenPage
from tests.browser.session_page import annotator, current, kind_task, sent, session
from tests.server_fixtures import ArgillaServer

TITLE = "Support desk: which answer is better? (round 2)"
THANKS = "Done, thank you! There is nothing left for you to answer here."
FORM = "form.questions-form"

pytestmark = pytest.mark.slow


def picture(page: Page, name: str, tmp_path: Path) -> None:
    """For a person to look at: PICTURES names a folder that keeps it."""
    page.screenshot(path=Path(os.environ.get("PICTURES", tmp_path)) / f"{name}.png")


def two_rounds(on: ArgillaServer, run: str, overlap: int, count: int) -> tuple[list[str], ArgillaBackend]:
    """A round that is done, and the one after it."""
    names = [f"task {n}" for n in range(count)]
    tasks = [kind_task(name, "pair", ["one", "two"], question=f"{name}: hello") for name in names]
    tasks = [replace(task, wanted=overlap) for task in tasks]
    first = TITLE.replace("2", "1")
    session(on, run, "pair", tasks, dataset="round-1-aaaa", title=first, overlap=overlap).close()
    backend = session(on, run, "pair", tasks, dataset="round-2-bbbb", title=TITLE, overlap=overlap)
    return names, backend


def answer(page: Page, names: list[str], done: list[str], until: int) -> None:
    while len(done) < until:
        name = current(page, names, done)
        page.keyboard.press("1")
        page.wait_for_timeout(350)
        sent(page, lambda: page.keyboard.press("Enter"))
        done.append(name)


def expect_end(page: Page) -> None:
    """Thanks, and nothing to fill in; no key does anything."""
    expect(page.get_by_text(THANKS)).to_be_visible(timeout=15_000)
    expect(page.locator(FORM)).to_have_count(0)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method != "GET" else None)
    for key in ("1", "Enter", "Backspace"):
        page.keyboard.press(key)
        page.wait_for_timeout(300)
    assert [url for url in asked if "responses" in url] == []


def test_the_home_page_has_the_open_data_set_alone_by_a_name_for_people(
    argilla_server: ArgillaServer, watched: OpenPage, tmp_path: Path
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    names, backend = two_rounds(argilla_server, run, overlap=1, count=2)
    page = annotator(argilla_server, f"ann-{run}", run, watched).page
    expect(page.locator(".dataset-card__title")).to_have_text([TITLE], timeout=15_000)
    picture(page, "home", tmp_path)
    page.get_by_text(TITLE).click()
    done: list[str] = []
    answer(page, names, done, 2)
    expect_end(page)
    picture(page, "end", tmp_path)
    page.reload()
    expect_end(page)
    backend.close()
    page.goto(argilla_server.url)
    expect(page.locator(".dataset-list__title")).to_be_visible(timeout=15_000)
    expect(page.locator(".dataset-card__title")).to_have_count(0)
    page.wait_for_timeout(1000)
    picture(page, "home-done", tmp_path)


def test_two_annotators_finish_at_different_times(
    argilla_server: ArgillaServer, watched: OpenPage, tmp_path: Path
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    names, backend = two_rounds(argilla_server, run, overlap=2, count=3)
    first, second = (annotator(argilla_server, f"{name}-{run}", run, watched).page for name in ("ann", "bob"))
    first_done, second_done = list[str](), list[str]()
    for page in (first, second):
        page.goto(backend.url)
    answer(second, names, second_done, 1)
    answer(first, names, first_done, 3)
    expect_end(first)
    picture(first, "first-is-done", tmp_path)
    expect(second.locator(FORM)).to_be_visible()
    answer(second, names, second_done, 3)
    expect_end(second)
    picture(second, "both-are-done", tmp_path)
    state = backend.progress()
    assert (state.answers, state.wanted, state.open) == (6, 6, 0)
    first.get_by_role("button", name=re.compile("^Previous")).click()
    expect(first.locator(FORM)).to_be_visible(timeout=15_000)


def test_a_session_that_is_closed_meanwhile_takes_the_answer_on_the_screen_and_ends(
    argilla_server: ArgillaServer, watched: OpenPage, tmp_path: Path
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    names, backend = two_rounds(argilla_server, run, overlap=1, count=3)
    page = annotator(argilla_server, f"ann-{run}", run, watched).page
    page.goto(backend.url)
    done: list[str] = []
    answer(page, names, done, 1)
    current(page, names, done)
    backend.close()
    answer(page, names, done, 2)
    assert len(backend.collect()) == 2
    page.reload()
    expect_end(page)
    picture(page, "closed-meanwhile", tmp_path)
