"""Thoughts that are left out of the loss: nothing is learned from them, and a reward model does not read them."""

from pathlib import Path
from typing import Any

import pytest

from align.config.training import Dpo, Grpo, RewardModel, Rloo
from align.errors import ConfigError
from align.train import dpo
from align.train.checkpoint import load_model
from align.train.grpo import train_grpo
from align.train.rloo import train_rloo
from align.types import Preference, Prompt, prompt_id
from reward.load import load_scorer
from reward.train import train_reward
from tests.chat_templates import FIXTURES, tokenizer_of

ASK = [{"role": "user", "content": "my order"}]
COMMON: dict[str, Any] = {"seed": 1, "dtype": "float32", "report_to": [], "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose prompts end in an open block, so that all that it samples at random is thought."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("thinking") / "model"
    tokenizer = tokenizer_of(FIXTURES["prompt ends in a block"])
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 8, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def changed(one: Path, other: Path) -> bool:
    import torch

    weights = [load_model(folder, "float32").state_dict() for folder in (one, other)]
    return any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def score(prompts: Any, answers: Any) -> list[float]:
    return [float(len(answer)) for answer in answers]


@pytest.mark.parametrize("mask", [False, True])
def test_grpo_learns_nothing_where_all_is_thought(model: Path, tmp_path: Path, mask: bool) -> None:
    prompts = [Prompt(prompt_id(ASK), ASK, "train", "here")]
    config = Grpo(samples=4, batch_size=4, max_tokens=6, learning_rate=1e-2, type="transformers", beta=0.1)
    train_grpo(
        model, prompts, config, score=score, out=tmp_path / "out", work=tmp_path / "work", mask_thinking=mask, **COMMON
    )
    assert changed(model, tmp_path / "out") is not mask


def test_rloo_refuses_before_it_loads_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rloo weighs an answer as a whole"):
        train_rloo(
            tmp_path / "none", [], Rloo(), score=score, out=tmp_path, work=tmp_path, mask_thinking=True, **COMMON
        )


def pairs(chosen: str, rejected: str) -> list[Preference]:
    return [Preference(f"p{n}", f"q{n}", ASK, "a", "b", chosen, rejected, 1.0, 1.0, 0.0, 1, []) for n in range(4)]


def test_a_reward_model_reads_what_answers_say(model: Path, tmp_path: Path) -> None:
    rows = pairs("<think>\nhm\n</think>\n\nSorry.", "<think>\nno\n</think>\n\nNever.")
    said = {}
    for mask in (False, True):
        out = tmp_path / f"out-{mask}"
        config = RewardModel(learning_rate=1e-2, batch_size=4)
        train_reward(model, rows, config, out=out, work=tmp_path / f"work-{mask}", mask_thinking=mask, **COMMON)
        scorer = load_scorer(out, engine="transformers", dtype="float32", threads=None)
        thoughts = [f"<think>\n{t}\n</think>\n\nSorry." for t in ("hm", "what a long thought", "no")]
        said[mask] = scorer.score([ASK] * 3, thoughts)
    spread = {mask: max(scores) - min(scores) for mask, scores in said.items()}
    assert spread[True] < 1e-6 < 1e-4 < spread[False]


def test_dpo_trains_on_what_is_said_alone(model: Path, tmp_path: Path) -> None:
    """The margin before the first step is that of the words behind the thoughts; so it is 0 in every case, and what is
    learned differs."""
    rows = pairs("<think>\nhm\n</think>\n\nSorry.", "<think>\nwhat a long thought\n</think>\n\nNever.")
    for mask in (False, True):
        told = dpo.train_dpo(
            model, rows, Dpo(learning_rate=1e-2, batch_size=4), out=tmp_path / f"{mask}", work=tmp_path / f"w{mask}",
            mask_thinking=mask, **COMMON,
        )  # fmt: skip
        assert told["step0_logp_difference"] < 1e-4
    assert changed(tmp_path / "False", tmp_path / "True")
