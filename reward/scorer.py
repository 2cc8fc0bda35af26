"""The seam behind which every judge of answers stands: a function, a reward model, an ensemble."""

from collections.abc import Sequence
from typing import Protocol

from align.types import Message


class Scorer(Protocol):
    """Scores answers; higher is better, in units of its own."""

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """One finite score for each `answers[i]` to the conversation `prompts[i]`, in that order.

        None is an answer that cannot be scored; callers count it and never take it for a tie or a zero.
        Raises DataError where scoring fails.
        """
        ...
