"""The win rate that answers of equal length would have: AlpacaEval 2's length control, with an interval."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import DataError

STEPS = 50
MOST_SLOPE = 20.0
"""A coefficient beyond it means that length alone tells wins from losses, and the fit has no end."""


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """`mean` is the win rate at equal lengths with its 95% interval over clusters; `per_deviation` the change of the
    log-odds of winning where the new answer is far longer (the coefficient of tanh of the standardised difference)."""

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    per_deviation: float


def length_controlled(
    values: Sequence[float], differences: Sequence[float], clusters: Sequence[Hashable]
) -> LengthControlled:
    """Logistic regression of `values` (1 the new answer wins, 0 it loses, ½ a tie) on tanh(d / s), where d are the new
    answers' lengths less the others' and s is the standard deviation of d; what is returned is the fit at d = 0.

    That is the model of Dubois et al. (2024), "Length-Controlled AlpacaEval", without its term for the difficulty of
    an instruction, which takes many models' answers to fit (their `length_controlled_minimal`). The interval is from
    the sandwich variance over clusters (prompts). Raises DataError for fewer than two clusters, values all alike, and
    where length alone tells wins from losses.
    """
    import numpy as np

    if not len(values) == len(differences) == len(clusters):
        raise DataError(
            f"{len(values)} values came with {len(differences)} differences of length and {len(clusters)} clusters"
        )
    y, d = np.asarray(values, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(name, len(order)) for name in clusters], dtype=np.int64)
    k = len(order)
    if k < 2:
        raise DataError("a length-controlled win rate needs at least two prompts", hint="evaluate on more prompts")
    if (y == y[0]).all() and y[0] != 0.5:
        raise DataError("all comparisons came out alike, so nothing can be said about length")
    spread = d.std(ddof=1)
    x = np.column_stack([np.ones_like(d), np.tanh(d / spread) if spread > 0 else np.zeros_like(d)])
    fit = _fitted(x, y, slope=bool(spread > 0))
    p = 1 / (1 + np.exp(-x @ fit))
    columns = [0, 1] if spread > 0 else [0]
    z = x[:, columns]
    inverse = np.linalg.inv((z * (p * (1 - p))[:, None]).T @ z)
    scores = np.zeros((k, len(columns)))
    np.add.at(scores, index, z * (y - p)[:, None])
    error = math.sqrt(float((inverse @ (scores.T @ scores) @ inverse)[0, 0]) * k / (k - 1))
    low, mean, high = (1 / (1 + math.exp(-(float(fit[0]) + side * 1.96 * error))) for side in (-1, 0, 1))
    return LengthControlled(mean, low, high, len(y), k, float(fit[1]))


def _fitted(x: Any, y: Any, *, slope: bool) -> Any:
    """The coefficients by Newton's method; the second is 0 where there is no `slope` to fit."""
    import numpy as np

    columns = [0, 1] if slope else [0]
    z, fit = x[:, columns], np.zeros(len(columns))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-z @ fit))
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + 1e-12 * np.eye(len(columns)), z.T @ (y - p))
        fit = fit + np.clip(step, -5, 5)
        if np.abs(fit).max() > MOST_SLOPE:
            raise DataError("length alone tells wins from losses, so a win rate at equal lengths cannot be known")
        if np.abs(step).max() < 1e-10:
            break
    return np.append(fit, [0.0] * (2 - len(columns)))
