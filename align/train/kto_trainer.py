"""KTO's trainer, on TRL's: binary labels with targets and weights. Imports torch and TRL: import it inside functions
only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl import KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from align.losses import kto
from align.train.trainers import Ours, require_columns

COLUMNS = ("prompt_ids", "completion_ids", "KL_completion_ids", "label")
SOFT_COLUMNS = ("target", "weight", "ref_logps", "ref_KL_logps")


@dataclass
class BinaryCollator(DataCollatorForUnpairedPreference):  # type: ignore[misc]
    """TRL's padded batch with the rows' numbers beside it."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        bare = [{name: row[name] for name in COLUMNS} for row in examples]
        batch: dict[str, Any] = super().torch_call(bare)
        numbers = {n: [row[n] for row in examples] for n in SOFT_COLUMNS if n in examples[0]}
        return batch | {name: torch.tensor(values, dtype=torch.float32) for name, values in numbers.items()}


class Kto(Ours, KTOTrainer):  # type: ignore[misc]
    """KTO on rows of `COLUMNS`, tokenised already, in their order; the loss is `align.losses.kto`."""

    sides: tuple[float, float] = (1.0, 1.0)
    """How much the good and the bad side count."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return require_columns(dataset, COLUMNS, dataset_name)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """`align.train.kto` does it, after the trainer is made."""
        return dataset

    def logps(self, model: Any, batch: dict[str, Any], prefix: str = "") -> Tensor:
        """Log-probabilities of answers, (B,); with `prefix` "KL_" of another row's answers to the same prompts."""
        ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
        labels = ids.masked_fill(batch[f"{prefix}completion_mask"] == 0, -100)
        output = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True)
        return output.log_probs[:, -(ids.size(1) - 1) :].sum(-1)  # type: ignore[no-any-return]

    def without_gradients(self, batch: dict[str, Any], *, reference: bool) -> tuple[Tensor, Tensor]:
        """Log-probabilities of own and of others' answers under the policy, or under the reference: the model without
        its adapter under LoRA, itself before the first step in full training."""
        off = self.model.disable_adapter() if reference and is_peft_model(self.model) else nullcontext()
        with torch.no_grad(), self.accelerator.autocast(), off:
            return self.logps(self.model, batch), self.logps(self.model, batch, "KL_")

    def batches(self, rows: Sequence[int]) -> Any:
        """The rows on the trainer's device, in passes as training sees them."""
        return self.passes([self.train_dataset[row] for row in rows])

    def passes(self, rows: Sequence[dict[str, Any]]) -> Any:
        """The same of rows that need not be those that are trained on."""
        size = self.args.per_device_train_batch_size
        for start in range(0, len(rows), size):
            yield self._prepare_inputs(self.data_collator(list(rows[start : start + size])))

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        if return_outputs:
            raise NotImplementedError("the loss gives no outputs; evaluation is a stage of its own")
        with torch.no_grad():
            others_B = self.logps(model, inputs, "KL_")
        own_B = self.logps(model, inputs)
        reward_B = self.beta * (own_B - inputs["ref_logps"])
        kl = (others_B - inputs["ref_KL_logps"]).mean().clamp(min=0)
        good, bad = self.sides
        target_B = inputs["target"]
        loss_B = inputs["weight"] * kto(
            reward_B, target_B, self.beta * kl, torch.full_like(reward_B, good), torch.full_like(reward_B, bad)
        )
        self._note(reward_B.detach(), own_B.detach(), target_B, kl, int(inputs["attention_mask"].sum()))
        return loss_B.mean()

    def _note(self, reward_B: Tensor, logp_B: Tensor, target_B: Tensor, kl: Tensor, tokens: int) -> None:
        """TRL's metrics; binary labels count on a side as far as their target says. A pass without a side has none of
        it."""
        metrics = self._metrics["train" if self.model.training else "eval"]
        means = {}
        for side, share_B in (("chosen", target_B), ("rejected", 1 - target_B)):
            if (total := float(share_B.sum())) > 0:
                means[side] = float((share_B * reward_B).sum()) / total
                metrics[f"rewards/{side}"].append(means[side])
                metrics[f"logps/{side}"].append(float((share_B * logp_B).sum()) / total)
        if len(means) == 2:
            metrics["rewards/margins"].append(means["chosen"] - means["rejected"])
        metrics["kl"].append(float(kl))
        self._total_train_tokens += tokens
        metrics["num_tokens"] = [self._total_train_tokens]
