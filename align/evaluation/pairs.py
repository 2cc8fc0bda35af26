"""How often a scorer puts the better answer of a pair first, with intervals over prompts."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from align.evaluation.statistics import Interval, clustered_bootstrap
from align.evaluation.winrate import clustered_interval
from align.types import Preference, Score


def score_differences(preferences: Sequence[Preference], score: Score) -> list[float | None]:
    """The score of `chosen` less that of `rejected` for each pair; None where one of the two has no score."""
    messages = [row.messages for row in preferences for _ in range(2)]
    scores = score(messages, [answer for row in preferences for answer in (row.chosen, row.rejected)])
    return [None if a is None or b is None else a - b for a, b in zip(scores[::2], scores[1::2], strict=True)]


def pair_accuracy(
    preferences: Sequence[Preference], score: Score, *, seed: int, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """What `score` makes of pairs whose order is known: `order_accuracy` of its differences.

    With `groups`, one name for each pair, `subsets` holds the same for each of them.
    """
    differences = score_differences(preferences, score)
    result = order_accuracy(preferences, differences, seed=seed)
    if groups is not None:
        result["subsets"] = by_group(preferences, differences, groups, seed=seed)
    return result


def order_accuracy(
    preferences: Sequence[Preference], differences: Sequence[float | None], *, seed: int
) -> dict[str, Any]:
    """How well `differences` (chosen less rejected, None without a score) order pairs.

    Returns `accuracy`, the share of pairs in which chosen scores higher (equal scores count half), and `log_loss`, the
    mean of −p · log σ(d) − (1 − p) · log σ(−d) in nats, where d is the difference of the scores and p the pair's target
    (log 2 is a coin's): each with its 95% interval, prompts drawn whole, and None where fewer than two prompts remain.
    `pairs` were compared; `unscored` have a score missing, `ties` a target of 0.5, which has no better answer: neither
    counts.
    """
    decided = [(row, d) for row, d in zip(preferences, differences, strict=True) if row.target != 0.5]
    known = [(row, d) for row, d in decided if d is not None]
    prompts = [row.prompt_id for row, _ in known]
    counts = {"pairs": len(known), "unscored": len(decided) - len(known), "ties": len(preferences) - len(decided)}
    if len(set(prompts)) < 2:
        return {"accuracy": None, "log_loss": None, **counts}
    right = [0.5 if d == 0 else float(d > 0) for _, d in known]
    losses = [cross_entropy(d, row.target) for row, d in known]
    accuracy = Interval(*clustered_interval(right, prompts, seed=seed), n=len(known), clusters=len(set(prompts)))
    log_loss = clustered_bootstrap(losses, prompts, seed=seed)
    return {"accuracy": asdict(accuracy), "log_loss": asdict(log_loss), **counts}


def by_group(
    preferences: Sequence[Preference],
    differences: Sequence[float | None],
    groups: Sequence[str | None],
    *,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """`order_accuracy` of each group of pairs, by its name; a pair whose group is None belongs to none."""
    rows = list(zip(preferences, differences, groups, strict=True))
    found = {}
    for name in sorted({group for group in groups if group is not None}):
        mine = [(row, d) for row, d, group in rows if group == name]
        found[name] = order_accuracy([row for row, _ in mine], [d for _, d in mine], seed=seed)
    return found


def cross_entropy(difference: float, target: float) -> float:
    """−p · log σ(d) − (1 − p) · log σ(−d) in nats, of the difference d and the target p."""
    return target * _softplus(-difference) + (1 - target) * _softplus(difference)


def _softplus(x: float) -> float:
    """log(1 + e^x), which is −log σ(−x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
