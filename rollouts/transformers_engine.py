"""transformers' own generation: slower than vLLM, and runs wherever torch runs.

Draws are made by the Gumbel trick with a random generator for each sample (the token with the largest
log-probability + Gumbel noise is a draw from the distribution; Maddison et al. 2014), so that a sample does not depend
on the others in its batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config.base import Sampling
from align.ids import seed_for
from rollouts.engine import Completion, Request

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 64
"""Sequences per batch, where nothing else is asked for; prompts of like length go together."""


class TransformersGenerator:
    """`rollouts.Generator` by transformers, `sequences` at a time. `threads` are those of this process; None leaves
    them as they are."""

    def __init__(
        self,
        checkpoint: Path,
        stops: Sequence[int],
        *,
        dtype: str,
        threads: int | None,
        sequences: int | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        self._stops, self._threads, self._batch = list(stops), torch.get_num_threads(), sequences or BATCH
        if threads is not None:
            torch.set_num_threads(threads)
        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype), local_files_only=True)
        if hasattr(model.config.get_text_config(), "output_router_logits"):
            model.config.get_text_config().output_router_logits = (
                False  # for training alone, and generation stumbles on it
            )
        model.generation_config = GenerationConfig()  # the model's own defaults must not mix with our sampling
        self._model: Any = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @classmethod
    def of_model(cls, model: Any, stops: Sequence[int]) -> "TransformersGenerator":
        """A generator of a model in memory, on its device; the caller has put it into evaluation mode."""
        import torch

        generator = cls.__new__(cls)
        generator._stops, generator._threads, generator._batch = list(stops), torch.get_num_threads(), BATCH
        generator._model = model
        return generator

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        flat = [(r, seed_for(seed, r.prompt_id, sample)) for r in requests for sample in range(samples)]
        order = sorted(range(len(flat)), key=lambda i: (len(flat[i][0].token_ids), i))
        done: dict[int, Completion] = {}
        for start in range(0, len(order), self._batch):
            batch = order[start : start + self._batch]
            prompts, seeds = [flat[i][0].token_ids for i in batch], [flat[i][1] for i in batch]
            done.update(zip(batch, self._generate_batch(prompts, seeds, sampling), strict=True))
        return [[done[i + s] for s in range(samples)] for i in range(0, len(flat), samples)]

    def _generate_batch(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> list[Completion]:
        import torch
        from transformers import GenerationConfig

        pad, longest = self._stops[0], max(len(p) for p in prompts)
        device = self._model.device
        input_BT = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
        mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        config = GenerationConfig(
            max_new_tokens=sampling.max_tokens, do_sample=False, eos_token_id=self._stops, pad_token_id=pad
        )
        watch = _Watch() if sampling.logprobs else None
        with torch.inference_mode():
            output_BT = self._model.generate(
                input_ids=input_BT,
                attention_mask=mask_BT,
                generation_config=config,
                logits_processor=_processors(sampling, seeds, device, watch),
            )
        logprobs = watch.of(output_BT) if watch is not None else [None] * len(prompts)
        return [self._completion(*row) for row in zip(output_BT[:, longest:].tolist(), logprobs, strict=True)]

    def _completion(self, sampled: list[int], logprobs: list[float] | None) -> Completion:
        """Cut at the first stop token: what follows is padding up to the batch's longest answer."""
        end = next((place + 1 for place, token in enumerate(sampled) if token in self._stops), None)
        kept = logprobs[:end] if logprobs is not None else None
        return Completion(sampled[:end], "length" if end is None else "stop", kept)

    def close(self) -> None:
        import gc

        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        torch.set_num_threads(self._threads)


class _Watch:
    """A logits processor that changes nothing and sees the model's own logits: each sampled token's log-probability."""

    def __init__(self) -> None:
        self._logprobs_BV: Tensor | None = None
        self._sampled: list[Tensor] = []

    def __call__(self, input_BT: "Tensor", logits_BV: "Tensor") -> "Tensor":
        self._look_back(input_BT)
        self._logprobs_BV = logits_BV.float().log_softmax(-1)
        return logits_BV

    def _look_back(self, input_BT: "Tensor") -> None:
        """The last column is what was drawn from the logits before."""
        if self._logprobs_BV is not None:
            self._sampled.append(self._logprobs_BV.gather(1, input_BT[:, -1:]).squeeze(1))

    def of(self, output_BT: "Tensor") -> list[list[float] | None]:
        """For each row the log-probabilities of all that was sampled, with numbers of no use after its stop token."""
        import torch

        self._look_back(output_BT)
        return torch.stack(self._sampled, dim=1).tolist()


def _processors(sampling: Sampling, seeds: list[int], device: Any, watch: _Watch | None) -> Any:
    """What turns the largest logit into a draw, nothing at temperature 0; `watch` comes first."""
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

    seen: list[Any] = [watch] if watch is not None else []
    if sampling.temperature == 0:
        return LogitsProcessorList(seen)
    draws = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def add_gumbel_noise(_: "Tensor", logits_BV: "Tensor") -> "Tensor":
        noise_BV = torch.empty_like(logits_BV, dtype=torch.float32)
        for row_V, draw in zip(noise_BV, draws, strict=True):
            row_V.exponential_(generator=draw)
        return logits_BV.float() - noise_BV.log()

    steps = [TemperatureLogitsWarper(float(sampling.temperature))] if sampling.temperature != 1 else []
    steps += [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return LogitsProcessorList([*seen, *steps, add_gumbel_noise])
