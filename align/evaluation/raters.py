"""The interval of a mean over judgements that speaks of prompts and people like these, not of these few people alone.

Three people who lean by ten points each way agree with their own average however many labels they give, and it may be
six points off. So people are drawn again as well as prompts.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from align.errors import DataError
from align.evaluation import statistics

FEW = 5
"""With fewer raters an interval is wide whatever the number of labels, and rests on their leanings being normal."""
MANY = 60
"""Degrees of freedom from which on a series is exact to six digits."""


@dataclass(frozen=True, slots=True)
class RaterInterval:
    """The mean of `n` judgements, and the bounds of its confidence interval over prompts and people like these.

    `error` is the standard error with `freedom` degrees of freedom; `between` is the standard deviation of what the
    raters' own means would be with endless labels, 0 where labels alone explain how they differ.
    """

    mean: float
    low: float
    high: float
    n: int
    prompts: int
    raters: int
    error: float
    freedom: float
    between: float

    @property
    def few(self) -> bool:
        """Whether more people would do more than more labels."""
        return self.raters < FEW


def rater_interval(
    values: Sequence[float], prompts: Sequence[Hashable], raters: Sequence[Hashable], *, level: float = 0.95
) -> RaterInterval:
    """The mean of `values`, one for each judgement of a prompt by a rater, with a two-sided t interval.

    The variance is that of the two-way clustered sandwich (Cameron, Gelbach & Miller 2011), each way by the jackknife:
    between raters, plus between prompts, less what both count; it is at least what prompts alone give. Its degrees of
    freedom are Satterthwaite's, and never fewer than raters less one. `benchmarks/intervals.py` measures how often it holds the truth.

    Raises DataError for no values, values that are not finite, and fewer than two prompts or raters.
    """
    import numpy as np

    if not len(values) == len(prompts) == len(raters):
        raise DataError(f"{len(values)} values came with {len(prompts)} prompts and {len(raters)} raters")
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise DataError(f"value {int(np.flatnonzero(~np.isfinite(x))[0])} is not a finite number")
    of_prompts, of_raters = _jackknife(x, prompts), _jackknife(x, raters)
    for found, what in ((of_prompts, "prompt"), (of_raters, "rater")):
        if found[1] < 2:
            raise DataError(
                f"an interval over people like these needs at least two {what}s, found {found[1]}",
                hint=f"let another {what} in" if what == "rater" else "judge more prompts",
            )
    mean, n = float(x.mean()), len(x)
    alone = float(((x - mean) ** 2).sum() / n / (n - 1))
    (by_prompt, many_prompts), (by_rater, many_raters) = of_prompts, of_raters
    more = max(by_prompt - alone, 0.0)
    variance = max(by_rater + more, by_prompt)
    freedom = _freedom(variance, [(by_rater, many_raters - 1), (more, many_prompts - 1)])
    half = math.sqrt(variance) * t_quantile((1 + level) / 2, freedom)
    between = math.sqrt(max(by_rater - alone, 0.0) * many_raters)
    return RaterInterval(
        mean, mean - half, mean + half, n, many_prompts, many_raters, math.sqrt(variance), freedom, between
    )


def _jackknife(x: Any, names: Sequence[Hashable]) -> tuple[float, int]:
    """The variance of the mean of `x` by leaving out one cluster after the other, and the number of clusters."""
    import numpy as np

    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(name, len(order)) for name in names], dtype=np.int64)
    k = len(order)
    if k < 2:
        return 0.0, k
    sums, counts = np.bincount(index, weights=x), np.bincount(index)
    others = (sums.sum() - sums) / (counts.sum() - counts)
    return float((k - 1) / k * ((others - others.mean()) ** 2).sum()), k


def _freedom(variance: float, parts: Sequence[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a variance that has `parts`, each with its own, the first with the least."""
    spread = sum(part**2 / freedom for part, freedom in parts)
    return min(max(variance**2 / spread if spread > 0 else 0.0, float(parts[0][1])), 1e6)


def t_quantile(p: float, freedom: float) -> float:
    """Student's t quantile for `p` in [0.5, 1) and `freedom` ≥ 1; between whole degrees it is linear in 1/`freedom`."""
    if freedom > MANY:
        return statistics.t_quantile(p, freedom)
    below = math.floor(freedom)
    if below == freedom:
        return _whole_t_quantile(p, below)
    low, high = _whole_t_quantile(p, below), _whole_t_quantile(p, below + 1)
    return high + (low - high) * (1 / freedom - 1 / (below + 1)) / (1 / below - 1 / (below + 1))


@lru_cache(maxsize=1024)
def _whole_t_quantile(p: float, freedom: int) -> float:
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_probability(t: float, freedom: int) -> float:
    """The probability that Student's t with whole degrees of freedom is at most `t` (Abramowitz & Stegun 26.7.3, 4)."""
    angle = math.atan(t / math.sqrt(freedom))
    square, odd = math.cos(angle) ** 2, freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return 0.5 + inside / 2
