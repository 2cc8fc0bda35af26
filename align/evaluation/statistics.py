"""Intervals for means over prompts, honest about two answers to one prompt not being two independent observations."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from align.errors import DataError
from align.ids import seed_for

BLOCK = 1 << 22
"""Resampled clusters held in memory at once (32 MiB of indices)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over `n` values in `clusters` clusters, with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int


def clustered_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    level: float = 0.95,
    draws: int = 10_000,
) -> Interval:
    """The mean of `values` with a two-sided bootstrap interval; whole clusters (prompts) are drawn, with replacement.

    It is the expanded percentile interval of Hesterberg (2015): the plain percentile interval of a mean is too narrow
    by the factor sqrt((k - 1) / k) and by normal instead of t quantiles for k clusters, so its tails are moved out to
    Phi(-sqrt(k / (k - 1)) t). With 10 clusters that covers about 0.94 where the plain one covers about 0.90; from 100
    on they agree. The same values, clusters and seed give the same interval.

    Raises DataError for no values, for a value that is not finite, and for a single cluster, which has no interval.
    """
    import numpy as np

    if not 0 < level < 1 or draws < 100:
        raise ValueError(f"level must lie in (0, 1) and draws be at least 100, found {level} and {draws}")
    sums, counts = _by_cluster(values, clusters)
    k = len(sums)
    rng = np.random.default_rng(seed_for("bootstrap", seed))
    means = np.empty(draws)
    rows = max(1, BLOCK // k)
    for start in range(0, draws, rows):
        picked = rng.integers(0, k, size=(min(rows, draws - start), k))
        means[start : start + rows] = sums[picked].sum(axis=1) / counts[picked].sum(axis=1)
    tail = NormalDist().cdf(-math.sqrt(k / (k - 1)) * t_quantile((1 + level) / 2, k - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    mean = float(sums.sum() / counts.sum())
    # Rounding in another order of adding must not put the mean a last digit outside its own interval.
    return Interval(mean, min(float(low), mean), max(float(high), mean), int(counts.sum()), k)


def paired_difference(
    new: Sequence[float],
    old: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
    level: float = 0.95,
    draws: int = 10_000,
) -> Interval:
    """The mean of `new[i] - old[i]` with its clustered interval; positive means that `new` is larger."""
    if len(new) != len(old):
        raise DataError(f"{len(new)} new values cannot be paired with {len(old)} old ones")
    differences = [a - b for a, b in zip(new, old, strict=True)]
    return clustered_bootstrap(differences, clusters, seed=seed, level=level, draws=draws)


def independent_difference(new: Interval, old: Interval) -> Interval:
    """`new` less `old`, of two samples that share no cluster, with its interval; positive means that `new` is larger.

    The interval is put together from the two (Zou & Donner 2008, "Construction of confidence limits about effect
    measures"; of proportions Newcombe's tenth method): each bound takes from either side the distance to the bound that
    matters, so it is as lopsided as they are. `n` and `clusters` are those of both.
    """
    mean = new.mean - old.mean
    low = mean - math.hypot(new.mean - new.low, old.high - old.mean)
    high = mean + math.hypot(new.high - new.mean, old.mean - old.low)
    return Interval(mean, low, high, new.n + old.n, new.clusters + old.clusters)


def t_quantile(p: float, freedom: float) -> float:
    """Student's t quantile by the Cornish-Fisher series (Abramowitz and Stegun 26.7.5).

    Within 0.5 % for 3 degrees of freedom and more at p = 0.975; for 1 and 2 it is too small, which does not matter
    to the bootstrap above: its tail is then below one draw in 10,000 either way.
    """
    z, v = NormalDist().inv_cdf(p), freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


def _by_cluster(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[Any, Any]:
    """Sum and number of values of each cluster, in order of first appearance; float64 arrays."""
    import numpy as np

    if len(values) != len(clusters):
        raise DataError(f"{len(values)} values came with {len(clusters)} cluster names")
    if len(values) == 0:
        raise DataError("there is nothing to average: no values were given")
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"value {place} of cluster {clusters[place]!r} is {array[place]}, not a finite number")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(c, len(order)) for c in clusters])
    if len(order) == 1:
        raise DataError(
            f"all {len(values)} values belong to one cluster ({clusters[0]!r}), so there is no interval",
            hint="evaluate on at least two prompts",
        )
    return np.bincount(index, weights=array), np.bincount(index).astype(np.float64)
