"""Sampling with vLLM in this process, on a GPU or on a CPU."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from align.config.recipe import Sampling
from align.errors import ConfigError
from align.ids import seed_for
from align.store import read_json
from align.text import load_tokenizer, stop_token_ids
from rollouts.engine import Completion, Request

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: nothing stays behind when we are killed
}
ON_CPU = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
CPU_CACHE_BYTES = 2**28
SMALLEST_HEAD = 32


class VllmGenerator:
    """Each sample has a seed of its own; the prefix cache is emptied after each call, so calls do not know each other."""

    def __init__(self, checkpoint: Path, *, dtype: str, max_tokens: int, threads: int | None) -> None:
        import torch

        _check_heads(checkpoint)
        on_gpu = torch.cuda.is_available()
        os.environ.update(QUIET if on_gpu else QUIET | ON_CPU)
        from vllm import LLM

        tokenizer = load_tokenizer(checkpoint)
        self._stops = list(stop_token_ids(tokenizer, checkpoint))
        context = int(read_json(checkpoint / "config.json").get("max_position_embeddings", max_tokens))
        length = min(max_tokens, context)
        small: dict[str, Any] = (
            {} if on_gpu else {"gpu_memory_utilization": 0.3, "kv_cache_memory_bytes": CPU_CACHE_BYTES}
        )
        self._engine: Any = LLM(
            model=str(checkpoint),
            dtype=dtype,
            max_model_len=length,
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(2048, length),
            enforce_eager=not on_gpu,  # compiling costs a minute on a CPU and saves little there
            skip_tokenizer_init=True,
            generation_config="vllm",  # our sampling parameters are the only ones
            use_tqdm_on_load=False,
            **small,
        )
        if threads and not on_gpu:
            torch.set_num_threads(threads)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        from vllm import SamplingParams

        def parameters(request: Request, sample: int) -> Any:
            return SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed_for(seed, request.prompt_id, sample) % 2**31,
                stop_token_ids=self._stops,
                detokenize=False,
            )

        asked = [(request, sample) for request in requests for sample in range(samples)]
        prompts = [{"prompt_token_ids": request.token_ids} for request, _ in asked]
        done = self._engine.generate(prompts, [parameters(*pair) for pair in asked], use_tqdm=False)
        self._engine.reset_prefix_cache()
        rows = [_completion(output.outputs[0]) for output in done]
        return [rows[start : start + samples] for start in range(0, len(rows), samples)]

    def close(self) -> None:
        del self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _completion(output: Any) -> Completion:
    return Completion(list(output.token_ids), "length" if output.finish_reason == "length" else "stop")


def _check_heads(checkpoint: Path) -> None:
    config = read_json(checkpoint / "config.json")
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    size = config.get("head_dim") or (hidden // heads if heads and hidden else None)
    if size is not None and size < SMALLEST_HEAD:
        raise ConfigError(
            f"vLLM serves attention heads of {SMALLEST_HEAD} and more, and the model's have head_dim {size}",
            where=str(checkpoint / "config.json"),
            hint="use `rollouts.type: transformers`",
        )
