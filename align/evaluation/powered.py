"""A win rate from many verdicts of a judge and few judgements of people: prediction-powered inference."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from align.errors import DataError
from align.evaluation.raters import t_quantile

FEW_PROMPTS = 20
"""Below as many prompts with both, the judge cannot be held against people."""
WORTH = 0.95
"""A judge that leaves the interval wider than this share of people's own is of no use."""


@dataclass(frozen=True, slots=True)
class Powered:
    """People's win rate (`mean` with its 95% interval over prompts) by both, and by people alone (`people_*`).

    `judge` is the judge's own win rate on all prompts, `bias` how far it lies above people's where both judged;
    `correlation` that of their verdicts, with its interval, `weight` how much the judge's verdicts count (0 to 1);
    `width` the width of the interval over that of people alone. `useless` says why the judge does not help, or is None.
    """

    mean: float
    low: float
    high: float
    people_mean: float
    people_low: float
    people_high: float
    judge: float
    bias: float
    correlation: float
    correlation_low: float
    correlation_high: float
    weight: float
    width: float
    prompts: int
    judged: int
    useless: str | None


def powered(people: Mapping[str, float], judge: Mapping[str, float], *, level: float = 0.95) -> Powered:
    """People's mean over all prompts that the judge judged, of which people judged some, drawn at random.

    Both map a prompt to the mean of its values in [0, 1]: a prompt is one observation, however many judged it. The
    estimate is λ·(judge on all) + (people − λ·judge on the prompts of both), with the λ that makes it narrowest
    (Angelopoulos, Duchi & Zrnic 2023, "PPI++"), cut to [0, 1]; with a judge that knows nothing λ is 0 and it is
    people's own. It is right whatever the judge's bias. Raises DataError where fewer than two prompts have both.
    """
    import numpy as np

    both = sorted(people.keys() & judge.keys())
    if len(both) < 2:
        raise DataError(
            f"people and the judge share {len(both)} prompts, and an interval needs two", hint="have people judge more"
        )
    y, f = (np.array([side[prompt] for prompt in both]) for side in (people, judge))
    rest = np.array([judge[prompt] for prompt in sorted(judge.keys() - people.keys())])
    n, more = len(both), len(rest)
    everything = np.concatenate([f, rest])
    covariance, variance = float(np.cov(y, f)[0, 1]), float(everything.var(ddof=1))
    # with the judge on the other prompts alone as the large sample, the two parts are independent
    weight = min(max(covariance / variance / (1 + n / more), 0.0), 1.0) if variance > 0 and more > 1 else 0.0
    left = y - weight * f
    mean = float(left.mean() + (weight * rest.mean() if weight else 0.0))
    error = math.sqrt(float(left.var(ddof=1)) / n + (weight**2 * float(rest.var(ddof=1)) / more if weight else 0.0))
    alone = math.sqrt(float(y.var(ddof=1)) / n)
    quantile = t_quantile((1 + level) / 2, float(n - 1))
    low, high = _correlation(float(np.corrcoef(y, f)[0, 1]) if y.std() > 0 and f.std() > 0 else 0.0, n, level)
    correlation = float(np.corrcoef(y, f)[0, 1]) if y.std() > 0 and f.std() > 0 else 0.0
    width = error / alone if alone > 0 else 1.0
    return Powered(
        mean, mean - quantile * error, mean + quantile * error,
        float(y.mean()), float(y.mean()) - quantile * alone, float(y.mean()) + quantile * alone,
        float(everything.mean()), float(f.mean() - y.mean()), correlation, low, high, weight, width, n, len(everything),
        _useless(n, low, width),
    )  # fmt: skip


def agreement(people: Mapping[str, float], judge: Mapping[str, float]) -> tuple[int, int]:
    """(alike, compared): on how many of the prompts on which both prefer an answer they prefer the same."""
    both = [(people[p] - 0.5, judge[p] - 0.5) for p in people.keys() & judge.keys()]
    told = [(a, b) for a, b in both if a and b]
    return sum((a > 0) == (b > 0) for a, b in told), len(told)


def _correlation(r: float, n: int, level: float) -> tuple[float, float]:
    """Fisher's interval of a correlation."""
    if n < 4:
        return -1.0, 1.0
    middle, half = (
        math.atanh(min(max(r, -0.999999), 0.999999)),
        NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(n - 3),
    )
    return math.tanh(middle - half), math.tanh(middle + half)


def _useless(n: int, low: float, width: float) -> str | None:
    if n < FEW_PROMPTS:
        return (
            f"only {n} prompts were judged by people too, and {FEW_PROMPTS} are needed to hold the judge against them"
        )
    if low <= 0:
        return "its verdicts may have nothing to do with people's"
    if width > WORTH:
        return "the interval is hardly narrower than that of people alone"
    return None
