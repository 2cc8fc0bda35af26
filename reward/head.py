"""The head of a sequence classification model, also of one with an adapter. Imports torch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def head_of(model: Any) -> nn.Linear:
    """The layer that makes scores of a hidden state; under LoRA its trained copy."""
    score = _core(model).score
    kept = getattr(score, "modules_to_save", None)
    head: nn.Linear = score if kept is None else kept["default"]
    return head


def set_head(model: Any, weight_KH: Tensor) -> None:
    """Give the model K scores, those of the rows of `weight_KH`, in place."""
    core = _core(model)
    for head in {head_of(model), getattr(core.score, "original_module", core.score)}:
        head.weight = nn.Parameter(weight_KH.to(head.weight).clone(), requires_grad=head.weight.requires_grad)
        head.out_features = len(weight_KH)
    core.num_labels = core.config.num_labels = len(weight_KH)


def _core(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
