"""The options that TRL's trainers run with: what the recipe and the stage decide, and what the user may add."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from align.config.training import Lora, OnRows, Training
from align.errors import ConfigError
from align.progress import Progress
from align.store import LOGS
from align.train.launch import apply_accelerate, threads_of_each
from align.train.world import join, world_size

MOST_STEPS_BETWEEN_LOGS = 10


class Given(TypedDict):
    """What every training takes beside its model, its rows and its config.

    `report_to` are trackers, `threads` CPU threads (None: all cores), `out` the folder that is published, `work` what a
    killed training goes on from. With `mask_thinking` the thoughts of answers are seen and not learned.
    """

    seed: int
    dtype: str
    report_to: list[str]
    threads: int | None
    out: Path
    work: Path
    mask_thinking: NotRequired[bool]
    progress: NotRequired[Progress | None]


def trainer_options(
    config: Training, *, rows: int, seed: int, dtype: str, report_to: list[str], out: Path, work: Path
) -> dict[str, Any]:
    """Keyword arguments that every TRL config takes; `config.trainer` was checked when the recipe was read.

    Full training keeps weights and optimiser in float32, whatever `dtype`: a step of 1e-6 would be lost in
    bfloat16's rounding. With `dtype` bfloat16 the passes run in bfloat16 autocast and the published weights are cast.
    """
    import torch

    apply_accelerate(dtype)
    on_gpu = torch.cuda.is_available()
    micro, passes = divided_batch(config)
    steps = planned_steps(config, rows)
    return {
        "output_dir": str(work),
        "seed": seed,
        "data_seed": seed,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": passes,
        "remove_unused_columns": False,
        "use_cpu": not on_gpu,
        "bf16": dtype == "bfloat16",  # left out, TRL switches bfloat16 autocast on, on CPU too
        "dataloader_pin_memory": on_gpu,
        "report_to": trackers(report_to, out),
        "disable_tqdm": not sys.stderr.isatty(),
        "save_strategy": "no",  # `align.train.loop` decides by the clock
        "logging_nan_inf_filter": False,  # else a loss that is not a number is shown as the last good one
        "logging_steps": max(1, min(MOST_STEPS_BETWEEN_LOGS, steps // 10)),
        "gradient_checkpointing": on_gpu,
        "ddp_find_unused_parameters": False,  # every weight that is trained is used
        **({"max_length": None} if isinstance(config, OnRows) else {}),
        **config.trainer,
    }


def divided_batch(config: Training) -> tuple[int, int]:
    """Rows of a forward pass in each process, and how many passes make a step. ConfigError where nothing fits."""
    processes = world_size()
    mine, rest = divmod(config.batch_size, processes)
    if rest:
        raise ConfigError(
            f"{processes} processes cannot share `batch_size` {config.batch_size}",
            where=config.kind,
            hint=f"make it a multiple of {processes}, or change --nproc",
        )
    micro = min(config.micro_batch_size or mine, mine)
    if mine % micro:
        raise ConfigError(
            f"`micro_batch_size` {micro} does not divide the {mine} rows of each process",
            where=config.kind,
            hint=f"they are `batch_size` {config.batch_size} over {processes} processes",
        )
    return micro, mine // micro


def planned_steps(config: Training, rows: int) -> int:
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


def lora_config(lora: Lora | None, task: str = "CAUSAL_LM") -> Any:
    """PEFT's LoraConfig for one of its task types, or None."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules, task_type=task
    )  # fmt: skip


def prepare_process(seed: int, threads: int | None) -> int:
    """Set threads and all random seeds of this process, and meet the others where several train together.

    `threads` are those of all processes. Returns the seed, cut to the 32 bits that numpy takes. Raises ConfigError as
    `align.train.world.join` does.
    """
    import torch
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    join()
    torch.set_num_threads(threads_of_each(threads, world_size()))
    seed %= 2**32
    transformers.set_seed(seed)
    return seed
