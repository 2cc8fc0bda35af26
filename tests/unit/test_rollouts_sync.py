"""The sync check: its arithmetic, and that rollouts of other weights stop before the first shard."""

import math
import shutil
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.errors import StageError
from align.sync import Agreement, require_agreement, require_nearest
from align.types import Prompt, prompt_id
from rollouts.adapters import FOLDER
from rollouts.engine import Request
from rollouts.engines import open_generator
from rollouts.sync import check_sync
from tests.lora import make_chain


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


FAULTS = [
    "none",
    "stale output layer",
    "the adapter of before",
    "embedding that was not resized",
    "a shard that is damaged",
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found_by_layers(chain, tmp_path, monkeypatch, fault, dtype):
    """What an engine may get wrong, and a checkpoint that was damaged after the engine had read it."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    from rollouts.transformers_engine import TransformersGenerator

    base, first, second, full = chain
    policy = shutil.copytree(full if "layer" in fault or "embed" in fault else second, tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=getattr(torch, dtype)).eval()
    old = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        if fault == "stale output layer":  # tied, and only the embedding was sent
            model.lm_head.weight = torch.nn.Parameter(old.lm_head.weight.clone())
        elif fault == "embedding that was not resized":  # the new rows are nobody's
            model.model.embed_tokens.weight[200:] = old.model.embed_tokens.weight[200:]
        elif fault == "the adapter of before":
            model = AutoModelForCausalLM.from_pretrained(first, dtype=getattr(torch, dtype)).eval()
        elif fault == "a shard that is damaged":
            weights = load_file(policy / "model.safetensors")
            weights["model.embed_tokens.weight"].view(torch.int32).bitwise_xor_(1 << 24)  # in the exponents
            save_file(weights, policy / "model.safetensors", metadata={"format": "pt"})
    requests = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in range(3, 19)]
    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a whole model is loaded"))
        generator = TransformersGenerator.of_model(model, [2, 3])
        if fault == "none":
            assert check_sync(generator, policy, requests, dtype=dtype, ancestors=[base]).tokens > 100
        else:
            with pytest.raises(
                StageError, match=r"the engine does not sample from the policy|samples from .*base and not"
            ):
                check_sync(generator, policy, requests, dtype=dtype, ancestors=[first if "adapter" in fault else base])


def test_numbers_that_padding_changes_are_computed_without_it(chain, monkeypatch):
    """Some architectures do not ignore padding, and their engine is not to blame."""
    from transformers import LlamaModel

    real = LlamaModel.forward

    def forward(self, input_ids=None, attention_mask=None, **more):
        shift = 0 if attention_mask is None else int((attention_mask == 0).sum())
        return real(self, input_ids=(input_ids + shift) % 260, attention_mask=attention_mask, **more)

    requests = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in (3, 9, 4)]
    with open_generator("transformers", chain[0], dtype="float32", max_tokens_total=100, threads=1) as generator:
        answers = generator.generate(requests, Sampling(max_tokens=32, logprobs=True), samples=1, seed=1)
        monkeypatch.setattr(generator, "generate", lambda *_, **__: answers)
        monkeypatch.setattr(LlamaModel, "forward", forward)
        found = check_sync(generator, chain[0], requests, dtype="float32")
    assert found.tokens > 30 and found.mean < 1e-5
