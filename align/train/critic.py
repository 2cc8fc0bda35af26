"""PPO's critics: what an answer is worth after each of its tokens. Imports torch.

A critic takes ids and mask [rows, tokens] and gives a value for each token, that of the state after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from align.errors import ConfigError


class Critic(nn.Module):
    """A model of its own with a scalar head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        seen = model.base_model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
        values_BT: Tensor = model.score(seen.last_hidden_state)[..., 0]
        return values_BT


class SharedHead(nn.Module):
    """A scalar head on the policy's last layer: with gradients as the policy's newest forward pass left it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._trunk: list[Any] = []  # in a list, so that its weights do not count as the head's
        self._newest: list[Tensor] = []

    def watch(self, policy: Any) -> None:
        """Sit on this model; called once."""
        causal = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
        self._trunk.append(causal.base_model)

        def keep(_: Any, __: Any, result: Any) -> None:
            if torch.is_grad_enabled():
                self._newest[:] = [result.last_hidden_state]

        causal.base_model.register_forward_hook(keep)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            hidden_BTH = self._newest.pop()  # else the graph of the pass would stay alive
        else:
            hidden_BTH = self._trunk[0](input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        values_BT: Tensor = self.head(hidden_BTH)[..., 0]
        return values_BT


def separate_critic(folder: Path, policy: Any, *, lora: Any = None) -> Critic:
    """A critic from a reward model's folder, or from a language model's with a head that says 0 everywhere.

    That of an ensemble begins as its members' mean, which is the folder's model.

    `lora` is PEFT's config of an adapter for it. Raises ConfigError where it is no model with one label, or reads
    other tokens than the policy.
    """
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype=torch.float32, local_files_only=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"the critic {folder.name!r} cannot be loaded ({line})", where="ppo.critic") from error
    if not hasattr(model, "score"):
        raise ConfigError(f"{type(model).__name__} has no value head", where="ppo.critic", hint="use `critic: shared`")
    if model.config.get_text_config().vocab_size != policy.config.get_text_config().vocab_size:
        raise ConfigError(
            f"the critic {folder.name!r} knows {model.config.get_text_config().vocab_size} tokens, "
            f"the policy {policy.config.get_text_config().vocab_size}",
            where="ppo.critic", hint="train the reward model from the same parent",
        )  # fmt: skip
    missing = sorted(info["missing_keys"])
    if missing == ["score.weight"]:
        nn.init.zeros_(model.score.weight)
    elif missing:
        raise ConfigError(f"the critic {folder.name!r} lacks weights, the first is {missing[0]}", where="ppo.critic")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Critic(model if lora is None else get_peft_model(model, lora))
