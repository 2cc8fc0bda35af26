"""A published adapter is PEFT's to load: on its parent, wherever that lies, with the merged checkpoint's words."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.config.training import Dpo, Lora
from align.ids import file_id
from align.store import folder_files
from align.train import checkpoint, dpo, verifying
from align.train.adapter import name_base
from align.types import Preference
from tests.tiny import make_tiny_model

PAIRS = [
    Preference(f"p{n}", f"q{n}", [{"role": "user", "content": f"Case {n}"}], "a", "b", "Sorry.", "No.", 1.0, 1.0, 0.0, 1, [])
    for n in range(8)
]  # fmt: skip
SEQUENCES = [([1, 30, 31, 2, 1], [40, 41, 42, 2]), ([1, 50, 2, 1], [60, 2])]


def published(folder: Path) -> tuple[Path, Path]:
    """A parent, and an adapter that was trained on it with the checkpoint that it is merged into."""
    parent = make_tiny_model(folder / "parent", seed=3)
    dpo.train_dpo(
        parent, PAIRS, Dpo(learning_rate=1e-2, batch_size=4, lora=Lora(r=4)), seed=1, dtype="float32", report_to=[],
        threads=1, out=folder / "out", work=folder / "work",
    )  # fmt: skip
    return parent, folder / "out"


def config_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "adapter/adapter_config.json").read_text())
    return found


def test_peft_loads_it_by_itself_and_says_what_the_merged_checkpoint_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parent, out = published(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    merged, started = (
        verifying.sequence_logps(checkpoint.load_model(at, "float32"), SEQUENCES) for at in (out, parent)
    )
    assert (merged - started).abs().max() > 0.01

    def says(model: Any) -> bool:
        return torch.allclose(verifying.sequence_logps(model, SEQUENCES), merged, atol=1e-5)

    assert says(AutoPeftModelForCausalLM.from_pretrained(out / "adapter"))
    assert says(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(parent), out / "adapter"))
    moved = (tmp_path / "a").rename(tmp_path / "b")
    name_base(moved / "out/adapter", str(moved / "parent"))
    assert says(AutoPeftModelForCausalLM.from_pretrained(str(moved / "out/adapter")))


def test_where_the_base_lies_is_no_content(tmp_path: Path) -> None:
    _, one = published(tmp_path / "a")
    _, other = published(tmp_path / "elsewhere" / "b")
    assert config_of(one)["base_model_name_or_path"] == str(tmp_path / "a/parent")
    assert config_of(other)["base_model_name_or_path"] == str(tmp_path / "elsewhere/b/parent")
    before = folder_files(one)
    assert before == folder_files(other)
    config = one / "adapter/adapter_config.json"
    name_base(one / "adapter", "somebody/a-model")
    assert config_of(one)["base_model_name_or_path"] == "somebody/a-model"
    assert folder_files(one) == before
    config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    assert file_id(config) != before["adapter/adapter_config.json"], "all else is content"


def test_random_weights_are_no_base(tmp_path: Path) -> None:
    _, out = published(tmp_path)
    (tmp_path / "parent/model.safetensors").unlink()
    name_base(out / "adapter", str(tmp_path / "parent"))
    assert config_of(out)["base_model_name_or_path"] is None


def test_a_model_of_the_hub_keeps_its_revision(tmp_path: Path) -> None:
    from peft import PeftConfig

    _, out = published(tmp_path)
    name_base(out / "adapter", "somebody/a-model", "v2")
    read = PeftConfig.from_pretrained(out / "adapter")
    assert (read.base_model_name_or_path, read.revision) == ("somebody/a-model", "v2")
