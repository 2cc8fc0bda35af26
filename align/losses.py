"""Losses: pure functions of tensors. Batched names carry their shape: `margin_B` has one number per pair.

A pair's margin m is the reward of chosen minus that of rejected. For a reward model these are its scores, less the
margin that is asked for where there is one; for DPO an answer's reward is β · log π(y|x)/π_ref(y|x), summed over its
tokens, or their mean in the length-normalised form (LN-DPO: Lambert et al. 2024, §5.1.1; after SimPO: Meng et al.
2024), or with the tokens beyond the shorter answer's length counted α times (LD-DPO: Liu et al. 2024, equation 10;
`align.train.collate.answer_logps`). A pair's target p in [0, 1] is the probability that chosen is the better answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Loss = Literal["sigmoid", "hinge", "ipo", "robust"]
MOST_NOISE = 0.49
"""Highest rate of wrong labels at which `robust` is computed: at one half its loss is infinite."""
LEAST_MEAN = 0.05
"""Weights are scaled up to average 1 from no lower an average than this."""


def soft_preference_loss(
    margin_B: Tensor, target_B: Tensor, weight_B: Tensor, *, kind: Loss = "sigmoid", beta: float = 1.0
) -> Tensor:
    """The mean over pairs of weight × loss of `kind`: a scalar, lower is better. `beta` is DPO's β; only IPO reads it.

    The mean is over pairs and not over weight, so weights have to average 1 over the data set
    (`weights_of_mean_one`): then a batch of doubtful pairs moves the model less than a batch of certain ones.
    """
    if kind == "ipo":
        return (weight_B * ipo(margin_B, target_B, beta)).mean()
    return (weight_B * {"sigmoid": sigmoid, "hinge": hinge, "robust": robust}[kind](margin_B, target_B)).mean()


def sigmoid(margin_B: Tensor, target_B: Tensor) -> Tensor:
    """The Bradley–Terry cross entropy, (B,), ≥ 0:  −[p · log σ(m) + (1 − p) · log σ(−m)].

    With p = 1 this is equation 7 of DPO (Rafailov et al. 2023); with p = 1 − ε for all pairs it is conservative DPO
    (cDPO: Mitchell 2023, equation 3).
    """
    from torch.nn.functional import logsigmoid

    return -(target_B * logsigmoid(margin_B) + (1 - target_B) * logsigmoid(-margin_B))


def hinge(margin_B: Tensor, target_B: Tensor) -> Tensor:
    """The hinge loss, (B,), ≥ 0:  p · max(0, 1 − m) + (1 − p) · max(0, 1 + m).

    With p = 1 it is SLiC's (Zhao et al. 2023, equation 1) on DPO's margin (Liu et al. 2023, RSO, equation 9).
    """
    return target_B * (1 - margin_B).relu() + (1 - target_B) * (1 + margin_B).relu()


def ipo(margin_B: Tensor, target_B: Tensor, beta: float) -> Tensor:
    """Identity preference optimisation, (B,), ≥ 0:  (h − (2p − 1) / (2β))²  with h = m / β.

    With p = 1 it is equation 17 of Azar et al. 2023, their τ being β. A soft p gives their sampled loss (equation 13)
    its expectation, less what no parameter moves. As its authors do, h is taken per token; so m has to be.
    """
    return ((margin_B - (target_B - 0.5)) / beta) ** 2


def robust(margin_B: Tensor, target_B: Tensor) -> Tensor:
    """The loss whose mean over flipped labels is that of the true ones, (B,), of any sign; rDPO with ε = 1 − p:

        [(1 − ε) · −log σ(m) + ε · log σ(−m)] / (1 − 2ε)

    (Chowdhury et al. 2024, equation 12), ε being the probability that the pair's label is wrong: a constant, or
    the pair's own. p under `1 − MOST_NOISE` counts as that: such a pair says nothing and must weigh nothing
    (`robust_weights`).
    """
    from torch.nn.functional import logsigmoid

    noise_B = (1 - target_B).clamp(max=MOST_NOISE)
    return (noise_B * logsigmoid(-margin_B) - (1 - noise_B) * logsigmoid(margin_B)) / (1 - 2 * noise_B)


def robust_weights(weights: Sequence[float], targets: Sequence[float]) -> list[float]:
    """Weights × (1 − 2ε)², the inverse variance of a pair's robust loss up to a constant; equal ε change nothing."""
    return [weight * (2 * target - 1) ** 2 for weight, target in zip(weights, targets, strict=True)]


def weights_of_mean_one(weights: Sequence[float]) -> list[float]:
    """The weights of a whole data set, scaled to average 1; those that average under `LEAST_MEAN` stay below 1.

    So a set in which nearly everything is in doubt is not learned as if it were certain. They must be ≥ 0 and not all 0
    (ValueError).
    """
    total = float(sum(weights))
    if not weights or min(weights) < 0 or not 0 < total < float("inf"):
        raise ValueError(f"weights must be ≥ 0, finite and not all 0, found {list(weights)[:8]}")
    mean = max(total / len(weights), LEAST_MEAN)
    return [weight / mean for weight in weights]


def kto(reward_B: Tensor, target_B: Tensor, zero: Tensor, good_B: Tensor, bad_B: Tensor) -> Tensor:
    """Kahneman–Tversky optimisation of binary labels, (B,), ≥ 0:  λ_D · p · [1 − σ(r − z)] + λ_U · (1 − p) · [1 − σ(z −
    r)].

    `reward_B` (r) is β · log π(y|x)/π_ref(y|x), `zero` (z) ≥ 0 a scalar, β times the estimate of KL(π‖π_ref);
    `target_B` (p) in [0, 1] is the probability that the answer is good; `good_B` (λ_D) and `bad_B` (λ_U) weigh the two
    sides. With p of 1 or 0 it is equations 7 and 8 of Ethayarajh et al. 2024, less a constant; a soft p is the
    expectation over the verdict.
    """
    return good_B * target_B * (zero - reward_B).sigmoid() + bad_B * (1 - target_B) * (reward_B - zero).sigmoid()
