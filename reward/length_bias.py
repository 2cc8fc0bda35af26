"""Length bias, taken out of a reward by a head of its own (ODIN: Chen et al. 2024, arXiv 2402.07319).

People like longer answers, and a reward model learns so. Here a second head on the same trunk learns what length
explains, the sum of both is what ranks pairs, and only the quality head, held apart from length, is published.
"""

from __future__ import annotations

from torch import Tensor, nn

LENGTH_WEIGHT = ORTHOGONAL_WEIGHT = 1.0
"""λ_L and λ_O of the paper."""


def length_losses(quality_A: Tensor, by_length_A: Tensor, tokens_A: Tensor, head_2H: Tensor) -> Tensor:
    """What holds quality and length apart, a scalar of at least −1:

        λ_L · (|ρ(q, L)| − ρ(l, L)) + λ_O · |cos(W_q, W_l)|

    over the answers of one forward pass (the paper's section 3.2): `quality_A` (q) and `by_length_A` (l) are the scores
    of both heads, `tokens_A` (L) the answers' tokens and `head_2H` the heads' weights. ρ is Pearson's correlation.
    """
    apart = correlation(quality_A, tokens_A).abs() - correlation(by_length_A, tokens_A)
    alike = nn.functional.cosine_similarity(head_2H[0], head_2H[1], dim=0, eps=1e-6).abs()
    return LENGTH_WEIGHT * apart + ORTHOGONAL_WEIGHT * alike


def correlation(x_A: Tensor, y_A: Tensor) -> Tensor:
    """Pearson's correlation, in [−1, 1]; 0 where one of the two does not vary."""
    x_A, y_A = x_A - x_A.mean(), y_A.float() - y_A.float().mean()
    scale = (x_A.square().mean() * y_A.square().mean()).clamp_min(1e-12).sqrt()
    return (x_A * y_A).mean() / scale
