"""TRL 1.16's trainers with the few methods that we replace. Imports torch and TRL: import it inside functions only.

Replaced: the sampler (batches of similar length, in an order that a resumed run repeats), telemetry and model cards
(none), DPO's data preparation (rows arrive as tokens) and, for soft targets, DPO's loss. `test_train_contract.py`
fails when TRL moves one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from align.errors import ConfigError
from align.losses import soft_preference_loss
from align.train.order import LengthGrouped

PAIR_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
SOFT_COLUMNS = ("target", "weight")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


class _Ours:
    """What both trainers change; `row_lengths` switches the length-grouped order on."""

    row_lengths: Sequence[int] | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.row_lengths is None:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        args = self.args  # type: ignore[attr-defined]
        return LengthGrouped(self.row_lengths, args.train_batch_size * args.gradient_accumulation_steps, args.seed)

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine unasked."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A stage's receipt says where a checkpoint comes from; TRL's card would carry paths of this machine."""


class Sft(_Ours, SFTTrainer):
    pass


class Dpo(_Ours, DPOTrainer):
    """DPO on rows of `PAIR_COLUMNS`, tokenised already."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        missing = [name for name in PAIR_COLUMNS if name not in dataset.column_names]
        if missing:
            raise ValueError(f"the {dataset_name} data set lacks the columns {missing}")
        return dataset

    def policy_logps(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen and of rejected under the policy, one number per answer, without gradients."""
        with torch.no_grad(), self.accelerator.autocast():
            return self._answer_logps(self.model, inputs)

    def reference_logps(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The same under the reference: its own model in full training, the model without its adapter under LoRA."""
        inputs = {name: value for name, value in inputs.items() if name not in SOFT_COLUMNS}
        chosen_B, rejected_B = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return chosen_B, rejected_B

    def _answer_logps(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        labels_2BT = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        passed = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        logps_2B = model(**passed, labels=labels_2BT, use_cache=False, fused_lm_head=True).log_probs.sum(1)
        chosen_B, rejected_B = logps_2B.chunk(2)
        return chosen_B, rejected_B


class SoftDpo(Dpo):
    """DPO whose pairs have a `target` and a `weight`; the loss is `align.losses.soft_preference_loss`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        changed = [
            name
            for name, found, usual in (
                ("loss_type", list(self.loss_types), ["sigmoid"]),
                ("loss_weights", list(self.loss_weights), [1.0]),
                ("f_divergence_type", self.f_divergence_type, "reverse_kl"),
                ("ld_alpha", self.ld_alpha, None),
                ("use_weighting", self.use_weighting, False),
                ("router_aux_loss_coef", self.aux_loss_enabled, False),
            )
            if found != usual
        ]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} cannot act on preferences with soft targets or weights", where="dpo.trainer"
            )

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        if return_outputs:
            raise NotImplementedError("the soft loss gives no outputs; evaluation is a stage of its own")
        chosen_B, rejected_B = self._answer_logps(model, inputs)
        if self.precompute_ref_logps:
            ref_chosen_B, ref_rejected_B = (inputs[name] for name in REFERENCE_COLUMNS)
        else:
            ref_chosen_B, ref_rejected_B = self.reference_logps(inputs)
        good_B, bad_B = self.beta * (chosen_B - ref_chosen_B), self.beta * (rejected_B - ref_rejected_B)
        seen = {
            "rewards/chosen": good_B,
            "rewards/rejected": bad_B,
            "rewards/accuracies": (good_B > bad_B).float(),
            "rewards/margins": good_B - bad_B,
            "logps/chosen": chosen_B,
            "logps/rejected": rejected_B,
        }
        mode = "train" if self.model.training else "eval"
        for name, values_B in seen.items():
            self._metrics[mode][name].append(values_B.detach().mean().item())
        self._total_train_tokens += int(inputs["attention_mask"].sum().item())
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        return soft_preference_loss(good_B - bad_B, inputs["target"], inputs["weight"])


class PairCollator(DataCollatorForPreference):
    """TRL's collator, which pads; it also carries `target` and `weight`, where the rows have them, as float32."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        for name in SOFT_COLUMNS:
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples], dtype=torch.float32)
        return batch
