"""Evidence for a mean above a threshold, as an e-value: right at every look, however often one looks and whenever one
stops.

If the mean is not above the threshold, the evidence exceeds 1/α at any time in a sequence of looks with probability α
at most (Ville 1939). It is the wealth of somebody who bets on each value in turn (Waudby-Smith & Ramdas 2024,
"Estimating means of bounded random variables by betting"), averaged over how much is bet (Robbins 1970).
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any

SHAPE = 5.0
"""Bets are drawn from a Beta(SHAPE, SHAPE), cut to those for the alternative: it expects small differences. With 1 to
20 the median number of labels to see a rate of 0.6 is 180 to 200 (`benchmarks/gate.py`)."""
BETS = 199


@lru_cache(maxsize=1)
def _bets() -> tuple[Any, Any]:
    """Shares of what may be bet, in (0, 1), and the logarithms of their weights."""
    import numpy as np

    shares = (np.arange(BETS) + 0.5) / BETS
    weights = ((1 + shares) * (1 - shares)) ** (SHAPE - 1)
    return shares, np.log(weights / weights.sum())


def log_evidence(values: Iterable[float], *, above: float = 0.5) -> float:
    """The natural logarithm of the e-value against "the mean of `values` is at most `above`", with 0 < `above` < 1.

    `values` lie in [0, 1] and are independent, or each has a mean of at most `above` given those before it: one value
    for each prompt (`by_prompt`), not one for each judgement.
    """
    import numpy as np

    x = np.asarray(list(values), dtype=np.float64)
    if not (np.isfinite(x).all() and ((x >= 0) & (x <= 1)).all()):
        raise ValueError("values in [0, 1] are needed")
    if not 0 < above < 1:
        raise ValueError(f"a threshold between 0 and 1 is needed, found {above}")
    shares, weights = _bets()
    kinds, counts = np.unique(x, return_counts=True)
    wealth = weights + np.log1p(shares[:, None] * (kinds / above - 1)) @ counts
    most = float(wealth.max())
    return most + math.log(float(np.exp(wealth - most).sum()))


def by_prompt(values: Sequence[float], prompts: Sequence[Hashable]) -> list[float]:
    """The mean of each prompt's values, in the order in which prompts first appear."""
    found: dict[Hashable, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        found.setdefault(prompt, []).append(value)
    return [sum(some) / len(some) for some in found.values()]


def labels_for(rate: float, *, alpha: float) -> int:
    """About how many prompts with one label each give evidence of 1/`alpha` for a win rate of `rate` above one half.

    The rate of growth is that of the best bet (Kelly 1956), for wins and losses alone; what is added is the price of
    not knowing it. Ties make it more. Raises ValueError for a rate that is no improvement.
    """
    if not 0.5 < rate < 1:
        raise ValueError(f"a rate above one half is needed, found {rate}")
    growth = math.log(2) + rate * math.log(rate) + (1 - rate) * math.log(1 - rate)
    return math.ceil((math.log(1 / alpha) + 0.5) / growth)
