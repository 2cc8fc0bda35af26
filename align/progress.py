"""How far long work is: what is told of it, how long it will still take, and the line that people read."""

import math
import time
from collections.abc import Callable
from typing import Protocol

from align.figures import duration

SEEN_SECONDS = 3.0
"""Before somebody has watched for so long, nothing is said of the time left."""
SEEN_STEPS = 2


class Progress(Protocol):
    """Hears that `done` of `total` steps are done, and what there is to say of them besides, such as "loss 0.6931"."""

    def __call__(self, done: int, total: int, said: str = "") -> None: ...


class TimeLeft:
    """Estimates how long work will still take, by the steps that were seen done: not the first, in which much is warmed
    up, nor those of before a kill."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or time.monotonic
        self._first: tuple[int, float] | None = None
        self._at = (0, 0)

    def seconds(self, done: int, total: int) -> float | None:
        """None where that is not known yet, or nothing is left. Other work (another total, fewer steps done) starts
        again."""
        if self._first is None or total != self._at[1] or done < self._at[0]:
            self._first = done, self._clock()
        self._at = done, total
        steps, spent = done - self._first[0], self._clock() - self._first[1]
        if done >= total or steps < SEEN_STEPS or spent < SEEN_SECONDS:
            return None
        return spent / steps * (total - done)


def besides(said: str, left: float | None) -> str:
    """What stands behind a count: what is said of the work, and the time left where it is known.

    >>> besides("loss 0.6931", 75), besides("", 3.2), besides("", None)
    ('loss 0.6931; about 1 min 15 s left', 'about 4 s left', '')
    """
    whole = None if left is None else math.ceil(left)
    about = "" if whole is None else f"{whole} s" if whole < 60 else duration(whole)
    return "; ".join(part for part in (said, f"about {about} left" if about else "") if part)


def line(name: str, done: int, total: int, said: str, left: float | None) -> str:
    """
    >>> line("dpo", 3, 40, "loss 0.6931", 75)
    'dpo: 3 of 40; loss 0.6931; about 1 min 15 s left'
    """
    rest = besides(said, left)
    return f"{name}: {done} of {total}" + (f"; {rest}" if rest else "")
