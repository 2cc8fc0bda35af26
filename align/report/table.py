"""The report's short table for a terminal."""

from typing import Any

from align.figures import duration, interval, number
from align.report.reward_models import warnings

NUMERIC = {"labels", "agreement", "time"}


def summary_table(data: dict[str, Any]) -> list[list[str]]:
    """Rows of text, the heading first: round, labels, win rate over the first policy, agreement, time; and the mean
    reward that training began and ended with, where a round raised one."""
    first, people = data["first_policy"], (data["judge"] or {}).get("type") == "people"
    won = f"win rate over {first}{', judged blind' if people else ''}"
    rows = [["round", "labels", won, "agreement", "time"]]
    rows.append([f"0 ({'SFT' if first == 'SFT' else 'given'})", "–", "–", "–", duration(data["sft"]["seconds"])])
    for found in data["rounds"]:
        labels = "–" if found["labels"] is None else str(found["labels"])
        measured = [interval(found["win_rate_vs_sft"]), number(found["agreement"])]
        rows.append([str(found["round"]), labels, *measured, duration(found["seconds"])])
    rewards = [found["reward"] for found in data["rounds"]]
    if any(rewards):
        column = ["reward", "–", *(_raised(reward) for reward in rewards)]
        rows = [[*row[:3], cell, *row[3:]] for row, cell in zip(rows, column, strict=True)]
    return rows


def _raised(reward: dict[str, Any] | None) -> str:
    if reward is None:
        return "–"
    before, after = ("all", "best") if "best" in reward else ("first", "last")
    return f"{number(reward[before])} → {number(reward[after])}"


def summary_lines(data: dict[str, Any]) -> list[str]:
    """`summary_table` with its columns aligned, one line a row, and beneath it what new labels
    say against the reward models."""
    rows = summary_table(data)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = [heading in NUMERIC for heading in rows[0]]
    lines = ["  ".join(_pad(*cell) for cell in zip(row, widths, right, strict=True)).rstrip() for row in rows]
    return [*lines, *warnings(data)]


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)
