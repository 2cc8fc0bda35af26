"""The options that TRL's trainers run with: what the recipe and the stage decide, and what the user may add."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.config.recipe import Dpo, Lora, Sft
from align.errors import ConfigError
from align.store import LOGS

MOST_STEPS_BETWEEN_LOGS = 10

_TOKENS = "examples are batched whole, by similar length"
REFUSED: dict[str, str] = {
    "packing": _TOKENS,
    "packing_strategy": _TOKENS,
    "padding_free": _TOKENS,
    "shuffle_dataset": "the order follows from the recipe's seed; see train_sampling_strategy",
    "precompute_ref_log_probs": "the stage computes the reference once where that saves work",
    "precompute_ref_batch_size": "it follows from micro_batch_size",
    "disable_dropout": "policy and reference must agree before the first step, so dropout is always off",
}
"""Options of TRL that could not act here, or that the stage sets itself, with the reason."""

_READ_ONLY_WITH: dict[str, tuple[str, set[str]]] = {
    "discopop_tau": ("loss_type", {"discopop"}),
    "f_alpha_divergence_coef": ("f_divergence_type", {"alpha_divergence"}),
}
"""An option of DPO → the option and the values of it that make TRL read the first one at all (`label_smoothing`, which
is the one met in the wild, is refused when the recipe is read)."""


def trainer_options(
    config: Sft | Dpo, *, section: str, rows: int, seed: int, dtype: str, report_to: list[str], out: Path, work: Path
) -> dict[str, Any]:
    """Keyword arguments for SFTConfig or DPOConfig (`section` is sft or dpo, for messages).

    Full training keeps weights and optimiser in float32, whatever `dtype`: a step of 1e-6 would be lost in
    bfloat16's rounding. With `dtype` bfloat16 the passes run in bfloat16 autocast and the published weights are cast.
    """
    import torch

    on_gpu = torch.cuda.is_available()
    micro = config.micro_batch_size or config.batch_size
    ours: dict[str, Any] = {
        "output_dir": str(work),
        "seed": seed,
        "data_seed": seed,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.batch_size // micro,
        "max_length": None,
        "remove_unused_columns": False,
        "use_cpu": not on_gpu,
        "bf16": dtype == "bfloat16",  # left out, TRL switches bfloat16 autocast on, on CPU too
        "dataloader_pin_memory": on_gpu,
        "report_to": trackers(report_to, out),
        "disable_tqdm": not sys.stderr.isatty(),
        "save_strategy": "no",  # `align.train.loop` decides by the clock
        "logging_nan_inf_filter": False,  # else a loss that is not a number is shown as the last good one
    }
    steps = planned_steps(config, rows)
    ours_by_default: dict[str, Any] = {
        "logging_steps": max(1, min(MOST_STEPS_BETWEEN_LOGS, steps // 10)),
        "gradient_checkpointing": on_gpu,
    }
    check_options(config.trainer, ours, section)
    return {**ours, **ours_by_default, **config.trainer}


def check_options(options: Mapping[str, Any], ours: Mapping[str, Any], section: str) -> None:
    """ConfigError for an option that is not the user's to set, or that nothing would read."""
    where = f"{section}.trainer"
    for key in options:
        if key in ours or key in REFUSED:
            raise ConfigError(f"`{key}` cannot be set: {REFUSED.get(key, 'the stage sets it itself')}", where=where)
    for key, (other, values) in _READ_ONLY_WITH.items():
        chosen = options.get(other) or []
        if options.get(key) and not values & set([chosen] if isinstance(chosen, str) else chosen):
            raise ConfigError(f"`{key}` does nothing unless {other} is {' or '.join(sorted(values))}", where=where)
    losses = options.get("loss_type", "sigmoid")
    count = 1 if isinstance(losses, str) else len(losses)
    weights = options.get("loss_weights")
    if weights is not None and len(weights) != count:
        raise ConfigError(f"`loss_weights` has {len(weights)} numbers for {count} losses", where=where)


def planned_steps(config: Sft | Dpo, rows: int) -> int:
    """Optimiser steps that training will take."""
    most = config.trainer.get("max_steps", -1)
    return int(most) if most > 0 else math.ceil(math.ceil(rows / config.batch_size) * config.epochs)


def trackers(report_to: list[str], out: Path) -> list[str] | str:
    """TRL's `report_to`; ConfigError for a tracker that is not installed. TensorBoard's files go to `out/logs`."""
    if not report_to:
        return "none"
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    for name in report_to:
        if name not in there:
            raise ConfigError(f"the tracker {name!r} is not installed", where="report_to", hint=f"pip install {name}")
    if "tensorboard" in report_to:  # its default is the working folder, which goes when the stage is published
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out / LOGS / "tensorboard"))
    return report_to


def lora_config(lora: Lora, *, section: str) -> Any:
    """PEFT's LoraConfig."""
    from peft import LoraConfig

    if section == "dpo" and lora.dropout > 0:
        raise ConfigError(
            f"dropout {lora.dropout} cannot act in DPO: policy and reference must agree before the first step",
            where="dpo.lora.dropout",
            hint="leave it at 0",
        )
    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules, task_type="CAUSAL_LM"
    )  # fmt: skip


def prepare_process(seed: int, threads: int | None) -> int:
    """Set threads and all random seeds of this process; returns the seed, cut to the 32 bits that numpy takes.

    Raises ConfigError where a launcher started several processes or a process sees several GPUs.
    """
    import torch
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) != 1:
        raise ConfigError(f"training runs in one process, found WORLD_SIZE={world}", hint="start it without a launcher")
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"training runs on one GPU, found {torch.cuda.device_count()}", hint="choose one: CUDA_VISIBLE_DEVICES=0"
        )
    torch.set_num_threads(threads or _cores())
    seed %= 2**32
    transformers.set_seed(seed)
    return seed


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
