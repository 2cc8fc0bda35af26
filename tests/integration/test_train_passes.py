"""DPO's forward passes: however a step is cut its gradient is one batch's; the reference is asked once, in all rounds."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig

from align.config.training import Lora
from align.errors import StageError
from align.store import folder_files
from align.train import blocks, dpo, reference
from align.train import dpo_trainer as ours
from tests.integration.test_train_dpo import PAIRS, SOFT, config, encoded, make_trainer, parent, train  # noqa: F401
from tests.tiny import make_tiny_model

RAGGED = [
    replace(pair, messages=[{"role": "user", "content": f"Case {n}: " + "what now? " * (n * n % 7)}])
    for n, pair in enumerate(SOFT)
]


def step(trainer: Any, rows: range) -> tuple[float, dict[str, Any], dict[str, float]]:
    """One optimiser step's loss, gradients and metrics."""
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1  # its loop sets it
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    loss = trainer.training_step(trainer.model, batch)
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss), gradients, {name: values[-1] for name, values in trainer._metrics["train"].items()}


@pytest.mark.parametrize("layout", ["shared", "padded", "trl"])
def test_passes_of_any_size_give_the_gradient_of_one_batch(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str  # noqa: F811
) -> None:  # fmt: skip
    rows = PAIRS if layout == "trl" else RAGGED
    if layout == "trl":
        monkeypatch.setattr(ours, "trls_alone", lambda args: ["all of it"])
    found = []
    for most in ({"tokens": None, "pairs": None}, {"tokens": 330, "pairs": None}, {"tokens": None, "pairs": 3}):
        trainer = make_trainer(parent, rows, tmp_path / "work", batch_size=8)
        shared = layout == "shared"
        trainer.data_collator = replace(trainer.data_collator, shared=shared, **most)
        parts = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])["passes"]
        sizes = {len(part["chosen_tokens"]) for part in parts}
        assert len(parts) == 1 if most["tokens"] == most["pairs"] else len(parts) > 2
        assert len(sizes) > 1 or len(parts) == 1 or layout != "shared" or most["pairs"] == 3
        with torch.no_grad():
            torch.manual_seed(0)
            for weights in trainer.model.parameters():
                weights += 0.05 * torch.randn_like(weights)
        found.append(step(trainer, range(8)))
    (loss, gradients, metrics), *others = found
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3
    for other_loss, other_gradients, other_metrics in others:
        assert other_loss == pytest.approx(loss, abs=1e-6)
        assert all(torch.allclose(gradients[name], g, atol=1e-6) for name, g in other_gradients.items())
        for name in ("rewards/margins", "logps/chosen"):
            assert other_metrics[name] == pytest.approx(metrics[name], rel=1e-5)


def test_tokens_of_a_pass_change_memory_and_not_what_is_learned(parent: Path, tmp_path: Path) -> None:  # noqa: F811
    losses = [
        train(parent, tmp_path / str(tokens), RAGGED, micro_batch_tokens=tokens)["train_loss_last"]
        for tokens in (1, 200, 100_000)
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4)}], ids=["full", "lora"])
def test_later_trainings_find_the_reference_that_earlier_ones_left(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]  # noqa: F811
) -> None:  # fmt: skip
    asked: list[int] = []
    real = reference.reference_logps
    counted = lambda folder, pairs, rows, compute: real(  # noqa: E731
        folder, pairs, rows, lambda some: asked.append(len(some)) or compute(some)
    )
    monkeypatch.setattr(reference, "reference_logps", counted)
    first = train(parent, tmp_path / "one", PAIRS[:8], reference_cache=tmp_path / "kept", **changes)
    assert sum(asked) == 8
    second = train(parent, tmp_path / "two", PAIRS, reference_cache=tmp_path / "kept", beta=0.3, **changes)
    assert sum(asked) == 12
    again = train(parent, tmp_path / "three", PAIRS[:8], reference_cache=tmp_path / "kept", **changes)
    assert sum(asked) == 12
    assert again == first
    assert folder_files(tmp_path / "three/out") == folder_files(tmp_path / "one/out")
    other = make_tiny_model(tmp_path / "other", seed=4)
    train(other, tmp_path / "four", PAIRS, reference_cache=tmp_path / "kept", **changes)
    assert sum(asked) == 24
    assert second["rewards_accuracies"] == 1


def test_a_cache_of_another_model_is_noticed(parent: Path, tmp_path: Path) -> None:  # noqa: F811
    other = make_tiny_model(tmp_path / "other", seed=4)
    kept = encoded(parent, PAIRS)[1]
    make_trainer(other, PAIRS, tmp_path / "work")  # leaves its reference in work/reference
    with pytest.raises(StageError, match=r"kept log-probabilities of the reference differ from the model's by \d"):
        make_trainer(parent, PAIRS, tmp_path / "work")
    assert len(kept) == 12


def test_a_training_shorter_than_an_epoch_asks_for_the_rows_it_will_see(
    parent: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    trainer = make_trainer(parent, PAIRS, tmp_path / "work")
    rows = dpo.rows_seen(trainer, 8)
    assert len(set(rows)) == 8
    assert rows == list(trainer._get_train_sampler())[:8]
    assert dpo.rows_seen(trainer, 12) == dpo.rows_seen(trainer, 24) == list(range(12))


def test_a_model_with_a_sliding_window_trains_without_sharing_and_says_so(
    parent: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture  # noqa: F811
) -> None:  # fmt: skip
    folder = make_tiny_model(tmp_path / "mistral")
    torch.manual_seed(1)
    vocabulary = AutoModelForCausalLM.from_pretrained(folder).config.vocab_size
    AutoModelForCausalLM.from_config(
        MistralConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, sliding_window=16, eos_token_id=2, pad_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip
    with caplog.at_level(logging.WARNING):
        metrics = train(folder, tmp_path / "run", PAIRS, learning_rate=1e-2)
    assert "each carry their prompt, which is slower: its attention slides over a window of 16 tokens" in caplog.text
    assert metrics["train_loss_last"] < 0.6
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        train(parent, tmp_path / "llama", PAIRS, trainer={"max_steps": 1})
    assert "carry their prompt" not in caplog.text


def test_sharing_that_changes_a_number_is_left_and_said(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture  # noqa: F811
) -> None:  # fmt: skip
    trainer = make_trainer(parent, PAIRS, tmp_path / "work")
    dpo.check_sharing(trainer, "float32")
    assert trainer.data_collator.shared
    monkeypatch.setattr(blocks, "_mask", lambda queries, before: torch.zeros(queries, before + queries))
    with caplog.at_level(logging.WARNING):
        dpo.check_sharing(trainer, "float32")
    assert not trainer.data_collator.shared
    assert "sharing it changes a token's log-probability by" in caplog.text


def test_a_micro_batch_is_given_in_pairs_or_in_tokens() -> None:
    assert config(micro_batch_size=2).micro_batch_size == 2
    with pytest.raises(ValueError, match="give `micro_batch_size` or `micro_batch_tokens`, not both"):
        config(micro_batch_size=2, micro_batch_tokens=100)
