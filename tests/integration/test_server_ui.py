"""What the server serves to a browser: hostile records stay text, and nothing is asked of any other machine."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from annotation.server import process
from tests.server_fixtures import ArgillaServer

TRUE_EXTERNAL = re.compile(
    r"""(?:@import\s+(?:url\()?|url\(|<(?:link|script|img|iframe)[^>]*?(?:href|src)=)["']?(?:https?:)?//"""
)


def _served(server: ArgillaServer) -> Path:
    folders = list((server.home / "tmp").glob("*/statics"))
    assert len(folders) == 1
    return folders[0]


def test_only_files_of_this_server_are_asked_for(argilla_server: ArgillaServer) -> None:
    folder = _served(argilla_server)
    pages = [*folder.rglob("*.html"), *folder.rglob("*.css")]
    assert len(pages) > 20
    assert [p.name for p in pages if TRUE_EXTERNAL.search(p.read_text(encoding="utf-8"))] == []
    assert not [p for p in folder.rglob("*") if p.suffix in (".br", ".gz")], "no unmended copies"
    assert TRUE_EXTERNAL.search("@import url(https://fonts.googleapis.com/css2?family=Inter);"), "the check can fail"


@pytest.mark.parametrize(
    "path", ["/", "/sign-in", "/dataset/x/annotation-mode", "/api/v1/version", "/_nuxt/nothing.js"]
)
def test_a_policy_forbids_the_rest(argilla_server: ArgillaServer, path: str) -> None:
    policy = argilla_server.client.get(argilla_server.url + path).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "http" not in policy


def test_the_documentation_pages_that_load_from_a_cdn_are_not_served(argilla_server: ArgillaServer) -> None:
    for path in ("/api/v1/docs", "/api/v1/redoc", "/docs"):
        answer = argilla_server.client.get(argilla_server.url + path, follow_redirects=True)
        assert "jsdelivr" not in answer.text and "swagger" not in answer.text.lower()


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "$& $' $` $$ $1",
    "#TEMPLATE#",
    "#RECORD_OBJECT#",
    "\u2028\u2029",
    '"\\',
    "{{7*7}}",
]


def test_records_in_custom_fields_stay_text(argilla_server: ArgillaServer) -> None:
    """Runs the template function of the served bundle, as the page does, over hostile records."""
    node = _chromium_eval(
        argilla_server,
        "(records) => records.map(r => { const f = new Function('o', `return ${window.__template}`);"
        " return f.call({sdkRecord: r, isAdvanced: true, content: \"<script>out('#'+JSON.stringify(record.fields))</script> $& $'\"}); })",
        [{"fields": {"text": value}} for value in HOSTILE],
    )
    for value, page in zip(HOSTILE, node, strict=True):
        script = page.split("<script>", 1)[1].split("</script>", 1)[0]
        literal = script.strip().removeprefix("const record =").removesuffix(";")
        assert json.loads(literal) == {"fields": {"text": value}}
        assert page.endswith("<script>out('#'+JSON.stringify(record.fields))</script> $& $'\n"), (
            "the template itself is not rewritten either"
        )
        assert page.count("<script>") == page.count("</script>") == 2


def _chromium_eval(server: ArgillaServer, code: str, argument: object) -> list[str]:
    playwright = pytest.importorskip("playwright.sync_api")
    bundle = next(p for p in _served(server).rglob("*.js") if "#RECORD_OBJECT#" in p.read_text(encoding="utf-8"))
    body = re.search(
        r"template:function template\(\)(\{var \w=JSON\.stringify\(this\.sdkRecord\).*?this\.content\)\})",
        bundle.read_text(encoding="utf-8"),
    )
    assert body is not None
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.evaluate("body => { window.__template = `(function()${body}).call(this)` }", body[1])
        result: list[str] = page.evaluate(code, argument)
        browser.close()
    return result


@pytest.mark.slow
def test_a_changed_bundle_stops_the_server_loudly(tmp_path: Path) -> None:
    from annotation.server.installation import environment, install, python_of

    install()
    (tmp_path / "app.js").write_text("nothing to mend", encoding="utf-8")
    code = "import sys; from pathlib import Path; from argilla_embedded import ui; ui.mend(Path(sys.argv[1]))"
    variables = {"PYTHONPATH": str(process.PLUGIN), "ARGILLA_HOME_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [str(python_of(environment())), "-c", code, str(tmp_path)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode
        and "Argilla's user interface changed" in done.stderr
        and "in 0 .css files, not in 1" in done.stderr
    )
