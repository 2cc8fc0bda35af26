"""What PPO learns from: advantages and returns, whitened or not, and the coefficient of the KL divergence.

Tensors are [answers, tokens]; `mask_BT` is 1 on an answer's tokens, its stop token included, and 0 on the padding
behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CLIPPED_ERROR = 0.2
"""The largest relative error of the KL divergence that the controller answers to (Ziegler et al. 2019, §2.2)."""
SMALLEST_VARIANCE = 1e-8


def token_rewards(score_B: Tensor, log_ratio_BT: Tensor, mask_BT: Tensor, *, beta: float) -> Tensor:
    """The reward of each token: −beta · log(π/π_ref) on every one, and the answer's score on its last (ibid., eq. 2).

    `log_ratio_BT` is the log-probability of the sampled token under the policy that sampled it, minus the reference's,
    in nats. An answer without a token has no reward.
    """
    import torch

    rewards_BT = -beta * log_ratio_BT * mask_BT
    last_B = (mask_BT.sum(1).long() - 1).clamp(min=0)
    rewards_BT[torch.arange(len(score_B)), last_B] += score_B * mask_BT.any(1)
    return rewards_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16): (advantages, returns).

    δ_t = r_t + γ V_{t+1} − V_t and Â_t = δ_t + γλ Â_{t+1}; behind an answer's last token V and Â are 0. The return is
    Â_t + V_t. Both are 0 on padding.
    """
    import torch

    advantages_BT = torch.zeros_like(rewards_BT)
    next_value_B = next_advantage_B = torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(range(rewards_BT.size(1))):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = (delta_B + gamma * lam * next_advantage_B) * mask_BT[:, t]
        next_value_B = values_BT[:, t] * mask_BT[:, t]
        advantages_BT[:, t] = next_advantage_B
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def whiten(x_BT: Tensor, mask_BT: Tensor, *, keep_mean: bool = False) -> Tensor:
    """`x_BT` with variance 1, and mean 0 unless `keep_mean`, over the tokens of all processes; 0 on padding."""
    import torch

    from align.train.world import summed

    masked_BT = x_BT * mask_BT
    count, total = summed(torch.stack([mask_BT.sum().to(x_BT.dtype), masked_BT.sum()]))
    mean = total / count.clamp(min=1)
    square = summed((((x_BT - mean) * mask_BT) ** 2).sum())
    scale = (square / count.clamp(min=1)).clamp(min=SMALLEST_VARIANCE).rsqrt()
    return ((x_BT - mean) * scale + (mean if keep_mean else 0)) * mask_BT


def adapted_beta(beta: float, kl: float, *, target: float, gain: float) -> float:
    """The next coefficient of the KL divergence (Ziegler et al. 2019, §2.2): β · (1 + gain · e).

    e = clip(kl / target − 1, −0.2, 0.2); `kl` and `target` are in nats per answer.
    """
    error = min(max(kl / target - 1, -CLIPPED_ERROR), CLIPPED_ERROR)
    return beta * (1 + gain * error)


def policy_loss(
    logps_BT: Tensor, old_logps_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, *, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's clipped loss summed over tokens, and the share of tokens where the clip holds (Schulman et al. 2017, eq.
    7).

    −Σ min(ρ Â, clip(ρ, 1 − ε, 1 + ε) Â) with ρ = π/π_old.
    """
    ratio_BT = (logps_BT - old_logps_BT).exp()
    free_BT = ratio_BT * advantages_BT
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip) * advantages_BT
    loss = -(free_BT.minimum(clipped_BT) * mask_BT).sum()
    held = ((clipped_BT < free_BT) * mask_BT).sum() / mask_BT.sum().clamp(min=1)
    return loss, held.detach()


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, *, clip: float | None
) -> Tensor:
    """½ Σ max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²) over tokens; without `clip`, ½ Σ (V − R)²."""
    error_BT = (values_BT - returns_BT) ** 2
    if clip is not None:
        near_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        error_BT = error_BT.maximum((near_BT - returns_BT) ** 2)
    return 0.5 * (error_BT * mask_BT).sum()


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 − Var(R − V) / Var(R) over tokens: 1 for a perfect critic, 0 for one that knows the mean alone."""
    tokens_BT = mask_BT.bool()
    spread = returns_BT[tokens_BT].var(correction=0).clamp(min=SMALLEST_VARIANCE)
    return float(1 - (returns_BT - values_BT)[tokens_BT].var(correction=0) / spread)
