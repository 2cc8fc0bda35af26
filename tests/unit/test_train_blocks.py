"""Attention of rows of pairs against the dense masked one, over blocks of queries and without."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from align.train import blocks, prefix

LENGTHS = [(130, 210, 97), (0, 1, 96), (40, 1, 300), (600, 20, 30)]


def dense(query: Any, key: Any, value: Any, scale: float) -> Any:
    """By the whole mask, which `tests/unit/test_train_collate.py` compares with one written by hand."""
    tokens = query.shape[2]
    places = torch.arange(tokens)
    seen = prefix.pair_mask_mod(LENGTHS, "cpu")(None, None, places[:, None], places[None, :])
    return scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scale)


def tensors(dtype: torch.dtype) -> list[Any]:
    torch.manual_seed(0)
    tokens = sum(map(sum, LENGTHS))
    return [torch.randn(1, tokens, 2, 8, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["blocks", "whole"])
def test_it_is_dense_attention_and_so_are_its_gradients(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    real = blocks._blocks
    monkeypatch.setattr(blocks, "_blocks", lambda *given: called.append(1) or real(*given))
    found = []
    for way in ("ours", "dense"):
        inputs = tensors(dtype)
        if way == "ours":
            module = SimpleNamespace(num_key_value_groups=1)
            out, _ = prefix.attend(module, *inputs, None, scaling=0.3, pair_lengths=LENGTHS)
            out = out.transpose(1, 2)
        else:
            out = dense(*inputs, 0.3)
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape)).sum().backward()
        found.append([out, *(x.grad for x in inputs)])
    assert len(called) == (2 if dtype == torch.float32 else 0)  # forward and backward
    for ours, whole in zip(*found, strict=True):
        assert whole.detach().abs().max() > 0.1
        assert torch.allclose(ours, whole, atol=2e-5)


def test_answers_only_are_those_of_all_places_and_prompts_get_nothing() -> None:
    found = []
    for only in (False, True):
        query, key, value = tensors(torch.float32)
        module = SimpleNamespace(num_key_value_groups=1, align_answers_only=only)
        out, _ = prefix.attend(module, query, key, value, None, scaling=0.3, pair_lengths=LENGTHS)
        parts = out.split([size for pair in LENGTHS for size in pair], 1)
        assert all((part == 0).all() == only for part in parts[::3] if part.numel())
        answers = torch.cat([part for n, part in enumerate(parts) if n % 3], 1)
        (answers * torch.linspace(-1, 1, answers.numel()).view(answers.shape)).sum().backward()
        found.append([answers, query.grad, key.grad, value.grad])
    for whole, some in zip(*found, strict=True):
        assert torch.allclose(whole, some, atol=1e-5)


def test_a_mask_is_a_triangle_behind_what_comes_before() -> None:
    hidden = float("-inf")
    assert blocks._mask(2, 1).tolist() == [[0, 0, hidden], [0, 0, 0]]
    assert blocks._mask(1, 0).tolist() == [[0]]
    wide = blocks._mask(3, 1500)
    assert wide.shape == (3, 1503)
    assert torch.equal(wide.isinf().sum(1), torch.tensor([2, 1, 0]))
    assert not wide[:, :1501].isinf().any()
