"""Checkpoint folders: importing a model, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, StageError
from align.store import checkpoint_id, folder_files
from align.text import CHATML, encode_prompt, load_tokenizer
from align.train import checkpoint, publishing, rounding, verifying
from tests.families import make_family
from tests.tiny import make_tiny_model, make_tokenizer

PROMPT_AND_ANSWER = [([5, 6, 7], [8, 9, 2]), ([10, 11], [12, 2])]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def mine(tiny: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "mine"))


def bring(path: Path | str, out: Path, *, dtype: str = "float32", chat_template: str | None = None) -> Path:
    checkpoint.import_model(str(path), out, revision=None, chat_template=chat_template, dtype=dtype)
    return out


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_weights_of_the_right_type_are_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    out = bring(tiny, tmp_path / "out")
    assert folder_files(out)["model.safetensors"] == folder_files(tiny)["model.safetensors"]
    assert (out / "model.safetensors").stat().st_nlink == 1  # a copy: the user may write into the original


def test_a_templates_variables_and_date_are_published_with_the_checkpoint(mine: Path, tmp_path: Path) -> None:
    template = "{{ strftime_now('%Y-%m-%d') }}{{ effort }}" + CHATML
    (mine / "chat_template.jinja").write_text(template)
    kept: Any = {"chat_template": None, "chat_template_kwargs": {"effort": "low"}, "date": "2026-01-31"}
    checkpoint.import_model(str(mine), tmp_path / "out", revision=None, dtype="float32", **kept)
    again = checkpoint.load_model(tmp_path / "out", "float32")
    publishing.publish_model(again, tmp_path / "out", tmp_path / "trained", dtype="float32")
    for folder in ("out", "trained"):
        prompt = encode_prompt(load_tokenizer(tmp_path / folder), [{"role": "user", "content": "hi"}])
        assert load_tokenizer(mine).decode(prompt).startswith("2026-01-31low<|im_start|>user")
    assert checkpoint_id(bring(mine, tmp_path / "plain")) != checkpoint_id(tmp_path / "out")


def test_the_tokenizers_own_bytes_are_published(mine: Path, tmp_path: Path) -> None:
    given = (mine / "tokenizer.json").read_text() + "\n\n"  # as nobody else would write it
    (mine / "tokenizer.json").write_text(given)
    (mine / "merges.txt").write_text("#version: 0.2\n")
    out = bring(mine, tmp_path / "out")
    publishing.publish_model(checkpoint.load_model(out, "float32"), out, tmp_path / "trained", dtype="float32")
    for folder in (out, tmp_path / "trained"):
        for name in ("tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja"):
            assert (folder / name).read_bytes() == (mine / name).read_bytes()


def test_an_adapter_is_no_model_and_is_not_ignored(tiny: Path, mine: Path, tmp_path: Path) -> None:
    (mine / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    with pytest.raises(
        ConfigError, match="holds a LoRA adapter of 'owner/base' beside a model, and the adapter would be ign"
    ):
        bring(mine, tmp_path / "out")
    alone = tmp_path / "checkpoint" / "adapter"
    alone.mkdir(parents=True)
    (alone / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="holds a LoRA adapter; merge it into its model"):
        bring(alone, tmp_path / "out")
    shutil.copy(tiny / "config.json", tmp_path / "checkpoint")
    with pytest.raises(ConfigError, match="it is merged already: name "):
        bring(alone, tmp_path / "out")


def test_a_checkpoint_is_complete_and_only_that(tiny: Path, tmp_path: Path) -> None:
    out = bring(tiny, tmp_path / "out")
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in out.iterdir()} == names | {"chat_template.jinja"}
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    assert not any(str(tiny).encode() in path.read_bytes() for path in out.iterdir())


def test_importing_twice_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    first, second = (folder_files(bring(source, tmp_path / str(n))) for n, source in enumerate((tiny, tmp_path / "0")))
    assert first == second


def test_another_type_is_cast(tiny: Path, tmp_path: Path) -> None:
    out = bring(tiny, tmp_path / "out", dtype="bfloat16")
    assert checkpoint.stored_dtypes(out) == {"bfloat16"}
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    ours, theirs = (
        verifying.sequence_logps(checkpoint.load_model(path, "float32"), PROMPT_AND_ANSWER) for path in (out, tiny)
    )
    assert 0 < (ours - theirs).abs().max() < 0.05


def test_pickled_weights_are_converted(mine: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = load_file(mine / "model.safetensors")
    torch.save(weights, mine / "pytorch_model.bin")
    (mine / "model.safetensors").unlink()
    out = bring(mine, tmp_path / "out")
    assert [path.name for path in out.glob("*model*")] == ["model.safetensors"]
    ours = load_file(out / "model.safetensors")
    assert ours.keys() == weights.keys()
    assert all(torch.equal(ours[name], weights[name]) for name in weights)


def test_shards_come_along(tiny: Path, tmp_path: Path) -> None:
    sharded = Path(shutil.copytree(tiny, tmp_path / "sharded"))
    checkpoint.load_model(tiny, "float32").save_pretrained(sharded, max_shard_size="100KB")
    (sharded / "model.safetensors").unlink(missing_ok=True)
    out = bring(sharded, tmp_path / "out")
    assert len(list(out.glob("model-*.safetensors"))) > 1
    ours, theirs = (
        verifying.sequence_logps(checkpoint.load_model(path, "float32"), PROMPT_AND_ANSWER) for path in (out, tiny)
    )
    assert (ours - theirs).abs().max() == 0


def test_a_generation_config_that_transformers_would_refuse_is_no_obstacle(mine: Path, tmp_path: Path) -> None:
    edit(mine / "generation_config.json", do_sample=False, temperature=0.3)
    out = bring(mine, tmp_path / "out", dtype="bfloat16")
    assert json.loads((out / "generation_config.json").read_text())["temperature"] == 0.3


def test_a_model_without_a_chat_template_needs_one(mine: Path, tmp_path: Path) -> None:
    (mine / "chat_template.jinja").unlink()
    make_tokenizer([], chat_template=None).save_pretrained(mine)
    with pytest.raises(ConfigError, match="chat template"):
        bring(mine, tmp_path / "refused")
    out = bring(mine, tmp_path / "out", chat_template="chatml")
    assert "im_start" in (out / "chat_template.jinja").read_text()


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "nothing", "a/b/c"])
def test_a_path_that_is_not_there(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model.path: there is no model folder '{path}'"):
        bring(path, tmp_path / "out")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json, so it is no model"):
        bring(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "no causal language model, found LlamaForSeq"),
        ({"architectures": ["T5EncoderModel"], "model_type": "t5"}, "no causal language model, found T5EncoderModel"),
        ({"model_type": "no_such_type"}, r"config\.json that cannot be read"),
        ({"vocab_size": 999}, "cannot be loaded"),
    ],
)
def test_another_kind_of_model(mine: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    edit(mine / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        bring(mine, tmp_path / "out")


def test_weights_that_are_missing_would_be_random(mine: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(mine / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, mine / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 weights, the first is model\.layers\.1\.mlp\.up_proj\.weight"):
        bring(mine, tmp_path / "out")


def test_no_weights_at_all(mine: Path, tmp_path: Path) -> None:
    (mine / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="cannot be loaded"):
        bring(mine, tmp_path / "out")


def test_a_revision_of_a_folder_means_nothing(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.revision: revision 'v2' means nothing"):
        checkpoint.import_model(str(tiny), tmp_path / "out", revision="v2", chat_template=None, dtype="float32")


def test_mean_log_probabilities_are_those_of_the_answer(tiny: Path) -> None:
    import torch

    model = checkpoint.load_model(tiny, "float32")
    prompt, answer = PROMPT_AND_ANSWER[0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    by_hand = sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(answer)) / len(answer)
    assert verifying.sequence_logps(model, PROMPT_AND_ANSWER)[0].item() == pytest.approx(by_hand, abs=1e-5)


def test_a_published_checkpoint_that_differs_is_noticed(mine: Path) -> None:
    import torch

    model = checkpoint.load_model(mine, "float32")
    expected = verifying.sequence_logps(model, PROMPT_AND_ANSWER)
    assert verifying.verify_published(mine, expected, PROMPT_AND_ANSWER, dtype="float32", device="cpu") == 0
    with torch.no_grad():
        model.model.embed_tokens.weight[8] += 0.05
    model.save_pretrained(mine)
    with pytest.raises(StageError, match="the published checkpoint differs"):
        verifying.verify_published(mine, expected, PROMPT_AND_ANSWER, dtype="float32", device="cpu")
    not_a_number = expected * float("nan")
    with pytest.raises(StageError, match="nan"):
        verifying.verify_published(mine, not_a_number, PROMPT_AND_ANSWER, dtype="float32", device="cpu")


def publish(parent: Path, out: Path, dtype: str, *, lora: bool = False) -> dict[str, float]:
    import torch
    from peft import LoraConfig, get_peft_model

    model: Any = checkpoint.load_model(parent, dtype if lora else "float32")
    if lora:
        model = get_peft_model(model, LoraConfig(target_modules=["o_proj"], init_lora_weights=False))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.01)
    pairs = [(PROMPT_AND_ANSWER[0], PROMPT_AND_ANSWER[1])]
    return verifying.publish_and_verify(model, parent, PROMPT_AND_ANSWER, out=out, dtype=dtype, pairs=pairs)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_publishing_puts_no_second_model_beside_the_trainers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, measured: bool
) -> None:
    from transformers import AutoModelForCausalLM

    parent = bring(tiny, tmp_path / "parent", dtype=dtype)
    if not measured:  # as for a model that is too large for ten passes
        monkeypatch.setattr(rounding, "MEASURED_BYTES", 1000)
    own, real = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: own.append(1) or real(*a, **k))
    found = publish(parent, tmp_path / "out", dtype)
    assert len(own) == 1, "the trainer's"
    assert found["reload_logp_difference"] < (0.05 if dtype == "bfloat16" and not measured else 1e-5)
    assert ("published_logps" in found) == (dtype == "bfloat16" and measured)


@pytest.mark.parametrize(
    "fault", ["a tensor of the parent", "another output layer", "a tensor that is missing", "a cut file"]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_wrong_with_a_published_folder_is_found(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, fault: str
) -> None:
    from safetensors.torch import load_file, save_file

    parent, real = bring(tiny, tmp_path / "parent", dtype=dtype), publishing.save_weights

    def save(model: Any, out: Path) -> None:
        real(model, out)
        file = out / "model.safetensors"
        weights, name = load_file(file), "model.layers.0.self_attn.v_proj.weight"
        if fault == "a tensor of the parent":
            weights["model.embed_tokens.weight"] = load_file(parent / "model.safetensors")["model.embed_tokens.weight"]
        elif fault == "another output layer":
            weights["lm_head.weight"] = weights["model.embed_tokens.weight"].roll(1, 0).contiguous()
        elif fault == "a tensor that is missing":
            del weights[name]
        save_file(weights, file, metadata={"format": "pt"})
        if fault == "a cut file":
            file.write_bytes(file.read_bytes()[:-1000])

    monkeypatch.setattr(publishing, "save_weights", save)
    with pytest.raises(
        StageError,
        match=r"the published checkpoint differs from the trained model|it lacks model.layers.0|cannot be read",
    ):
        publish(parent, tmp_path / "out", dtype)


@pytest.mark.parametrize("lora", [True, False])
@pytest.mark.parametrize("measured", [True, False])
def test_a_router_whose_bias_is_no_parameter_is_published_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool, lora: bool
) -> None:
    """DeepSeek's experts are chosen by a stored buffer, which no draw of the rounding touches."""
    import torch
    from safetensors.torch import load_file, save_file

    given, name = make_family(tmp_path / "given", "deepseek"), "model.layers.1.mlp.gate.e_score_correction_bias"
    weights = load_file(given / "model.safetensors")
    assert weights[name].tolist() == [0.0, 0.0]
    loud = {key: one * 20 if ".experts." in key else one for key, one in weights.items()}
    loud[name] = torch.tensor([-7.3, 7.3])
    save_file(loud, given / "model.safetensors", metadata={"format": "pt"})
    parent = bring(given, tmp_path / "parent", dtype="bfloat16")
    if not measured:
        monkeypatch.setattr(rounding, "MEASURED_BYTES", 1000)
    found = publish(parent, tmp_path / "out", "bfloat16", lora=lora)
    assert found["reload_logp_difference"] < (1e-5 if measured else 0.05)
    kept = load_file(tmp_path / "out" / "model.safetensors")[name]
    assert kept.tolist() == pytest.approx([-7.3, 7.3], abs=0.05)
