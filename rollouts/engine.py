"""The seam between sampling and the engines: requests of token ids in, sampled token ids out."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from align.config.base import Sampling
from align.config.rollouts import Engine, EngineType
from align.errors import ConfigError
from align.store import read_json
from align.types import FinishReason
from rollouts.machine import cores

TINY_BYTES = 64 << 20
"""Models with fewer bytes of weights run on one thread unless told otherwise: on a busy machine, sharing out their
little work took three times as long as doing it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, as the ids that the model goes on from."""

    prompt_id: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer. `token_ids` holds all that was sampled, with the stop token where `finish` is "stop".

    `logprobs`, where `Sampling.logprobs` asks for them, has one number ≤ 0 for each of these tokens: its natural
    log-probability under the model at temperature 1 and without nucleus, whatever the token was drawn with.
    """

    token_ids: list[int]
    finish: FinishReason
    logprobs: list[float] | None = None


class Generator(Protocol):
    """A loaded model. One call must not depend on the calls before it."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        """`samples` completions for each request. Each has a seed of its own, from `seed`, prompt id and sample."""
        ...

    def close(self) -> None:
        """Free the model's memory and whatever else the engine holds."""
        ...


def resolve_engine(type: EngineType) -> Literal["vllm", "transformers", "server", "ray"]:
    """Which engine `auto` means here: vLLM where it is installed. Imports neither."""
    if type == "auto":
        return "vllm" if _installed("vllm") else "transformers"
    if type == "vllm" and not _installed("vllm"):
        raise ConfigError(
            "vLLM is not installed", where="rollouts.type", hint="install it, or use auto or transformers"
        )
    if type == "ray" and not _installed("ray"):
        raise ConfigError("Ray is not installed", where="rollouts.type", hint="pip install 'align-rounds[ray]'")
    return type


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@contextmanager
def open_generator(
    engine: Engine | EngineType,
    checkpoint: Path,
    *,
    dtype: str,
    max_tokens_total: int,
    threads: int | None,
    ancestors: Sequence[Path] = (),
    gpus: int = 1,
) -> Iterator[Generator]:
    """The engine with `checkpoint` loaded, closed at the end of the `with` block; a type alone has its defaults.

    `max_tokens_total` is the longest prompt plus answer. It runs on a GPU where torch sees one. `ancestors` are the
    checkpoints that this one was trained from, the nearest first: a server that runs with one of them needs the adapters
    since then and no new start. vLLM in process splits the model over `gpus` GPUs. Raises ConfigError for an engine that is not there or cannot run the model, and for a length beyond the model's context.
    """
    context = context_length(checkpoint)
    if context is not None and max_tokens_total > context:
        what = f"prompt and answer may take {max_tokens_total} tokens, but the model's context holds {context}"
        raise ConfigError(what, where="rollouts", hint="lower max_prompt_tokens or max_tokens")
    from align.text import load_tokenizer, stop_token_ids

    stops = stop_token_ids(load_tokenizer(checkpoint), checkpoint)
    options = as_engine(engine)
    kind = resolve_engine(options.type)
    threads = threads_for(options, checkpoint, threads)
    generator: Generator
    if kind == "server":
        from rollouts.server_engine import ServerGenerator

        generator = ServerGenerator(
            checkpoint, stops, options, dtype=dtype, max_tokens_total=max_tokens_total, threads=threads, ancestors=ancestors
        )  # fmt: skip
    elif kind == "ray":
        from rollouts.ray_engine import RayGenerator

        generator = RayGenerator(checkpoint, options, dtype=dtype, max_tokens_total=max_tokens_total)
    elif kind == "vllm":
        from rollouts.vllm_engine import VllmGenerator

        generator = VllmGenerator(
            checkpoint,
            stops,
            dtype=dtype,
            max_tokens_total=max_tokens_total,
            threads=threads,
            cpu=options.cpu,
            gpus=gpus,
        )
    else:
        from rollouts.transformers_engine import TransformersGenerator

        sequences = options.cpu.sequences if options.cpu else None
        generator = TransformersGenerator(checkpoint, stops, dtype=dtype, threads=threads, sequences=sequences)
    try:
        yield generator
    finally:
        generator.close()


def as_engine(engine: Engine | EngineType) -> Engine:
    """A type alone means the engine with its defaults."""
    return engine if isinstance(engine, Engine) else Engine(type=engine)


def threads_for(engine: Engine, checkpoint: Path, threads: int | None) -> int:
    """How many threads compute, where `threads` is what the run allows its stages."""
    chosen = (engine.cpu.threads if engine.cpu else None) or threads
    return chosen or (1 if weight_bytes(checkpoint) < TINY_BYTES else cores())


def model_config(checkpoint: Path) -> dict[str, Any]:
    """The language model's part of config.json."""
    config: dict[str, Any] = read_json(checkpoint / "config.json")
    return {**config, **config.get("text_config", {})}


def context_length(checkpoint: Path) -> int | None:
    """The most tokens that the model's positions reach; None where its config knows no limit."""
    config = model_config(checkpoint)
    return next((config[k] for k in ("max_position_embeddings", "n_positions") if config.get(k)), None)


def weight_bytes(checkpoint: Path) -> int:
    """The size of the weights on disk."""
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
