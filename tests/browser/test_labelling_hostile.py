"""Whatever the texts are, nothing happens but text: on a stock Argilla's page and on ours, in every field."""

import secrets
import time
from dataclasses import replace

import pytest
from playwright.sync_api import FrameLocator, Page, expect

from tests.browser.conftest import OpenPage, sign_in
from tests.browser.hostile import EVIL, HOSTILE, HUGE, storable
from tests.browser.session_page import ORIGIN, annotator, current, kind_task, load, sent, session, show
from tests.server_fixtures import ArgillaServer

SMALL = {name: case for name, case in HOSTILE.items() if name not in HUGE}
TAGS = "DIV SPAN P SECTION HEADER STRONG EM S CODE PRE H4 BLOCKQUOTE HR TABLE THEAD TBODY TR TH TD MARK BUTTON KBD"
ATTRIBUTES = "class dir aria-label aria-pressed style type title"
MADE_BY_THE_PAGE = {*TAGS.split(), *ATTRIBUTES.split()}
INSIDE = "node => [...new Set([...node.querySelectorAll('*')].flatMap(n => [n.tagName, ...n.getAttributeNames()]))]"
TEXT = "node => node.textContent"


def check_page(frame: FrameLocator) -> None:
    """Nothing is on the page but what it makes itself, and no text got a frame, an address or a handler."""
    assert set(frame.locator("#task").evaluate(INSIDE)) <= MADE_BY_THE_PAGE
    assert frame.locator("body > main#task").count() == 1


def test_there_are_enough_hostile_texts() -> None:
    assert len(HOSTILE) >= 40


def test_hostile_text_is_text_on_any_argilla(watched: OpenPage) -> None:
    opened, names = watched(ORIGIN), list(SMALL)
    for start in range(0, len(names), 4):
        four = names[start : start + 4]
        four += [four[-1]] * (4 - len(four))
        task = kind_task("t", "rank", [SMALL[name][0] for name in four])
        task.messages[:] = [{"role": name, "content": SMALL[name][0]} for name in four]
        if start == 0:  # all of them in one conversation, also as what is not a known speaker
            task.messages[:] = [{"role": text, "content": text} for text, _ in SMALL.values()]
        frame = load(opened.page, task)
        said, bubbles = (
            [n.evaluate(TEXT) for n in frame.locator(place).all()] for place in (".answer .text", ".bubble")
        )
        for name, text in zip(four, said, strict=True):
            assert SMALL[name][1] in text, name
        for (name, (_, seen)), text in zip(
            SMALL.items() if start == 0 else [(n, SMALL[n]) for n in four], bubbles, strict=True
        ):
            assert seen in text, name
        check_page(frame)
        frame.locator(".differences").click()
        check_page(frame)
    opened.check()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HUGE))
def test_a_huge_text_is_shown_and_compared(watched: OpenPage, name: str) -> None:
    text, seen = HOSTILE[name]
    place = min(len(text) // 2, 10_000)
    other = text[:place] + " inserted words " + text[place:100_000]
    began = time.monotonic()
    opened, frame = show(watched, kind_task("t", "pair", [text, other]))
    opened.page.set_default_timeout(60_000)
    assert time.monotonic() - began < 20
    assert seen in frame.locator(".answer.a .text").evaluate(TEXT)
    frame.locator(".differences").click()
    assert "inserted" in "".join(frame.locator(".answer.b mark").all_inner_texts()[:50])
    check_page(frame)
    opened.check()


def test_the_page_may_request_nothing_even_if_a_script_got_in(watched: OpenPage) -> None:
    opened, frame = show(watched, kind_task("t", "pair", ["one", "two"]))
    left: list[str] = []
    opened.page.on("response", lambda response: left.append(response.url))
    asked = f"() => fetch('{EVIL}/').then(() => 'sent', () => 'blocked')"
    assert frame.locator("body").evaluate(asked) == "blocked"
    shown = "body => new Promise(done => { const i = new Image(); i.onload = () => done('loaded'); i.onerror = () => done('blocked'); i.src = 'https://evil.test/p.svg'; body.append(i); })"
    assert frame.locator("body").evaluate(shown) == "blocked"
    assert left == []


def typed(page: Page, question: int, text: str) -> None:
    area = page.locator("form [contenteditable=true]").nth(question)
    area.click()
    page.keyboard.insert_text(text)
    page.keyboard.press("Escape")


def test_hostile_text_is_text_on_our_server_and_in_what_annotators_write(
    argilla_server: ArgillaServer, watched: OpenPage
) -> None:
    run, cases = f"run-{secrets.token_hex(4)}", list(SMALL.values())
    four = ["\n\n".join(text for text, _ in cases[n::4]) for n in range(4)]
    task = replace(kind_task("hostile", "rank", four, question="hostile: " + cases[0][0]), wanted=2)
    task.messages[1:] = [{"role": "user", "content": text} for text, _ in cases]
    backend = session(argilla_server, run, "rank", [task], overlap=2)
    opened = annotator(argilla_server, f"ann-{run}", run, watched)
    page = opened.page
    page.goto(backend.url)
    current(page, ["hostile"], [])
    frame = page.frame_locator("iframe")
    for n, text in enumerate(node.evaluate(TEXT) for node in frame.locator(".answer .text").all()):
        for _, seen in cases[n::4]:
            assert seen in text
    for (_, seen), bubble in zip(cases, frame.locator(".bubble").all()[1:], strict=True):
        assert seen in bubble.evaluate(TEXT)
    check_page(frame)

    written = " ¦ ".join(storable(text).replace("\n", " ") for text, _ in cases)
    typed(page, 0, written)
    typed(page, 1, written[::-1])
    for place in "1234":
        page.locator(".draggable [title^='Answer']").nth(0).focus()
        page.keyboard.press(place)
        page.wait_for_timeout(500)
    sent(page, lambda: page.get_by_role("button", name="Submit").click())
    [said] = backend.collect()
    assert letters(said.edit) == letters(written) and letters(said.reason) == letters(written[::-1])
    opened.check()

    # read again by the person who wrote it, and by the owner
    owner = watched(argilla_server.url)
    sign_in(owner.page, argilla_server.url, argilla_server.username, argilla_server.password)
    for reader in (opened, owner):
        status = "?status=submitted" if reader is opened else ""
        reader.page.goto(backend.url + status)
        expect(reader.page.frame_locator("iframe").locator(".answer.d")).to_be_visible()
        reader.page.wait_for_timeout(500)
        if reader is opened:
            assert letters(reader.page.locator("form [contenteditable=true]").first.inner_text()) == letters(written)
        reader.check()


def letters(text: str | None) -> str:
    """The text without white space, which browsers turn into other white space."""
    return "".join((text or "").split())
