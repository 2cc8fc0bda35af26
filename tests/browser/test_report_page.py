"""The report in a real browser: hostile answers stay text, nothing is requested, it fits a phone and it prints.

With ALIGN_REPORT_PICTURE=docs/images/report.png the picture for the README is taken too; ALIGN_REPORT_RUN names a
run's folder to take it from (a made-up run otherwise).
"""

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from align.ids import file_id
from align.pipeline.run import noted, noting
from align.report.html import write_report
from tests.fake_run import SPOKEN, make_run

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
ATTACKS = [
    "<script>window.hit = 1; alert(1)</script>",
    "\"><img src='/x.png' onerror='window.hit = 1; alert(1)'>",
    "<svg onload='window.hit = 1'><a href='javascript:window.hit=1'>click</a></svg>",
    "</div></article></style></title><iframe src='/frame.html'></iframe><link rel=stylesheet href='/x.css'>",
    "<style>body { background: url('/x.png'); display: none }</style>",
    "<meta http-equiv=refresh content='0; url=/gone.html'><base href='/elsewhere/'>",
    "{{ 7 * 7 }} {% raw %} ${alert(1)} `alert(1)` &lt;b&gt; \x1b[31m \u202egnp.exe",
    "W" * 4000 + "\n" * 300 + "the end",
]
"""Each tries another way out of a text."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=str(CHROMIUM) if CHROMIUM.exists() else None, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every answer is an attack, and what people say besides too."""
    runs = tmp_path_factory.mktemp("runs")
    run = make_run(
        runs,
        rounds=1,
        controls=True,
        speaks=True,
        answer=lambda number, asked, sample: ATTACKS[(number + sample + len(asked)) % len(ATTACKS)],
        max_tokens=8192,
    )
    (run / "recipe.yaml").write_text("# " + "\n# ".join(ATTACKS[:7]) + "\n")
    noting(run, texts={**noted(run)["texts"], "recipe.yaml": file_id(run / "recipe.yaml")})
    write_report(run)
    return run


@pytest.fixture(scope="module")
def site(hostile_run: Path) -> Iterator[tuple[str, list[str]]]:
    """The run's folder over HTTP on loopback, where a request leaves a trace: (address, paths asked for)."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *values: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(hostile_run)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def watched(browser: Browser, width: int = 1280) -> tuple[Page, list[str]]:
    """A page and what happens on it that must not happen."""
    page, events = browser.new_page(viewport={"width": width, "height": 900}), list[str]()
    page.on("dialog", lambda dialog: (events.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: events.append(f"console {message.text}"))
    page.on("pageerror", lambda error: events.append(f"error {error}"))
    return page, events


def test_hostile_answers_stay_text_and_nothing_is_requested(
    browser: Browser, site: tuple[str, list[str]], hostile_run: Path
) -> None:
    address, asked = site
    page, events = watched(browser)
    page.goto(f"{address}/report.html")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.wait_for_timeout(500)
    assert page.evaluate("window.hit") is None and events == []
    assert asked == ["/report.html"]
    assert page.evaluate("document.querySelectorAll('script, img, iframe, object, form, base').length") == 0
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    shown = page.locator("#samples .answer .text").all_text_contents()
    assert len(shown) == 40 and set(shown) <= {*ATTACKS[:6], ATTACKS[7], *(literal(a) for a in ATTACKS)}
    assert literal(ATTACKS[6]) in shown
    said = page.locator("#said .words .text").all_text_contents()
    assert said == [literal(SPOKEN["reason"]), SPOKEN["edit"]] * 12
    page.close()


def literal(attack: str) -> str:
    """How an attack is shown: as it is, its unseen characters written out."""
    return attack.replace("\x1b", "‹U+001B›").replace("\u202e", "‹U+202E›")


def test_the_same_attacks_would_be_seen_without_the_escape(
    browser: Browser, site: tuple[str, list[str]], hostile_run: Path
) -> None:
    """The control: the traps of the test above do spring when the text is not escaped."""
    address, asked = site
    (hostile_run / "open.html").write_text("<body>" + "\n".join(ATTACKS[:3]))
    page, events = watched(browser)
    page.goto(f"{address}/open.html")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") == 1 and any(e.startswith("dialog") for e in events) and "/x.png" in asked
    page.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_hangs_over_the_edge(browser: Browser, hostile_run: Path, width: int) -> None:
    page, _ = watched(browser, width)
    page.goto((hostile_run / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('thead') && "
    wide += f"e.getBoundingClientRect().right > {width} + 1).map(e => e.outerHTML.slice(0, 80))"
    assert page.evaluate(wide) == []
    page.close()


def test_texts_on_a_phone_are_large_enough_to_read(browser: Browser, hostile_run: Path) -> None:
    page, _ = watched(browser, 390)
    page.goto((hostile_run / "report.html").as_uri())
    heights = page.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
    assert len(heights) > 20 and min(heights) > 10.5
    page.close()


def test_the_reward_models_fit_a_phone_and_can_be_read_there(browser: Browser, tmp_path: Path) -> None:
    page, events = watched(browser, 320)
    page.goto(write_report(make_run(tmp_path, rounds=2, method="ppo")).as_uri())
    section = page.locator("#reward")
    assert section.locator("figure").count() == 3 and section.locator(".warn").count() == 3
    assert page.evaluate("document.documentElement.scrollWidth") == 320 and events == []
    page.set_viewport_size({"width": 390, "height": 900})
    heights = page.evaluate(
        "[...document.querySelectorAll('#reward svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert len(heights) > 30 and min(heights) > 10.5
    inside = """[...document.querySelectorAll('#reward svg')].flatMap(s => [...s.querySelectorAll('text')].filter(t =>
        t.getBoundingClientRect().right > s.getBoundingClientRect().right + 1).map(t => t.textContent))"""
    assert page.evaluate(inside) == []
    page.close()


def test_a_print_shows_what_is_folded_away(browser: Browser, hostile_run: Path, tmp_path: Path) -> None:
    page, _ = watched(browser)
    page.goto((hostile_run / "report.html").as_uri())
    last = page.locator(".sample").last
    assert not last.is_visible()
    page.emulate_media(media="print")
    assert last.is_visible() and not page.locator("nav").is_visible()
    page.close()


def test_the_dark_page_is_dark(browser: Browser, hostile_run: Path) -> None:
    page, _ = watched(browser)
    page.emulate_media(color_scheme="dark")
    page.goto((hostile_run / "report.html").as_uri())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    page.close()


@pytest.mark.skipif("ALIGN_REPORT_PICTURE" not in os.environ, reason="takes the README's picture when asked to")
def test_take_the_picture(browser: Browser, tmp_path: Path) -> None:
    named = os.environ.get("ALIGN_REPORT_RUN")
    page = browser.new_page(viewport={"width": 1280, "height": 1240})
    page.goto(write_report(Path(named) if named else make_run(tmp_path)).absolute().as_uri())
    picture = Path(os.environ["ALIGN_REPORT_PICTURE"])
    picture.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=picture)
    page.close()
