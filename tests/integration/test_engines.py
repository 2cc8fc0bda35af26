"""What every engine promises, asked of each of them: `rollouts.Generator` on a tiny model.

The reference is the model itself: likeliest tokens and log-probabilities by plain forward passes in transformers, and
the samples of one engine, which all others have to draw too.
"""

import importlib.util
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.config.rollouts import Engine, Ray
from align.errors import ConfigError
from rollouts.engine import Completion, Generator, Request
from rollouts.engines import open_generator
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow

STOPS = {*range(0, 260, 20), 2}
REQUESTS = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in (5, 1, 150, 3, 9, 40)]
SAMPLING = Sampling(max_tokens=24)
OPENING = {"dtype": "float32", "max_tokens_total": 200, "threads": 1}


def _needs(type: str, module: str, *marks: pytest.MarkDecorator):
    missing = pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")
    return pytest.param(type, marks=[missing, *marks])


ENGINES = {
    "transformers": Engine(type="transformers"),
    "vllm": Engine(type="vllm"),
    "server": Engine(type="server"),
    "ray": Engine(type="ray", shard=4, ray=Ray(engine="transformers", workers=2, batch=2)),
}


EVERY_ENGINE = [
    "transformers",
    _needs("vllm", "vllm"),
    _needs("server", "vllm", pytest.mark.full),  # a minute; the gate asks it in test_server_engine.py
    _needs("ray", "ray"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    defaults = {"do_sample": True, "temperature": 9.0, "top_k": 1, "max_new_tokens": 2}  # must not act
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(STOPS - {2}), **defaults}))
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[list[Completion]]:
    with open_generator("transformers", checkpoint, **OPENING) as generator:
        return generator.generate(REQUESTS, SAMPLING, samples=3, seed=4)


@pytest.fixture(scope="module", params=EVERY_ENGINE)
def generator(request, checkpoint: Path, expected) -> Iterator[Generator]:
    """One engine after another; when one is closed, nothing of it is left in this process or below it."""
    import torch

    environment, threads, children = dict(os.environ), torch.get_num_threads(), _children()
    with open_generator(ENGINES[request.param], checkpoint, **OPENING) as opened:
        yield opened
    changed = {name for name in environment | os.environ if environment.get(name) != os.environ.get(name)}
    assert changed <= {
        "PYTEST_CURRENT_TEST",
        "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",
    }  # vLLM compiles log-probabilities
    assert torch.get_num_threads() == threads
    left = [Path(f"/proc/{pid}/cmdline").read_text() for pid in _children() - children]
    assert [command for command in left if command] == []  # those without a command are dead


def _children() -> set[str]:
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


def test_each_request_has_its_samples_in_order(generator: Generator, expected):
    """The same as every other engine's: draws depend on seed, prompt id, sample and model alone."""
    found = generator.generate(REQUESTS, SAMPLING, samples=3, seed=4)
    assert found == expected
    assert [len(several) for several in found] == [3] * 6
    assert len({tuple(c.token_ids) for several in found for c in several}) == 18


def test_samples_do_not_depend_on_company_or_on_earlier_calls(generator: Generator, expected):
    turned = generator.generate(REQUESTS[::-1], SAMPLING, samples=3, seed=4)
    assert turned[::-1] == expected
    assert generator.generate(REQUESTS[2:3], SAMPLING, samples=3, seed=4) == expected[2:3]
    assert generator.generate(REQUESTS, SAMPLING, samples=1, seed=4) == [several[:1] for several in expected]


def test_seed_and_prompt_id_choose_the_draws(generator: Generator, expected):
    other_seed = generator.generate(REQUESTS, SAMPLING, samples=3, seed=5)
    other_id = generator.generate([replace(REQUESTS[2], prompt_id="other")], SAMPLING, samples=3, seed=4)
    assert all(a != b for a, b in zip(other_seed, expected, strict=True))
    assert other_id[0] != expected[2]


def test_answers_end_with_one_stop_token_or_at_the_limit(generator: Generator):
    done = [c for several in generator.generate(REQUESTS, SAMPLING, samples=4, seed=1) for c in several]
    assert {c.finish for c in done} == {"stop", "length"}
    for completion in done:
        assert not STOPS & set(completion.token_ids[:-1])
        assert (completion.token_ids[-1] in STOPS) == (completion.finish == "stop")
        assert len(completion.token_ids) == 24 or completion.finish == "stop"
    cut = generator.generate(REQUESTS, Sampling(max_tokens=1), samples=4, seed=1)
    assert [c.token_ids for several in cut for c in several] == [c.token_ids[:1] for c in done]


def test_temperature_0_takes_the_likeliest_token(generator: Generator, checkpoint: Path):
    found = generator.generate(REQUESTS, Sampling(max_tokens=6, temperature=0), samples=1, seed=0)
    for request, (completion,) in zip(REQUESTS, found, strict=True):
        logits_TV = _logits(checkpoint, request.token_ids + completion.token_ids)[len(request.token_ids) - 1 : -1]
        assert logits_TV.argmax(-1).tolist() == completion.token_ids


def test_a_small_nucleus_is_the_likeliest_token(generator: Generator):
    greedy = generator.generate(REQUESTS, Sampling(max_tokens=6, temperature=0), samples=1, seed=0)
    assert generator.generate(REQUESTS, Sampling(max_tokens=6, top_p=1e-6), samples=1, seed=3) == greedy


def test_logprobs_are_the_models_own_whatever_was_drawn_with(generator: Generator, checkpoint: Path, expected):
    assert expected[0][0].logprobs is None
    for sampling in (
        Sampling(max_tokens=24, logprobs=True),
        Sampling(max_tokens=8, temperature=0.5, top_p=0.8, logprobs=True),
    ):
        for request, (completion,) in zip(
            REQUESTS, generator.generate(REQUESTS, sampling, samples=1, seed=4), strict=True
        ):
            ids = completion.token_ids
            logits_TV = _logits(checkpoint, request.token_ids + ids)[len(request.token_ids) - 1 : -1]
            truth = logits_TV.log_softmax(-1)[range(len(ids)), ids].tolist()
            assert completion.logprobs == pytest.approx(truth, abs=1e-4)
    plain = generator.generate(REQUESTS, Sampling(max_tokens=24, logprobs=True), samples=3, seed=4)
    assert [[c.token_ids for c in several] for several in plain] == [[c.token_ids for c in s] for s in expected]


def test_draws_follow_the_distribution(generator: Generator, checkpoint: Path):
    draws = 400
    (several,) = generator.generate(REQUESTS[:1], Sampling(max_tokens=1, temperature=0.05), samples=draws, seed=9)
    likely = (_logits(checkpoint, REQUESTS[0].token_ids)[-1] / 0.05).softmax(-1)
    for token in (likely > 0.02).nonzero()[:, 0].tolist():
        share, spread = sum(c.token_ids == [token] for c in several) / draws, math.sqrt(likely[token] / draws)
        assert abs(share - likely[token]) < 4 * spread


def test_no_requests_have_no_answers(generator: Generator):
    assert generator.generate([], SAMPLING, samples=2, seed=0) == []


@pytest.mark.parametrize("type", ENGINES)
def test_lengths_beyond_the_context_are_refused_at_once(type: str, checkpoint: Path):
    opening = open_generator(ENGINES[type], checkpoint, **{**OPENING, "max_tokens_total": 513})
    with pytest.raises(ConfigError, match="may take 513 tokens, but the model's context holds 512"), opening:
        pass


@pytest.mark.parametrize("type", [_needs("vllm", "vllm"), _needs("server", "vllm")])
def test_a_model_that_vllm_cannot_run_is_refused_with_the_way_out(type: str, tmp_path: Path):
    folder = make_tiny_model(tmp_path, head_dim=16)
    opening = open_generator(ENGINES[type], folder, **OPENING)
    with pytest.raises(ConfigError, match=r"its head_dim is 16, .*use `rollouts.type: transformers`"), opening:
        pass


def _logits(checkpoint: Path, ids: list[int]):
    """Of each position, by one plain forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0]
