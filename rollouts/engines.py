"""The engines: which one a recipe means, with how many threads, opened with a checkpoint and closed again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from align.config.rollouts import Engine, EngineType
from align.errors import ConfigError
from rollouts.engine import Generator, context_length, resolve_engine, weight_bytes
from rollouts.machine import cores

TINY_BYTES = 64 << 20
"""Models with fewer bytes of weights run on one thread unless told otherwise: on a busy machine, sharing out their
little work took three times as long as doing it."""


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
    checkpoints that this one was trained from, the nearest first: a server that runs with one of them needs the
    adapters since then and no new start. vLLM in process splits the model over `gpus` GPUs. Raises ConfigError for an
    engine that is not there or cannot run the model, and for a length beyond the model's context.
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

        generator = RayGenerator(
            checkpoint, options, dtype=dtype, max_tokens_total=max_tokens_total, opener=open_generator
        )
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
