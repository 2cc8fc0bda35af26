"""Losses: pure functions of tensors. Batched names carry their shape: `margin_B` has one number per pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def soft_preference_loss(margin_B: Tensor, target_B: Tensor, weight_B: Tensor) -> Tensor:
    """The Bradley–Terry cross entropy of soft targets: a scalar, ≥ 0, lower is better.

        loss = mean over pairs of −w · [p · log σ(m) + (1 − p) · log σ(−m)]

    `margin_B` (m) is the reward of chosen minus that of rejected; for DPO it is
    β · [log π(y_w|x)/π_ref(y_w|x) − log π(y_l|x)/π_ref(y_l|x)]. `target_B` (p) in [0, 1] is the probability that
    chosen is the better one, `weight_B` (w) ≥ 0 the pair's weight. With p = 1 and w = 1 this is equation 7 of DPO
    (Rafailov et al. 2023); with p = 1 − ε it is conservative DPO (Mitchell 2023, equation 3).

    The mean is over pairs and not over weight, so weights have to average 1 over the data set
    (`weights_of_mean_one`): then a batch of doubtful pairs moves the model less than a batch of certain ones.
    """
    from torch.nn.functional import logsigmoid

    per_pair_B = -(target_B * logsigmoid(margin_B) + (1 - target_B) * logsigmoid(-margin_B))
    return (weight_B * per_pair_B).mean()


def weights_of_mean_one(weights: Sequence[float]) -> list[float]:
    """The weights of a whole data set, scaled to average 1. They must be ≥ 0 and not all 0 (ValueError)."""
    total = float(sum(weights))
    if not weights or min(weights) < 0 or not 0 < total < float("inf"):
        raise ValueError(f"weights must be ≥ 0, finite and not all 0, found {list(weights)[:8]}")
    return [weight * len(weights) / total for weight in weights]
