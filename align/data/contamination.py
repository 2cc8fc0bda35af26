"""What must not be trained on: anything whose prompt is held out for evaluation, or reads the same as one that is.

Ids are made again of the texts: a run that an earlier version began has ids of exact characters.
"""

from collections.abc import Iterable
from typing import TypeVar

from align.data.demonstrations import Demonstration
from align.types import BinaryLabel, Dropped, Preference, Prompt, prompt_id

Row = TypeVar("Row", Preference, BinaryLabel)
HELD_OUT = "held out: the prompt is used for evaluation"


def drop_held_out_demonstrations(
    rows: Iterable[Demonstration], held_out: Iterable[Prompt]
) -> tuple[list[Demonstration], list[Dropped]]:
    """The demonstrations whose prompt is not among `held_out` (or reads the same), and the others as dropped."""
    ids = {prompt_id(prompt.messages) for prompt in held_out}
    kept, dropped = [], []
    for row in rows:
        if prompt_id(row.messages) in ids:
            dropped.append(Dropped("demonstration", row.where, HELD_OUT))
        else:
            kept.append(row)
    return kept, dropped


def drop_held_out_preferences(
    rows: Iterable[Preference], held_out: Iterable[Prompt]
) -> tuple[list[Preference], list[Dropped]]:
    """The preferences whose prompt is not among `held_out` (or reads the same), and the others as dropped."""
    return _without(rows, held_out, "preference")


def drop_held_out_binary(
    rows: Iterable[BinaryLabel], held_out: Iterable[Prompt]
) -> tuple[list[BinaryLabel], list[Dropped]]:
    """The binary labels whose prompt is not among `held_out` (or reads the same), and the others as dropped."""
    return _without(rows, held_out, "binary label")


def _without(rows: Iterable[Row], held_out: Iterable[Prompt], what: str) -> tuple[list[Row], list[Dropped]]:
    ids = {prompt_id(prompt.messages) for prompt in held_out}
    kept, dropped = [], []
    for row in rows:
        if prompt_id(row.messages) in ids:
            dropped.append(Dropped(what, row.id, HELD_OUT))
        else:
            kept.append(row)
    return kept, dropped
