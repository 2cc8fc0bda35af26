"""What went no further: counted by reason, and said at once where it is the most."""

from collections import Counter
from collections.abc import Iterable, Mapping

from align.types import Dropped

NAMED = 4
"""So many reasons are named; the rows of the others are counted."""
WAYS_OUT = {
    "longer than max_prompt_tokens": "raise max_prompt_tokens, or give shorter prompts",
    "longer than max_tokens": "raise max_tokens, or give shorter rows",
    "longer than the model's context": "give shorter rows, or take a model with a longer context",
    "duplicate": "give other rows, or take the repeated ones out of the file",
    "held out": "give rows about other prompts, or lower prompts.test_share",
    "the same answer as": "raise the temperature, or max_resamples",
}
"""How the most frequent reason begins → what to do about it."""


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """How many rows went for each kind of reason (its words before the colon), the most frequent first."""
    return dict(Counter(row.reason.split(":")[0] for row in dropped).most_common())


def reasons_text(reasons: Mapping[str, int]) -> str:
    """
    >>> reasons_text({"held out": 1, "duplicate": 1200})
    '1,200 × duplicate, 1 × held out'
    """
    most = Counter(reasons).most_common()
    rest = sum(count for _, count in most[NAMED:])
    return ", ".join([f"{n:,} × {why}" for why, n in most[:NAMED]] + ([f"{rest:,} for other reasons"] if rest else []))


def mostly_dropped(what: str, kept: int, reasons: Mapping[str, int]) -> str | None:
    """A sentence where more rows were dropped, by reason, than kept: how many, why, and the way out; else None.

    >>> mostly_dropped("binary label", 3, {"longer than max_tokens (64)": 5})
    '5 of 8 binary labels were dropped: 5 × longer than max_tokens (64); raise max_tokens, or give shorter rows'
    """
    lost = sum(reasons.values())
    if lost <= kept:
        return None
    most = Counter(reasons).most_common(1)[0][0]
    way_out = next(
        (way for begins, way in WAYS_OUT.items() if most.startswith(begins)), "docs/files.md lists the reasons"
    )
    return f"{lost:,} of {lost + kept:,} {what}s were dropped: {reasons_text(reasons)}; {way_out}"
