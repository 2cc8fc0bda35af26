"""Binary labels from a file: a prompt, one answer, and whether it is good."""

from pathlib import Path
from typing import Any

from align.data.demonstrations import demonstration_of
from align.data.messages import BadRowError, excerpt
from align.data.preferences import GIVEN, is_number, number_of
from align.data.rows import lacking, parse_rows, say_dropped
from align.normal import normal
from align.types import SCHEMAS, BinaryLabel, Dropped, binary_label_id, candidate_id, prompt_id


def load_binary(path: Path) -> tuple[list[BinaryLabel], list[Dropped]]:
    """The distinct binary labels of `path` in the file's order and the rows that were dropped.

    `round` is 0 and there are no judgements; weight 1 stands where a row gives none. A second verdict on the same
    answer is dropped: how two verdicts become one is for `target` and `weight` to say.
    """
    good, dropped = parse_rows(path, "binary label", _binary_label, known=SCHEMAS[BinaryLabel].names)
    first: dict[tuple[str, str], str] = {}
    kept = []
    for where, label in good:
        answer = label.prompt_id, normal(label.text)
        if answer in first:
            dropped.append(Dropped("binary label", where, f"duplicate: the same answer as {first[answer]}"))
        else:
            first[answer] = where
            kept.append(label)
    say_dropped(path, "binary label", len(kept), dropped)
    return kept, dropped


def _binary_label(row: dict[str, Any], where: str) -> BinaryLabel:
    target = _target(row)
    messages, text, _ = demonstration_of(row, where, empty=target < 0.5)
    prompt = prompt_id(messages)
    candidate = candidate_id(prompt, text, GIVEN)
    return BinaryLabel(
        id=binary_label_id(prompt, candidate),
        prompt_id=prompt,
        messages=messages,
        candidate_id=candidate,
        text=text,
        target=target,
        weight=number_of(row, "weight", 1.0, 0.0, float("inf")),
        round=0,
        judgements=[],
    )


def _target(row: dict[str, Any]) -> float:
    """`target`, else 1 or 0 by `label`; they must not say opposite things."""
    label = row.get("label")
    if label is None and row.get("target") is None:
        raise lacking(row, "`label` or `target`")
    if label is not None and not (isinstance(label, bool) or (is_number(label) and label in (0, 1))):
        raise BadRowError("not a label", f"`label` must be true or false, found {excerpt(label)}")
    target = number_of(row, "target", float(bool(label)), 0.0, 1.0)
    if label is not None and (target - 0.5) * (float(label) - 0.5) < 0:
        raise BadRowError("out of range", f"`target` {target} says the opposite of `label` {bool(label)}")
    return target
