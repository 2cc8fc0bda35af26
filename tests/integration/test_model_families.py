"""Each family of models goes through each method, sampling and publishing, or is refused in one sentence before training."""

from pathlib import Path
from typing import Any

import pytest

from align.config.base import Sampling
from align.config.training import Dpo, Grpo, Kto, RewardModel, Sft
from align.train.checkpoint import import_model, load_model
from align.types import BinaryLabel, Preference, Prompt, prompt_id
from tests.families import FAMILIES, ODD, make_family

QUESTIONS = [[{"role": "user", "content": f"my order {n}"}] for n in range(6)]
ANSWERS = ["sorry, it is late", "no", "sorry sorry", "it is on its way", "why", "yes it is"]
FEW: dict[str, Any] = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3}


def pair(n: int) -> Preference:
    chosen, rejected = ANSWERS[n], ANSWERS[(n + 1) % 6]
    return Preference(f"p{n}", prompt_id(QUESTIONS[n]), QUESTIONS[n], "c", "r", chosen, rejected, 0.9, 1.0, 0.0, 1, [])


def label(n: int) -> BinaryLabel:
    return BinaryLabel(f"t{n}", prompt_id(QUESTIONS[n]), QUESTIONS[n], "c", ANSWERS[n], float(n % 2), 1.0, 1, [])


def score(prompts: Any, answers: Any) -> list[float | None]:
    return [float(len(answer) % 5) for answer in answers]


def train(method: str, model: Path, at: Path) -> dict[str, Any]:
    from align.train.dpo import train_dpo
    from align.train.grpo import train_grpo
    from align.train.kto import train_kto
    from align.train.sft import train_sft
    from reward.train import train_reward

    given: dict[str, Any] = {
        "seed": 0, "dtype": "float32", "report_to": [], "threads": 1, "out": at / "out", "work": at / "work",
    }  # fmt: skip
    rows = range(6)
    if method == "sft":
        shown = [(QUESTIONS[n], ANSWERS[n]) for n in rows]
        return train_sft(model, shown, Sft(demonstrations=Path("x"), max_tokens=200, **FEW), **given)
    if method == "dpo":
        return train_dpo(model, [pair(n) for n in rows], Dpo(max_tokens=200, **FEW), **given)
    if method == "kto":
        return train_kto(model, [label(n) for n in rows], Kto(max_tokens=200, **FEW), **given)
    if method == "reward":
        return train_reward(model, [pair(n) for n in rows], RewardModel(max_tokens=200, **FEW), **given)
    asked = [Prompt(prompt_id(q), q, "train", "here") for q in QUESTIONS]
    config = Grpo(samples=2, max_tokens=4, max_prompt_tokens=100, type="transformers", **{**FEW, "batch_size": 4})
    return train_grpo(model, asked, config, score=score, **given)


def sample(model: Path) -> None:
    from align.text import encode_prompt, load_tokenizer
    from rollouts.engine import Request
    from rollouts.engines import open_generator

    requests = [Request(f"p{n}", encode_prompt(load_tokenizer(model), q)) for n, q in enumerate(QUESTIONS)]
    with open_generator("transformers", model, dtype="float32", max_tokens_total=200, threads=1) as generator:
        (first, *_), *_ = generator.generate(requests, Sampling(max_tokens=4), samples=1, seed=0)
    assert 1 <= len(first.token_ids) <= 4


def through(given: Path, at: Path, methods: tuple[str, ...]) -> None:
    model = at / "model"
    import_model(str(given), model, revision=None, dtype="float32")
    sample(model)
    before = [p.detach().clone() for p in load_model(model, "float32").parameters()]
    for method in methods:
        told = train(method, model, at / method)
        assert told["steps"] == 3, method
        assert told.get("reload_logp_difference", told.get("reload_score_difference")) < 1e-4
        if method != "reward":
            after = load_model(at / method / "out", "float32").parameters()
            assert any(not a.equal(b) for a, b in zip(after, before, strict=True)), method
            sample(at / method / "out")


METHODS = ("sft", "dpo", "kto", "reward", "grpo")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_through_all_methods(name: str, tmp_path: Path) -> None:
    through(make_family(tmp_path / "given", name), tmp_path, METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_tokenizer_goes_through_all_methods(odd: str, tmp_path: Path) -> None:
    through(make_family(tmp_path / "given", "llama", odd), tmp_path, METHODS)
