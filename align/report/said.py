"""What people said besides their choice: reasons, answers that they wrote instead, flags."""

from collections import Counter
from typing import Any

from align.ids import unit_for
from align.provenance.browse import choice_text
from align.report.reading import RunFolder
from align.stages.labels import JUDGEMENT_TABLE, TASK_TABLE
from align.stages.names import BLIND, BLIND_SNAPSHOT, SNAPSHOT, TASKS
from align.types import FLAGS, LETTERS, Judgement
from annotation.journal import read_journal

SHOWN = 12
ASKED = {SNAPSHOT: TASKS, BLIND_SNAPSHOT: BLIND}
"""Stages that hold what was said → those that hold what was asked."""


def said_besides(run: RunFolder) -> dict[str, Any]:
    """How often people said more than their choice, and up to 12 examples, in a seeded random order, the latest round's
    first.

    {"counts": [{"round", "blind", "judgements", "reasons", "edits", "flags": {flag: answers}}], "of": how many there
    are, "rows": [{"round", "blind", "name", "messages", "answers": [{"name", "text", "flags"}], "choice", "reason",
    "edit"}]}. Answers are named A to D, as the choice names them.
    """
    journal = read_journal(run.path / "journal.jsonl", ())
    counts: list[dict[str, Any]] = []
    found: list[tuple[dict[str, Any], Judgement]] = []
    for ref in run.receipts:
        if ref.stage in ASKED:
            rows = run.rows(ref.round, ref.stage, JUDGEMENT_TABLE) or []
            judgements = [Judgement(**row) for row in rows]
            counts.append({"round": ref.round, "blind": ref.stage == BLIND_SNAPSHOT, **_counts(judgements)})
            tasks = {task["id"]: task for task in run.rows(ref.round, ASKED[ref.stage], TASK_TABLE) or ()}
            said = [j for j in judgements if (j.reason or j.edit or j.flags) and j.task_id in tasks]
            found += [(tasks[j.task_id], j) for j in said]
    seed = run.recipe.get("seed")
    drawn = sorted(found, key=lambda one: (-one[0]["round"], unit_for("report said", seed, one[1].id)))[:SHOWN]
    return {"counts": counts, "of": len(found), "rows": [_row(*one, journal.called(one[1].annotator)) for one in drawn]}


def _counts(judgements: list[Judgement]) -> dict[str, Any]:
    flags = Counter(flag.split(":")[-1] for j in judgements for flag in j.flags or [])
    return {
        "judgements": len(judgements),
        "reasons": sum(bool(j.reason) for j in judgements),
        "edits": sum(bool(j.edit) for j in judgements),
        "flags": {flag: flags[flag] for flag in FLAGS if flags[flag]},
    }


def _row(task: dict[str, Any], judgement: Judgement, name: str) -> dict[str, Any]:
    letters = [letter.upper() for letter in LETTERS[: len(task["texts"])]]
    raised = [flag.partition(":") for flag in judgement.flags or []]
    return {
        "round": task["round"],
        "blind": judgement.kind == "blind_ab",
        "name": name,
        "messages": task["messages"],
        "answers": [
            {
                "name": f"Answer {letter}",
                "text": text,
                "flags": [flag for of, _, flag in raised if of.upper() == letter],
            }
            for letter, text in zip(letters, task["texts"], strict=True)
        ],
        "choice": choice_text(judgement, letters),
        "reason": judgement.reason,
        "edit": judgement.edit,
    }
