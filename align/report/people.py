"""What a report says about the annotators: each one's labels and how far they can be trusted."""

from collections import Counter
from typing import Any

from align.intervals import wilson
from align.report.reading import RunFolder
from align.stages.labels import AGREEMENT, JUDGEMENT_TABLE
from align.stages.names import BLIND_SNAPSHOT, LABELS, SNAPSHOT
from annotation.crowd.advice import name_people
from annotation.journal import read_journal

SHARES = ("gold", "consistency")
"""Counts of hits that add up over rounds."""


def annotators(run: RunFolder) -> list[dict[str, Any]]:
    """One row for everybody who labelled, sorted by `name`: what `annotator`, an id, is called now.

    `labels`, `skipped`, `ties`, `both_bad` and `compared` (blind comparisons) are counted over all rounds. `gold`
    (control items answered as expected) and `consistency` (repeats answered alike) add up over rounds, and `left` (the
    share of choices that fell on the left answer) does too: {value, low, high, hits, n}. `reliability` {value, low,
    high} is the label compiler's for the latest round that has one, `round`. What is not known is None.
    """
    journal = read_journal(run.path / "journal.jsonl", ())
    counts: dict[str, Counter[str]] = {}
    shares: dict[str, dict[str, list[int]]] = {}
    reliability: dict[str, dict[str, Any]] = {}
    for ref in sorted(run.receipts, key=lambda r: r.round):
        if ref.stage in (SNAPSHOT, BLIND_SNAPSHOT):
            for row in run.rows(ref.round, ref.stage, JUDGEMENT_TABLE) or ():
                _count(
                    counts.setdefault(journal.identity(row["annotator"]), Counter()),
                    row,
                    blind=ref.stage == BLIND_SNAPSHOT,
                )
        if ref.stage == LABELS:
            agreement = run.json(ref.round, ref.stage, AGREEMENT) or {}
            for who, found in _compiled(agreement).items():
                if found["reliability"]["value"] is not None:
                    reliability[journal.identity(who)] = {**found["reliability"], "round": ref.round}
                for kind in SHARES:
                    _add(shares.setdefault(journal.identity(who), {}), kind, found[kind]["hits"], found[kind]["n"])
            for who, habits in agreement.get("annotators", {}).items():
                if habits["left"]["value"] is not None:
                    n = habits["left"]["n"]
                    _add(shares.setdefault(journal.identity(who), {}), "left", round(habits["left"]["value"] * n), n)
    return [
        {
            "annotator": who,
            "name": journal.called(who),
            **{kind: said[kind] for kind in ("labels", "skipped", "ties", "both_bad", "compared")},
            **{kind: _share(shares.get(who, {}).get(kind)) for kind in ("left", *SHARES)},
            "reliability": reliability.get(who),
        }
        for who, said in sorted(counts.items(), key=lambda row: (journal.called(row[0]), row[0]))
    ]


def compilers(run: RunFolder) -> list[dict[str, Any]]:
    """How each round's labels were compiled: `round`, `model`, `choice` where it was chosen (its `reason`, and the
    rivals' `gains`), and `notes`, sentences about labels that count little, with people's present names."""
    found = []
    names = read_journal(run.path / "journal.jsonl", ()).everybody()
    for ref in sorted(run.receipts, key=lambda r: r.round):
        compiled = (run.json(ref.round, ref.stage, AGREEMENT) or {}).get("compiled", {})
        if ref.stage == LABELS and "notes" in compiled:
            notes = name_people(compiled["notes"], names)
            found.append({"round": ref.round, "model": compiled["model"], "choice": compiled["choice"], "notes": notes})
    return found


def conflicts(agreement: dict[str, Any]) -> dict[str, int] | None:
    """How often people contradicted each other and themselves: pairs `both_ways`, `cycles`, `self_contradictions`."""
    found = agreement.get("conflicts")
    return None if found is None else {name: found[name]["count"] for name in found}


def _compiled(agreement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = agreement.get("compiled", {}).get("annotators", {})
    return found


def _count(counts: Counter[str], row: dict[str, Any], *, blind: bool) -> None:
    if row["outcome"] == "skipped":
        counts["skipped"] += 1
    elif blind:
        counts["compared"] += 1
    else:
        counts["labels"] += 1
        counts["ties"] += row["outcome"] == "tie"
        counts["both_bad"] += row["outcome"] == "both_bad"


def _add(sums: dict[str, list[int]], kind: str, hits: int, n: int) -> None:
    before = sums.setdefault(kind, [0, 0])
    before[0], before[1] = before[0] + hits, before[1] + n


def _share(sums: list[int] | None) -> dict[str, Any] | None:
    if sums is None or sums[1] == 0:
        return None
    hits, n = sums
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "hits": hits, "n": n}
