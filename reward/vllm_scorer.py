"""A reward model in vLLM's pooling runner, in this process, on CPU or GPU. Scores are those of transformers to 1e-4.

vLLM pads nothing and has no batches to choose. It starts when the first sequences are there, for no longer ones than it
has to read, since its memory goes by the longest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.errors import ConfigError
from align.vllm import shut_down, undisturbed
from reward.classifier import require_head
from rollouts.engine import context_length, model_config
from rollouts.vllm_engine import require_head_dim

SHORTEST = 512
"""Tokens of the longest sequence that it starts for at least."""
BATCHED_TOKENS = 4096
"""Tokens per forward pass on CPU, where no single sequence needs more."""
SEQUENCES = 256
"""Most sequences per forward pass on CPU."""
CACHE_BYTES = 2 << 30
"""Most memory for keys and values on CPU (more only where one sequence needs it)."""
BLOCK = 32
"""Tokens per block of that memory on CPU, the least that there is. Answers to one prompt share its whole blocks: with
vLLM's own 128, four answers to a prompt of 110 tokens took 1.3 times as much of the processors."""

INSTEAD = "score with the engine transformers"


class VllmModel:
    """A reward model; `threads` are those of this process, None leaves them as they are.

    Raises ConfigError where `folder` has no head with one score.
    """

    def __init__(self, folder: Path, *, dtype: str, threads: int | None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        require_head(folder)
        self._folder, self._dtype = folder, dtype
        self._on_cpu, self._context = not torch.cuda.is_available(), context_length(folder)
        if self._on_cpu:
            try:
                require_head_dim(folder)
            except ConfigError as refusal:
                raise ConfigError(refusal.what, where=refusal.where, hint=INSTEAD) from refusal
        self._llm: Any = None
        self._longest = 0

    def read(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The score of each sequence of token ids, no longer than the model's context.

        Raises ConfigError where vLLM cannot run the model.
        """
        if not sequences:
            return []
        self._start(max(map(len, sequences)))
        from vllm import PoolingParams

        params = PoolingParams(task="classify", use_activation=False)  # else a sigmoid of the score
        asked = [{"prompt_token_ids": list(ids)} for ids in sequences]
        found = self._llm.encode(asked, params, pooling_task="classify", use_tqdm=False)
        return [output.outputs.data.item() for output in found]

    def close(self) -> None:
        """Free the model's memory."""
        if self._llm is not None:
            llm, self._llm = self._llm, None
            shut_down(llm)

    def _start(self, longest: int) -> None:
        """vLLM that reads sequences of `longest` tokens, if the one that runs does not."""
        if self._llm is not None and longest <= self._longest:
            return
        self.close()
        room = max(SHORTEST, 1 << (longest - 1).bit_length())
        self._longest = min(room, self._context or room)
        with undisturbed(self._on_cpu):
            try:
                from vllm import LLM

                self._llm = LLM(
                    model=str(self._folder), runner="pooling", dtype=self._dtype, max_model_len=self._longest,
                    use_tqdm_on_load=False,
                    **(cpu_options(model_config(self._folder), self._dtype, self._longest) if self._on_cpu else {}),
                )  # fmt: skip
            except (ImportError, ValueError, RuntimeError, AssertionError) as error:
                what = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise ConfigError(
                    f"vLLM cannot score with this model ({what})",
                    where=str(self._folder),
                    hint=INSTEAD,
                ) from error


def cpu_options(config: dict[str, Any], dtype: str, longest: int) -> dict[str, Any]:
    """As many sequences as a pass has room for, and memory for the keys and values of one pass.

    Every sequence is read in one pass, so none has to wait in that memory for its rest.
    """
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head_dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    block_bytes = config["num_hidden_layers"] * 2 * heads * head_dim * {"float32": 4, "bfloat16": 2}[dtype] * BLOCK
    batched = max(BATCHED_TOKENS, longest)
    filled = math.ceil(batched / BLOCK)
    sequences = max(1, min(SEQUENCES, CACHE_BYTES // block_bytes - filled))
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "block_size": BLOCK,
        "max_num_batched_tokens": batched,
        "max_num_seqs": sequences,
        "kv_cache_memory_bytes": (filled + sequences + 1) * block_bytes,  # vLLM keeps one block for itself
    }
