"""vLLM in this process, on CPU or GPU.

Everything that a tiny model on two cores would wait for is left out on CPU: a process of its own for the engine,
compilation, warm-up, and memory for more sequences than can run at once. On a GPU vLLM's own defaults hold.
"""

import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.config.base import Sampling
from align.errors import ConfigError, StageError
from align.ids import seed_for
from rollouts.engine import Completion, Request, model_config

SEQUENCES = 256
"""Sequences in flight on CPU, where their cache fits `CACHE_BYTES`."""
CACHE_BYTES = 2 << 30
"""Most memory for the key-value cache on CPU (more only where one sequence needs it)."""
BLOCK = 128
"""Tokens per block of that cache: vLLM's own on CPU; with 32 it was slower by a third."""
BATCHED_TOKENS = 4096
"""Tokens per forward pass on CPU, where no single sequence needs more."""
HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM's attention on CPU can do."""

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no process of its own: starts sooner, schedules the same way each time
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",  # otherwise vLLM looks for the machine's address in the network
}
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # cores are shared with other processes


class VllmGenerator:
    """`rollouts.Generator` by vLLM. `threads` are those of this process; None leaves them as they are."""

    def __init__(
        self, checkpoint: Path, stops: Sequence[int], *, dtype: str, max_tokens_total: int, threads: int | None
    ) -> None:
        import torch

        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            _require_head_dim(checkpoint)
        self._stops = list(stops)
        self._set_num_threads, self._threads = torch.set_num_threads, torch.get_num_threads()  # vLLM takes it away
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {}))
        self._llm: Any = None
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            self._llm = _load(checkpoint, dtype, max_tokens_total, on_cpu)
        finally:  # vLLM sets variables of its own too, LD_PRELOAD among them
            changed = [n for n in before | os.environ if before.get(n) != os.environ.get(n)]
            self._replaced = {n: before.get(n) for n in changed}
            if self._llm is None:
                self.close()

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        from vllm import SamplingParams

        self._llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": r.token_ids} for r in requests for _ in range(samples)]
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed_for(seed, request.prompt_id, sample),
                stop_token_ids=self._stops,
                detokenize=False,
            )
            for request in requests
            for sample in range(samples)
        ]
        outputs = [o.outputs[0] for o in self._llm.generate(prompts, params, use_tqdm=False)]
        done = [Completion(list(o.token_ids), _finish(o.finish_reason)) for o in outputs]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def close(self) -> None:
        import torch

        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()
        torch.set_num_threads = self._set_num_threads
        torch.set_num_threads(self._threads)
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._replaced = {}


def _load(checkpoint: Path, dtype: str, max_tokens_total: int, on_cpu: bool) -> Any:
    from vllm import LLM

    return LLM(
        model=str(checkpoint),
        dtype=dtype,
        max_model_len=max_tokens_total,
        skip_tokenizer_init=True,
        generation_config="vllm",  # our sampling parameters are the only ones
        use_tqdm_on_load=False,
        **(_cpu_options(checkpoint, dtype, max_tokens_total) if on_cpu else {}),
    )


def _cpu_options(checkpoint: Path, dtype: str, max_tokens_total: int) -> dict[str, Any]:
    """As much cache as `SEQUENCES` fill, or as many sequences as fit; so none has to make room for another.

    Prompts are never cut into chunks: on CPU vLLM cannot take back the seeded draw after a chunk, and dies.
    """
    config = model_config(checkpoint)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    width = {"float32": 4, "bfloat16": 2}[dtype]
    tokens = BLOCK * -(-max_tokens_total // BLOCK)
    sequence_bytes = config["num_hidden_layers"] * 2 * heads * _head_dim(config) * width * tokens
    sequences = max(1, min(SEQUENCES, CACHE_BYTES // sequence_bytes))
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(BATCHED_TOKENS, max_tokens_total),
        "max_num_seqs": sequences,
        "kv_cache_memory_bytes": (sequences + 1) * sequence_bytes,  # vLLM keeps one block for itself
    }


def _head_dim(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _require_head_dim(checkpoint: Path) -> None:
    found = _head_dim(model_config(checkpoint))
    if found not in HEAD_DIMS:
        what = f"vLLM cannot run this model on CPU: its head_dim is {found}, and has to be one of {HEAD_DIMS}"
        raise ConfigError(what, where=str(checkpoint / "config.json"), hint="use `rollouts.type: transformers`")


def _finish(reason: str | None) -> Any:
    if reason not in ("stop", "length"):
        raise StageError(f"vLLM ended a sample by {reason!r}")
    return reason
