"""Options of the trainers: ours cannot be overridden, and one that would do nothing is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.config.recipe import Dpo, Lora, Sft
from align.errors import ConfigError
from align.train import arguments


def options(config: Sft | Dpo, **changes: Any) -> dict[str, Any]:
    section = "sft" if isinstance(config, Sft) else "dpo"
    given = {"rows": 640, "seed": 3, "dtype": "float32", "report_to": [], "out": Path("o"), "work": Path("w")} | changes
    return arguments.trainer_options(config, section=section, **given)


def sft(**changes: Any) -> Sft:
    return Sft(demonstrations=Path("d.jsonl"), **changes)


def test_batches_are_split_into_micro_batches() -> None:
    found = options(sft(batch_size=32, micro_batch_size=8))
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (8, 4)
    assert options(sft(batch_size=32))["gradient_accumulation_steps"] == 1


def test_nothing_is_cut_saved_by_step_or_hidden() -> None:
    found = options(sft())
    assert found["max_length"] is None
    assert found["save_strategy"] == "no"
    assert found["logging_nan_inf_filter"] is False
    assert found["remove_unused_columns"] is False
    assert found["report_to"] == "none"


def test_the_users_option_reaches_the_trainer() -> None:
    found = options(sft(trainer={"warmup_steps": 7, "logging_steps": 3}))
    assert (found["warmup_steps"], found["logging_steps"]) == (7, 3)


@pytest.mark.parametrize("key", ["output_dir", "bf16", "packing", "padding_free", "precompute_ref_log_probs", "seed"])
def test_options_that_are_ours_are_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match=f"dpo.trainer: `{key}` cannot be set"):
        arguments.check_options({key: True}, {"output_dir": "", "bf16": 1, "seed": 0}, "dpo")


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"discopop_tau": 0.1, "loss_type": ["ipo", "hinge"]}, "discopop_tau"),
        ({"discopop_tau": 0.1}, "discopop_tau"),
        ({"f_alpha_divergence_coef": 0.3, "f_divergence_type": "forward_kl"}, "f_alpha_divergence_coef"),
        ({"loss_weights": [1.0, 2.0]}, "loss_weights"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"`{wrong}`"):
        arguments.check_options(given, {}, "dpo")


@pytest.mark.parametrize(
    "given",
    [
        {"discopop_tau": 0.1, "loss_type": "discopop"},
        {"discopop_tau": 0.1, "loss_type": ["sft", "discopop"], "loss_weights": [1, 2]},
        {"f_alpha_divergence_coef": 0.3, "f_divergence_type": "alpha_divergence"},
    ],
)
def test_an_option_that_acts_is_taken(given: dict[str, Any]) -> None:
    arguments.check_options(given, {}, "dpo")


@pytest.mark.parametrize(
    ("config", "rows", "steps"),
    [
        (sft(batch_size=32), 640, 20),
        (sft(batch_size=32, epochs=3), 33, 6),
        (sft(batch_size=32, epochs=0.5), 640, 10),
        (sft(batch_size=32, trainer={"max_steps": 2}), 640, 2),
    ],
)
def test_planned_steps(config: Sft, rows: int, steps: int) -> None:
    assert arguments.planned_steps(config, rows) == steps


def test_dropout_of_an_adapter_cannot_act_in_dpo() -> None:
    assert arguments.lora_config(Lora(dropout=0.1), section="sft").lora_dropout == 0.1
    with pytest.raises(ConfigError, match=r"dpo.lora.dropout: dropout 0.1 cannot act in DPO"):
        arguments.lora_config(Lora(dropout=0.1), section="dpo")


def test_a_tracker_that_is_not_installed_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"report_to: the tracker 'neptune' is not installed"):
        arguments.trackers(["neptune"], Path("o"))


def test_tensorboards_files_survive_the_working_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    assert options(sft(), report_to=["tensorboard"], out=Path("o"))["report_to"] == ["tensorboard"]
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "o/logs/tensorboard"
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")


def test_importing_the_stages_loads_no_torch() -> None:
    code = (
        "import align.train.dpo, align.train.sft, sys; print({'torch', 'transformers', 'trl', 'peft'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE=2"):
        arguments.prepare_process(0, 1)


def test_threads_and_seeds_are_set_and_long_seeds_fit_numpy() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert arguments.prepare_process(2**40 + 5, 1) == 5
        first = torch.rand(3)
        assert torch.get_num_threads() == 1
        arguments.prepare_process(5, 1)
        assert torch.equal(torch.rand(3), first)
    finally:
        torch.set_num_threads(before)


def test_threads_are_told_not_to_spin_before_torch_can_be_loaded() -> None:
    """Set when training begins it would be too late: `import_model` has loaded torch by then."""
    code = "import sys, align.train.checkpoint, os; print('torch' in sys.modules, os.environ['OMP_WAIT_POLICY'])"
    clean = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout == "False PASSIVE\n"
