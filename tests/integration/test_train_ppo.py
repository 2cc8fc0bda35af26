"""PPO on a tiny model: textbook tasks solved, divergence held, every option acts, a killed run ends with the same bytes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from align.config.training import Lora, Ppo
from align.errors import ConfigError, StageError
from align.progress import Progress
from align.store import folder_files
from align.train import lanes, loop, online
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
    critic_from: Path | None = None, dtype: str = "float32", threads: int = 1, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    usual = {"learning_rate": 3e-3, "batch_size": 16, "samples": 2, "max_tokens": 6, "beta": 0.01}
    config = Ppo(**{**usual, "type": "transformers", **changes})
    return train_ppo(
        parent, rows, config, score=score, seed=1, dtype=dtype, report_to=[], threads=threads, out=at / "out",
        work=at / "work", progress=progress, critic=critic_from,
    )  # fmt: skip


def curve(at: Path, name: str = "reward") -> list[float]:
    rows = [json.loads(line) for line in (at / "out/logs/metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="full", marks=pytest.mark.full),
        pytest.param({"critic": "shared"}, id="full shared"),
        pytest.param({"lora": Lora(r=8), "value_learning_rate": 3e-3}, id="lora"),
        pytest.param({"lora": Lora(r=8), "critic": "shared"}, id="lora shared", marks=pytest.mark.full),
    ],
)
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


def stop_at(step: int) -> Progress:
    def progress(done: int, total: int, said: str = "") -> None:
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
    again = train(parent, tmp_path / "cut", progress=lambda done, total, said="": started.append(done), **changes)
    assert started[0] == steps * 2 // 3 + 1  # the last batch of answers, from its beginning
    assert again == whole
    assert folder_files(tmp_path / "cut/out") == folder_files(tmp_path / "whole/out")
    for name in ("reward", "beta", "explained_variance", "loss/value", "loss"):
        assert curve(tmp_path / "cut", name) == curve(tmp_path / "whole", name)


@pytest.mark.parametrize(
    "changes", [{}, {"micro_batch_size": 8}, {"lora": Lora(r=4)}], ids=["full", "in two pieces", "lora"]
)
def test_two_lanes_learn_what_one_learns(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any
) -> None:
    """One step, so that answers are the same."""
    at_a_time: list[int] = []
    real = lanes.side_by_side
    monkeypatch.setattr(lanes, "side_by_side", lambda works: at_a_time.append(len(works)) or real(works))
    changes = {"epochs": 1, "ppo_epochs": 1, "learning_rate": 1e-2, "trainer": {"logging_steps": 1}, **changes}
    found = {}
    for threads in (1, 2):
        at = tmp_path / str(threads)
        train(parent, at, threads=threads, **changes)
        rows = (at / "out/logs/metrics.jsonl").read_text().splitlines()
        found[threads] = json.loads(rows[0]), load_file(at / "out/model.safetensors")
    assert at_a_time == [2] * (2 if "micro_batch_size" in changes else 1)
    (one, weights), (two, other) = found[1], found[2]
    for name in ("reward", "loss", "loss/value", "entropy", "clip_share", "grad_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5)
    before = load_file(parent / "model.safetensors")
    assert max(float((weights[n] - before[n]).abs().max()) for n in weights) > 1e-3
    # Adam's first step is as large for a gradient of 1e-9 as for one of 1
    apart = torch.cat([(weights[n] - other[n]).abs().flatten() for n in weights])
    assert float((apart < 1e-4).float().mean()) > 0.99


def score_or_none(conversations: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    return [value or None for value in letters(conversations, answers)]


@pytest.mark.full
def test_the_divergence_is_held_at_its_target(parent: Path, tmp_path: Path) -> None:
    """Free, the policy goes some 18 nats away; held at 6, which is more than the noise of a step, it stays there."""
    usual = {"epochs": 50, "learning_rate": 1e-3, "ppo_epochs": 2, "beta": 0.02}
    usual |= {"trainer": {"lr_scheduler_type": "constant"}}
    train(parent, tmp_path / "free", **usual)
    train(parent, tmp_path / "held", target_kl=6.0, kl_gain=1.0, **usual)
    free, held = (curve(tmp_path / at, "kl_per_answer")[-20:] for at in ("free", "held"))
    assert sum(free) / 20 > 12
    assert 4 < sum(held) / 20 < 8
    assert set(curve(tmp_path / "free", "beta")) == {0.02}
    assert max(curve(tmp_path / "held", "beta")) > 0.03


OPTIONS: list[dict[str, Any]] = [
    {"ppo_epochs": 3}, {"minibatches": 2, "batch_size": 8}, {"gamma": 0.9}, {"lam": 0.5}, {"clip": 0.001},
    {"value_clip": 0.001}, {"value_clip": None}, {"critic": "shared"}, {"critic": "shared", "value_weight": 3.0},
    {"value_learning_rate": 3e-2}, {"beta": 0.5}, {"target_kl": 0.001, "kl_gain": 2.0}, {"target_kl": 0.001},
    {"whiten_advantages": False}, {"whiten_rewards": True, "whiten_advantages": False}, {"missing_eos_penalty": 5.0},
    {"temperature": 0.7}, {"top_p": 0.5},
]  # fmt: skip


@pytest.mark.full
def test_every_option_acts(parent: Path, tmp_path: Path) -> None:
    """No two settings end with the same weights."""
    from align.ids import content_id

    found = {}
    for number, changes in enumerate([{}, *OPTIONS]):
        at = tmp_path / str(number)
        train(parent, at, **{"epochs": 3, "ppo_epochs": 2, "learning_rate": 1e-2, **changes})
        found[content_id([(at / "out/model.safetensors").read_bytes().hex()])] = changes
    assert len(found) == len(OPTIONS) + 1


def test_the_critic_starts_from_a_reward_model(parent: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    reward = AutoModelForSequenceClassification.from_pretrained(parent, num_labels=1)
    torch.nn.init.constant_(reward.score.weight, 0.1)
    reward.save_pretrained(tmp_path / "reward")
    few = {"ppo_epochs": 1, "epochs": 1}
    train(parent, tmp_path / "from policy", **few)
    train(parent, tmp_path / "from reward", critic_from=tmp_path / "reward", **few)
    zero, started = (curve(tmp_path / f"from {name}", "explained_variance")[0] for name in ("policy", "reward"))
    assert zero == 0  # a head that says 0
    assert started != 0
    with pytest.raises(ConfigError, match="a shared critic is a head on the policy"):
        train(parent, tmp_path / "shared", critic_from=tmp_path / "reward", critic="shared", **few)
    other = make_tiny_model(tmp_path / "other", vocab_words=["hello"])
    with pytest.raises(ConfigError, match=r"ppo.critic: the critic 'other' knows 265 tokens, the policy 260"):
        train(parent, tmp_path / "tokens", critic_from=other, **few)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"value_weight": 0.5}, "`value_weight` acts with `critic: shared` alone"),
    ({"kl_gain": 0.5}, "`kl_gain` acts with `target_kl` alone"),
    ({"target_kl": 1.0, "beta": 0.0}, "`beta` must be over 0"),
    ({"trainer": {"num_iterations": 2}}, "use ppo.ppo_epochs"),
    ({"trainer": {"loss_type": "grpo"}}, "PPO's loss has no such term"),
]


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_an_option_that_cannot_act_is_an_error(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Ppo(**changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="full", marks=pytest.mark.full),
        pytest.param({"lora": Lora(r=4), "learning_rate": 2e-2}, id="lora"),
    ],
)
def test_vllm_answers_with_the_weights_of_the_step(tmp_path: Path, changes: Any) -> None:
    """Its log-probabilities are the trainer's at every step, tied head and adapter included."""
    pytest.importorskip("vllm")
    tied = louder(tmp_path / "tied", "model.embed_tokens.weight", tied=True)
    train(tied, tmp_path, type="vllm", epochs=6, samples=4, **{"learning_rate": 1e-2, **changes})
    assert curve(tmp_path, "kl_per_answer")[-1] > 0.5  # the weights did move
    differences = curve(tmp_path, "sampling_logp_difference")
    assert len(differences) == 12
    assert max(differences) < 1e-3


@pytest.mark.full
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_an_engine_with_stale_weights_stops_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_p: float
) -> None:
    """vLLM keeps the weights that it was loaded with: the first batch is right, and the second is found out."""
    pytest.importorskip("vllm")
    from align.train.vllm_policy import VllmPolicy

    tied = louder(tmp_path / "tied", "model.embed_tokens.weight", tied=True)
    options = {"type": "vllm", "epochs": 2, "samples": 4, "learning_rate": 1e-2, "top_p": top_p}
    train(tied, tmp_path / "healthy", **options)
    monkeypatch.setattr(VllmPolicy, "refresh", lambda self, policy: None)
    with pytest.raises(StageError, match="the engine does not sample from the policy: log-probabilities of the same"):
        train(tied, tmp_path / "stale", **options)
