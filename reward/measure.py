"""A reward model on pairs whose order is known: accuracy, accuracy by slice, calibration."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from align.evaluation.pairs import by_group, order_accuracy
from align.train.split import is_held_out as is_held_out  # policies' trainings hold out the same prompts
from align.types import Preference
from reward.calibrate import calibration
from reward.scorer import RewardModelScorer

Slices = Mapping[str, Sequence[str | None]]
"""What pairs are sliced by → for each pair the name of its slice, None where it has none."""

LENGTHS = {0.5: "less than half as long", 0.9: "shorter", 1.1: "about as long", 2.0: "longer"}
"""The better answer's length over the worse one's, in characters: names of the ranges that end there."""
LONGEST = "more than twice as long"
CERTAIN = {0.75: "below 0.75", 0.95: "0.75 to 0.95"}
"""Of a pair's target: names of the ranges that end there."""
CLEAR = "0.95 and more"
ALONE, AGREED, DISAGREED = "one annotator", "all agreed", "they disagreed"
THIRDS = ("surest third", "middle third", "least sure third")
ORDER = [
    *LENGTHS.values(),
    LONGEST,
    *CERTAIN.values(),
    CLEAR,
    "first turn",
    "later turn",
    ALONE,
    AGREED,
    DISAGREED,
    *THIRDS,
]
"""The order in which slices are shown; those with names of other kinds come by name."""


def measure(
    preferences: Sequence[Preference],
    differences: Sequence[float | None],
    *,
    seed: int,
    slices: Slices,
    temperature: float | None = None,
    reasons: Sequence[str | None] = (),
) -> dict[str, Any]:
    """`order_accuracy` of all pairs; `unscored_reasons` says how many pairs have no score for each of `reasons` (of
    each pair, as `score_pairs` gives them); `slices` has the same of each slice, by what they slice, where that makes
    more than one of them; `calibration` is `reward.calibrate.calibration`, of pairs that are no ties and have scores.

    `differences` are `align.evaluation.pairs.score_differences`. A `temperature` must come from other pairs.
    """
    known = [(row, d) for row, d in zip(preferences, differences, strict=True) if d is not None and row.target != 0.5]
    found = {name: by_group(preferences, differences, groups, seed=seed) for name, groups in slices.items()}
    return {
        **order_accuracy(preferences, differences, seed=seed),
        "unscored_reasons": _counted(r for row, r in zip(preferences, reasons, strict=False) if row.target != 0.5),
        "slices": {name: _ordered(parts) for name, parts in found.items() if len(parts) > 1},
        "calibration": calibration(
            [d for _, d in known],
            [row.target for row, _ in known],
            [row.prompt_id for row, _ in known],
            seed=seed,
            temperature=temperature,
        ),
    }


def score_pairs(
    preferences: Sequence[Preference], scorer: RewardModelScorer
) -> tuple[list[float | None], list[str | None], dict[str, Any]]:
    """The score of `chosen` less that of `rejected` for each pair, None where one has none; why it has none; and how
    the scorer itself slices them: an ensemble by `doubt`, the standard deviation of its members' differences, in
    thirds."""
    messages = [row.messages for row in preferences]
    chosen, rejected = (
        scorer.outputs(messages, [getattr(p, side) for p in preferences]) for side in ("chosen", "rejected")
    )
    gaps = [
        None if isinstance(a, str) or isinstance(b, str) else [x - y for x, y in zip(a, b, strict=True)]
        for a, b in zip(chosen, rejected, strict=True)
    ]
    differences = [None if gap is None else fmean(gap) for gap in gaps]
    reasons = [_why(a, b) for a, b in zip(chosen, rejected, strict=True)]
    doubts = sorted((stdev(gap), place) for place, gap in enumerate(gaps) if gap is not None and len(gap) > 1)
    third = {place: THIRDS[3 * rank // len(doubts)] for rank, (_, place) in enumerate(doubts)}
    return differences, reasons, {"doubt": [third.get(place) for place in range(len(gaps))]} if doubts else {}


def _why(chosen: object, rejected: object) -> str | None:
    """Why a pair has no score, None where it has one; `chosen` and `rejected` are numbers, or a reason."""
    said = {f"{side}: {told}" for side, told in (("chosen", chosen), ("rejected", rejected)) if isinstance(told, str)}
    if isinstance(chosen, str) and isinstance(rejected, str) and _kind(chosen) == _kind(rejected):
        return f"both answers: {chosen}"
    return "; ".join(sorted(said)) or None


def _kind(reason: str) -> str:
    """A reason without this row's own numbers."""
    return re.sub(r" \([^()]*\)", "", reason)


def _counted(reasons: Iterable[str | None]) -> dict[str, int]:
    """How often each kind of reason is given, the most frequent first."""
    return dict(Counter(_kind(reason) for reason in reasons if reason is not None).most_common())


def slices_of(preferences: Sequence[Preference]) -> dict[str, list[str | None]]:
    """How pairs can be sliced by what they hold: `length` (of the better answer against the worse one), `turn` (the
    conversation's first question, or a later one), `target` (how sure the label is) and `round`."""
    return {
        "length": [_range(len(p.chosen) / max(1, len(p.rejected)), LENGTHS, LONGEST) for p in preferences],
        "turn": [_turn(p) for p in preferences],
        "target": [_range(p.target, CERTAIN, CLEAR) for p in preferences],
        "round": [f"round {p.round}" for p in preferences],
    }


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of `measure` that fit into a receipt."""
    kept = {name: result[name] for name in ("accuracy", "log_loss", "pairs", "unscored", "ties")}
    told = result["calibration"]
    return kept if told is None else {**kept, "temperature": told["temperature"], "ece": told["before"]["ece"]["value"]}


def _range(value: float, ends: Mapping[float, str], last: str) -> str:
    return next((name for end, name in ends.items() if value < end), last)


def _turn(row: Preference) -> str:
    return "later turn" if any(message["role"] == "assistant" for message in row.messages) else "first turn"


def _ordered(parts: dict[str, Any]) -> dict[str, Any]:
    others = sorted((name for name in parts if name not in ORDER), key=_natural)
    return {name: parts[name] for name in [*(name for name in ORDER if name in parts), *others]}


def _natural(name: str) -> list[tuple[int, str]]:
    """Round 10 comes behind round 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
