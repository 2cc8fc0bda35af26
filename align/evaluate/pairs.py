"""How often a scorer puts the better answer of a pair first, with intervals over prompts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from align.evaluate.statistics import clustered_bootstrap
from align.types import Message, Preference

Score = Callable[[Sequence[list[Message]], Sequence[str]], list[float | None]]


def pair_accuracy(
    preferences: Sequence[Preference], score: Score, *, seed: int, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """What `score` makes of pairs whose order is known.

    Returns `accuracy`, the share of pairs in which chosen scores higher (equal scores count half), and `log_loss`, the
    mean of −p · log σ(d) − (1 − p) · log σ(−d) in nats, where d is the difference of the scores and p the pair's target
    (log 2 is a coin's): each with its 95% interval, prompts drawn whole, and None where fewer than two prompts remain.
    `pairs` were compared; `unscored` have a score missing, `ties` a target of 0.5, which has no better answer: neither
    counts. With `groups`, one name for each pair, `subsets` holds the same for each of them.
    """
    messages = [row.messages for row in preferences]
    chosen = score(messages, [row.chosen for row in preferences])
    rejected = score(messages, [row.rejected for row in preferences])
    rows = list(zip(preferences, chosen, rejected, strict=True))
    result = _result(rows, seed)
    if groups is not None:
        names = sorted(set(groups))
        result["subsets"] = {
            name: _result([row for row, group in zip(rows, groups, strict=True) if group == name], seed)
            for name in names
        }
    return result


def _result(rows: Sequence[tuple[Preference, float | None, float | None]], seed: int) -> dict[str, Any]:
    decided = [(row, a, b) for row, a, b in rows if row.target != 0.5]
    known = [(row, a - b) for row, a, b in decided if a is not None and b is not None]
    prompts = [row.prompt_id for row, _ in known]
    counts = {"pairs": len(known), "unscored": len(decided) - len(known), "ties": len(rows) - len(decided)}
    if len(set(prompts)) < 2:
        return {"accuracy": None, "log_loss": None, **counts}
    right = [0.5 if d == 0 else float(d > 0) for _, d in known]
    losses = [row.target * _softplus(-d) + (1 - row.target) * _softplus(d) for row, d in known]
    accuracy, log_loss = (asdict(clustered_bootstrap(v, prompts, seed=seed)) for v in (right, losses))
    return {"accuracy": accuracy, "log_loss": log_loss, **counts}


def _softplus(x: float) -> float:
    """log(1 + e^x), which is −log σ(−x), without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
