"""Options of the trainers: ours cannot be overridden, and one that would do nothing is refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from align.config.training import Dpo, Lora, Sft
from align.errors import ConfigError
from align.train import arguments


def options(config: Sft | Dpo, **changes: Any) -> dict[str, Any]:
    given = {"rows": 640, "seed": 3, "dtype": "float32", "report_to": [], "out": Path("o"), "work": Path("w")} | changes
    return arguments.trainer_options(config, **given)


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


def test_an_adapters_options_reach_peft() -> None:
    found = arguments.lora_config(Lora(r=4, alpha=8, dropout=0.1))
    assert (found.r, found.lora_alpha, found.lora_dropout, found.task_type) == (4, 8, 0.1, "CAUSAL_LM")
    assert arguments.lora_config(None) is None


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
