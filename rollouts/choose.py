"""Which engine `type: auto` means: the one that is done first with the work at hand, on the machine at hand.

On a CPU, vLLM samples 2.75 times as fast as transformers (docs/rollouts.md), and takes far longer until it samples at
all. So transformers is the quicker one where its work takes less than about one and a half starts of vLLM. The estimate
of that knows the model's size and how much is asked, not how many cores there are: a run that goes on elsewhere means
the same engine.
"""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from align.config.rollouts import Engine
from rollouts.engine import model_config, weight_bytes

VLLM_STARTS = 14.5
"""Seconds that vLLM takes on a CPU before its first sample, beyond what transformers takes. This and the numbers below
are from two cores: `benchmarks/engine_choice.py`."""
SPEED_UP = 2.75
"""How many times transformers' tokens a second vLLM samples on a CPU. `benchmarks/sampling_speed.py`."""
PARAMETERS_A_SECOND = 20e9
"""Weights that are multiplied in a second, each with one token."""
LAYER_SECONDS, ROW_SECONDS = 0.6e-3, 0.3e-3
"""What each layer, and each row's draw, costs in a step beside that."""
BATCH = 64
LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and why it."""

    type: Literal["vllm", "transformers"]
    why: str


def choose(engine: Engine, checkpoint: Path, *, dtype: str, answers: int, max_tokens: int) -> Choice:
    """The engine for so many `answers` of up to `max_tokens` by `checkpoint`. Imports no vLLM; torch, to look for a
    GPU."""
    import torch

    if importlib.util.find_spec("vllm") is None:
        return Choice("transformers", "vLLM is not installed")
    if torch.cuda.is_available():
        return Choice("vllm", "there is a GPU")
    if engine.cpu is not None and engine.cpu.cache_gib is not None:
        return Choice("vllm", "`cpu.cache_gib` is vLLM's")
    needed, most = transformers_seconds(checkpoint, dtype, answers, max_tokens), VLLM_STARTS / (1 - 1 / SPEED_UP)
    about = f"about {needed:.0f} s of work here for transformers" if needed < 100 else "much work for transformers"
    if needed < most:
        return Choice("transformers", f"{about}; vLLM alone starts for {VLLM_STARTS:.0f} s")
    return Choice("vllm", f"{about}; vLLM takes less than half")


def transformers_seconds(checkpoint: Path, dtype: str, answers: int, max_tokens: int) -> float:
    """How long transformers will take, to a factor of two: one step for each token of a batch's longest answer."""
    config = model_config(checkpoint)
    layers = next((config[key] for key in LAYER_KEYS if config.get(key)), 32)
    parameters = weight_bytes(checkpoint) / (4 if dtype == "float32" else 2)
    batches = math.ceil(answers / BATCH)
    rows = min(answers, BATCH)
    step = layers * LAYER_SECONDS + rows * (ROW_SECONDS + parameters / PARAMETERS_A_SECOND)
    return batches * max_tokens * step
