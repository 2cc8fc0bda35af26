"""Prefix sharing (Wang & Hegde 2024, arXiv 2410.20305): the attention of rows in which two answers follow one prompt.

A row holds pairs one behind the other without padding, each as three stretches: the prompt but its last token, then
twice that token with an answer behind it (but the answer's last token, from which nothing is predicted). An answer
sees the prompt and itself, never the other answer nor another pair, and both start at the position where the prompt
ends. So a stretch of an answer predicts exactly that answer, and its numbers are those of two separate sequences.

Imports torch and transformers: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from align.train.blocks import Lengths, PairAttention
from align.train.last_layer import ANSWERS_ONLY

SHARED = "align_pairs"
"""The name of our attention in transformers."""
FULL_ATTENTION = {"full_attention", "attention"}
"""What configs call layers in which every token sees all before it."""


def refusal(model: Any, longest: int) -> str | None:
    """Why `model` cannot share prefixes, or None where it can. `longest` is the longest sequence, in tokens.

    It has to take its attention from transformers' registry, in every layer, and its positions from `position_ids`.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or FULL_ATTENTION)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if getattr(model, "_is_stateful", False):
        return "it carries a state from token to token"
    if kinds - FULL_ATTENTION - {"sliding_attention"}:
        return f"it has layers of {', '.join(sorted(kinds - FULL_ATTENTION))}"
    if not getattr(model, "_supports_attention_backend", False) or not getattr(model, "_supports_sdpa", False):
        return "its attention takes no mask of ours"
    if (window is not None and window < longest) or ("sliding_attention" in kinds and window is None):
        return f"its attention slides over a window of {window} tokens, and the longest sequence has {longest}"
    if getattr(config, "alibi", False) or getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "its positions are relative and come from the mask"
    return None


def stretches(lengths: Sequence[Lengths]) -> list[int]:
    """Sizes into which a row is cut for attention: prompt with chosen, then rejected, for each pair."""
    return [size for prompt, chosen, rejected in lengths for size in (prompt + chosen, rejected)]


def _rejected_mask(lengths: Lengths, like: Tensor) -> Tensor:
    """What a rejected answer sees of its prompt and itself: 0 or -inf, of shape (rejected, prompt + rejected)."""
    prompt, _, rejected = lengths
    return like.new_full((rejected, prompt + rejected), float("-inf")).triu(prompt + 1)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    pair_lengths: Sequence[Lengths] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a row of pairs, of shape (1, heads, tokens, head size); gives (1, tokens, heads, head size).

    Exact, and what one pair or answer hides from another is not computed: each pair is causal over prompt and chosen,
    and rejected over prompt and itself. Without `pair_lengths` it is transformers' own SDPA.
    """
    if pair_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    float32 = query.device.type == "cpu" and query.dtype == key.dtype == value.dtype == torch.float32
    if float32 and key.shape[-1] == value.shape[-1]:  # DeepSeek's latent attention has values of another size
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        found_in_blocks: Tensor = PairAttention.apply(
            query, key, value, pair_lengths, scale, getattr(module, ANSWERS_ONLY, False)
        )
        return found_in_blocks.transpose(1, 2), None
    queries, keys, values = (x.split(stretches(pair_lengths), 2) for x in (query, key, value))
    found = []
    for pair, (prompt, _, _) in enumerate(pair_lengths):
        a, b = 2 * pair, 2 * pair + 1
        found.append(scaled_dot_product_attention(queries[a], keys[a], values[a], is_causal=True, scale=scaling))
        seen, content = (torch.cat([x[a][:, :, :prompt], x[b]], 2) for x in (keys, values))
        mask = _rejected_mask(pair_lengths[pair], query)
        found.append(scaled_dot_product_attention(queries[b], seen, content, attn_mask=mask, scale=scaling))
    return torch.cat(found, 2).transpose(1, 2), None


def pair_mask_mod(lengths: Sequence[Lengths], device: Any) -> Any:
    """FlexAttention's `mask_mod` for a row of pairs: which (query, key) places may meet."""
    sizes = torch.tensor([size for pair in lengths for size in pair], device=device)
    stretch_T = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        asks, told = stretch_T[query], stretch_T[key]
        prompt_of_it = (told == asks - asks % 3) & (told % 3 == 0)
        return (key <= query) & ((told == asks) | prompt_of_it)

    return mask_mod


def row_inputs(lengths: Sequence[Lengths], device: torch.device) -> dict[str, Any]:
    """What a model needs beside ids and positions for a row of pairs.

    On a GPU it is FlexAttention's block mask. That branch has not been run on a GPU; its mask is tested.
    """
    if device.type == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask

        tokens = sum(stretches(lengths))
        return {"attention_mask": create_block_mask(pair_mask_mod(lengths, device), None, None, tokens, tokens, device)}
    # Four dimensions, so that transformers takes it for a finished mask and makes none; `attend` does not look at it.
    ready = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    return {"attention_mask": ready, "pair_lengths": lengths}


def use_shared_attention(model: Any, device: torch.device) -> None:
    """Switch `model` to the attention that `row_inputs` speaks to; sequences of its own still work as before."""
    model.set_attn_implementation("flex_attention" if device.type == "cuda" else SHARED)


AttentionInterface.register(SHARED, attend)
AttentionMaskInterface.register(SHARED, sdpa_mask)
