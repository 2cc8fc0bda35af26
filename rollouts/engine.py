"""The seam to whatever samples answers: token ids in, token ids out."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from align.config.recipe import Sampling
from align.types import FinishReason

Engine = Literal["vllm", "transformers"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt's token ids. `prompt_id` seeds its samples, so they do not depend on what else is sampled."""

    prompt_id: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Completion:
    """The sampled token ids, the stop token included where the model ended by itself (`finish` "stop")."""

    token_ids: list[int]
    finish: FinishReason


class Generator(Protocol):
    """A checkpoint that answers."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        """`samples` completions for each request, in their order. The same call gives the same completions."""
        ...

    def close(self) -> None:
        """Let go of memory and processes."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def resolve_engine(name: str) -> Engine:
    """`auto` is vLLM where it is installed, else transformers; nothing is imported."""
    if name == "auto":
        return "vllm" if importlib.util.find_spec("vllm") is not None else "transformers"
    return "vllm" if name == "vllm" else "transformers"


def open_generator(name: str, checkpoint: Path, *, dtype: str, max_tokens: int, threads: int | None) -> Generator:
    """Load `checkpoint` into an engine. `max_tokens` bounds prompt plus answer.

    Raises ConfigError where the engine is not installed or cannot serve the model.
    """
    if resolve_engine(name) == "vllm":
        from rollouts.vllm_engine import VllmGenerator

        return VllmGenerator(checkpoint, dtype=dtype, max_tokens=max_tokens, threads=threads)
    from rollouts.transformers_engine import TransformersGenerator

    return TransformersGenerator(checkpoint, dtype=dtype, max_tokens=max_tokens, threads=threads)
