"""Log-probabilities by layers: those of the whole model, with a part of it in memory, and damage is found."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaModel

from align import layerwise
from align.errors import StageError
from tests.families import FAMILIES, make_family
from tests.tiny import make_tiny_model

ASKED = [([5, 6, 7, 8, 9, 10, 11], [8, 9, 2]), ([10, 11], [12, 2, 30, 31]), ([40] * 30, [42, 43, 2]), ([7, 8], [9, 2])]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def mine(tiny: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "mine"))


def by_hand(folder: Path, dtype: str = "float32") -> list[list[float]]:
    """Of the whole model, each answer by itself, all logits at once."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    found = []
    with torch.no_grad():
        for prompt, answer in ASKED:
            logps = model(input_ids=torch.tensor([prompt + answer])).logits[0].float().log_softmax(-1)
            found.append([float(logps[len(prompt) + place - 1, token]) for place, token in enumerate(answer)])
    return found


def largest(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    assert [len(one) for one in ours] == [len(answer) for _, answer in ASKED]
    return max(abs(a - b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_numbers_are_those_of_the_whole_model(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_family(tmp_path / "model", name)
    for dtype, allowed in (("float32", 1e-5), ("bfloat16", 0.01)):
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        capfd.readouterr()
        found = layerwise.checkpoint_logprobs(folder, ASKED, dtype=dtype)
        assert "read by layers" not in capfd.readouterr().err
        assert found == layerwise.token_logprobs(whole, ASKED), "the same passes give the same bits"
        assert largest(found, by_hand(folder, dtype)) < allowed
        unpadded = layerwise.checkpoint_logprobs(folder, ASKED, dtype=dtype, padded=False)
        assert largest(unpadded, by_hand(folder, dtype)) < allowed


def test_one_part_is_in_memory_at_a_time(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", hidden=128, layers=6, tied=False)
    model = layerwise.empty_model(folder, "float32")
    stored, there, asked = layerwise.Stored(folder, model), [], []

    def fill(model: Any, names: Sequence[str]) -> None:
        stored(model, names)
        asked.append(names[0].rpartition(".")[0])
        there.append(sum(w.numel() for w in model.parameters() if not w.is_meta))

    with layerwise.filled_in_turn(model, fill):
        layerwise.token_logprobs(model, ASKED)
    sizes = {n: w.numel() for n, w in model.named_parameters()}
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.3."))
    assert layer == 4 * 128 * 64 + 3 * 128 * 256 + 2 * 128
    assert sum(sizes.values()) > 6 * layer
    assert there == [260 * 128, *[layer] * 6, 128, 260 * 128]
    assert [asked[0], *asked[-2:]] == ["model.embed_tokens", "model.norm", "lm_head"], "each is read once"
    assert all(w.is_meta for w in model.parameters())


def test_long_rows_and_long_answers_get_passes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [([1] * 10, [2] * 6), ([1] * 2, [2] * 3), ([1] * 12, [2] * 4), ([1] * 2, [2] * 3)]
    assert list(layerwise._passes(rows, True)) == [[0, 2, 1, 3]]
    assert list(layerwise._passes(rows, False)) == [[0, 2], [1, 3]]
    monkeypatch.setattr(layerwise, "PASS_TOKENS", 32)
    assert list(layerwise._passes(rows, True)) == [[0, 2], [1, 3]]
    monkeypatch.setattr(layerwise, "PASS_ANSWERS", 5)
    assert list(layerwise._passes(rows, True)) == [[0], [2], [1], [3]]
    assert list(layerwise._passes([], True)) == []


def test_an_output_layer_beside_its_config_is_read_as_it_is_stored(mine: Path) -> None:
    """The config ties it to the embedding, but another one is stored: what serves the folder may use either."""
    weights = load_file(mine / "model.safetensors")
    tied = by_hand(mine)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].roll(1, 0).contiguous()
    save_file(weights, mine / "model.safetensors", metadata={"format": "pt"})
    found = layerwise.checkpoint_logprobs(mine, ASKED, dtype="float32")
    assert largest(found, by_hand(mine)) < 1e-5
    assert largest(found, tied) > 0.1


def spoil(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    if how == "missing":
        del weights["model.layers.1.mlp.up_proj.weight"]
    elif how == "smaller":
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:200].contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-100_000])
    elif how == "garbled":
        file.write_bytes(b"\xff" * 100 + file.read_bytes()[100:])
    elif how == "none":
        file.unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "it lacks model.layers.1.mlp.up_proj.weight"),
        ("smaller", r"model.embed_tokens.weight has the shape \[200, 64\] and the model's has \[260, 64\]"),
        ("cut", "model.safetensors cannot be read"),
        ("garbled", "model.safetensors cannot be read"),
        ("none", "it has none as safetensors"),
    ],
)
def test_damage_is_said(mine: Path, how: str, said: str) -> None:
    spoil(mine, how)
    with pytest.raises(StageError, match=f"the checkpoint's weights are not those of its config: {said}") as error:
        layerwise.checkpoint_logprobs(mine, ASKED, dtype="float32")
    assert error.value.where == str(mine)


def test_a_shard_that_is_gone_is_said(tiny: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny).save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    shards = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2
    found = layerwise.checkpoint_logprobs(tmp_path / "sharded", ASKED, dtype="float32")
    assert found == layerwise.checkpoint_logprobs(tiny, ASKED, dtype="float32")
    shards[1].unlink()
    with pytest.raises(StageError, match=f"{shards[1].name} cannot be read"):
        layerwise.checkpoint_logprobs(tmp_path / "sharded", ASKED, dtype="float32")


@pytest.mark.parametrize("how", ["computes with", "asks for the device of"])
def test_a_model_that_reads_weights_out_of_turn_is_loaded_whole_and_that_is_said(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    """Torch gives numbers for an index on no device, and no error: nothing may come of them."""
    real = LlamaModel.forward

    def forward(self: Any, input_ids: Any = None, **more: Any) -> Any:
        if how == "computes with":
            input_ids = input_ids + int(self.norm.weight.sum() * 0)
        else:
            input_ids = input_ids.to(self.norm.weight.device)
        return real(self, input_ids=input_ids, **more)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    found = layerwise.checkpoint_logprobs(tiny, ASKED, dtype="float32")
    assert largest(found, by_hand(tiny)) < 1e-5
    said = capfd.readouterr().err
    assert f"{tiny}: LlamaForCausalLM cannot be read by layers (" in said and "; all of it is loaded" in said


def test_quantised_weights_are_loaded_whole(mine: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "nothing"}}))
    found = layerwise.checkpoint_logprobs(mine, ASKED, dtype="float32")
    assert largest(found, by_hand(mine)) < 1e-5
    assert "cannot be read by layers (its weights are quantised); all of it is loaded" in capfd.readouterr().err


def test_weights_that_nothing_computes_with_are_read_too(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LlamaModel.__init__

    def with_more(self: Any, config: Any) -> None:
        real(self, config)
        self.unused = torch.nn.Linear(3, 2)

    monkeypatch.setattr(LlamaModel, "__init__", with_more)
    with pytest.raises(StageError, match=r"it lacks model\.unused\.bias"):
        layerwise.checkpoint_logprobs(mine, ASKED, dtype="float32")


def test_the_stored_weights_part_by_part(tiny: Path) -> None:
    found: dict[str, torch.Tensor] = {}
    for part in layerwise.stored_parts(tiny, "bfloat16"):
        found |= part
    weights = load_file(tiny / "model.safetensors")
    assert found.pop("lm_head.weight").equal(weights["model.embed_tokens.weight"].bfloat16())
    assert found.keys() == weights.keys()
    assert all(found[name].equal(weights[name].bfloat16()) for name in weights)
