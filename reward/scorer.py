"""The seam behind which every judge of answers stands: a function, a check, a reward model, an ensemble, a judge
model."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from align.types import Message


@runtime_checkable
class Scorer(Protocol):
    """Scores answers; higher is better, in units of its own."""

    @property
    def id(self) -> str:
        """A content id that changes with what the scorer says of answers."""
        ...

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """One finite score for each `answers[i]` to the conversation `prompts[i]`, in that order.

        None is an answer that cannot be scored; callers count it and never take it for a tie or a zero.
        Raises DataError where scoring fails.
        """
        ...

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """As `score`, with the reason in place of None."""
        ...

    def close(self) -> None:
        """Free what it holds: a model's memory, processes. It is not asked again."""
        ...


class RewardModelScorer(Scorer, Protocol):
    """A Scorer that is a reward model: it tells the numbers behind a score too."""

    def outputs(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[list[float] | str]:
        """For each answer all the numbers that there are: one, or one for each member of an ensemble; or the reason why
        there is none."""
        ...


def scores_in(explained: Sequence[float | str]) -> list[float | None]:
    """The scores among what an `explain` gives: for each answer a float, or the reason why there is none."""
    return [value if isinstance(value, float) else None for value in explained]
