"""Sampling with transformers' `generate`: slower than vLLM, and runs wherever torch does."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from align.config.recipe import Sampling
from align.ids import seed_for
from align.text import load_tokenizer, stop_token_ids
from rollouts.engine import Completion, Request

BATCH = 64
"""Sequences per call of `generate`, of similar prompt length."""


class TransformersGenerator:
    """Left-padded batches of similar length; each batch is seeded by its own prompts."""

    def __init__(self, checkpoint: Path, *, dtype: str, max_tokens: int, threads: int | None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if threads:
            torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        tokenizer = load_tokenizer(checkpoint)
        self._stops = list(stop_token_ids(tokenizer, checkpoint))
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self._stops[0]
        model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
        self._model = model.to(self._device).eval()

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].token_ids), requests[i].prompt_id))
        found: dict[int, list[Completion]] = {}
        step = max(1, BATCH // samples)
        for start in range(0, len(order), step):
            batch = order[start : start + step]
            rows = self._batch([requests[i] for i in batch], sampling, samples, seed)
            for place, i in enumerate(batch):
                found[i] = rows[place * samples : (place + 1) * samples]
        return [found[i] for i in range(len(requests))]

    def _batch(self, requests: Sequence[Request], sampling: Sampling, samples: int, seed: int) -> list[Completion]:
        import torch
        from transformers import GenerationConfig

        ids = [r.token_ids for r in requests for _ in range(samples)]
        width = max(map(len, ids))
        tokens_BT = torch.tensor([[self._pad] * (width - len(row)) + row for row in ids], device=self._device)
        mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=self._device)
        random = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        config = GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._stops,
            pad_token_id=self._pad,
            **(random if sampling.temperature > 0 else {"do_sample": False}),
        )
        torch.manual_seed(seed_for(seed, *(r.prompt_id for r in requests)))
        with torch.inference_mode():
            out_BT = self._model.generate(tokens_BT, attention_mask=mask_BT, generation_config=config)
        return [self._completion(row) for row in out_BT[:, width:].tolist()]

    def _completion(self, row: list[int]) -> Completion:
        """Up to and with the first stop token; what follows it is padding."""
        stop = next((n for n, token in enumerate(row, 1) if token in self._stops), None)
        return Completion(row, "length") if stop is None else Completion(row[:stop], "stop")

    def close(self) -> None:
        del self._model

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
