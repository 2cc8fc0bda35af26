"""The seam behind which every judge of answers stands: a function, a reward model, an ensemble."""

from collections.abc import Sequence
from typing import Protocol

from align.types import Message

NO_SCORE = "it cannot be scored"


class Scorer(Protocol):
    """Scores answers; higher is better, in units of its own."""

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """One finite score for each `answers[i]` to the conversation `prompts[i]`, in that order.

        None is an answer that cannot be scored; callers count it and never take it for a tie or a zero.
        Raises DataError where scoring fails.
        """
        ...


def explain(scorer: Scorer, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
    """For each answer its score, or the reason why there is none, as `scorer` gives it where it gives any."""
    own = getattr(scorer, "explain", None)
    if own is not None:
        return list(own(prompts, answers))
    return [NO_SCORE if value is None else value for value in scorer.score(prompts, answers)]


def scores_in(explained: Sequence[float | str]) -> list[float | None]:
    """The scores among what an `explain` gives: for each answer a float, or the reason why there is none."""
    return [value if isinstance(value, float) else None for value in explained]
