"""The seam between sampling and the engines: requests of token ids in, sampled token ids out."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from align.config.base import Sampling
from align.config.rollouts import EngineType
from align.errors import ConfigError
from align.store import read_json
from align.types import FinishReason


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
