"""The transformers engine on a tiny model, and the choice of an engine."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.config.rollouts import Cpu, Engine
from align.errors import ConfigError
from rollouts import engines
from rollouts.engine import Request, context_length, resolve_engine, weight_bytes
from rollouts.engines import open_generator, threads_for
from rollouts.vllm_engine import GIB, cpu_options, fitted
from tests.tiny import make_tiny_model

RAGGED = [Request(f"p{n}", list(range(10, 10 + n))) for n in (5, 1, 17, 3, 9)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 3], "do_sample": True, "temperature": 9.0, "top_k": 1, "max_new_tokens": 2})
    )  # the model's own defaults, which must not act
    return folder


def generate(checkpoint: Path, requests=RAGGED, *, samples: int = 2, seed: int = 0, **sampling):
    settings = Sampling(**{"max_tokens": 12, **sampling})
    with open_generator("transformers", checkpoint, dtype="float32", max_tokens_total=64, threads=1) as generator:
        return generator.generate(requests, settings, samples=samples, seed=seed)


def test_samples_depend_on_seed_prompt_and_sample_alone(checkpoint: Path):
    once = generate(checkpoint)
    assert [len(several) for several in once] == [2] * 5
    assert generate(checkpoint) == once
    assert generate(checkpoint, seed=1) != once
    assert once[0][0] != once[0][1]
    assert generate(checkpoint, RAGGED[2:3]) == once[2:3]  # whatever else is in the batch
    assert generate(checkpoint, samples=1) == [several[:1] for several in once]


def test_greedy_is_the_likeliest_token_each_time(checkpoint: Path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    for request, (completion,) in zip(RAGGED, generate(checkpoint, samples=1, temperature=0), strict=True):
        ids = list(request.token_ids)
        for token in completion.token_ids:
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
        assert completion.finish == "length"
        assert len(completion.token_ids) == 12


def test_answers_end_with_one_stop_token(checkpoint: Path, tmp_path: Path):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, 260, 20))}))
    stops = {*range(0, 260, 20), 2}
    done = [c for several in generate(folder, samples=6) for c in several]
    assert {c.finish for c in done} == {"stop", "length"}
    for completion in done:
        assert not stops & set(completion.token_ids[:-1])
        assert (completion.token_ids[-1] in stops) == (completion.finish == "stop")


def test_draws_follow_the_distribution(checkpoint: Path):
    import torch
    from transformers import AutoModelForCausalLM

    request, draws = RAGGED[0], 3000
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(checkpoint)(torch.tensor([request.token_ids])).logits[0, -1]
    for temperature in (0.05, 1.0):
        expected = (logits / temperature).softmax(-1)
        (several,) = generate(checkpoint, [request], samples=draws, temperature=temperature, max_tokens=1)
        counts = torch.bincount(torch.tensor([c.token_ids[0] for c in several]), minlength=len(expected))
        for token in (expected > 0.01).nonzero()[:, 0]:
            share, spread = float(counts[token]) / draws, float((expected[token] / draws).sqrt())
            assert abs(share - float(expected[token])) < 4 * spread


def test_top_p_leaves_the_likeliest(checkpoint: Path):
    greedy = generate(checkpoint, samples=1, temperature=0)
    assert generate(checkpoint, samples=1, top_p=1e-6) == greedy
    assert generate(checkpoint, samples=1, top_p=1.0) != greedy


def test_no_warnings_and_threads_are_given_back(checkpoint: Path, caplog):
    import torch

    torch.set_num_threads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate(checkpoint, top_p=0.9, temperature=0.7)
    assert torch.get_num_threads() == 2
    assert [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")] == []


def test_lengths_beyond_the_context_are_refused(checkpoint: Path):
    assert context_length(checkpoint) == 512
    opening = open_generator("transformers", checkpoint, dtype="float32", max_tokens_total=513, threads=1)
    with pytest.raises(ConfigError, match="may take 513 tokens, but the model's context holds 512"), opening:
        pass


def test_which_engine(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_engine("auto") == "transformers"
    with pytest.raises(ConfigError, match=r"rollouts\.type: vLLM is not installed"):
        resolve_engine("vllm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert resolve_engine("auto") == "vllm"
    assert resolve_engine("transformers") == "transformers"


def test_small_heads_are_refused_by_vllm_before_it_is_loaded(tmp_path: Path):
    pytest.importorskip("torch")
    folder = make_tiny_model(tmp_path, head_dim=16)
    says = r"its head_dim is 16, and has to be one of \(32, .*use `rollouts.type: transformers`"
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    opening = open_generator("vllm", folder, dtype="float32", max_tokens_total=64, threads=1)
    with pytest.raises(ConfigError, match=says), opening:
        pass


TOKEN_BYTES = 2 * 2 * 2 * 32 * 4  # of the tiny model's cache: layers, keys and values, heads, head_dim, float32


def fit(checkpoint: Path, available: int, tokens: int = 200, **asked) -> Cpu:
    return fitted(Cpu(**asked), checkpoint, dtype="float32", max_tokens_total=tokens, available=available)


def test_cache_holds_every_sequence_in_flight(checkpoint: Path):
    options = cpu_options(fit(checkpoint, 8 * GIB), 200)
    assert options["max_num_seqs"] == 256
    assert options["kv_cache_memory_bytes"] == 257 * 256 * TOKEN_BYTES  # 200 tokens take two blocks of 128
    assert options["max_num_batched_tokens"] == 4096
    assert cpu_options(fit(checkpoint, 8 * GIB, 6000), 6000)["max_num_batched_tokens"] == 6000


def test_little_memory_means_fewer_sequences(checkpoint: Path):
    sequence, weights = 256 * TOKEN_BYTES, 2 * weight_bytes(checkpoint)
    found = fit(checkpoint, weights + 2 * 11 * sequence)  # half of what is free beside the weights holds eleven
    assert (found.sequences, found.cache_gib) == (10, 11 * sequence / GIB)
    assert fit(checkpoint, 0, **found.model_dump()) == found, "what is fitted is not looked at again"
    assert fit(checkpoint, 0, cache_gib=5 * sequence / GIB).sequences == 4
    says = "1 answers of 200 tokens, with their prompts, need a cache of 0.000488 GiB, and half of the memory .* is 0"
    with pytest.raises(ConfigError, match=says):
        fit(checkpoint, weights)
    with pytest.raises(ConfigError, match=r"300 answers of 200 tokens, .* is 0.00269; lower max_tokens"):
        fit(checkpoint, weights + 2 * 11 * sequence, sequences=300)
    assert fit(checkpoint, 8 * GIB, sequences=300).sequences == 300


def test_threads_by_recipe_and_by_machine(checkpoint: Path, monkeypatch):
    assert threads_for(Engine(), checkpoint, None) == 1, "tiny"
    monkeypatch.setattr(engines, "TINY_BYTES", 0)
    monkeypatch.setattr(engines, "cores", lambda: 7)
    assert threads_for(Engine(), checkpoint, None) == 7
    assert threads_for(Engine(), checkpoint, 3) == 3
    assert threads_for(Engine(cpu=Cpu(threads=2)), checkpoint, 3) == 2


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_logprobs_are_those_of_the_model_at_temperature_1(checkpoint: Path, temperature: float):
    import torch
    from transformers import AutoModelForCausalLM

    model, top_p = AutoModelForCausalLM.from_pretrained(checkpoint), 1.0 if temperature == 0 else 0.9
    done = generate(checkpoint, samples=1, temperature=temperature, top_p=top_p, logprobs=True)
    plain = generate(checkpoint, samples=1, temperature=temperature, top_p=top_p)
    for request, (completion,), (without,) in zip(RAGGED, done, plain, strict=True):
        assert (completion.token_ids, without.logprobs) == (without.token_ids, None)
        ids = torch.tensor([request.token_ids + completion.token_ids])
        with torch.no_grad():
            logps = model(ids).logits[0, len(request.token_ids) - 1 : -1].log_softmax(-1)
        expected = logps.gather(1, ids[0, len(request.token_ids) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, rtol=0, atol=2e-5)
