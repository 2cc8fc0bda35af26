"""Do an engine and a trainer speak of the same weights? Log-probabilities of the same tokens, compared.

An engine that still has the base model, or the weights of an earlier step, answers just as fluently; only these
numbers tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from align.errors import StageError

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest mean difference of a token's log-probability, in nats. Seen of healthy engines on CPU: 2e-6, and 0.02 in
bfloat16 (a model with large logits; others 0.002)."""
OF_ONE_TOKEN = 10
"""The difference of a single token may be so many times as large."""

SURE_DEVIATIONS = 5
"""Standard deviations by which more than half of the tokens have to speak for other weights: chance does so once in
three million checks."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far engine and trainer agree about `tokens` tokens: absolute differences of log-probabilities, in nats."""

    largest: float
    mean: float
    tokens: int


def require_agreement(
    said: Sequence[Sequence[float]],
    own: Sequence[Sequence[float]],
    *,
    tolerance: float,
    top_p: float = 1.0,
    where: str | None = None,
) -> Agreement:
    """Compare what the engine `said` of each answer's tokens with what the trainer's `own` model says.

    With `top_p` below 1 the engine's numbers may be those of the nucleus, which holds `top_p` of the probability at
    least: they are then larger by −log `top_p` at most. Raises StageError with the difference where its mean is over
    `tolerance`, or that of a single token over OF_ONE_TOKEN times as much, and where it is no number.
    """
    nucleus = -math.log(top_p)
    pairs = [pair for one, other in zip(said, own, strict=True) for pair in zip(one, other, strict=True)]
    differences = [abs(a - b - min(max(a - b, 0.0), nucleus)) for a, b in pairs]
    if not differences:
        return Agreement(0.0, 0.0, 0)
    broken = next((d for d in differences if math.isnan(d)), None)  # max() would lose it
    mean = math.fsum(differences) / len(differences) if all(map(math.isfinite, differences)) else math.nan
    found = Agreement(max(differences) if broken is None else broken, mean, len(differences))
    if not (found.mean <= tolerance and found.largest <= OF_ONE_TOKEN * tolerance):
        raise StageError(
            f"the engine does not sample from the policy: log-probabilities of the same {found.tokens} tokens differ "
            f"by {found.mean:.3g} in the mean and by up to {found.largest:.3g}, allowed are {tolerance:g} and "
            f"{OF_ONE_TOKEN * tolerance:g}",
            where=where,
            hint="it has other weights (stale ones, or the base model's), or computes them wrongly; start it again, or "
            "use `type: transformers`",
        )
    return found


def require_nearest(
    said: Sequence[Sequence[float]],
    own: Sequence[Sequence[float]],
    rival: Sequence[Sequence[float]],
    *,
    name: str,
    where: str | None = None,
) -> None:
    """StageError where the engine's numbers are nearer to those of a `rival`, weights that it may have had before.

    A sign test over tokens: an engine that has the policy is nearer to the policy on half of them at least, however
    little the two differ and however coarse the engine's arithmetic is.
    """
    pairs = [row for three in zip(said, own, rival, strict=True) for row in zip(*three, strict=True)]
    gains = [abs(a - b) - abs(a - c) for a, b, c in pairs if abs(a - b) != abs(a - c)]
    nearer = sum(gain > 0 for gain in gains)
    if nearer > len(gains) / 2 + SURE_DEVIATIONS * math.sqrt(len(gains)) / 2:
        raise StageError(
            f"the engine samples from {name} and not from the policy: its log-probabilities are nearer to those for "
            f"{nearer} of {len(gains)} tokens",
            where=where,
            hint="it has stale weights; start it again, or use `type: transformers`",
        )
