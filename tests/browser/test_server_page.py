"""A person in a browser: logs in to the embedded server, sees hostile text as text, and submits an answer that arrives."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from annotation import server
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
