"""The sync check: its arithmetic, and that rollouts of other weights stop before the first shard."""

import math
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.errors import StageError
from align.sync import Agreement, require_agreement, require_nearest
from align.types import Prompt, prompt_id
from rollouts.adapters import FOLDER
from rollouts.engine import Request, open_generator
from rollouts.sync import check_sync, token_logprobs
from tests.lora import logits, make_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> list[Path]:
    return make_chain(tmp_path_factory.mktemp("chain"))


def test_agreement_within_the_tolerance():
    found = require_agreement([[-1.0, -2.0], [-3.0]], [[-1.00005, -2.0], [-3.0001]], tolerance=1e-4)
    assert found == Agreement(pytest.approx(1e-4), pytest.approx(5e-5), 3)
    assert require_agreement([[]], [[]], tolerance=1e-4) == Agreement(0.0, 0.0, 0)


@pytest.mark.parametrize(
    "said", [[-1.5, -2.0], [-1.0, math.nan], [math.nan, -2.0], [-1.0, -math.inf], [-1.0005, -2.0005]]
)
def test_what_is_no_agreement(said):
    with pytest.raises(
        StageError, match="the engine does not sample from the policy: log-probabilities of the same 2 tokens"
    ):
        require_agreement([said], [[-1.0, -2.0]], tolerance=1e-4)


def test_numbers_of_a_nucleus_may_be_larger_by_what_it_leaves_out():
    own = [[-1.0, -2.0, -3.0]]
    said = [[-1.0 + 0.1, -2.0, -3.0 - 1e-5]]
    assert require_agreement(said, own, tolerance=1e-4, top_p=0.9).largest < 2e-5
    for wrong in ([[-1.0 + 0.11, -2.0, -3.0]], [[-1.0, -2.1, -3.0]]):
        with pytest.raises(StageError):
            require_agreement(wrong, own, tolerance=1e-4, top_p=0.9)


def test_an_engine_that_is_nearer_to_other_weights():
    own, rival = [[-1.0] * 60, [-2.0] * 40], [[-1.001] * 60, [-2.001] * 40]
    require_nearest(own, own, rival, name="the parent")
    require_nearest(rival, own, own, name="the same numbers")
    half = [[-1.001, -1.0] * 30, [-2.0, -2.001] * 20]
    require_nearest(half, own, rival, name="the parent")
    with pytest.raises(StageError, match=r"samples from the parent and not from the policy: .* for 100 of 100 tokens"):
        require_nearest(rival, own, rival, name="the parent")
    few = [numbers[:10] for numbers in rival[:1]]
    require_nearest(few, [own[0][:10]], few, name="too few to be sure of")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_differ_by_less_than_the_tolerance_are_told_apart(chain, tmp_path, dtype):
    """A stale engine after a round that changed a two-hundredth of what the fixture's rounds do."""
    import shutil

    from safetensors.torch import load_file, save_file

    base, first, *_ = chain
    policy = shutil.copytree(first, tmp_path / "policy", ignore=shutil.ignore_patterns(FOLDER))
    old, new = (load_file(folder / "model.safetensors") for folder in (base, first))
    mixed = {name: old[name] + (new[name] - old[name]) / (200 if dtype == "float32" else 5) for name in new}
    save_file(mixed, policy / "model.safetensors", metadata={"format": "pt"})
    requests = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in range(3, 19)]
    how = {"dtype": dtype, "max_tokens_total": 100, "threads": 1}
    with open_generator("transformers", policy, **how) as generator:
        healthy = check_sync(generator, policy, requests, dtype=dtype, tolerance=1.0, ancestors=[base])
    with open_generator("transformers", base, **how) as generator:
        stale = check_sync(generator, policy, requests, dtype=dtype, tolerance=1.0)
        with pytest.raises(StageError, match=r"samples from .*base and not from the policy"):
            check_sync(generator, policy, requests, dtype=dtype, tolerance=1.0, ancestors=[base])
    assert healthy.tokens > 100 and stale.mean < {"float32": 1e-2, "bfloat16": 0.05}[dtype]


def test_the_trainers_log_probabilities_are_those_of_the_softmax(chain):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(chain[0])
    prompt, answer = [5, 60], [200, 17]
    whole = logits(model).log_softmax(-1)[0]
    expected = [float(whole[1, 200]), float(whole[2, 17])]
    assert token_logprobs(model, prompt, answer) == pytest.approx(expected, abs=1e-6)
    assert torch.is_grad_enabled()


def test_rollouts_of_other_weights_stop_before_the_first_shard(chain, tmp_path, monkeypatch, capfd):
    from rollouts import sample

    messages = [{"role": "user", "content": "Where is my order?"}]
    prompts = [Prompt(prompt_id(messages), messages, "train", "here")]
    order = {
        "sampling": Sampling(max_tokens=8), "samples": 2, "engine": "transformers", "dtype": "float32",
        "max_prompt_tokens": 200, "shard": 2, "seed": 7, "threads": 1,
    }  # fmt: skip
    sample.sample_candidates(prompts, chain[1], "first", **order, out=tmp_path / "right")
    assert "sync check: engine and policy agree about" in capfd.readouterr().err
    real = sample.open_generator
    monkeypatch.setattr(sample, "open_generator", lambda engine, checkpoint, **how: real(engine, chain[0], **how))
    with pytest.raises(StageError, match="the engine does not sample from the policy") as error:
        sample.sample_candidates(prompts, chain[1], "first", **order, out=tmp_path / "wrong")
    assert error.value.where == str(chain[1])
    assert list((tmp_path / "wrong").rglob("*.parquet")) == []
