"""The transformers engine on a tiny model, and the choice of an engine."""

import importlib.util
import json
import warnings
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.errors import ConfigError
from rollouts.engine import Request, context_length, open_generator, resolve_engine
from rollouts.vllm_engine import _cpu_options
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


def test_cache_holds_every_sequence_in_flight(checkpoint: Path):
    options = _cpu_options(checkpoint, "float32", 200)
    token_bytes = 2 * 2 * 2 * 32 * 4  # layers, keys and values, heads, head_dim, float32
    assert options["max_num_seqs"] == 256
    assert options["kv_cache_memory_bytes"] == 257 * 256 * token_bytes  # 200 tokens take two blocks of 128
    assert options["max_num_batched_tokens"] == 4096


def test_cache_of_a_large_model_limits_the_sequences(tmp_path: Path):
    config = {"num_hidden_layers": 28, "num_key_value_heads": 8, "num_attention_heads": 16, "head_dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = _cpu_options(tmp_path, "bfloat16", 6000)
    assert options["max_num_seqs"] == 3
    assert options["max_num_batched_tokens"] == 6000
    assert options["kv_cache_memory_bytes"] < 3 << 30
