"""Which answers the report shows side by side: drawn at random, never picked."""

from typing import Any

from align.evaluation.compare import SAMPLES
from align.evaluation.winrate import outcome
from align.ids import unit_for
from align.report.reading import RunFolder
from align.stages.names import EVALUATION, PROMPTS

SHOWN = 20


def choose_samples(run: RunFolder) -> dict[str, Any]:
    """Up to 20 held-out prompts with the first policy's answer and the latest one's, in a seeded random order.

    {"first": 0, "latest": round or None, "of": prompts to draw from, "rows": [{"prompt_id", "messages",
    "first": answer, "latest": answer or None, "better": "first" | "latest" | "tie" | None}], "reason": why empty}.
    An answer is {"text", "score", "tokens", "finish"}. Of several answers to a prompt the first sampled one is shown.
    """
    evaluated = sorted(ref.round for ref in run.receipts if ref.stage == EVALUATION)
    if not evaluated:
        return {"first": None, "latest": None, "of": 0, "rows": [], "reason": "no policy is evaluated yet"}
    first, latest = evaluated[0], evaluated[-1] if len(evaluated) > 1 else None
    old = _answers(run, first)
    new = _answers(run, latest) if latest is not None else {}
    common = [p for p in old if latest is None or p in new]
    seed = run.recipe.get("seed")
    drawn = sorted(common, key=lambda p: unit_for("report samples", seed, p))[:SHOWN]
    wanted = set(drawn)
    messages = {
        row["id"]: row["messages"] for row in run.rows(0, PROMPTS, "prompts.parquet") or () if row["id"] in wanted
    }
    judge = (run.recipe.get("evaluate") or {}).get("judge") or {}
    rows = [
        {
            "prompt_id": p,
            "messages": messages[p],
            "first": old[p],
            "latest": new.get(p),
            "better": _better(old[p], new.get(p), judge.get("tie_width", 0.0)),
        }
        for p in drawn
    ]
    return {"first": first, "latest": latest, "of": len(common), "rows": rows, "reason": None}


def _answers(run: RunFolder, round: int) -> dict[str, dict[str, Any]]:
    """Prompt id → the first sampled answer of a round's evaluation."""
    found: dict[str, dict[str, Any]] = {}
    rows = run.rows(round, EVALUATION, SAMPLES) or []
    for row in sorted(rows, key=lambda r: r["sample"], reverse=True):
        found[row["prompt_id"]] = {name: row[name] for name in ("text", "score", "tokens", "finish")}
    return found


def _better(first: dict[str, Any], latest: dict[str, Any] | None, tie_width: float) -> str | None:
    if latest is None or first["score"] is None or latest["score"] is None:
        return None
    value = outcome(latest["score"], first["score"], tie_width)
    return {1.0: "latest", 0.0: "first", 0.5: "tie"}[value]
