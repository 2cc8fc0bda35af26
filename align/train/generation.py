"""How TRL's online trainers get answers and their log-probabilities: no padding is computed. Imports torch.

Answers come from `align.train.sampling`, or from vLLM with the weights of the step. Either says how likely each token
was; where that agrees with the trainer's own forward pass, no second pass is made for all of them.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from trl.models import unwrap_model_for_generation

from align.ids import seed_for
from align.sync import TOLERANCE, require_agreement
from align.train.padding_free import by_chunks
from align.train.sampling import Sampled, can_sample, sample

AGREEMENT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a token's log-probability, in nats, between the engine and the trainer's forward pass."""
CHECKED_ANSWERS = 2
"""Answers of each batch for which the trainer's forward pass is made to compare."""


class PaddingFree:
    """Put before one of TRL's online trainers. `engine` is "transformers" or "vllm"."""

    engine: str = "transformers"
    vllm: Any = None
    sampled: list[Sampled] | None = None
    lanes = 1
    """How many parts of a pass over answers run side by side (`align.train.lanes`)."""
    passes_logps: bool = True
    """Whether TRL's trainer takes the engine's log-probabilities beside the answers; RLOO's does not."""

    def _generate_single_turn(self: Any, prompt_ids: list[list[int]], *rest: Any, **named: Any) -> Any:
        """Token ids of the answers, or (ids, log-probabilities)."""
        self.sampled = None
        if self.engine == "vllm":
            self.sampled = self._by_vllm(prompt_ids)
        elif self._can_sample():
            self.sampled = self._by_transformers(prompt_ids)
        else:
            return super()._generate_single_turn(prompt_ids, *rest, **named)  # type: ignore[misc]
        token_ids = [answer.token_ids for answer in self.sampled]
        return (token_ids, [answer.logps for answer in self.sampled]) if self.passes_logps else token_ids

    def _can_sample(self: Any) -> bool:
        """TRL's way of generating serves models that ours cannot do, and weights that are sharded over processes."""
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        can = not sharded and can_sample(_causal(self.accelerator.unwrap_model(self.model)))
        if not can and self.accelerator.is_main_process and not getattr(self, "_said_so", False):
            why = "its weights are sharded" if sharded else "its attention takes no mask of ours"
            print(f"answers are sampled with padding, which is slower: {why}", file=sys.stderr)
            self._said_so = True
        return can

    def _by_transformers(self: Any, prompt_ids: list[list[int]]) -> list[Sampled]:
        checkpointing = self.args.gradient_checkpointing_kwargs
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing
            ) as model,
            self.accelerator.autocast(),
        ):
            return sample(
                model, prompt_ids, stops=self.eos_token_ids, max_tokens=self.max_completion_length,
                temperature=self.temperature, top_p=self.top_p, **self._draw(prompt_ids),
            )  # fmt: skip

    def _by_vllm(self: Any, prompt_ids: list[list[int]]) -> list[Sampled]:
        from align.train.vllm_policy import VllmPolicy

        policy = self.accelerator.unwrap_model(self.model)
        if self.vllm is None:
            tokens = max(len(row["prompt"]) for row in self.train_dataset) + self.max_completion_length
            self.vllm = VllmPolicy(policy, rows=len(prompt_ids), tokens=tokens, bfloat16=self.args.bf16)
        self.vllm.refresh(policy)
        found: list[Sampled] = self.vllm.sample(
            prompt_ids, stops=self.eos_token_ids, max_tokens=self.max_completion_length,
            temperature=self.temperature, top_p=self.top_p, **self._draw(prompt_ids),
        )  # fmt: skip
        self._require_sync(prompt_ids, found)
        return found

    def _require_sync(self: Any, prompt_ids: list[list[int]], answers: list[Sampled]) -> None:
        """StageError where vLLM does not have the weights of this step, by the trainer's own view of a few answers."""
        few = range(0, len(answers), max(1, len(answers) // CHECKED_ANSWERS))[:CHECKED_ANSWERS]
        said, own = [answers[row].logps for row in few], []
        for row in few:
            ids_1T = torch.tensor([prompt_ids[row] + answers[row].token_ids], device=self.accelerator.device)
            with torch.no_grad():
                logps_1A, _, _ = self._get_per_token_logps_and_entropies(
                    self.model, ids_1T, torch.ones_like(ids_1T), len(answers[row].token_ids)
                )
            own.append(logps_1A[0].tolist())
        require_agreement(
            said, own, tolerance=TOLERANCE["bfloat16" if self.args.bf16 else "float32"], top_p=self.top_p
        )  # fmt: skip

    def _draw(self: Any, prompt_ids: list[list[int]]) -> dict[str, int]:
        """What answers are drawn with: all processes together as one would."""
        seed = seed_for("draws", self.args.seed, self.state.global_step, 0) % 2**32
        return {"seed": seed, "before": self.accelerator.process_index * len(prompt_ids)}

    def _get_per_token_logps_and_entropies(
        self: Any,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **kinds: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's, without the padding: (log-probabilities, entropies, loss of a mixture of experts).

        Where the log-probabilities of the newest answers are wanted under the policy that gave them, those of the
        engine.
        """
        compute = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        if compute_aux_loss:  # a mean over the tokens of a pass, padding and all
            passed = (model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, True)
            whole: tuple[Tensor, Tensor, Tensor] = compute(*passed, **kinds)
            return whole

        def of_chunk(ids: Tensor, mask: Tensor, answer: int) -> Any:
            return compute(model, ids, mask, answer, None, compute_entropy)

        if not torch.is_grad_enabled() and not compute_entropy and model is self.model and _adapter_on(model):
            said_BT = self._said_by_engine(input_ids, attention_mask, logits_to_keep, of_chunk)
            if said_BT is not None:
                return said_BT, None, None
        lanes = 1 if torch.is_grad_enabled() else self.lanes
        logps_BT, entropies_BT, _ = by_chunks(
            of_chunk, input_ids, attention_mask, logits_to_keep, lanes=lanes, most_rows=batch_size
        )
        return logps_BT, entropies_BT, None  # type: ignore[return-value]

    def _said_by_engine(self: Any, ids_BT: Tensor, mask_BT: Tensor, answer: int, compute: Any) -> Tensor | None:
        """The engine's log-probabilities of these answers, if they are the newest and the trainer agrees on a few."""
        answers_BA, seen_BA = ids_BT[:, -answer:], mask_BT[:, -answer:]
        if self.sampled is None or len(self.sampled) != len(ids_BT):
            return None
        tokens_BA, said_BA = torch.zeros_like(answers_BA), torch.zeros(answers_BA.shape, device=ids_BT.device)
        for row, found in enumerate(self.sampled):
            if len(found.token_ids) > answer:
                return None
            tokens_BA[row, : len(found.token_ids)] = torch.tensor(found.token_ids)
            said_BA[row, : len(found.token_ids)] = torch.tensor(found.logps)
        if not torch.equal(tokens_BA * seen_BA, answers_BA * seen_BA):
            return None
        few = torch.linspace(0, len(ids_BT) - 1, min(CHECKED_ANSWERS, len(ids_BT))).long()
        own_fA = by_chunks(compute, ids_BT[few], mask_BT[few], answer)[0]
        difference = float(((own_fA - said_BA[few]) * seen_BA[few]).abs().max())
        self._metrics["train"]["sampling_logp_difference"].append(difference)
        if difference <= AGREEMENT["bfloat16" if self.args.bf16 else "float32"]:
            return said_BA * seen_BA
        self.sampled = None
        return None


def _causal(model: Any) -> Any:
    """The model inside PEFT's, or itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _adapter_on(model: Any) -> bool:
    """Whether this is the policy, not the reference, which under LoRA is the same model with its adapter off."""
    return not any(getattr(module, "disable_adapters", False) is True for module in model.modules())
