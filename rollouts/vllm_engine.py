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
from align.config.rollouts import Cpu
from align.errors import ConfigError, StageError
from align.ids import seed_for
from align.vllm import CPU_ENVIRONMENT, ENVIRONMENT
from rollouts.engine import Completion, Request, weight_bytes
from rollouts.machine import memory_available

SEQUENCES = 256
"""Sequences in flight on CPU, where there is memory for their cache."""
CACHE_SHARE = 0.5
"""Most of the free memory that the key-value cache takes on CPU."""
GIB = 1 << 30
BLOCK = 128
"""Tokens per block of that cache: vLLM's own on CPU; with 32 it was slower by a third."""
BATCHED_TOKENS = 4096
"""Tokens per forward pass on CPU, where no single sequence needs more."""
HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM's attention on CPU can do."""


class VllmGenerator:
    """`rollouts.Generator` by vLLM. `threads` are those of this process; None leaves them as they are.

    `cpu` says what to take of a machine without a GPU; what it leaves open is chosen by `fitted`.
    The model is split over `gpus` GPUs (tensor parallel), each with a process of its own.
    """

    def __init__(
        self,
        checkpoint: Path,
        stops: Sequence[int],
        *,
        dtype: str,
        max_tokens_total: int,
        threads: int | None,
        cpu: Cpu | None = None,
        gpus: int = 1,
    ) -> None:
        import torch

        on_cpu = not torch.cuda.is_available()
        options: dict[str, Any] = {}
        if on_cpu:
            require_head_dim(checkpoint)
            cpu = fitted(cpu or Cpu(), checkpoint, dtype=dtype, max_tokens_total=max_tokens_total)
            options = cpu_options(cpu, max_tokens_total)
        elif cpu is not None:
            hint = "remove it; vLLM takes what it needs of a GPU"
            raise ConfigError("`cpu` has no use on a machine with a GPU", where="rollouts.cpu", hint=hint)
        if gpus > 1:
            options |= {"tensor_parallel_size": gpus, "distributed_executor_backend": "mp"}
        self._stops = list(stops)
        self._set_num_threads, self._threads = torch.set_num_threads, torch.get_num_threads()  # vLLM takes it away
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {}))
        self._llm: Any = None
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            self._llm = _load(checkpoint, dtype, max_tokens_total, options)
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
                logprobs=0 if sampling.logprobs else None,
                flat_logprobs=sampling.logprobs,
            )
            for request in requests
            for sample in range(samples)
        ]
        outputs = [o.outputs[0] for o in self._llm.generate(prompts, params, use_tqdm=False)]
        done = [Completion(list(o.token_ids), _finish(o.finish_reason), _logprobs(o, sampling)) for o in outputs]
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


def _load(checkpoint: Path, dtype: str, max_tokens_total: int, options: dict[str, Any]) -> Any:
    from vllm import LLM

    try:
        return LLM(
            model=str(checkpoint),
            dtype=dtype,
            max_model_len=max_tokens_total,
            skip_tokenizer_init=True,
            generation_config="vllm",  # our sampling parameters are the only ones
            use_tqdm_on_load=False,
            **options,
        )
    except (ValueError, NotImplementedError) as refusal:  # vLLM's own checks of the model and of its options
        raise ConfigError(
            f"vLLM cannot serve this model ({_first_sentence(str(refusal))})",
            where=str(checkpoint / "config.json"),
            hint="use `rollouts.type: transformers`",
        ) from refusal


def fitted(cpu: Cpu, checkpoint: Path, *, dtype: str, max_tokens_total: int, available: int | None = None) -> Cpu:
    """`cpu` with `sequences` and `cache_gib` for a model on this machine, where `available` bytes are free.

    As much cache as `SEQUENCES` fill at their longest, or as many sequences as fit, so that none has to make room for
    another. Raises ConfigError where not even one fits, or not as many as `cpu` asks for.
    """
    sequence = _sequence_bytes(checkpoint, dtype, max_tokens_total)
    wanted = cpu.sequences or SEQUENCES
    free = memory_available() if available is None else available
    if cpu.cache_gib is not None:
        room, says = int(cpu.cache_gib * GIB), "cpu.cache_gib is"
    elif free is not None:
        room, says = (
            max(0, int((free - 2 * weight_bytes(checkpoint)) * CACHE_SHARE)),
            "half of the memory that is free is",
        )
    else:
        room, says = (wanted + 1) * sequence, ""
    fit = room // sequence - 1  # vLLM keeps a block for itself
    if fit < (cpu.sequences or 1):
        what = f"{cpu.sequences or 1} answers of {max_tokens_total} tokens, with their prompts, need a cache of "
        what += f"{((cpu.sequences or 1) + 1) * sequence / GIB:.3g} GiB, and {says} {room / GIB:.3g}"
        hint = "lower max_tokens, max_prompt_tokens or rollouts.cpu.sequences, or set rollouts.cpu.cache_gib"
        raise ConfigError(what, where="rollouts.cpu", hint=hint)
    sequences = min(wanted, fit)
    return cpu.model_copy(
        update={"sequences": sequences, "cache_gib": cpu.cache_gib or (sequences + 1) * sequence / GIB}
    )


def cpu_options(cpu: Cpu, max_tokens_total: int) -> dict[str, Any]:
    """vLLM's options for what was `fitted`.

    Prompts are never cut into chunks: on CPU vLLM cannot take back the seeded draw after a chunk, and dies.
    """
    assert cpu.cache_gib is not None
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(BATCHED_TOKENS, max_tokens_total),
        "max_num_seqs": cpu.sequences,
        "kv_cache_memory_bytes": int(cpu.cache_gib * GIB),
    }


def _sequence_bytes(checkpoint: Path, dtype: str, max_tokens_total: int) -> int:
    """What the cache of one sequence takes at its longest, in whole blocks."""
    config = _attention(checkpoint)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = {"float32": 4, "bfloat16": 2}[dtype]
    tokens = BLOCK * -(-max_tokens_total // BLOCK)
    return int(config.num_hidden_layers * 2 * heads * _head_dim(config) * width * tokens)


def _attention(checkpoint: Path) -> Any:
    """The language model's configuration; transformers knows what each family calls its heads and layers."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(checkpoint, local_files_only=True).get_text_config()


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def require_head_dim(checkpoint: Path) -> None:
    found = _head_dim(_attention(checkpoint))
    if found not in HEAD_DIMS:
        what = f"vLLM cannot run this model on CPU: its head_dim is {found}, and has to be one of {HEAD_DIMS}"
        raise ConfigError(what, where=str(checkpoint / "config.json"), hint="use `rollouts.type: transformers`")


def _finish(reason: str | None) -> Any:
    if reason not in ("stop", "length"):
        raise StageError(f"vLLM ended a sample by {reason!r}")
    return reason


def _logprobs(output: Any, sampling: Sampling) -> list[float] | None:
    """One number for each token: flat, and no likelier tokens beside it (`logprobs=0`)."""
    return list(output.logprobs.logprobs) if sampling.logprobs else None


def _first_sentence(text: str) -> str:
    """Of what pydantic and vLLM say, the part that names the trouble, without the list of all that would work."""
    text = " ".join(text.rpartition("Value error, ")[2].split())
    return text.split(" [type=")[0].split(" Supported architectures")[0].rstrip(". ")
