"""Rounding to bfloat16 at random: right on average, the same for the same weights, and the loss of a change is caught."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, GenerationConfig, LlamaModel, RwkvConfig, RwkvForCausalLM

from align.errors import StageError
from align.layerwise import Fill, empty_model, filled_in_turn, token_logprobs
from align.store import folder_files
from align.train import checkpoint, publishing, rounding, verifying
from tests.families import make_family
from tests.tiny import make_tiny_model, make_tokenizer

STEP = 2.0**-7  # between the numbers that bfloat16 has from 1 to 2


def test_each_number_is_right_on_average_and_those_that_there_are_stay() -> None:
    for value in (1 + STEP / 4, -1 - STEP / 4, 3 + STEP / 2, 1e-3, 0.0):
        rounded = rounding.stochastic(torch.full((40_000,), value), "w").float()
        assert float(rounded.mean()) == pytest.approx(value, rel=1e-4, abs=1e-9)
        assert len(set(rounded.tolist())) == (1 if value == 0 else 2)
    there = torch.randn(1000).to(torch.bfloat16)
    assert rounding.stochastic(there.float(), "w").equal(there)
    odd = torch.tensor([float("inf"), float("-inf"), 1.0])
    assert rounding.stochastic(odd, "w").tolist() == odd.tolist()


def test_the_draw_depends_on_weights_name_and_number_alone() -> None:
    weights = torch.rand(1000, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    first = rounding.stochastic(weights, "a")
    torch.manual_seed(6)
    assert rounding.stochastic(weights, "a").equal(first)
    for other in (
        rounding.stochastic(weights, "b"), rounding.stochastic(weights, "a", 1), rounding.stochastic(weights + 1e-6, "a"),
    ):  # fmt: skip
        assert not other.equal(first)


def changed(folder: Path) -> torch.nn.Module:
    """The model after a training whose steps are far smaller than bfloat16's."""
    model = checkpoint.load_model(folder, "float32")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(1e-5 * torch.randn(weights.shape, generator=draw).sign())
    return model


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounding")
    make_tiny_model(folder / "given", hidden=128)
    checkpoint.import_model(str(folder / "given"), folder / "parent", revision=None, dtype="bfloat16")
    return folder / "parent"


def test_a_change_far_below_a_step_of_bfloat16_is_published(parent: Path, tmp_path: Path) -> None:
    found = publishing.publish_model(changed(parent), parent, tmp_path / "out", dtype="bfloat16")
    assert 0.9 < found.share < 1.1
    assert checkpoint.stored_dtypes(tmp_path / "out") == {"bfloat16"}
    before, trained, after = (
        torch.cat([w.detach().float().flatten() for w in model.parameters()])
        for model in (checkpoint.load_model(parent, "float32"), changed(parent), checkpoint.load_model(tmp_path / "out", "float32"))
    )  # fmt: skip
    nearest = trained.to(torch.bfloat16).float()
    share = [
        float(((x - before) * (trained - before)).sum() / (trained - before).square().sum()) for x in (after, nearest)
    ]
    assert share[0] == pytest.approx(found.share, abs=1e-3)
    assert share[1] < 0.4, "rounded to the nearest it is lost"


def test_a_loss_by_rounding_is_caught(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "stochastic", lambda weights, name, draw=0: weights.detach().to(torch.bfloat16))
    with pytest.raises(StageError) as error:
        publishing.publish_model(changed(parent), parent, tmp_path / "out", dtype="bfloat16")
    assert "% of the trained change of the weights is in what would be published" in error.value.what
    assert "set model.dtype: float32" in str(error.value.hint)


def test_an_adapter_arrives_though_each_of_its_weights_is_below_a_step(parent: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        checkpoint.load_model(parent, "bfloat16"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.add_(1e-4)
    wanted = {
        name: base.float() + change
        for name, base, change in ((n, b.detach().clone(), c) for n, b, c in rounding.layers_of(model))
    }
    found = publishing.publish_model(model, parent, tmp_path / "out", dtype="bfloat16")
    assert 0.9 < found.share < 1.1
    published = dict(checkpoint.load_model(tmp_path / "out", "float32").named_parameters())
    assert max(float((published[n] - w).abs().mean()) for n, w in wanted.items()) < 1e-3
    assert (tmp_path / "out/adapter/adapter_model.safetensors").is_file()


def test_of_a_small_model_the_draw_nearest_to_what_was_trained_is_published(parent: Path) -> None:
    asked = [([5, 6, 7], [8, 9, 2]), ([10, 11], [12, 2]), ([40, 41], [42, 43, 2])]
    empty = empty_model(parent, "float32")

    def logps(fill: Fill) -> torch.Tensor:
        with filled_in_turn(empty, fill):
            return verifying.compared(token_logprobs(empty, asked), margins=False)

    found = rounding.best_draw(changed(parent), parent, logps)
    assert found is not None
    assert 0 <= found.number < rounding.DRAWS
    assert abs(found.share - 1) < 0.5
    told = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])
    assert rounding.share_of(*told) == pytest.approx(3 / 5)


ASKED = [([5, 6, 7], [8, 9, 2]), ([10, 11], [12, 2]), ([40, 41], [42, 43, 2])]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_model_that_reads_weights_out_of_turn_is_published_with_the_same_share(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], lora: bool
) -> None:
    """All its steps are trained by then: what cannot be read by layers is compared whole."""
    from peft import LoraConfig, get_peft_model

    def published(name: str) -> dict[str, float]:
        model = changed(parent)
        if lora:
            adapted = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
            torch.manual_seed(0)
            model = get_peft_model(checkpoint.load_model(parent, "bfloat16"), adapted)
        return verifying.publish_and_verify(model, parent, ASKED, out=tmp_path / name, dtype="bfloat16")

    expected, real = published("in turn"), LlamaModel.forward
    assert expected["reload_logp_difference"] < 1e-4 and 0.5 < expected["published_logps"] < 1.5

    def forward(self: Any, input_ids: Any = None, **more: Any) -> Any:
        return real(self, input_ids=input_ids + int(self.norm.weight.sum() * 0), **more)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    capfd.readouterr()
    assert published("whole") == pytest.approx(expected, abs=1e-5)
    said = capfd.readouterr().err
    for folder in (parent, tmp_path / "whole"):
        assert said.count(f"{folder}: LlamaForCausalLM cannot be read by layers (aten.sum") == 1
    assert said.count("asks for weights out of their turn); all of it is loaded") == 2
    assert folder_files(tmp_path / "whole") == folder_files(tmp_path / "in turn")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_rescales_its_weights_for_inference_is_published_as_it_was_trained(
    tmp_path: Path, dtype: str
) -> None:
    """RWKV halves later layers' weights in place when it is evaluated, which it is before it is published."""
    config = RwkvConfig(
        vocab_size=260, context_length=64, hidden_size=64, num_hidden_layers=4, rescale_every=1, bos_token_id=None,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    given = RwkvForCausalLM(config)
    given.generation_config = GenerationConfig(eos_token_id=[2], pad_token_id=0)
    given.save_pretrained(tmp_path / "given")
    make_tokenizer([]).save_pretrained(tmp_path / "given")
    parent = tmp_path / "parent"
    checkpoint.import_model(str(tmp_path / "given"), parent, revision=None, dtype=dtype)
    model = changed(parent)
    name = "rwkv.blocks.3.attention.output.weight"
    trained = dict(model.named_parameters())[name].detach().clone()
    told = verifying.publish_and_verify(model, parent, ASKED, out=tmp_path / "out", dtype=dtype)
    assert told["reload_logp_difference"] < 1e-4
    kept = load_file(tmp_path / "out/model.safetensors")[name].float()
    assert float((kept - trained).abs().max()) <= {"float32": 0.0, "bfloat16": 2.0**-8}[dtype]
    assert AutoConfig.from_pretrained(tmp_path / "out").rescale_every == 1
    if dtype == "bfloat16":
        assert 0.9 < told["published_weights"] < 1.1 and 0.5 < told["published_logps"] < 1.5


def test_a_model_too_large_for_ten_passes_is_not_measured_so(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "MEASURED_BYTES", 1000)
    assert rounding.best_draw(changed(parent), parent, lambda fill: pytest.fail("computed")) is None


@pytest.mark.parametrize("lost", [False, True])
def test_the_change_of_fused_experts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """They are stored one by one and trained as one tensor."""
    make_family(tmp_path / "given", "mixtral")
    parent = tmp_path / "parent"
    checkpoint.import_model(str(tmp_path / "given"), parent, revision=None, dtype="bfloat16")
    model, draw = checkpoint.load_model(parent, "float32"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "experts" in name:
                weights.add_(1e-5 * torch.randn(weights.shape, generator=draw).sign())
    if lost:
        monkeypatch.setattr(rounding, "stochastic", lambda weights, name, draw=0: weights.detach().to(torch.bfloat16))
        with pytest.raises(StageError, match="% of the trained change of the weights is in what would be published"):
            publishing.publish_model(model, parent, tmp_path / "out", dtype="bfloat16")
    else:
        found = publishing.publish_model(model, parent, tmp_path / "out", dtype="bfloat16")
        assert found.trained == pytest.approx(1e-10 * 2 * 2 * 3 * 32 * 48, rel=0.01)
        assert 0.8 < found.share < 1.2


def test_weights_are_rounded_and_measured_slice_by_slice_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = torch.randn(33, 7, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    trained = parent + 1e-4
    told = []
    for size in (10_000, 10):
        monkeypatch.setattr(rounding, "SLICE", size)
        kept, found = rounding.stochastic(trained, "w"), rounding.Arrived()
        found.add(parent, trained, kept)
        told.append((kept.tolist(), found.share, found.variance))
    assert told[0][0] == told[1][0]
    assert told[0][1:] == pytest.approx(told[1][1:], rel=1e-12)
    assert told[0][0] != trained.bfloat16().tolist()
