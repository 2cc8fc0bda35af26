"""PPO on a tiny model: textbook tasks solved, divergence held, every option acts, a killed run ends with the same bytes."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from align.config.training import Lora, Ppo
from align.store import folder_files
from align.train import loop, online
from align.train.ppo import train_ppo
from align.types import Message, Prompt, prompt_id
from tests.tiny import make_tiny_model


def prompts(texts: Sequence[str]) -> list[Prompt]:
    conversations = [[Message(role="user", content=text)] for text in texts]
    return [Prompt(prompt_id(m), m, "train", f"prompts.jsonl:{n}") for n, m in enumerate(conversations, 1)]


PROMPTS = prompts([f"Case {n}: {'what now? ' * (n % 3)}" for n in range(8)])


def letters(conversations: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    """The share of an answer's characters that are ASCII letters: about a fifth of the tokens of a random model."""
    return [sum(c.isascii() and c.isalpha() for c in text) / max(1, len(text)) for text in answers]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its head's weights are ten times larger, so that an adapter, which cannot change them, reaches clear preferences."""
    return louder(tmp_path_factory.mktemp("ppo") / "model", "lm_head.weight", tied=False)


def louder(folder: Path, name: str, *, tied: bool) -> Path:
    from safetensors.torch import load_file, save_file

    make_tiny_model(folder, seed=5, tied=tied)
    weights = load_file(folder / "model.safetensors")
    weights[name] *= 4 if tied else 10  # a tied model whose embeddings are large says the same token again and again
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def train(
    parent: Path, at: Path, score: online.Score = letters, *, rows: Any = PROMPTS, progress: Any = None,
    critic_from: Path | None = None, dtype: str = "float32", **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    usual = {"learning_rate": 3e-3, "batch_size": 16, "samples": 2, "max_tokens": 6, "beta": 0.01}
    config = Ppo(**{**usual, "type": "transformers", **changes})
    return train_ppo(
        parent, rows, config, score=score, seed=1, dtype=dtype, report_to=[], threads=1, out=at / "out",
        work=at / "work", progress=progress, critic=critic_from,
    )  # fmt: skip


def curve(at: Path, name: str = "reward") -> list[float]:
    rows = [json.loads(line) for line in (at / "out/logs/metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize(
    "changes",
    [{}, {"critic": "shared"}, {"lora": Lora(r=8), "value_learning_rate": 3e-3}, {"lora": Lora(r=8), "critic": "shared"}],
    ids=["full", "full shared", "lora", "lora shared"],
)  # fmt: skip
def test_it_learns_short_sequences(parent: Path, tmp_path: Path, changes: Any) -> None:
    rate = 2e-2 if "lora" in changes else 5e-3
    metrics = train(parent, tmp_path, epochs=16, batch_size=32, samples=8, ppo_epochs=3, learning_rate=rate, **changes)
    assert metrics["steps"] == 16 * 2 * 3
    assert metrics["step0_logp_difference"] == 0
    assert metrics["mean_score_first"] < 0.4
    assert metrics["mean_score_last"] > 0.8
    assert metrics["reload_logp_difference"] < 1e-4
    assert max(curve(tmp_path, "sampling_logp_difference")) < 1e-4
    assert max(curve(tmp_path, "explained_variance")) > 0.05


def test_a_bandit_is_solved(parent: Path, tmp_path: Path) -> None:
    """One prompt, one token of 260, of which 13 pay."""

    def pays(conversations: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return [float(text != "" and text in "abcdefghijklm") for text in answers]

    metrics = train(parent, tmp_path, pays, rows=PROMPTS[:1], max_tokens=1, samples=16, epochs=20, learning_rate=1e-2)
    assert curve(tmp_path)[0] < 0.2
    assert metrics["mean_score_last"] > 0.95


def stop_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        {"target_kl": 0.05, "kl_gain": 1.0},
        {"lora": Lora(r=4)},
        {"critic": "shared", "minibatches": 2, "batch_size": 8, "micro_batch_size": 4},
    ],
    ids=["full", "lora", "shared"],
)
def test_a_run_cut_short_ends_with_the_same_bytes(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any
) -> None:
    """The critic, its optimiser and beta go on where they were; each batch of answers is two passes, or four steps."""
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", math.inf)
    changes = {"epochs": 3, "ppo_epochs": 2, "score": score_or_none, **changes}
    whole = train(parent, tmp_path / "whole", **changes)
    steps = 3 * 2 * changes.get("minibatches", 1)
    assert whole["steps"] == steps
    for step in (1, steps - 1):
        with pytest.raises(KeyboardInterrupt):
            train(parent, tmp_path / "cut", progress=stop_at(step), **changes)
    started: list[int] = []
    again = train(parent, tmp_path / "cut", progress=lambda done, total: started.append(done), **changes)
    assert started[0] == steps * 2 // 3 + 1  # the last batch of answers, from its beginning
    assert again == whole
    assert folder_files(tmp_path / "cut/out") == folder_files(tmp_path / "whole/out")
    for name in ("reward", "beta", "explained_variance", "loss/value", "loss"):
        assert curve(tmp_path / "cut", name) == curve(tmp_path / "whole", name)


def score_or_none(conversations: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    return [value or None for value in letters(conversations, answers)]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"lora": Lora(r=4), "learning_rate": 2e-2}], ids=["full", "lora"])
def test_vllm_answers_with_the_weights_of_the_step(tmp_path: Path, changes: Any) -> None:
    """Its log-probabilities are the trainer's at every step, tied head and adapter included."""
    pytest.importorskip("vllm")
    tied = louder(tmp_path / "tied", "model.embed_tokens.weight", tied=True)
    metrics = train(tied, tmp_path, type="vllm", epochs=6, samples=4, **{"learning_rate": 1e-2, **changes})
    assert metrics["mean_score_last"] > metrics["mean_score_first"] + 0.15
    differences = curve(tmp_path, "sampling_logp_difference")
    assert len(differences) == 12
    assert max(differences) < 1e-3
