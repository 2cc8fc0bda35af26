"""Exact causal attention of rows of pairs in blocks of queries, for float32 on CPU.

PyTorch's CPU kernel computes what a causal mask hides in each run of up to 256 queries, which at a few hundred tokens
is almost half of its work. Here it is called for short blocks of queries, each with the keys before its end alone, and
the gradients of a row are added in place.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 96
"""Queries in a block: with fewer less is computed in vain, with more the kernel is called less often."""

Lengths = tuple[int, int, int]
"""Tokens of a pair's three stretches: prompt (without its last token), chosen, rejected."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@functools.lru_cache(maxsize=4)
def _hidden(keys: int) -> Tensor:
    """0 for `keys` keys that come before a block, then a block's own triangle: 0 or -inf."""
    return torch.full((BLOCK, keys + BLOCK), float("-inf")).triu(keys + 1)


def _mask(queries: int, before: int) -> Tensor:
    """What a block of `queries` sees of the keys `before` it and of its own: a view of (queries, before + queries)."""
    most = max(512, 1 << (before - 1).bit_length()) if before else 512
    return _hidden(most)[:queries, most - before : most + queries]


def _blocks(lengths: Sequence[Lengths], answers_only: bool) -> Iterator[tuple[int, int, int, list[tuple[int, int]]]]:
    """For each answer of each pair: its prompt's start, its queries' start, how many keys come before these, and its
    blocks of queries, as places from that start. The chosen answer's queries are the prompt's too, if these are asked
    for."""
    at = 0
    for prompt, chosen, rejected in lengths:
        first = prompt if answers_only else 0
        for start, before, a, b in ((at, 0, first, prompt + chosen), (at + prompt + chosen, prompt, 0, rejected)):
            yield at, start, before, [(n, min(n + BLOCK, b)) for n in range(a, b, BLOCK)]
        at += prompt + chosen + rejected


def _seen(x: Tensor, at: int, start: int, before: int, end: int) -> Tensor:
    """The keys or values of an answer with the prompt before it, of (1, heads, before + end, head size)."""
    own = x[:, :, start : start + end]
    return torch.cat([x[:, :, at : at + before], own], 2) if before else own


class PairAttention(torch.autograd.Function):
    """`apply(query, key, value, lengths, scale, answers_only)`: three tensors of (1, heads, tokens, head size) give
    one.

    With `answers_only` the prompts' places of it are 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: Sequence[Lengths],
        scale: float,
        answers_only: bool,
    ) -> Tensor:
        out = torch.zeros_like(query) if answers_only else torch.empty_like(query)
        sums = []
        for at, start, before, blocks in _blocks(lengths, answers_only):
            keys, values = (_seen(x, at, start, before, blocks[-1][1]) for x in (key, value))
            for a, b in blocks:
                mine, all_before = slice(start + a, start + b), before + b
                out[:, :, mine], log_sum = _forward(
                    query[:, :, mine], keys[:, :, :all_before], values[:, :, :all_before], 0.0, False,
                    attn_mask=_mask(b - a, before + a), scale=scale,
                )  # fmt: skip
                sums.append(log_sum)
        ctx.save_for_backward(query, key, value, out, *sums)
        ctx.lengths, ctx.scale, ctx.answers_only = lengths, scale, answers_only
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *sums = ctx.saved_tensors
        (grad,), left = grads, iter(sums)
        to_query, to_key, to_value = (torch.zeros_like(x) for x in (query, key, value))
        for at, start, before, blocks in _blocks(ctx.lengths, ctx.answers_only):
            keys, values = (_seen(x, at, start, before, blocks[-1][1]) for x in (key, value))
            for a, b in blocks:
                mine, all_before = slice(start + a, start + b), before + b
                to_query[:, :, mine], of_keys, of_values = _backward(
                    grad[:, :, mine], query[:, :, mine], keys[:, :, :all_before], values[:, :, :all_before],
                    out[:, :, mine], next(left), 0.0, False, attn_mask=_mask(b - a, before + a), scale=ctx.scale,
                )  # fmt: skip
                for whole, part in ((to_key, of_keys), (to_value, of_values)):
                    if before:
                        whole[:, :, at : at + before] += part[:, :, :before]
                    whole[:, :, start : start + b] += part[:, :, before:]
        return to_query, to_key, to_value, None, None, None
