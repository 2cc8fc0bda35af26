"""Adapters of several rounds as one, and what a running server needs for the next checkpoint."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.adapters import CONFIG, FOLDER, WEIGHTS, adapter_id, obstacle, one_adapter
from rollouts.handover import Handover, adapters_until, handover, model_print
from tests.lora import logits, make_chain
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> list[Path]:
    return make_chain(tmp_path_factory.mktemp("chain"))


def test_the_sum_of_adapters_is_what_both_rounds_trained(chain, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, first, second, _ = chain
    both = one_adapter([first / FOLDER, second / FOLDER], tmp_path / "sum")
    summed = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), both)
    merged = AutoModelForCausalLM.from_pretrained(second)
    alone = AutoModelForCausalLM.from_pretrained(first)
    torch.testing.assert_close(logits(summed), logits(merged), rtol=0, atol=1e-5)
    assert (logits(alone) - logits(merged)).abs().max() > 0.01, "the second round changed something"
    config = json.loads((both / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (6, 6, ["down_proj", "o_proj", "q_proj"])


MODULES = ["layers.0.q_proj", "layers.0.down_proj", "layers.1.q_proj"]
SHAPES = {"q_proj": (5, 3), "down_proj": (3, 7)}
ADAPTER = st.tuples(
    st.integers(1, 4), st.sampled_from([1, 3, 8, 16]), st.lists(st.sampled_from(MODULES), min_size=1, unique=True)
)


@settings(max_examples=30, deadline=None)
@given(st.lists(ADAPTER, min_size=2, max_size=4), st.integers(0, 999))
def test_the_sum_is_the_sum_of_products(adapters, seed):
    """Whatever ranks, scales and modules the rounds had."""
    import tempfile

    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(seed)
    expected: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as at:
        folders = []
        for number, (rank, alpha, modules) in enumerate(adapters):
            folder, weights = Path(at) / str(number), {}
            for module in modules:
                rows, columns = SHAPES[module.rpartition(".")[2]]
                down, up = torch.randn(rank, columns), torch.randn(rows, rank)
                weights |= {f"base.{module}.lora_A.weight": down, f"base.{module}.lora_B.weight": up}
                expected[module] = expected.get(module, 0) + alpha / rank * up @ down
            folder.mkdir()
            save_file(weights, folder / WEIGHTS)
            (folder / CONFIG).write_text(json.dumps({"r": rank, "lora_alpha": alpha, "target_modules": modules}))
            folders.append(folder)
        out = one_adapter(folders, Path(at) / "sum")
        found, config = load_file(out / WEIGHTS), json.loads((out / CONFIG).read_text())
    assert config["r"] == config["lora_alpha"] == sum(rank for rank, _, _ in adapters)
    assert len(found) == 2 * len(expected)
    for module, change in expected.items():
        a, b = (found[f"base.{module}.lora_{side}.weight"] for side in "AB")
        assert a.shape[0] == b.shape[1] == config["r"]
        torch.testing.assert_close(b @ a, change, rtol=1e-4, atol=1e-4)


def test_an_adapter_that_is_alone_stays_where_it_is(chain, tmp_path):
    assert one_adapter([chain[1] / FOLDER], tmp_path / "sum") == chain[1] / FOLDER
    assert not (tmp_path / "sum").exists()
    assert adapter_id([chain[1] / FOLDER]) != adapter_id([chain[2] / FOLDER])


def test_adapters_lie_where_training_puts_them():
    from align.train.publishing import ADAPTER as PUBLISHED

    assert FOLDER == PUBLISHED


def test_adapters_that_cannot_be_added_up(chain, tmp_path):
    folders = [chain[1] / FOLDER, chain[2] / FOLDER]
    assert obstacle(folders, 8) is None
    assert obstacle(folders, 4) == "the adapters' ranks add up to 6, over max_lora_rank (4)"
    odd = tmp_path / "odd"
    odd.mkdir()
    config = json.loads((folders[0] / CONFIG).read_text())
    (odd / CONFIG).write_text(json.dumps({**config, "use_dora": True}))
    assert obstacle([odd], 8) == "an adapter has use_dora True"


def wanted(model: Path, **changes):
    return {"model": model_print(model), "tokens": 100, "dtype": "float32", "threads": 1, "max_lora_rank": 8, **changes}


def test_how_the_next_checkpoint_reaches_a_running_server(chain):
    base, first, second, full = chain
    serves = wanted(base, tokens=128)
    assert handover(serves, wanted(base), base, []) == Handover([])
    assert handover(serves, wanted(first), first, [base]) == Handover([first / FOLDER])
    assert handover(serves, wanted(second), second, [first, base]) == Handover([first / FOLDER, second / FOLDER])
    assert handover(wanted(first), wanted(second), second, [first, base]) == Handover([second / FOLDER])
    assert "all its weights were trained" in handover(serves, wanted(full), full, [base]).restart
    assert "all its weights were trained" in handover(serves, wanted(second), second, []).restart
    assert "all its weights were trained" in handover(serves, wanted(second), second, [full]).restart
    assert (
        "ranks add up to 6"
        in handover(serves | {"max_lora_rank": 4}, wanted(second, max_lora_rank=4), second, [first, base]).restart
    )
    assert handover(serves, wanted(base, tokens=129), base, []).restart.startswith("it has room for 128 tokens")
    assert (
        handover(serves, wanted(base, dtype="bfloat16"), base, []).restart
        == "its dtype is float32, and bfloat16 is asked for"
    )


def test_another_model_at_the_same_path_is_another_model(tmp_path):
    folder = make_tiny_model(tmp_path / "m")
    before = model_print(folder)
    assert model_print(folder) == before
    os.utime(folder / "model.safetensors", (1, 1))
    assert model_print(folder) != before


def test_a_server_that_shows_no_folder_gets_all_adapters_there_are(chain):
    base, first, second, full = chain
    assert adapters_until(None, second, [first, base]) == ([first / FOLDER, second / FOLDER], base)
    assert adapters_until(None, second, []) == ([], second)
    assert adapters_until(None, full, [base]) == ([], full)
