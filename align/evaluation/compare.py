"""Measure one policy on held-out prompts: its scores, its lengths, and how often it beats the first and its parent."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pyarrow as pa

from align.errors import DataError
from align.evaluation.length import length_controlled
from align.evaluation.statistics import clustered_bootstrap
from align.evaluation.winrate import outcome, win_rate
from align.store import disk_errors, read_table, write_json, write_table
from align.types import Candidate, Message, Prompt, Score, to_table

SAMPLES, RESULT = "samples.parquet", "result.json"


def evaluate_policy(
    prompts: list[Prompt],
    answers: list[Candidate],
    *,
    score: Score | None,
    tie_width: float,
    seed: int,
    out: Path,
    first: Path | None = None,
    parent: Path | None = None,
    demonstrations: Sequence[tuple[list[Message], str]] = (),
) -> dict[str, Any]:
    """Write `samples.parquet` (candidates with a nullable `score`) and `result.json` into `out`; return the result.

    `first` and `parent` are evaluation folders of earlier policies; prompts that only one of two policies answered
    are not compared, and counted as `dropped`. Without `score` there are lengths and samples only; `mean_tokens` is
    None where some answer came without a count. Raises DataError where there is nothing to score or to compare.
    """
    if not answers:
        raise DataError("there is not one answer to evaluate", hint="see dropped.parquet for the reasons")
    messages = {prompt.id: prompt.messages for prompt in prompts}
    scores: list[float | None] = [None] * len(answers)
    if score is not None:
        scores = score([messages[a.prompt_id] for a in answers], [a.text for a in answers])
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    table = to_table(Candidate, answers).append_column("score", pa.array(scores, pa.float64()))
    write_table(out / SAMPLES, table)
    scored = [(s, a.prompt_id) for s, a in zip(scores, answers, strict=True) if s is not None]
    result: dict[str, Any] = {
        "prompts": len({a.prompt_id for a in answers}),
        "answers": len(answers),
        "unscored": len(answers) - len(scored) if score is not None else None,
        "mean_score": _interval(scored, seed),
        "mean_tokens": fmean(a.tokens for a in answers) if all(a.tokens for a in answers) else None,
        "mean_characters": fmean(len(a.text) for a in answers),
        "truncated": fmean(a.finish == "length" for a in answers),
        "win_rate_vs_sft": _against(table, first, tie_width, seed) if score is not None else None,
        "win_rate_vs_parent": _against(table, parent, tie_width, seed) if score is not None else None,
        "demonstrations": _demonstrations(demonstrations, score),
    }
    write_json(out / RESULT, result)
    return result


def _interval(scored: list[tuple[float, str]], seed: int) -> dict[str, float] | None:
    if len({prompt for _, prompt in scored}) < 2:
        return None
    interval = clustered_bootstrap([s for s, _ in scored], [prompt for _, prompt in scored], seed=seed)
    return {"mean": interval.mean, "low": interval.low, "high": interval.high}


def _against(new: pa.Table, folder: Path | None, tie_width: float, seed: int) -> dict[str, Any] | None:
    if folder is None:
        return None
    ours, theirs = _by_prompt(new), _by_prompt(read_table(folder / SAMPLES))
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise DataError(
            f"the {len(ours)} prompts of the one policy and the {len(theirs)} of the other have none in common"
        )
    found = win_rate([ours[p] for p in shared], [theirs[p] for p in shared], shared, tie_width=tie_width, seed=seed)
    return {**found.as_dict(), "dropped": len(ours.keys() ^ theirs.keys())}


def _by_prompt(table: pa.Table) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for prompt, score in zip(table.column("prompt_id").to_pylist(), table.column("score").to_pylist(), strict=True):
        found.setdefault(prompt, []).append(score)
    return found


def _demonstrations(rows: Sequence[tuple[list[Message], str]], score: Score | None) -> dict[str, Any] | None:
    """Mean and standard deviation of the demonstrations' own scores: what the SFT policy is held against."""
    if not rows or score is None:
        return None
    scores = [s for s in score([m for m, _ in rows], [answer for _, answer in rows]) if s is not None]
    return {"mean": fmean(scores), "sd": stdev(scores), "n": len(scores)} if len(scores) > 1 else None


def at_equal_length(new: Path, old: Path, *, tie_width: float) -> dict[str, Any]:
    """The length-controlled win rate of two evaluation folders (`align.evaluation.length`), by characters: every scored
    answer of the one against every one of the other to the same prompt. {mean: None, reason} where there is none."""
    tables = [read_table(folder / SAMPLES).select(["prompt_id", "score", "text"]).to_pylist() for folder in (new, old)]
    ours, theirs = (_grouped(rows) for rows in tables)
    rows = [
        (outcome(a["score"], b["score"], tie_width), len(a["text"]) - len(b["text"]), prompt)
        for prompt in sorted(ours.keys() & theirs.keys())
        for a in ours[prompt]
        for b in theirs[prompt]
    ]
    try:
        return asdict(length_controlled([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]))
    except DataError as error:
        return {"mean": None, "reason": error.what}


def _grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["score"] is not None:
            found.setdefault(row["prompt_id"], []).append(row)
    return found
