"""The gate in a run: a stage that lets it go on or blocks it, and the verb that says what it would say now."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.report.data import report_data
from align.report.html import render
from align.stages.gate_now import asked_gate
from tests import fake_world
from tests.fake_run import make_run


def decision(run: Path, number: int) -> dict[str, object]:
    folder = run / f"round_{number:03d}" / "gate"
    found: dict[str, object] = json.loads(
        (folder / (folder / "current").read_text().strip() / "decision.json").read_text()
    )
    return found


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people prefer nearly all answers of the new policy."""
    return make_run(tmp_path_factory.mktemp("better"), rounds=1, judge=False, people_judge=True, gate=True, learns=0.55)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new policy is as good as the first one."""
    return make_run(tmp_path_factory.mktemp("alike"), rounds=2, judge=False, people_judge=True, gate=True, learns=0.0)


def test_a_better_policy_goes(better: Path) -> None:
    found = decision(better, 1)
    assert found["verdict"] == "go" and float(str(found["evidence"])) > 20
    assert found["checks"][0]["name"] == "short"  # type: ignore[index]
    data = report_data(better)
    assert data["state"] == "finished"
    assert data["gates"][0]["said"] == "go: the win rate is 0.90, and above one half for people like these"
    page = render(data)
    assert "The gate of round 1: go: the win rate is 0.90" in page and "3 people say little about others" in page
    assert "short: not worse (+0.000, allowed −0.2)" in page and "Evidence that the new policy is better" in page


def test_a_policy_that_is_not_better_blocks_the_run(alike: Path) -> None:
    found = decision(alike, 1)
    assert found["verdict"] in ("stop", "labels", "people")
    data = report_data(alike)
    assert data["state"] == "blocked" and "1/gate stops the run" in data["state_text"]
    assert not (alike / "round_002").exists(), "the next round does not begin"


def test_the_verb_says_what_the_stage_said(better: Path, alike: Path) -> None:
    for run in (better, alike):
        told = CliRunner().invoke(app, ["gate", str(run), "--json", "--replay"])
        assert told.exit_code == 0, told.output
        found, stage = json.loads(told.stdout), decision(run, 1)
        assert found["evidence"] == pytest.approx(stage["evidence"]) and found["rate"] == stage["rate"]
        looks = [row["labels"] for row in found["replay"]]
        assert looks[:2] == [20, 40] and looks[-1] == found["rate"]["n"]
    said = CliRunner().invoke(app, ["gate", str(better)]).output
    assert "over prompts and people like these" in said and "so few people say little about others" in said


def test_prompts_that_others_still_have_to_judge_wait(better: Path) -> None:
    asked = asked_gate(better)
    assert (asked.waiting, asked.round) == (0, 1)


def test_a_run_in_which_nobody_compares_is_told_how(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    told = CliRunner().invoke(app, ["gate", str(run)])
    assert told.exit_code == 2 or told.exception is not None
    assert "nobody compares this run's policies" in str(told.exception) + told.output


def test_a_judge_narrows_what_people_say(better: Path) -> None:
    told = CliRunner().invoke(app, ["gate", str(better), "--judge", f"{fake_world.__file__}:utility", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)["judge"]
    alike, compared = found["agrees"]
    assert found["judged"] >= found["prompts"] > 90 and 0.8 < alike / compared <= 1
    said = CliRunner().invoke(app, ["gate", str(better), "--judge", "{type: length, high: 1, margin: 1}"]).output
    assert "with the judge" in said and "the judge is of no use here" in said
