"""How often the new policy's answer is the better one, on held-out prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from align.errors import DataError
from align.evaluation.statistics import clustered_bootstrap
from align.intervals import wilson

Scores = Sequence[Sequence[float | None]]
"""For each prompt the scores of its answers; None where the judge could not score one."""


@dataclass(frozen=True, slots=True)
class WinRate:
    """`mean` = (wins + ties / 2) / n, in [0, 1], with its 95 % interval; 0.5 is no difference.

    `n` counts compared pairs of answers, `clusters` the prompts they come from, `unscored` the pairs that were left
    out because one of the two answers has no score.
    """

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    wins: int
    ties: int
    losses: int
    unscored: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def win_rate(
    scores_new: Scores, scores_old: Scores, clusters: Sequence[str], *, tie_width: float, seed: int
) -> WinRate:
    """Every answer of the new policy against every answer of the old one to the same prompt.

    Row i of either list and `clusters[i]` belong to one prompt. A pair is a tie, worth half a win, where the scores
    are equal or closer than `tie_width`. A pair with a None is unscored and counted, never a tie.

    The interval draws whole prompts (`clustered_interval`).

    Raises DataError where lengths differ, where nothing could be scored or where only one prompt is left.
    """
    if not len(scores_new) == len(scores_old) == len(clusters):
        raise DataError(
            f"the prompts do not match: {len(scores_new)} new and {len(scores_old)} old rows for {len(clusters)} names"
        )
    values: list[float] = []
    names: list[str] = []
    unscored = 0
    for new, old, name in zip(scores_new, scores_old, clusters, strict=True):
        for a in new:
            for b in old:
                if a is None or b is None:
                    unscored += 1
                else:
                    values.append(outcome(a, b, tie_width))
                    names.append(name)
    if not values:
        raise DataError(
            f"none of {unscored} pairs of answers could be scored, so there is no win rate",
            hint="see why the judge gives no score",
        )
    mean, low, high = clustered_interval(values, names, seed=seed)
    wins, losses = values.count(1.0), values.count(0.0)
    ties = len(values) - wins - losses
    return WinRate(mean, low, high, len(values), len(set(names)), wins, ties, losses, unscored)


def clustered_interval(values: Sequence[float], clusters: Sequence[str], *, seed: int) -> tuple[float, float, float]:
    """The mean of shares in [0, 1] with its 95% interval over clusters (`clustered_bootstrap`): mean, low, high.

    Where every cluster gave the same result the bootstrap has no spread and would claim certainty; then it is Wilson's
    interval over the clusters. Raises DataError for no values and for a single cluster.
    """
    found = clustered_bootstrap(values, clusters, seed=seed)
    if found.low == found.high:
        return found.mean, *wilson(found.mean * found.clusters, found.clusters)
    return found.mean, found.low, found.high


def outcome(new: float, old: float, tie_width: float) -> float:
    """1.0 where the new score wins, 0.0 where it loses, 0.5 where they are equal or closer than `tie_width`."""
    if new == old or abs(new - old) < tie_width:
        return 0.5
    return 1.0 if new > old else 0.0
