"""DPO's trainer, on TRL's: pairs as rows of tokens, with targets and weights. Imports torch and TRL: import it late.

Replaced in TRL's: the data preparation (rows arrive as tokens), the reference (`align.train.reference`), the forward
(`align.train.collate`), how a step is cut into passes, and the loss. `test_train_contract.py` fails when TRL moves one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from trl import DPOTrainer

from align.errors import ConfigError
from align.losses import Loss, soft_preference_loss
from align.train.collate import (
    COUNT_COLUMNS,
    LANES,
    PADDING_ROW,
    PAIR_COLUMNS,
    PASSES,
    REFERENCE_COLUMNS,
    SOFT_COLUMNS,
    answer_logps,
    tokens_of,
)
from align.train.lanes import deal, learn, side_by_side
from align.train.trainers import Ours, require_columns
from align.train.world import summed


class Dpo(Ours, DPOTrainer):
    """DPO on rows of `PAIR_COLUMNS`, tokenised already, in batches of `align.train.collate`; the loss is TRL's."""

    _share = 1.0
    """The share of an optimiser step's pairs that the pass at hand has."""

    @property
    def lanes(self) -> int:
        """Passes side by side (`align.train.lanes`)."""
        return int(self.data_collator.lanes)

    def padding_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row that counts nothing: the collator leaves it out."""
        return {**row, PADDING_ROW: True}

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return require_columns(dataset, PAIR_COLUMNS, dataset_name)

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """`align.train.reference` does it, after the trainer is made, and keeps what it found."""
        return dataset

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The passes of one optimiser step: its gradient is that of the mean over all its pairs, however it is cut.

        Processes' gradients are averaged, so that each counts its pairs as many times as there are processes.
        """
        parts: list[dict[str, Any]] = inputs[PASSES]
        counts = [0 if part.pop(PADDING_ROW, False) else len(part[COUNT_COLUMNS[0]]) for part in parts]
        of_all = summed(torch.tensor(counts, device=self.args.device))
        weights = (of_all / of_all.sum()).tolist()
        shares = [count * self.args.world_size / int(of_all.sum()) for count in counts]
        sync, metrics = self.accelerator.sync_gradients, self._metrics["train"]
        before = {name: list(values) for name, values in metrics.items()}
        total = torch.zeros((), device=self.args.device)
        for place, (part, share) in enumerate(zip(parts, shares, strict=True)):
            last = place == len(parts) - 1
            self._share = share
            self.accelerator.gradient_state._set_sync_gradients(sync and last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                total += super().training_step(model, part)
        for name, values in metrics.items():
            new = values[len(before.get(name, [])) :]
            if len(new) == len(parts) > 1:
                metrics[name] = [*before.get(name, []), sum(v * w for v, w in zip(new, weights, strict=True))]
        self._share = 1.0
        return total

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the pairs of one pass; inside an optimiser step, times the pass's share of its pairs."""
        return super().compute_loss(model, inputs, return_outputs) * self._share

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        known = {name: value for name, value in inputs.items() if name not in (*COUNT_COLUMNS, *SOFT_COLUMNS)}
        return super()._compute_loss(model, known, return_outputs)

    def policy_logps(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen and of rejected under the policy, one number per answer, without gradients."""
        with torch.no_grad(), self.accelerator.autocast():
            return self._answer_logps(self.model, batch)

    @property
    def reference_is_policy(self) -> bool:
        """Whether the reference is the model itself, before its first step: there is no adapter to switch off."""
        return not is_peft_model(self.model)

    def reference_logps(self, batches: Sequence[dict[str, Any]]) -> list[tuple[Tensor, Tensor]]:
        """The same of several passes under the reference: the model without its adapter under LoRA, itself before the
        first step in full training."""
        found: dict[int, tuple[Tensor, Tensor]] = {}

        def lane(mine: Sequence[int]) -> None:
            found.update((number, self.policy_logps(batches[number])) for number in mine)

        with nullcontext() if self.reference_is_policy else self.model.disable_adapter():
            side_by_side([partial(lane, mine) for mine in deal([tokens_of(b) for b in batches], self.lanes)])
        return [found[number] for number in range(len(batches))]

    def _answer_logps(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return answer_logps(model, batch, tail=self.ld_alpha)


def trls_alone(args: Any) -> list[str]:
    """The options that are set and that only TRL's own loss knows."""
    usual: dict[str, list[Any]] = {
        "loss_type": [["sigmoid"]],
        "loss_weights": [None, [1.0]],
        "f_divergence_type": ["reverse_kl"],
        "use_weighting": [False],
    }
    return [name for name, values in usual.items() if getattr(args, name) not in values]


_log = logging.getLogger(__name__)
SEEN = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
"""TRL's metrics, each a mean over a step's pairs."""


class SoftDpo(Dpo):
    """DPO whose pairs may have a `target` and a `weight`; the loss is `align.losses.soft_preference_loss`."""

    preference_loss: Loss = "sigmoid"
    aux_loss_enabled: bool
    per_token = False
    """Whether an answer's reward is the mean over its tokens, not their sum."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # the architecture's own part, for balanced experts, which nobody asked for here: KTO's loss has none either
        asked = bool(self.args.router_aux_loss_coef)
        if self.aux_loss_enabled and not asked:
            self.aux_loss_enabled = self.model.config.get_text_config().output_router_logits = False
            _log.warning("the loss is of the answers alone, without the experts' balance (router_aux_loss_coef)")
        changed = trls_alone(self.args) + ["router_aux_loss_coef"] * asked
        if changed:
            raise ConfigError(
                f"{', '.join(changed)} cannot act on preferences with soft targets or weights", where="dpo.trainer"
            )

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """With several lanes, each learns from its passes (`align.train.lanes.learn`)."""
        if self.lanes == 1:
            return super().training_step(model, inputs)
        model.train()
        parts: list[dict[str, Any]] = self._prepare_inputs(inputs)[PASSES]
        pairs = sum(len(part[COUNT_COLUMNS[0]]) for part in parts)
        trained = [weights for weights in model.parameters() if weights.requires_grad]

        def passes(mine: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
            for number in mine:
                with self.compute_loss_context_manager():
                    loss, sums_S = self._loss_and_sums(model, parts[number])
                    loss = loss * (len(parts[number][COUNT_COLUMNS[0]]) / pairs)
                yield loss, sums_S

        total, sums_S = learn(trained, inputs[LANES], passes)
        self._note(sums_S)
        return total

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Tensor:
        if return_outputs:
            raise NotImplementedError("the soft loss gives no outputs; evaluation is a stage of its own")
        loss, sums_S = self._loss_and_sums(model, inputs)
        self._note(summed(float(self._share > 0) * sums_S))
        return loss

    def _loss_and_sums(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The mean loss over the pairs of a pass, and sums over them on CPU: what `SEEN` names, pairs, tokens."""
        chosen_B, rejected_B = self._answer_logps(model, inputs)
        ref_chosen_B, ref_rejected_B = (inputs[name] for name in REFERENCE_COLUMNS)
        good_B, bad_B = self.beta * (chosen_B - ref_chosen_B), self.beta * (rejected_B - ref_rejected_B)
        if self.per_token:
            good_B, bad_B = (r_B / inputs[n] for r_B, n in zip((good_B, bad_B), COUNT_COLUMNS, strict=True))
        seen = (good_B, bad_B, (good_B > bad_B).float(), good_B - bad_B, chosen_B, rejected_B)
        sums = [float(values_B.detach().sum()) for values_B in seen]
        certain_B = torch.ones_like(good_B)
        target_B, weight_B = (inputs.get(name, certain_B) for name in SOFT_COLUMNS)
        loss = soft_preference_loss(
            good_B - bad_B, target_B, weight_B, kind=self.preference_loss, beta=float(self.beta)
        )
        return loss, torch.tensor([*sums, len(good_B), tokens_of(inputs)], dtype=torch.float64)

    def _note(self, sums_S: Tensor) -> None:
        *sums, pairs, tokens = sums_S.tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, value in zip(SEEN, sums, strict=True):
            metrics[name].append(value / pairs)
        self._total_train_tokens += int(tokens)
        metrics["num_tokens"] = [self._total_train_tokens]
