"""A person in a browser: logs in to the embedded server, sees hostile text as text, and submits an answer that arrives."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from annotation import server
from tests.browser.conftest import sign_in
from tests.server_fixtures import ArgillaServer, add_records, make_dataset

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "</script><script>parent.attacked=1</script><img src=x onerror='parent.attacked=1'> $& #TEMPLATE# \u2028"
TEMPLATE = (
    "<p id='answer'></p><script>document.getElementById('answer').textContent = record.fields.custom.text;</script>"
)


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=str(CHROMIUM) if CHROMIUM.exists() else None, args=["--no-sandbox"]
        )
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@pytest.mark.slow
def test_a_person_logs_in_and_labels(argilla_server: ArgillaServer, page: Page) -> None:
    dataset = make_dataset(argilla_server, "browser", fields=("text", "custom"), template=TEMPLATE)
    text = "plain words"
    record = add_records(argilla_server, dataset, [{"fields": {"text": text, "custom": {"text": HOSTILE}}}])[0]
    person = server.add_user(argilla_server.home, "browsing", workspace="browser")
    asked, refused = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on(
        "console", lambda message: refused.append(message.text) if "Content Security Policy" in message.text else None
    )

    page.goto(argilla_server.url + "/sign-in")
    page.locator("input[type=text], input[name=username]").first.fill("browsing")
    page.locator("input[type=password]").first.fill(person.password)
    page.keyboard.press("Enter")
    page.get_by_text("browser").first.wait_for(timeout=30_000)
    page.goto(f"{argilla_server.url}/dataset/{dataset}/annotation-mode")
    shown = page.frame_locator("iframe").locator("#answer")
    expect(shown).to_have_text(HOSTILE, timeout=30_000, use_inner_text=False)
    assert page.evaluate("window.attacked") is None
    page.locator("label", has_text="tie").first.click()
    page.get_by_role("button", name="Submit").first.click()

    deadline = time.monotonic() + 20
    answers: list[dict[str, object]] = []
    while not answers and time.monotonic() < deadline:
        found = argilla_server.call("GET", f"/datasets/{dataset}/records", include="responses")["items"]
        answers = [answer for r in found if r["id"] == record for answer in r["responses"]]
    assert [(a["status"], a["values"]) for a in answers] == [("submitted", {"choice": {"value": "tie"}})]
    outside = [url for url in asked if not url.startswith((argilla_server.url, "data:", "blob:", "about:"))]
    assert outside == [] and len(asked) > 10
    assert refused == [], "the policy stands in the way of nothing that the page needs"
    forbidden = page.evaluate(
        "() => new Promise(done => { document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " new Image().src = 'http://tracker.example/pixel.png'; })"
    )
    assert forbidden == "img-src", "and an image that an answer smuggles in is not asked for"


@pytest.mark.slow
def test_who_pastes_too_much_or_guesses_too_often_is_told_on_the_page(
    argilla_server: ArgillaServer, page: Page
) -> None:
    dataset = make_dataset(argilla_server, "pasting")
    add_records(argilla_server, dataset, [{"fields": {"text": f"a lamp {n}"}} for n in range(3)])
    person = server.add_user(argilla_server.home, "pasting", workspace="pasting")
    page.set_default_timeout(30_000)
    sign_in(page, argilla_server.url, "pasting", person.password)
    page.goto(f"{argilla_server.url}/dataset/{dataset}/annotation-mode")
    page.get_by_text("1 of 3").wait_for()
    page.mouse.click(33, 89)
    page.evaluate("text => document.execCommand('insertText', false, text)", " ".join(f"w{n}" for n in range(20_000)))
    page.keyboard.press("Enter")
    expect(page.get_by_text("the search takes 200 words or 4000 characters")).to_be_visible()
    expect(page.get_by_text("1 of 3")).to_be_visible()

    for n in range(5):
        form = {"username": "pasting", "password": f"guess {n}"}
        argilla_server.client.post(f"{argilla_server.url}/api/v1/token", data=form)
    assert page.context.browser is not None
    stranger = page.context.browser.new_page()
    stranger.goto(f"{argilla_server.url}/sign-in")
    stranger.locator("input[type=text]").fill("pasting")
    stranger.locator("input[type=password]").fill(person.password)
    stranger.keyboard.press("Enter")
    expect(stranger.get_by_text("too many attempts to log in; try again in")).to_be_visible()


@pytest.mark.slow
def test_progress_on_the_page_and_the_tile_is_ones_own(argilla_server: ArgillaServer, page: Page) -> None:
    """Six of eight answered, where each task wants two people's: it said 0.00%, under "Team progress"."""
    dataset = make_dataset(argilla_server, "progress", overlap=2)
    records = add_records(argilla_server, dataset, [{"fields": {"text": f"a lamp {n}"}} for n in range(8)])
    person = server.add_user(argilla_server.home, "progressing", workspace="progress")
    values = {"choice": {"value": "a"}}
    items = [{"record_id": record, "status": "submitted", "values": values} for record in records[:6]]
    argilla_server.call("POST", "/me/responses/bulk", {"items": items}, key=person.api_key)
    page.set_default_timeout(30_000)
    sign_in(page, argilla_server.url, "progressing", person.password)
    page.get_by_text("progress", exact=True).first.wait_for()
    expect(page.get_by_text("75.00%").or_(page.get_by_text("75.00 %")).first).to_be_visible()
    page.goto(f"{argilla_server.url}/dataset/{dataset}/annotation-mode")
    expect(page.locator("#team-progress-percent")).to_have_text("75.00%")
    assert "0.00%" not in page.locator("body").inner_text().replace("75.00%", "")
    assert "Team" not in page.locator("body").inner_text()
