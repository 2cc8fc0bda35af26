"""Answers of every length: the same tokens however many are under way at once, and the model's own probabilities."""

from pathlib import Path
from typing import Any

import pytest
import torch

from align.train.sampling import Sampled, _draw, _nucleus, can_sample, sample
from tests.tiny import make_tiny_model

PROMPTS = [[5 + i % 3] * (1 + 7 * i % 11) for i in range(13)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    folder: Path = make_tiny_model(tmp_path_factory.mktemp("sampling") / "model", seed=2)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def answers(model: Any, prompts: Any = PROMPTS, **changes: Any) -> list[Sampled]:
    usual = {"stops": range(40), "max_tokens": 12, "temperature": 0.8, "top_p": 1.0, "seed": 3}
    return sample(model, prompts, **{**usual, **changes})


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_an_answer_does_not_depend_on_what_stands_beside_it(model: Any, attention: str) -> None:
    model.set_attn_implementation(attention)
    alone = [found.token_ids for found in answers(model, rows=1)]
    lengths = {len(ids) for ids in alone}
    assert len(lengths) > 3
    for ids in alone:
        assert ids[-1] < 40 or len(ids) == 12
        assert all(token >= 40 for token in ids[:-1])
    for rows in (2, 5, 13):
        assert [found.token_ids for found in answers(model, rows=rows)] == alone
    assert [found.token_ids for found in answers(model, seed=4)] != alone


def test_log_probabilities_are_the_models_own(model: Any) -> None:
    """Each answer with its prompt through the model once more, with no cache and no padding."""
    for prompt, found in zip(PROMPTS, answers(model, rows=4, top_p=0.9), strict=True):
        ids = torch.tensor([prompt + found.token_ids])
        with torch.no_grad():
            logps = (model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / 0.8).log_softmax(-1)
        own = logps.gather(1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found.logps), own, atol=1e-5, rtol=0)


def test_small_steps_take_one_thread_and_leave_the_others_as_they_were(model: Any, monkeypatch: Any) -> None:
    seen: list[tuple[int, int]] = []
    watch = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((kwargs["input_ids"].size(1), torch.get_num_threads())), with_kwargs=True
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        answers(model, [[7, 8]] * 4)
        assert set(seen) == {(2, 2), (1, 1)}  # the prompts by two threads, each step by one
        seen.clear()
        monkeypatch.setattr("align.train.sampling.WORTH_WAKING", 1)
        answers(model, [[7, 8]] * 4)
        assert set(seen) == {(2, 2), (1, 2)}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        watch.remove()


def test_many_more_answers_than_rows_move_the_cache_to_the_left(model: Any) -> None:
    """The cache holds 1 + 2 · 6 columns; fifty answers one after the other need many more."""
    prompts = [[7]] * 50
    few, many = (answers(model, prompts, max_tokens=6, rows=rows) for rows in (2, 50))
    assert [found.token_ids for found in few] == [found.token_ids for found in many]
    assert sum(len(found.token_ids) for found in few) > 100
    assert len({tuple(found.token_ids) for found in few}) > 40


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().repeat(5, 1)
    tokens, logps = _draw(logits, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.9999999]), 1.0, 1.0)
    assert tokens.tolist() == [0, 0, 1, 1, 2]
    torch.testing.assert_close(logps, torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3]).log())
    hot, _ = _draw(logits[:1] * 1, torch.tensor([0.34]), 1e3, 1.0)
    assert hot.tolist() == [1]  # nearly a third each
    impossible = torch.tensor([[0.0, -torch.inf]])
    assert _draw(impossible, torch.tensor([0.99999999]), 1.0, 1.0)[0].tolist() == [0]


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p() -> None:
    shares = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    for top_p, kept in ((0.5, [1]), (0.6, [1, 3]), (0.8, [1, 2, 3]), (0.01, [1])):
        assert _nucleus(shares, top_p).nonzero()[:, 1].tolist() == kept


def test_models_that_look_back_only_so_far_are_left_to_transformers() -> None:
    from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig

    small = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "intermediate_size": 8,
        "vocab_size": 20,
        "num_attention_heads": 1,
    }
    for config, can in ((MistralConfig, True), (Gemma3TextConfig, False)):
        extra = {"sliding_window": None, "num_key_value_heads": 1} if can else {"head_dim": 8, "num_key_value_heads": 1}
        assert can_sample(AutoModelForCausalLM.from_config(config(**small, **extra))) == can
