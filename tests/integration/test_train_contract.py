"""What we replace in TRL 1.16 and what we lean on; when TRL moves one of these, a name here says which."""

import inspect
from typing import Any

import pytest
import trl
from datasets import Dataset
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from align.train import collate, dpo_trainer, trainers


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_version_that_was_read() -> None:
    assert trl.__version__.split(".")[:2] == ["1", "16"]


@pytest.mark.parametrize(
    ("base", "name", "expected"),
    [
        (Trainer, "_get_train_sampler", ["train_dataset"]),
        (SFTTrainer, "_send_telemetry", []),
        (DPOTrainer, "_send_telemetry", []),
        (DPOTrainer, "_prepare_dataset", ["dataset", "processing_class", "args", "dataset_name"]),
        (DPOTrainer, "_compute_loss", ["model", "inputs", "return_outputs"]),
        (DPOTrainer, "_precompute_ref_logps", ["dataset", "name", "batch_size"]),
        (DPOTrainer, "compute_loss", ["model", "inputs", "return_outputs", "num_items_in_batch"]),
        (Trainer, "training_step", ["model", "inputs", "num_items_in_batch"]),
        (DataCollatorForPreference, "torch_call", ["examples"]),
    ],
)
def test_the_methods_that_we_replace_or_call(base: type, name: str, expected: list[str]) -> None:
    assert parameters(getattr(base, name)) == expected
    assert "create_model_card" in dir(base) or base in (Trainer, DataCollatorForPreference)


def test_ours_come_before_trls() -> None:
    for ours in (trainers.Sft, dpo_trainer.Dpo, dpo_trainer.SoftDpo):
        assert ours._send_telemetry is trainers.Ours._send_telemetry
        assert ours._get_train_sampler is trainers.Ours._get_train_sampler
        assert ours.create_model_card is trainers.Ours.create_model_card


def test_the_reference_columns_are_those_that_trls_loss_reads() -> None:
    source = inspect.getsource(DPOTrainer._compute_loss)
    assert "if self.precompute_ref_logps:" in source
    assert all(f'inputs["{name}"]' in source for name in collate.REFERENCE_COLUMNS)


def test_our_data_preparation_changes_nothing_and_refuses_other_columns() -> None:
    data = Dataset.from_dict({"prompt_ids": [[1]], "chosen_ids": [[2]], "rejected_ids": [[3]]})
    assert dpo_trainer.Dpo._prepare_dataset(None, data, None, None, "train") is data  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lacks the columns \['rejected_ids'\]"):
        dpo_trainer.Dpo._prepare_dataset(None, data.remove_columns("rejected_ids"), None, None, "train")  # type: ignore[arg-type]


def test_defaults_that_our_options_stand_on() -> None:
    fields = {**SFTConfig.__dataclass_fields__, **DPOConfig.__dataclass_fields__}
    assert fields["bf16"].default is None  # and None means on
    assert fields["gradient_checkpointing"].default is True
    assert fields["optim"].default == "adamw_torch_fused"
    assert fields["train_sampling_strategy"].default == "random"
    assert DPOConfig.__dataclass_fields__["disable_dropout"].default is True
