"""Every kind of task through the whole loop: the real server, personas as its users, training; and people as judges."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from align.labelling.session import open_backend
from align.pipeline.receipts import current, stage_folder
from align.pipeline.stage import Ref
from align.report.data import report_data
from align.report.html import render
from align.stages.sessions import open_session
from align.store import read_json
from annotation.backend import Answer
from annotation.journal import read_journal
from tests.loop import align, kill_at, make_loop, rows, write_jsonl
from tests.server_fixtures import ArgillaServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, argilla_server: ArgillaServer) -> Path:
    """A finished run of pairs with all that can be asked beside them and people as judges, killed while they judge."""
    path = make_loop(tmp_path_factory.mktemp("kinds") / "recipe", argilla_server.home)
    gold = [{"prompt": f"Gold {n}?", "chosen": "thank you so much", "rejected": "no"} for n in range(8)]
    write_jsonl(path.parent / "gold.jsonl", gold)
    settings = json.loads(path.read_text())
    settings["name"] = "kinds"
    settings["rollouts"] |= {"samples": 4, "prompts": 12}
    settings["annotate"] |= {
        "tasks": 24,
        "repeats": 0.25,
        "gold": {"path": "gold.jsonl", "share": 0.25},
        "suggest": {"path": "score.py:score", "share": 0.5},
    }
    settings["annotate"]["by"]["personas"][0]["suggestible"] = 0.5
    settings["sft"]["trainer"] = settings["dpo"]["trainer"] = {"max_steps": 2}
    settings["dpo"]["learning_rate"] = 1e-2  # far enough for answers to differ, whatever the processor rounds
    settings["evaluate"] |= {"judge": {"type": "people", "tasks": 8, "overlap": 2}, "prompts": 8}
    path.write_text(json.dumps(settings))
    assert kill_at(path, "1/blind_labelling: start", 0.2)
    align("run", path, cwd=path.parent)
    return path


def run_of(recipe: Path) -> Path:
    return recipe.parent / "runs" / "kinds"


def result(run: Path, stage: str, name: str) -> dict[str, Any]:
    receipt = current(run, Ref(1, stage))
    assert receipt is not None
    found: dict[str, Any] = read_json(stage_folder(run, receipt.ref) / receipt.key / name)
    return found


def test_pairs_with_gold_repeats_and_suggestions(recipe: Path) -> None:
    run = run_of(recipe)
    tasks = rows(run, 1, "tasks", "tasks.parquet")
    sorts = [(t["purpose"], t["repeat"]) for t in tasks]
    assert {sort: sorts.count(sort) for sort in sorts} == {("train", 0): 24, ("train", 1): 6, ("gold", 0): 8}
    labels = rows(run, 1, "snapshot", "judgements.parquet")
    assert sum(label["outcome"] != "skipped" for label in labels) == 2 * 38
    assert {label["strength"] for label in labels if label["outcome"] in "ab"} <= {None, 1, 2, 3}
    assert any(label["strength"] for label in labels), "strength travels through the server"
    suggestions = rows(run, 1, "tasks", "suggestions.parquet")
    assert {t["id"] for t in tasks if t["suggested"]} == {s["task_id"] for s in suggestions if s["shown"]}
    agreement = result(run, "preferences", "agreement.json")
    people = agreement["compiled"]["annotators"]
    assert sum(p["gold"]["n"] for p in people.values()) == 16
    assert sum(p["consistency"]["n"] for p in people.values()) >= 6
    assert (
        agreement["suggestion_effect"]["shown"]["answers"] + agreement["suggestion_effect"]["not_shown"]["answers"] > 40
    )
    gold = {t["id"] for t in tasks if t["purpose"] == "gold"}
    taught = {j for p in rows(run, 1, "preferences", "preferences.parquet") for j in p["judgements"]}
    assert taught and not taught & {label["id"] for label in labels if label["task_id"] in gold}


def test_people_judge_blind_and_a_kill_in_between_costs_nothing(recipe: Path) -> None:
    run = run_of(recipe)
    tasks, said = rows(run, 1, "blind", "tasks.parquet"), rows(run, 1, "blind_snapshot", "judgements.parquet")
    same = result(run, "blind", "same.json")
    assert len(tasks) + len(same) == 8 and {t["kind"] for t in tasks} == {"blind_ab"}
    assert sum(j["outcome"] != "skipped" for j in said) == 2 * len(tasks)
    assert len({(j["task_id"], j["annotator"]) for j in said}) == len(said)
    won = result(run, "blind_result", "result.json")["win_rate_vs_sft"]
    assert won["clusters"] == 8 and 0 <= won["low"] <= won["mean"] <= won["high"] <= 1
    data = json.loads(align("report", run, "--format", "json", cwd=recipe.parent).stdout)
    assert (data["state"], data["rounds"][0]["win_rate_vs_sft"]) == ("finished", won)
    evaluated = {r["text"] for r in rows(run, 1, "evaluation", "samples.parquet")}
    assert all(set(t["texts"]) & evaluated for t in tasks)


KINDS = {
    "rank": (["annotate.kind=rank", "annotate.tasks=10"], "ranked"),
    "single": (["annotate.kind=single", "annotate.tasks=30", "annotate.overlap=1"], "good"),
    "rating": (["annotate.kind=rating", "annotate.criteria=[helpful, correct]", "annotate.tasks=30"], "rated"),
}
ALONE = ["annotate.gold=null", "annotate.suggest=null"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_pairs_and_a_policy(kind: str, recipe: Path, tmp_path: Path) -> None:
    """What is sampled is kept from the run of pairs; evaluation is the same for every kind, so the run ends there."""
    changes, outcome = KINDS[kind]
    shutil.copytree(recipe.parent / "runs", tmp_path / "runs")
    assert kill_at(recipe, "1/policy: done", 0.0, *changes, *ALONE, "--runs", tmp_path / "runs")
    run = tmp_path / "runs" / "kinds"
    tasks, labels = rows(run, 1, "tasks", "tasks.parquet"), rows(run, 1, "snapshot", "judgements.parquet")
    assert {t["kind"] for t in tasks} == {kind} and outcome in {label["outcome"] for label in labels}
    for label in labels:
        assert (label["ranking"] is not None) == (label["outcome"] == "ranked")
        assert label["ratings"] is None or [r["criterion"] for r in label["ratings"]] == ["helpful", "correct"]
    again = {t["id"] for t in tasks if t["repeat"]}
    assert again and {label["task_id"] for label in labels} >= again
    pairs = rows(run, 1, "preferences", "preferences.parquet")
    assert pairs and all(0.5 < p["target"] <= 1 and p["weight"] > 0 for p in pairs)
    if kind == "single":
        assert rows(run, 1, "preferences", "binary.parquet")
    policy = current(run, Ref(1, "policy"))
    assert policy is not None and policy.summary["pairs"] == len(pairs)
    data = report_data(run)
    assert data["rounds"][0]["labels"] == sum(label["outcome"] != "skipped" for label in labels)
    assert len(render(data)) > 10_000


def test_people_are_waited_for_a_second_time(recipe: Path, tmp_path: Path) -> None:
    """Exit code 75 behind the evaluation; status, close and reopen are about the blind comparisons then."""
    shutil.copytree(recipe.parent / "runs", tmp_path / "runs")
    run = tmp_path / "runs" / "kinds"
    judged = {t["id"] for t in rows(run, 1, "blind", "tasks.parquet")}
    journal = run / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if json.loads(line).get("task_id") not in judged))
    changes = ["annotate.by=people", "evaluate.judge.tasks=7", "evaluate.judge.overlap=1", "--runs", tmp_path / "runs"]
    waiting = align("run", recipe, *changes, cwd=recipe.parent, expect=75)
    assert "label at http" in waiting.stdout + waiting.stderr
    session = open_session(run)
    assert (session.form.kind, session.overlap) == ("blind_ab", 1)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(align("annotate", "status", run, "--json", cwd=tmp_path).stdout)
        return found

    assert (status()["answers"], status()["closed"]) == (0, None)
    backend = open_backend(session)
    key = backend.ensure_annotator("kinds-judge")
    first, second, *rest = session.tasks
    assert rest, "somebody is left to ask"
    backend.answer(key, [Answer(first.id, "both_bad"), Answer(second.id, "a")])
    align("annotate", "close", run, cwd=tmp_path)
    align("run", recipe, *changes, cwd=recipe.parent)
    won = result(run, "blind_result", "result.json")["win_rate_vs_sft"]
    assert (won["unanswered"], won["both_bad"], won["annotators"]) == (len(rest), 1, 1)
    align("annotate", "reopen", run, cwd=tmp_path)
    assert status()["closed"] is None and status()["answers"] == 2
    assert json.loads(align("report", run, "--format", "json", cwd=tmp_path).stdout)["state"] == "finished"
    align("run", recipe, *changes, cwd=recipe.parent, expect=75)


def test_a_late_change_of_mind_changes_no_finished_round(recipe: Path, tmp_path: Path) -> None:
    """It is kept and told of; a person who reopens the labelling counts it."""
    shutil.copytree(recipe.parent / "runs", tmp_path / "runs")
    run, runs = tmp_path / "runs" / "kinds", ("--runs", tmp_path / "runs")
    blind = {t["id"] for t in rows(run, 1, "blind", "tasks.parquet")}
    before = {stage: current(run, Ref(1, stage)) for stage in ("snapshot", "policy", "blind_snapshot")}
    said = next(j for j in read_journal(run / "journal.jsonl").latest.values() if j.task_id in blind)
    backend = open_backend(open_session(run))
    other = "tie" if said.outcome != "tie" else "both_bad"
    backend.answer(backend.ensure_annotator(said.annotator), [Answer(said.task_id, other)])
    pulled = json.loads(align("annotate", "pull", run, "--json", cwd=tmp_path).stdout)
    assert (pulled["new"], pulled["late"], pulled["judgements"]) == (
        1,
        1,
        len(rows(run, 1, "blind_snapshot", "judgements.parquet")),
    )
    again = align("run", recipe, *runs, cwd=recipe.parent)
    assert ": start" not in again.stderr
    assert "1 answer came after the closing and does not count; `align annotate reopen` counts it" in again.stderr
    assert {stage: current(run, Ref(1, stage)) for stage in before} == before
    status = json.loads(align("annotate", "status", run, "--json", cwd=tmp_path).stdout)
    assert status["late"] == 1
    align("annotate", "reopen", run, cwd=tmp_path)
    align("run", recipe, *runs, cwd=recipe.parent)
    new = current(run, Ref(1, "blind_snapshot"))
    assert new is not None and new != before["blind_snapshot"]
    assert current(run, Ref(1, "snapshot")) == before["snapshot"]
