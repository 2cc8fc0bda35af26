"""Preferences from a file: a prompt, a better and a worse answer."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

from align.data.messages import (
    BadRowError,
    agreed,
    answer_of,
    excerpt,
    gone_on,
    hh_question,
    in_full,
    is_hh,
    prompt_of,
)
from align.data.rows import lacking, parse_rows, say_dropped
from align.normal import normal
from align.types import SCHEMAS, Dropped, Message, Preference, candidate_id, preference_id, prompt_id

GIVEN = "given"
"""Stands for the checkpoint of an answer that came from a file."""
KNOWN = SCHEMAS[Preference].names
"""What `align annotate export` writes."""


def load_preferences(path: Path) -> tuple[list[Preference], list[Dropped]]:
    """The distinct preferences of `path` in the file's order and the rows that were dropped.

    There are no judgements; target 1, weight 1, margin 0 and round 0 stand where a row gives none.
    """
    kept, dropped = load_subsets(path)
    return [preference for preference, _ in kept], dropped


def load_subsets(path: Path) -> tuple[list[tuple[Preference, str | None]], list[Dropped]]:
    """As `load_preferences`, each with its row's `subset`, as RewardBench's files have it, or `topic`; None without."""
    good, dropped = parse_rows(path, "preference", lambda row, _: (_preference(row), _subset(row)), known=KNOWN)
    first: dict[tuple[str, str, str], str] = {}
    kept = []
    for where, (preference, subset) in good:
        pair = preference.prompt_id, normal(preference.chosen), normal(preference.rejected)
        if pair in first:
            dropped.append(Dropped("preference", where, f"duplicate: the same pair as {first[pair]}"))
        else:
            first[pair] = where
            kept.append((preference, subset))
    say_dropped(path, "preference", len(kept), dropped)
    return kept, dropped


def _subset(row: dict[str, Any]) -> str | None:
    for field in ("subset", "topic"):
        if (name := row.get(field)) is not None:
            if not isinstance(name, str):
                raise BadRowError("not text", f"`{field}` is {excerpt(name)}")
            return name
    return None


def _round(row: dict[str, Any]) -> int:
    number = number_of(row, "round", 0.0, 0, 2**31 - 1)
    if not number.is_integer():
        raise BadRowError("not a number", f"`round` is {number}, not whole")
    return int(number)


def _preference(row: dict[str, Any]) -> Preference:
    if row.get("chosen") is None or row.get("rejected") is None:
        raise lacking(row, "`chosen` and `rejected`")
    if row["chosen"] == row["rejected"]:
        raise BadRowError("no difference", f"`chosen` and `rejected` are both {excerpt(row['chosen'])}")
    if is_hh(row["chosen"]) and is_hh(row["rejected"]) and hh_question(row["chosen"]) != hh_question(row["rejected"]):
        # said before the texts are taken apart: a mangled marker in one of them would be named instead
        raise BadRowError("prompts differ", "`chosen` and `rejected` differ before their last assistant turn")
    given = prompt_of(row, ("prompt", "conversations", "messages", "instruction"))
    before_chosen, chosen = answer_of(row["chosen"], "chosen")
    before_rejected, rejected = answer_of(row["rejected"], "rejected", empty=True)
    given, joined = _before_the_answers(given, before_chosen, before_rejected)
    befores = () if joined else (before_chosen, before_rejected)
    messages = in_full(row, _same_prompt(row, given, *befores))
    if normal(chosen) == normal(rejected):
        same = "are both" if chosen == rejected else "both read"
        raise BadRowError("no difference", f"`chosen` and `rejected` {same} {excerpt(chosen)}")
    prompt = prompt_id(messages)
    chosen_id, rejected_id = (candidate_id(prompt, text, GIVEN) for text in (chosen, rejected))
    return Preference(
        id=preference_id(prompt, chosen_id, rejected_id),
        prompt_id=prompt,
        messages=messages,
        chosen_id=chosen_id,
        rejected_id=rejected_id,
        chosen=chosen,
        rejected=rejected,
        target=number_of(row, "target", 1.0, 0.5, 1.0),
        weight=number_of(row, "weight", 1.0, 0.0, math.inf),
        margin=number_of(row, "margin", 0.0, -math.inf, math.inf),
        round=_round(row),
        judgements=[],
    )


def _before_the_answers(
    given: list[Message] | None, chosen: list[Message] | None, rejected: list[Message] | None
) -> tuple[list[Message] | None, bool]:
    """The prompt with the turns that both answers have before their last one, where they go on from it (calls of tools
    and their results), and whether they do."""
    (one, goes), (other, also) = gone_on(given, chosen, "chosen"), gone_on(given, rejected, "rejected")
    if (goes or also) and (one is None or other is None or prompt_id(one) != prompt_id(other)):
        what = "`chosen` and `rejected` go different ways before their last turns, and a pair compares one turn"
        raise BadRowError("prompts differ", f"{what}; give one pair for the first turn in which they differ")
    return one, goes


def _same_prompt(row: dict[str, Any], *found: list[Message] | None) -> list[Message]:
    """The one prompt that the row's parts agree on."""
    prompts = [messages for messages in found if messages is not None]
    if not prompts:
        expected = "a prompt (`prompt`, `conversations`, `messages`, `instruction`) or whole conversations in `chosen`"
        raise lacking(row, expected)
    prompt = prompts[0]
    for other in prompts[1:]:
        if (both := agreed(prompt, other)) is None:
            ends = " and ".join(excerpt(messages[-1]["content"][-40:]) for messages in (prompt, other))
            raise BadRowError("prompts differ", f"they have {len(prompt)} and {len(other)} turns and end with {ends}")
        prompt = both
    return prompt


def is_number(value: object) -> TypeGuard[float | Decimal]:
    """Whether `value` is a finite number, as JSON or a table of decimals gives it; true and false are none."""
    try:
        return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)
    except (OverflowError, ValueError):  # an integer of hundreds of digits, a signalling NaN
        return False


def number_of(row: dict[str, Any], field: str, default: float, low: float, high: float) -> float:
    """The number in `field` of a row, `default` where there is none; BadRowError outside [low, high]."""
    value = row.get(field)
    if value is None:
        return default
    if not is_number(value):
        raise BadRowError("not a number", f"`{field}` is {excerpt(value)}")
    if not low <= value <= high:
        raise BadRowError("out of range", f"`{field}` is {value}, not in [{low}, {high}]")
    return float(value)
