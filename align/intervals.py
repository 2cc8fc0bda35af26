"""The interval of a share: one rule for the statistics of policies, of rewards and of annotators."""

import math
from statistics import NormalDist


def wilson(hits: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's (1927) score interval of `hits` of `n` > 0 independent trials, in [0, 1]; sound at 0 and at `n` too.

    Both may be fractions: the effective numbers of weighted or clustered trials. Raises ValueError for no share.
    """
    if not 0 < n < math.inf or not 0 <= hits <= n * (1 + 1e-12):
        raise ValueError(f"hits from 0 to the number of trials, which is over 0, are needed, found {hits} of {n}")
    share, z = min(1.0, hits / n), NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 a bound is exactly the share; rounding must not move it past.
    return (max(0.0, centre - half) if share > 0 else 0.0), (min(1.0, centre + half) if share < 1 else 1.0)
