"""Which engine `auto` means."""

import json
from pathlib import Path
from typing import Any

import pytest

from align.config.rollouts import Cpu, Engine
from rollouts import choose as chosen
from rollouts.choose import choose, transformers_seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What there is; a test changes it."""
    import torch

    there = {"vllm": True, "gpu": False}
    monkeypatch.setattr(chosen.importlib.util, "find_spec", lambda name: object() if there["vllm"] else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["gpu"])
    return there


def model(folder: Path, millions: float, **config: Any) -> Path:
    """A folder with a config and weights of that size, which hold nothing."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(int(millions * 4e6))
    return folder


def test_a_small_model_is_done_before_vllm_is_up_and_a_large_one_is_not(
    tmp_path: Path, machine: dict[str, bool]
) -> None:
    small, large = model(tmp_path / "s", 5, num_hidden_layers=2), model(tmp_path / "l", 500, n_layer=24)
    found = choose(Engine(), small, dtype="float32", answers=512, max_tokens=64)
    assert found.type == "transformers"
    assert found.why == "about 19 s of work here for transformers; vLLM alone starts for 14 s"
    assert choose(Engine(), small, dtype="float32", answers=5120, max_tokens=64).type == "vllm"
    assert choose(Engine(), large, dtype="float32", answers=64, max_tokens=64).type == "vllm"
    assert choose(Engine(), large, dtype="float32", answers=4, max_tokens=64).type == "transformers"


def test_the_machine_decides_first(tmp_path: Path, machine: dict[str, bool]) -> None:
    small = model(tmp_path / "s", 5, num_hidden_layers=2)
    asked: dict[str, Any] = {"dtype": "float32", "answers": 8, "max_tokens": 8}
    assert choose(Engine(), small, **asked).type == "transformers"
    assert choose(Engine(cpu=Cpu(cache_gib=1)), small, **asked).type == "vllm", "what belongs to vLLM asks for it"
    machine["gpu"] = True
    assert choose(Engine(), small, **asked).type == "vllm"
    machine["vllm"] = False
    found = choose(Engine(), small, **asked)
    assert (found.type, found.why) == ("transformers", "vLLM is not installed")


def test_the_estimate_counts_batches_steps_and_weights(tmp_path: Path) -> None:
    m = model(tmp_path / "m", 100, num_hidden_layers=10)
    one = transformers_seconds(m, "float32", 64, 10)
    assert one == pytest.approx(10 * (10 * 0.6e-3 + 64 * (0.3e-3 + 100e6 / 20e9)))
    assert transformers_seconds(m, "float32", 65, 10) == pytest.approx(2 * one)
    assert transformers_seconds(m, "bfloat16", 64, 10) > 1.8 * one, "the file has twice as many weights"
