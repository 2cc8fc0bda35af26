"""What best-of-n would give, for every n at once, from one sample of answers to each prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import NDArray


def chances(scores: Sequence[float], n: int) -> NDArray:
    """How likely each of N sampled answers is the one that best-of-n takes: float64 [N], sums to 1.

    `scores` are those of N independent answers to one prompt, and 1 ≤ n ≤ N. A subset of n answers is drawn without
    replacement and its highest score wins; the i-th lowest answer is that one in C(i − 1, n − 1) of C(N, n) subsets.
    Equal scores share their chances. So `chances(scores, n) @ values` is an unbiased estimate of the expected value
    of best-of-n's answer, with the least variance that N answers allow (a U-statistic; Nakano et al. 2021, appendix
    I, and Gao et al. 2022). Raises ValueError for another n and for a score that is not finite.
    """
    import numpy as np

    array = np.asarray(scores, dtype=np.float64)
    if not 1 <= n <= len(array):
        raise ValueError(f"n must lie between 1 and the {len(array)} answers, found {n}")
    if not np.isfinite(array).all():
        raise ValueError(f"answer {int(np.flatnonzero(~np.isfinite(array))[0])} has no finite score")
    _, group, count = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # how many answers score at most this much
    chance = _ranks(len(array), n)
    up_to = np.concatenate([[0.0], np.cumsum(chance)])
    return ((up_to[last] - up_to[last - count]) / count)[group]


@lru_cache(maxsize=64)
def _ranks(samples: int, n: int) -> NDArray:
    """The chances of each rank, lowest first; in whole numbers until the end, since they pass any float."""
    import numpy as np

    subsets = math.comb(samples, n)
    return np.array([math.comb(rank, n - 1) / subsets for rank in range(samples)])


def kl_of_best(n: int) -> float:
    """KL(best-of-n ‖ policy) in nats where no two answers score the same: log n − (n − 1) / n.

    Where they can it is an upper bound (Beirami et al. 2024): best-of-n of a policy that has only k answers, all as
    likely, stays within log k of it, and this grows without end. `kl_with_ties` says how much that matters.
    """
    return math.log(n) - (n - 1) / n


def kl_with_ties(scores: Sequence[float], n: int) -> float:
    """KL(best-of-n ‖ policy) in nats of a policy that gives each of these N answers equally often, n ≥ 1.

    For sampled answers it estimates the policy's own, and is about `kl_of_best(n)` while no two score the same and n is
    well below N. With F the share of answers that score at most as much, best-of-n gives a group of equal scores the
    probability Fⁿ − (F of the next lower group)ⁿ.
    """
    import numpy as np

    _, count = np.unique(np.asarray(scores, dtype=np.float64), return_counts=True)
    share = count / count.sum()
    below = np.concatenate([[0.0], np.cumsum(share)[:-1]])
    best = np.minimum(below + share, 1.0) ** n - below**n
    found = best > 0  # groups that n draws practically never end in
    return float((best[found] * np.log(best[found] / share[found])).sum())
