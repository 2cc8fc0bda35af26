"""TRL 1.16's reward trainer with targets, weights, margins and a head for length. Imports torch and TRL: import it
inside functions only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from align.losses import soft_preference_loss
from align.train.collate import PADDING_ROW
from align.train.trainers import Ours
from align.train.world import summed
from reward.head import head_of
from reward.length_bias import length_losses

NUMBERS = ("target", "weight", "margin", "chosen_tokens", "rejected_tokens")
"""Columns with one number for each pair, beside TRL's `chosen_ids` and `rejected_ids`; the tokens are the answers'."""
PAIRS = "pairs"
"""How many pairs of a batch are real."""


def reward_loss(
    chosen_B: Tensor, rejected_B: Tensor, target_B: Tensor, weight_B: Tensor, margin_B: Tensor, *, center: float
) -> Tensor:
    """Bradley–Terry cross entropy of a reward model's scores, and their centring: a scalar, ≥ 0, lower is better.

        loss = mean over pairs of −w · [p · log σ(d) + (1 − p) · log σ(−d)] + c · (r_w + r_l)²,   d = r_w − r_l − m

    `chosen_B` (r_w) and `rejected_B` (r_l) are the scores, `target_B` (p) in [0.5, 1] is the probability that chosen
    is the better one (0.5: a tie), `weight_B` (w) ≥ 0 averages 1 over the data set, `margin_B` (m) is what chosen
    should be ahead by (Touvron et al. 2023, equation 2) and `center` (c) ≥ 0 holds rewards around 0, which the
    cross entropy alone leaves open (Eisenstein et al. 2023, equation 5). With p = w = 1, m = 0 and c = 0 it is
    equation 1 of Ouyang et al. (2022).
    """
    preferred = soft_preference_loss(chosen_B - rejected_B - margin_B, target_B, weight_B)
    return preferred + center * ((chosen_B + rejected_B) ** 2).mean()


@dataclass
class RewardCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's padded batch, all chosen before all rejected, with `NUMBERS`; rows marked `PADDING_ROW` are left out."""

    def torch_call(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        real = [row for row in examples if PADDING_ROW not in row]
        rows = real or list(examples[:1])  # a process without rows of its own still takes part in the step
        batch: dict[str, Any] = super().torch_call(rows)
        numbers = {name: torch.tensor([row[name] for row in rows], dtype=torch.float) for name in NUMBERS}
        return {**batch, **numbers, PAIRS: torch.tensor(len(real))}


class Reward(Ours, RewardTrainer):  # type: ignore[misc]
    """Reward modelling on rows of tokens; the loss is `reward_loss`, its mean that of all pairs of a step."""

    length_head = False
    """Whether the model has a second score, that of the length head (`reward.length_bias`)."""

    def __init__(self, *, model: Any, **given: Any) -> None:
        labels, model.config.num_labels = model.config.num_labels, 1  # TRL takes no model with several scores
        super().__init__(model=model, **given)
        model.config.num_labels = labels

    def blank_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row that counts nothing: the collator leaves it out."""
        return {**row, PADDING_ROW: True}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """The pairs of one optimiser step, over all its passes and processes."""
        return summed(torch.stack([batch[PAIRS] for batch in batch_samples]).sum().to(device))  # type: ignore[no-any-return]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over a pass's pairs; inside an optimiser step, times the pass's share of the step's pairs."""
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        outputs = model(**batch, use_cache=False)
        scores_A = outputs.logits[:, 0].float()  # answers: all chosen, then all rejected
        chosen_B, rejected_B = scores_A.chunk(2)
        target_B, weight_B, margin_B, *tokens = (inputs[name] for name in NUMBERS)
        extra: Tensor | float = 0.0
        if self.length_head:
            by_length_A = outputs.logits[:, 1].float()
            long_B, short_B = by_length_A.chunk(2)
            margin_B = margin_B - (long_B - short_B)  # what is ranked is the sum of both heads
            head = head_of(self.accelerator.unwrap_model(self.model)).weight.float()
            extra = length_losses(scores_A, by_length_A, torch.cat(tokens), head)
        center = self.args.center_rewards_coefficient or 0.0
        loss = extra + reward_loss(chosen_B, rejected_B, target_B, weight_B, margin_B, center=center)
        pairs = inputs[PAIRS]
        if num_items_in_batch is not None:  # Trainer divides by the passes, DDP averages over the processes
            loss = loss * pairs * self.args.world_size * self.current_gradient_accumulation_steps / num_items_in_batch
        self._keep(chosen_B.detach(), rejected_B.detach(), batch["attention_mask"].sum(), pairs)
        return (loss, outputs) if return_outputs else loss

    def _keep(self, chosen_B: Tensor, rejected_B: Tensor, tokens: Tensor, pairs: Tensor) -> None:
        """TRL's metrics, over the pairs of all processes: accuracy, margin, mean reward, tokens."""
        right_B = (chosen_B > rejected_B).float() + 0.5 * (chosen_B == rejected_B)
        sums = [right_B.sum(), (chosen_B - rejected_B).sum(), (chosen_B + rejected_B).sum() / 2, tokens, len(chosen_B)]
        here = (pairs > 0).double() * torch.tensor([float(value) for value in sums], dtype=torch.float64).to(
            pairs.device
        )
        right, margin, reward, count, total = summed(here).tolist()
        if total:
            seen = {"accuracy": right / total, "margin": margin / total, "mean_reward": reward / total}
            for name, value in seen.items():
                self._metrics["train"][name].append(value)
        self._total_train_tokens += int(count)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
