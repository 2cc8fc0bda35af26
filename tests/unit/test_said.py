"""What people said besides their choice is shown: in the report and in `align samples`, whatever it holds."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.provenance.browse import browse
from align.report.data import report_data
from align.report.html import render
from tests.fake_run import SPOKEN, make_run
from tests.unit.test_report import HOSTILE, Page, hostile


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("runs"), rounds=1, speaks=True)
    return run


@pytest.fixture(scope="module")
def data(spoken: Path) -> dict[str, Any]:
    return report_data(spoken)


def test_what_was_said_is_counted_of_how_many_and_drawn_at_random(spoken: Path, data: dict[str, Any]) -> None:
    said = data["said"]
    labels = [label for entry in browse(spoken, None, None) for label in entry["labels"]]
    spoke = [label for label in labels if label["reason"]]
    assert said["counts"] == [
        {
            "round": 1, "blind": False, "judgements": len(labels), "reasons": len(spoke), "edits": len(spoke),
            "flags": {"unsafe": len(spoke), "off_topic": len(spoke)},
        }
    ]  # fmt: skip
    assert said["of"] == len(spoke) > 12 and len(said["rows"]) == 12
    row = said["rows"][0]
    assert (row["round"], row["blind"], row["reason"], row["edit"]) == (1, False, SPOKEN["reason"], SPOKEN["edit"])
    assert row["choice"] == "A is clearly better than B"
    assert [(one["name"], one["flags"]) for one in row["answers"]] == [
        ("Answer A", []),
        ("Answer B", ["unsafe", "off_topic"]),
    ]
    assert said == report_data(spoken)["said"], "the same again"


def test_it_stands_on_the_page_as_text(data: dict[str, Any]) -> None:
    page = Page(render(data))
    shown = "".join(page.texts)
    assert "What people said besides" in shown and "Answer B was flagged: unsafe, off topic." in shown
    assert "Warmer.\nbo: [cafe] is better ‹U+001B›[31m<script>hit()</script>‹U+202E›" in shown
    assert "we <b>refund</b> it." in shown and "script" not in page.tags
    count = data["said"]["counts"][0]
    assert f"12 of {data['said']['of']} judgements with a reason" in shown
    assert f"{count['reasons']} of {count['judgements']}" in " ".join(shown.split()), "of how many, beside the count"
    attacked = Page(render(hostile(data)))
    assert set(attacked.tags) == set(page.tags) and "".join(attacked.texts).count("hit()") > 100 and HOSTILE
    assert 'id="said"' not in render({**data, "said": {"counts": [], "of": 0, "rows": []}})


def test_it_stands_in_samples_and_cannot_pass_for_another_label(spoken: Path) -> None:
    said = CliRunner().invoke(app, ["samples", str(spoken), "--limit", "400"]).stdout.splitlines()
    at = said.index("    reason: Warmer.")
    assert said[at + 1] == "      │ bo: [cafe] is better \\x1b[31m<script>hit()</script>\\u202e"
    assert said[at + 2] == "    written instead: We are sorry about the lamp, and we <b>refund</b> it."
    choice, unsafe, off_topic = said[at - 3 : at]
    short = CliRunner().invoke(app, ["samples", str(spoken), "--limit", "1"]).stdout.splitlines()
    assert short[-1] == f"1 of {len(browse(spoken, None, None))} prompts; --limit shows more" and said[-1] != short[-1]
    first, second = choice.split("[")[1][:8], choice.split("[")[2][:8]
    assert choice.partition(": ")[2] == f"[{first}] is clearly better than [{second}]"
    assert (unsafe, off_topic) == (f"    flagged [{second}]: unsafe", f"    flagged [{second}]: off_topic")


def test_lineage_counts_one_in_the_singular(spoken: Path) -> None:
    lines = CliRunner().invoke(app, ["lineage", str(spoken), "1/policy"]).stdout.splitlines()
    assert [line.split(":")[0] for line in lines if "checkpoint" in line][1:] == ["  from 1 checkpoint"]
