"""Length bias, taken out of a reward by a head of its own (ODIN: Chen et al. 2024, arXiv 2402.07319). Imports torch.

People like longer answers, and a reward model learns so. Here a second head on the same trunk learns what length
explains, the sum of both is what ranks pairs, and only the quality head, held apart from length, is published.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

LENGTH_WEIGHT = ORTHOGONAL_WEIGHT = 1.0
"""λ_L and λ_O of the paper."""


def length_losses(quality_AK: Tensor, by_length_A: Tensor, tokens_A: Tensor, head_NH: Tensor) -> Tensor:
    """What holds quality and length apart, a scalar of at least −1:

        λ_L · (|ρ(q, L)| − ρ(l, L)) + λ_O · |cos(W_q, W_l)|

    over the answers of one forward pass (section 3.2 of the paper): `quality_AK` (q) are the scores of K members, whose
    mean the terms with q are, `by_length_A` (l) those of the length head, `tokens_A` (L) the answers' tokens and
    `head_NH` the heads' weights, the length head's last. ρ is Pearson's correlation.
    """
    of_quality_K = correlation(quality_AK, tokens_A[:, None])
    of_length = correlation(by_length_A, tokens_A)
    alike_K = nn.functional.cosine_similarity(head_NH[:-1], head_NH[-1:], dim=1, eps=1e-6)
    apart = LENGTH_WEIGHT * (of_quality_K.abs().mean() - of_length)
    return apart + ORTHOGONAL_WEIGHT * alike_K.abs().mean()


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation over the first dimension, in [−1, 1]; 0 where one of the two does not vary."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    scale = (x.square().mean(dim=0) * y.square().mean(dim=0)).clamp_min(1e-12).sqrt()
    return (x * y).mean(dim=0) / scale


def head_of(model: Any) -> nn.Linear:
    """The trained head of a sequence classification model, also of one with an adapter."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = getattr(core.score, "modules_to_save", None)
    head: nn.Linear = core.score if kept is None else kept["default"]
    return head


def drop_length_head(model: Any) -> None:
    """Leave the last row of the head out, in place: what is published knows nothing of length."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    heads = [core.score] if isinstance(core.score, nn.Linear) else [core.score.original_module, head_of(model)]
    for head in heads:
        head.weight = nn.Parameter(head.weight.detach()[:-1].clone(), requires_grad=head.weight.requires_grad)
        head.out_features -= 1
    core.num_labels = core.config.num_labels = heads[-1].out_features
