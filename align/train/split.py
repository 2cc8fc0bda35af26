"""Which prompts a training leaves out, to be measured on their rows while it learns from the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from align.errors import DataError
from align.ids import unit_for
from align.types import Dropped, Message, prompt_id

Row = TypeVar("Row")
Encoded = TypeVar("Encoded")
FEWEST_PROMPTS = 2
"""Of one prompt alone there is no interval."""


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a training leaves the rows of the prompt with this id out, to be measured on them.

    By a hash of its own, the same for policies and reward models: the rows are of prompts that a round trains on, all on
    one side of the round's split.
    """
    return unit_for("reward held out", prompt) < share


def outcome(told: Mapping[str, Any]) -> str | None:
    """What became of a training whose held-out rows were measured, in a sentence; None where the last step is published."""
    if told["published_step"] == told["last_step"]:
        return None
    ended = f"stopped early, after {told['last_step']} of {told['planned_steps']} steps"
    if not told["stopped_early"]:
        ended = f"went through all {told['planned_steps']} steps"
    return (
        f"training {ended}; what is published is the model as it was after {told['published_step']}, where the held-out "
        f"loss was lowest ({told['after']['loss']:.4g}; before training {told['before']['loss']:.4g})"
    )


def opening(messages: Sequence[Message]) -> str:
    """The id of a conversation's beginning, its first question included: what is asked later in it is on the same side."""
    first = next((n for n, message in enumerate(messages) if message["role"] == "user"), len(messages) - 1)
    return prompt_id(list(messages[: first + 1]))


@dataclass(frozen=True, slots=True)
class Apart(Generic[Encoded]):
    """Encoded rows to learn from and to measure on, the `prompts` of the latter, and the rows that were dropped."""

    learned: list[Encoded]
    measured: list[Encoded]
    prompts: list[str]
    dropped: list[Dropped]


def encoded_apart(
    encode: Callable[[Sequence[Row]], tuple[list[Encoded], list[Dropped]]],
    rows: Sequence[Row],
    prompts: Sequence[str],
    share: float,
    where: str,
) -> Apart[Encoded]:
    """`rows` as `encode` makes tokens of them, divided by the ids of their `prompts`; `where` names the share's key.

    Raises DataError where too little would be left: nothing to learn from, or fewer than two prompts to measure on.
    """
    if share == 0:
        kept, dropped = encode(rows)
        return Apart(kept, [], [], dropped)
    found: Apart[Encoded] = Apart([], [], [], [])
    for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True), 1):
        kept, dropped = encode([row])
        found.dropped.extend(replace(refused, where=f"row {number}") for refused in dropped)
        if is_held_out(prompt, share):
            found.measured.extend(kept)
            found.prompts.extend([prompt] * len(kept))
        else:
            found.learned.extend(kept)
    if (measured := len(set(found.prompts))) < FEWEST_PROMPTS or not found.learned:
        what = f"of {len(set(prompts))} prompts {measured} are held out, and {len(found.learned)} rows are left to learn from"
        raise DataError(what, where=where, hint="give more prompts, or another share")
    return found
