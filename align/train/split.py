"""Which prompts a training leaves out, to be measured on their rows while it learns from the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from align.errors import DataError
from align.ids import unit_for
from align.sampled import Sampled
from align.types import Dropped, Message, prompt_id

Row = TypeVar("Row")
Encoded = TypeVar("Encoded")
FEWEST_PROMPTS = 2
"""Of one prompt alone there is no interval."""


def is_held_out(prompt: str, share: float) -> bool:
    """Whether a training leaves the rows of the prompt with this id out, to be measured on them.

    By a hash of its own, the same for policies and reward models: the rows are of prompts that a round trains on, all
    on one side of the round's split.
    """
    return unit_for("reward held out", prompt) < share


def outcome(told: Mapping[str, Any]) -> str | None:
    """What became of a training whose held-out rows were measured, in a sentence; None where the last step is
    published."""
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
    """The id of a conversation's beginning, its first question included: what is asked later in it is on the same
    side."""
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
    sampled: Sampled,
) -> Apart[Encoded]:
    """`rows` as `encode` makes tokens of them, divided by the ids of their `prompts`; `where` names the share's key.
    `sampled`, with which `encode` works, counts what is learned from alone.

    Raises DataError where too little would be left: nothing to learn from, or fewer than two prompts to measure on.
    """
    if share == 0:
        kept, dropped = encode(rows)
        return Apart(kept, [], [], dropped)
    aside = [is_held_out(prompt, share) for prompt in prompts]
    places = [place for place, held in enumerate(aside) if not held]
    learned, dropped = encode([rows[place] for place in places])
    found = Apart(learned, list[Encoded](), list[str](), [_at(row, places) for row in dropped])
    for place in (place for place, held in enumerate(aside) if held):  # one by one, to know which prompt is whose
        with sampled.uncounted():
            kept, dropped = encode([rows[place]])
        found.dropped.extend(_at(row, [place]) for row in dropped)
        found.measured.extend(kept)
        found.prompts.extend([prompts[place]] * len(kept))
    if (measured := len(set(found.prompts))) < FEWEST_PROMPTS or not found.learned:
        what = f"of {len(set(prompts))} prompts {measured} are held out, and {len(found.learned)} rows are left to learn from"
        raise DataError(what, where=where, hint="give more prompts, or another share")
    return found


def _at(row: Dropped, places: Sequence[int]) -> Dropped:
    """A dropped row whose number among some rows is made its number among all of them, at `places`; an id stays."""
    _, _, number = row.where.partition("row ")
    return replace(row, where=f"row {places[int(number) - 1] + 1}") if number.isdecimal() else row
