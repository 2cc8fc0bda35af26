"""What we replace in TRL 1.16's RLOO and GRPO trainers, for both and for PPO. Imports torch: import it late.

Prompts arrive as tokens, scores come from an `align.types.Score`, the order of prompts and the draws of answers
follow from the seed and the step (so a resumed run repeats them), and nothing leaves the machine or is printed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from transformers import set_seed

from align.errors import DataError
from align.ids import seed_for
from align.layerwise import PromptAndAnswer
from align.train.generation import PaddingFree


class PromptOrder:
    """A sampler: the prompts of each batch of answers, each prompt `samples` times, the batch `passes` times over.

    Every epoch has an order of its own, a pure function of seed and epoch. Where the prompts do not fill the last
    batch, it is filled from the epoch's first ones.
    """

    def __init__(self, prompts: int, *, prompts_per_batch: int, samples: int, passes: int, seed: int) -> None:
        self.prompts, self.per_batch, self.samples, self.passes = prompts, prompts_per_batch, samples, passes
        self.seed, self.epoch = seed, 0

    @property
    def batches(self) -> int:
        return math.ceil(self.prompts / self.per_batch)

    def __len__(self) -> int:
        return self.batches * self.per_batch * self.samples * self.passes

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.prompts))
        random.Random(seed_for("prompts", self.seed, self.epoch)).shuffle(order)
        for start in range(0, self.batches * self.per_batch, self.per_batch):
            batch = [order[i % self.prompts] for i in range(start, start + self.per_batch)]
            for _ in range(self.passes):
                yield from (prompt for prompt in batch for _ in range(self.samples))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class OnlineMixin(PaddingFree):
    """Put before one of TRL's online trainers. `latest` are the answers of the newest batch."""

    latest: list[PromptAndAnswer]
    thinking_tokens: Callable[[list[int]], int] | None = None
    """Of an answer's tokens how many first ones the loss does not see."""

    @property
    def unscored(self: Any) -> int:
        """Answers without a score so far, also before a kill: what is logged, or waits to be."""
        waiting = self._metrics["train"]["unscored"]
        logged = (row["unscored"] for row in reversed(self.state.log_history) if "unscored" in row)
        return int(waiting[-1] if waiting else next(logged, 0))

    def _get_train_sampler(self: Any, dataset: Any = None) -> PromptOrder:
        args = self.args
        return PromptOrder(
            len(self.train_dataset if dataset is None else dataset),
            prompts_per_batch=args.generation_batch_size // self.num_generations,
            samples=self.num_generations,
            passes=self.num_iterations * args.steps_per_generation,
            seed=args.seed,
        )

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_and_score_completions(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        set_seed(seed_for("answers", self.args.seed, self.state.global_step, self.accelerator.process_index) % 2**32)
        result: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        return result

    def _generate(self: Any, prompts: list[list[int]]) -> Any:
        """TRL's, with a mask over thoughts where they are hidden: what it calls the tools' mask is its loss's."""
        found = super()._generate(prompts)  # type: ignore[misc]
        if self.thinking_tokens is None:
            return found
        prompt_ids, answers, _, *rest = found
        masks = []
        for ids in answers:
            hidden = self.thinking_tokens(ids)
            masks.append([0] * hidden + [1] * (len(ids) - hidden))
        return (prompt_ids, answers, masks, *rest)

    def _calculate_rewards(
        self: Any,
        inputs: list[dict[str, Any]],
        prompts: list[list[int]],
        completions: list[str],
        completion_ids_list: list[list[int]],
    ) -> Tensor:
        """Scores of the answers of all processes, NaN where there is none; shape [answers, 1].

        TRL does the same, with a warning for answers without a score that prints them.
        """
        self.latest = list(zip(prompts, completion_ids_list, strict=True))
        scores = self.reward_funcs[0](completion_ids=completion_ids_list, row=[example["row"] for example in inputs])
        local_B1 = torch.tensor([[math.nan if score is None else score] for score in scores], dtype=torch.float32)
        scores_B1: Tensor = gather(local_B1.to(self.accelerator.device))
        missing = int(scores_B1.isnan().sum())
        if missing == len(scores_B1) and not self.state.global_step:
            raise DataError(
                f"not one of the first {missing} answers could be scored", hint="see what the score is given"
            )
        self._metrics["train"]["unscored"] = [self.unscored + missing]
        return scores_B1

    @torch.no_grad()
    def reference_difference(self: Any, token_ids: list[int]) -> float:
        """The largest difference of a token's log-probability under policy and reference, in nats."""
        ids_1T = torch.tensor([token_ids], device=self.accelerator.device)
        passed = (ids_1T, torch.ones_like(ids_1T), len(token_ids) - 1)
        model = self.accelerator.unwrap_model(self.model)
        policy_1T = self._get_per_token_logps_and_entropies(self.model, *passed)[0]
        with nullcontext() if self.ref_model is not None else model.disable_adapter():
            reference_1T = self._get_per_token_logps_and_entropies(self.ref_model or self.model, *passed)[0]
        return float((policy_1T - reference_1T).abs().max())

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine unasked."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """A stage's receipt says where a checkpoint comes from; TRL's card would carry paths of this machine."""
