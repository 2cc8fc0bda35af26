"""Chance-corrected agreement with bootstrap intervals: Krippendorff's alpha, Fleiss' and Cohen's kappa.

All come from sums that add up over prompts, so that a bootstrap over prompts is one matrix product.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Level = Literal["nominal", "ordinal"]
DRAWS = 2_000
"""Bootstrap resamples of whole prompts."""
MOST_CLUSTERS = 1_000
"""Of more prompts, so many bundles of them are resampled, which has the same variance."""


@dataclass(frozen=True)
class Values:
    """V answers: to which unit (what was judged) of which prompt each belongs, and its category, an index of C."""

    unit: Array
    prompt: Array
    value: Array
    categories: int


@dataclass(frozen=True)
class Sums:
    """For each of P prompts, over its units that have two values or more: how many units, the sum of the shares of
    agreeing pairs of values, and the coincidences [P, C, C] (Krippendorff 2011)."""

    units: Array
    agreeing: Array
    coincidences: Array


Statistic = Callable[[Array, Array, Array], Array]
"""Of `Sums`' three, with any leading dimensions; NaN where it is undefined."""


def sums(values: Values) -> Sums:
    """Prompts without such a unit are left out; the order is that of the prompts' numbers."""
    _, unit = np.unique(values.unit, return_inverse=True)
    count = int(unit.max(initial=-1)) + 1
    n = np.zeros((count, values.categories))
    np.add.at(n, (unit, values.value), 1)
    prompt = np.zeros(count, np.int64)
    prompt[unit] = values.prompt
    m = n.sum(1)
    n, prompt, m = n[m > 1], prompt[m > 1], m[m > 1]
    pairs = n[:, :, None] * n[:, None, :] - n[:, :, None] * np.eye(values.categories)
    coincidences = pairs / (m - 1)[:, None, None]
    agreeing = np.trace(pairs, axis1=1, axis2=2) / (m * (m - 1))
    _, cluster = np.unique(prompt, return_inverse=True)
    size = int(cluster.max(initial=-1)) + 1
    total = np.zeros((size, values.categories, values.categories))
    np.add.at(total, cluster, coincidences)
    return Sums(np.bincount(cluster, minlength=size).astype(float), np.bincount(cluster, agreeing, size), total)


def percent(units: Array, agreeing: Array, coincidences: Array) -> Array:
    """The mean over units of the share of pairs of values that are the same."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return agreeing / units


def alpha(level: Level) -> Statistic:
    """Krippendorff's: 1 − (n − 1) Σ o_ck δ²_ck / Σ n_c n_k δ²_ck (2011, "Computing Krippendorff's Alpha-Reliability").

    δ² is 1 for different nominal values; for ordinal ones (Σ_{g=c..k} n_g − (n_c + n_k)/2)².
    """

    def of(units: Array, agreeing: Array, coincidences: Array) -> Array:
        n = coincidences.sum(-1)
        total = n.sum(-1)
        if level == "nominal":
            distance = np.broadcast_to(1 - np.eye(n.shape[-1]), coincidences.shape)
        else:
            middle = np.cumsum(n, -1) - n / 2
            distance = (middle[..., :, None] - middle[..., None, :]) ** 2
        observed = (coincidences * distance).sum((-1, -2))
        expected = (n[..., :, None] * n[..., None, :] * distance).sum((-1, -2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(expected > 0, 1 - (total - 1) * observed / expected, np.nan)

    return of


def fleiss(units: Array, agreeing: Array, coincidences: Array) -> Array:
    """Fleiss' kappa (1971), for units of different numbers of values: (P̄ − P_e) / (1 − P_e)."""
    n = coincidences.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = ((n / n.sum(-1, keepdims=True)) ** 2).sum(-1)
        return np.where(chance < 1, (agreeing / units - chance) / (1 - chance), np.nan)


def cohen(units: Array, agreeing: Array, table: Array) -> Array:
    """Cohen's kappa (1960) of two annotators' contingency table [..., C, C], first by second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = table / table.sum((-1, -2), keepdims=True)
        observed = np.trace(share, axis1=-2, axis2=-1)
        chance = (share.sum(-1) * share.sum(-2)).sum(-1)
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def estimate(found: Sums, statistic: Statistic, *, undefined: str) -> dict[str, Any]:
    """{value, low, high} with a 95% percentile interval from resampling prompts, or {value: None, reason}."""
    value = float(statistic(found.units.sum(), found.agreeing.sum(), found.coincidences.sum(0)))
    if math.isnan(value):
        return {"value": None, "reason": undefined}
    parts = (found.units, found.agreeing, found.coincidences)
    draws = statistic(*resample(parts))
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975]).tolist()
    return {"value": value, "low": low, "high": high}


def resample(parts: Sequence[Array]) -> list[Array]:
    """Sums of DRAWS bootstrap samples of the rows (clusters) of `parts`; the same rows give the same draws."""
    count = len(parts[0])
    if count > MOST_CLUSTERS:
        bundle = np.arange(count) % MOST_CLUSTERS
        bundled = []
        for part in parts:
            total = np.zeros((MOST_CLUSTERS, *part.shape[1:]))
            np.add.at(total, bundle, part)
            bundled.append(total)
        parts, count = bundled, MOST_CLUSTERS
    weights = _weights(count)
    return [(weights @ part.reshape(count, -1)).reshape(DRAWS, *part.shape[1:]) for part in parts]


@lru_cache(maxsize=16)
def _weights(count: int) -> Array:
    """How often each of `count` clusters is drawn, [DRAWS, count]."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)
