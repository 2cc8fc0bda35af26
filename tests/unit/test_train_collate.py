"""Pairs as tensors: what shares a prompt, what a pass holds, and that sharing changes no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from align.train import collate, last_layer, prefix
from align.train.order import passes
from tests.tiny import make_tiny_model

ROWS = [
    {"prompt_ids": [5], "chosen_ids": [6, 2], "rejected_ids": [7, 8, 2], "target": 0.75, "weight": 0.5},
    {"prompt_ids": [5, 9, 4], "chosen_ids": [2], "rejected_ids": [9, 2], "target": 1.0, "weight": 1.5},
]


def small(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, **changes,
    )  # fmt: skip


def both_ways(model: Any, rows: list[dict[str, Any]], *, tail: float | None = None) -> list[tuple[Any, Any]]:
    """Log-probabilities of chosen and rejected, of prompts shared and of whole sequences."""
    add_fused_lm_head(model)
    device = torch.device("cpu")
    found = []
    for shared in (True, False):
        if shared:
            prefix.use_shared_attention(model, device)
        batch = collate.PairCollator(pad_token_id=0, shared=shared).batch(rows)
        found.append(collate.answer_logps(model, batch, tail=tail))
    return found


def test_a_row_of_pairs() -> None:
    batch = collate.PairCollator(pad_token_id=0, shared=True).batch(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 5, 7, 8, 5, 9, 4, 4, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2, 2, 3]]
    assert batch["answer_places"].tolist() == [0, 1, 2, 3, 4, 7, 8, 9]
    assert batch["answer_ids"].tolist() == [6, 2, 7, 8, 2, 2, 9, 2]
    assert batch["pair_lengths"] == [(0, 2, 3), (2, 1, 2)]
    assert (batch["chosen_tokens"].tolist(), batch["rejected_tokens"].tolist()) == ([2, 1], [3, 2])
    assert (batch["target"].tolist(), batch["weight"].tolist()) == ([0.75, 1.0], [0.5, 1.5])
    assert batch["target"].dtype == batch["weight"].dtype == torch.float32
    assert collate.tokens_of(batch) == 16


def test_a_padded_batch() -> None:
    batch = collate.PairCollator(pad_token_id=0, shared=False).batch(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 2, 0, 0], [5, 9, 4, 2, 0], [5, 7, 8, 2, 0], [5, 9, 4, 9, 2]]
    assert batch["completion_mask"].tolist()[2] == [0, 1, 1, 1, 0]
    assert (batch["chosen_tokens"].tolist(), batch["weight"].tolist()) == ([2, 1], [0.5, 1.5])
    assert collate.tokens_of(batch) == 16


def test_the_passes_of_a_step_keep_the_rows_order() -> None:
    step = collate.PairCollator(pad_token_id=0, shared=True, tokens=9)(ROWS)
    assert [batch["pair_lengths"] for batch in step["passes"]] == [[(0, 2, 3)], [(2, 1, 2)]]
    step = collate.PairCollator(pad_token_id=0, shared=True, tokens=10)(ROWS)
    assert [batch["pair_lengths"] for batch in step["passes"]] == [[(0, 2, 3), (2, 1, 2)]]


def test_with_lanes_as_many_tokens_come_to_each() -> None:
    rows = [{"prompt_ids": [5] * n, "chosen_ids": [6], "rejected_ids": [7]} for n in (10, 3, 9, 4)]  # n + 1 places each
    step = collate.PairCollator(pad_token_id=0, shared=True, tokens=12, lanes=2)(rows)
    assert [batch["pair_lengths"] for batch in step["passes"]] == [
        *([(9, 1, 1)], [(2, 1, 1)]),  # the first lane: 11 and 4 places
        [(3, 1, 1)],  # the second: 5 and 10
        [(8, 1, 1)],
    ]


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=30),
    st.none() | st.integers(1, 200), st.none() | st.integers(1, 8), st.booleans(),
)  # fmt: skip
def test_passes_hold_every_row_once_and_no_more_than_they_may(
    sizes: list[int], tokens: int | None, rows: int | None, padded: bool
) -> None:
    found = passes(sizes, tokens, rows, padded=padded)
    assert [row for part in found for row in part] == list(range(len(sizes)))
    for part in found:
        held = [sizes[row] for row in part]
        cost = max(held) * len(held) if padded else sum(held)
        assert len(part) == 1 or tokens is None or cost <= tokens
        assert rows is None or len(part) <= rows


def test_known_passes() -> None:
    assert passes([3, 4, 5, 1, 20, 2], 8, None, padded=False) == [[0, 1], [2, 3], [4], [5]]
    assert passes([3, 4, 5, 1], 8, None, padded=True) == [[0, 1], [2], [3]]
    assert passes([1] * 5, None, 2, padded=False) == [[0, 1], [2, 3], [4]]


TOKENS = st.lists(st.integers(0, 39), min_size=1, max_size=12)
PAIR = st.fixed_dictionaries({"prompt_ids": TOKENS, "chosen_ids": TOKENS, "rejected_ids": TOKENS})
SHARED_MODEL = small(llama())


@settings(max_examples=40, deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=5))
def test_sharing_changes_no_log_probability(rows: list[dict[str, Any]]) -> None:
    (chosen, rejected), (chosen_alone, rejected_alone) = both_ways(SHARED_MODEL, rows)
    assert torch.allclose(chosen, chosen_alone, atol=1e-5)
    assert torch.allclose(rejected, rejected_alone, atol=1e-5)


def test_sharing_changes_no_gradient() -> None:
    found = []
    for way in (0, 1):
        model = small(llama())
        chosen, rejected = both_ways(model, ROWS)[way]
        (chosen - 2 * rejected).sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert max(float(g.abs().max()) for g in found[0].values()) > 1e-2
    assert all(torch.allclose(found[0][name], g, atol=1e-5) for name, g in found[1].items())


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config, Gemma2Config])
def test_the_last_layer_works_on_answers_alone_and_changes_no_number(kind: Any) -> None:
    found = []
    for skips in (False, True):
        model = small(
            kind(
                vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=8, max_position_embeddings=128, tie_word_embeddings=False,
            )
        )  # fmt: skip
        prefix.use_shared_attention(model, torch.device("cpu"))
        assert last_layer.skip_unread(model) if skips else True
        seen: list[int] = []
        model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].shape[1]))
        batch = collate.PairCollator(pad_token_id=0, shared=True).batch(ROWS)
        chosen, rejected = collate.answer_logps(model, batch)
        (chosen - 2 * rejected).sum().backward()
        assert seen == [8 if skips else 10]
        model(torch.tensor([[5, 6, 7]]))  # what is not read at places goes through whole
        assert seen[1:] == [3]
        found.append(({"chosen": chosen, "rejected": rejected}, {name: p.grad for name, p in model.named_parameters()}))
    (logps, gradients), (some_logps, some_gradients) = found
    assert all(torch.allclose(logps[name], some_logps[name], atol=1e-5) for name in logps)
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-2
    assert all(torch.allclose(g, some_gradients[name], atol=1e-5) for name, g in gradients.items())


def test_a_model_of_other_parts_computes_its_last_layer_whole() -> None:
    assert not last_layer.skip_unread(small(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=64)))


def test_learned_positions_start_again_too() -> None:
    model = small(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    assert prefix.refusal(model.eval(), 20) is None
    (chosen, rejected), (chosen_alone, rejected_alone) = both_ways(model, ROWS)
    assert torch.allclose(chosen, chosen_alone, atol=1e-5)
    assert torch.allclose(rejected, rejected_alone, atol=1e-5)


def test_a_tail_counts_less_both_ways() -> None:
    full, half = both_ways(small(llama()), ROWS), both_ways(small(llama()), ROWS, tail=0.5)
    assert torch.allclose(half[0][1], half[1][1], atol=1e-5)
    assert torch.allclose(half[0][0], full[0][0], atol=1e-6)  # chosen is the shorter answer in both pairs
    assert torch.all(half[0][1] > full[0][1] + 0.5)


def test_sequences_of_their_own_pass_as_before(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids, mask = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    before = model(ids, attention_mask=mask).logits
    prefix.use_shared_attention(model, torch.device("cpu"))
    assert torch.equal(model(ids, attention_mask=mask).logits, before)


def test_flex_attentions_mask_lets_an_answer_see_its_prompt_and_itself() -> None:
    """FlexAttention itself needs a GPU; what it would be told is compared here with a hand-written mask."""
    lengths = [(2, 1, 2), (0, 1, 1)]
    mask_mod = prefix.pair_mask_mod(lengths, "cpu")
    places = torch.arange(7)
    seen = mask_mod(None, None, places[:, None], places[None, :])
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (llama(), None),
        (Qwen2Config(vocab_size=40, hidden_size=32, num_attention_heads=2, num_hidden_layers=1), None),
        (MistralConfig(vocab_size=40, hidden_size=32, num_attention_heads=2, num_hidden_layers=1, sliding_window=64), None),
        (
            MistralConfig(vocab_size=40, hidden_size=32, num_attention_heads=2, num_hidden_layers=1, sliding_window=63),
            "its attention slides over a window of 63 tokens, and the longest sequence has 64",
        ),
    ],
)  # fmt: skip
def test_who_can_share(config: Any, why: str | None) -> None:
    with torch.device("meta"):
        assert prefix.refusal(AutoModelForCausalLM.from_config(config), 64) == why


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("BloomConfig", {"hidden_size": 32, "n_head": 2, "n_layer": 1}, "its attention takes no mask of ours"),
        ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 1}, "it carries a state from token to token"),
        (
            "Qwen3NextConfig",
            {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2},
            "it carries a state from token to token",
        ),
    ],
)
def test_who_cannot_share(family: str, changes: dict[str, Any], why: str) -> None:
    import transformers

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(getattr(transformers, family)(vocab_size=40, **changes))
    assert prefix.refusal(model, 64) == why
