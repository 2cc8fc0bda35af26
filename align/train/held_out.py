"""Measures a held-out share while a trainer learns, keeps the best weights and stops early. Needs torch: import it
late.

What is measured is our own loss of whole rows, each by itself: it does not depend on how training packs, pads or
divides its batches. The first of several processes measures, and all do what it found.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from align.config.training import HeldOut
from align.errors import ConfigError, StageError
from align.evaluation.winrate import clustered_interval
from align.figures import interval, number, significant
from align.store import disk_errors
from align.train.examples import Demonstration
from align.train.order import passes
from align.train.world import agreed, rank, wait_for_all

TOKENS = 4096
"""Most tokens of a pass, padding included; a longer row goes alone."""
PLACES = 512
"""Most tokens of a pass whose probability is read; a row with more goes alone."""
PARTS = 10
"""Measurements of a training, where `eval_steps` does not say."""
BEST = "best-{}.safetensors"

Measured = dict[str, Any]
"""`loss`, and `accuracy` as mean, low and high where there is one."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is measured, on how many rows of how many prompts, and when. `measure` looks at the trainer's model as it
    is."""

    measure: Callable[[], Measured]
    rows: int
    prompts: int
    every: int
    patience: int | None

    @classmethod
    def of(cls, config: HeldOut, measure: Callable[[], Measured], prompts: Sequence[str], steps: int) -> Measuring:
        """`prompts` are those of the held-out rows, `steps` the optimiser steps of the whole training."""
        every = config.eval_steps or max(1, steps // PARTS)
        return cls(measure, len(prompts), len(set(prompts)), every, config.patience)


def accuracy(right: Sequence[float], prompts: Sequence[str], seed: int) -> dict[str, float] | None:
    """The share of `right` with its 95% interval, prompts drawn whole; None where fewer than two have any."""
    if len(set(prompts)) < 2:
        return None
    mean, low, high = clustered_interval(right, prompts, seed=seed)
    return {"mean": mean, "low": low, "high": high}


def answers_loss(trainer: Any, rows: Sequence[Demonstration], pad: int) -> float:
    """The mean negative log-probability of the tokens that `rows` teach, in nats.

    The head works at the places alone that predict them, of at most `PLACES` together, and TRL's fused head in tiles
    where one row has more: logits of whole passes would be gibibytes.
    """
    sized = sorted(rows, key=lambda row: row.tokens)
    total, count = 0.0, 0
    with torch.no_grad(), trainer.accelerator.autocast():
        for places in passes([row.tokens for row in sized], TOKENS, None, padded=True):
            taught = [sum(label != -100 for label in sized[place].labels) for place in places]
            for some in passes(taught, PLACES, None, padded=False):
                logps_N = _taught_logps(trainer, [sized[places[n]] for n in some], pad)
                total -= float(logps_N.sum())
                count += len(logps_N)
    return total / count


def _taught_logps(trainer: Any, together: Sequence[Demonstration], pad: int) -> Tensor:
    """Of one pass the log-probability of each taught token, (N,). What the layers give is cut down to the places that
    are read before the head sees it."""
    longest, device = max(row.tokens for row in together), trainer.args.device
    ids = [[*row.prompt_ids, *row.answer_ids, *[pad] * (longest - row.tokens)] for row in together]
    mask = [[1] * row.tokens + [0] * (longest - row.tokens) for row in together]
    labels = [[*row.labels, *[-100] * (longest - row.tokens)] for row in together]
    ids_BT, mask_BT, labels_BT = (torch.tensor(part, device=device) for part in (ids, mask, labels))
    rows_N, places_N = (labels_BT[:, 1:] != -100).nonzero(as_tuple=True)
    wanted_1N = labels_BT[rows_N, places_N + 1][None]

    def read_alone(_: Any, __: Any, output: Any) -> None:
        output.last_hidden_state = output.last_hidden_state[rows_N, places_N][None]

    model = trainer.model
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    hook = bare.base_model.register_forward_hook(read_alone)
    try:
        given = {"input_ids": ids_BT, "attention_mask": mask_BT, "shift_labels": wanted_1N}
        logps_N: Tensor = model(**given, use_cache=False, fused_lm_head=True).log_probs[0]
    finally:
        hook.remove()
    return logps_N


@dataclass
class Watch(TrainerCallback):  # type: ignore[misc]
    """Measures at multiples of `every` steps and at the end, writes what it finds among the training's metrics, and
    with `patience` keeps the best weights in `work` and ends the training after so many measurements without a lower
    loss.

    All it knows stands in the trainer's log, so that a training goes on after a kill as if there had been none.
    """

    trainer: Any
    measuring: Measuring
    work: Path

    def __post_init__(self) -> None:
        if self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled:
            what = "a model that is sharded over processes cannot be measured while it trains"
            raise ConfigError(what, where="held_out", hint="use --accelerate ddp, or leave held_out out")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not measurements(state.log_history):
            self._measure(state, control)
        self._remove_all_but(best_of(state.log_history))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step % self.measuring.every and state.global_step < state.max_steps:
            return control
        self._measure(state, control)
        if (patience := self.measuring.patience) is not None:
            best = best_of(state.log_history)
            assert best is not None
            if best["step"] == state.global_step:
                self._keep(state.global_step)
            if sum(row["step"] > best["step"] for row in measurements(state.log_history)) >= patience:
                control.should_training_stop = True
                control.should_save = False  # a training that went on from there would not stop
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._remove_all_but(best_of(state.log_history))

    def finish(self) -> dict[str, Any]:
        """What was found, of the weights before the first step and of those that the model has now: with `patience` the
        best ones."""
        state = self.trainer.state
        found, best = measurements(state.log_history), best_of(state.log_history)
        if best is None:
            raise StageError(f"the held-out rows were not measured in {state.global_step} steps")
        after = found[-1]
        if self.measuring.patience is not None:
            after = best
            wait_for_all()
            with torch.no_grad():
                kept = load_file(self.work / BEST.format(best["step"]))
                for name, weights in _trained(self.trainer.model).items():
                    weights.copy_(kept[name])
        return {
            "prompts": self.measuring.prompts,
            "rows": self.measuring.rows,
            "before": _told(found[0]),
            "after": _told(after),
            "published_step": after["step"],
            "last_step": state.global_step,
            "planned_steps": state.max_steps,
            "stopped_early": state.global_step < state.max_steps,
        }

    def _measure(self, state: Any, control: Any) -> None:
        model, logs = self.trainer.model, control.should_log
        training = model.training
        model.eval()
        found = agreed(self.measuring.measure() if rank() == 0 else {})
        if not math.isfinite(found["loss"]):
            what = f"the held-out loss is {found['loss']} at step {state.global_step} of {state.max_steps}"
            raise StageError(what, hint="lower the learning rate, or warm up (trainer: {warmup_steps: …})")
        rate = found.get("accuracy")
        row = {"eval_loss": found["loss"]}
        row |= {f"eval_accuracy{part}": rate[name] for part, name in _RATE.items()} if rate else {}
        self.trainer.log(row)
        model.train(training)
        control.should_log = logs  # the step's own metrics are still to be written
        if rank() == 0 and self.trainer.args.disable_tqdm:
            said = f"  accuracy {interval(rate, partial(number, digits=3))}" if rate else ""
            loss = significant(found["loss"])
            print(f"step {state.global_step}: held-out loss {loss}{said}", file=sys.stderr, flush=True)

    def _keep(self, step: int) -> None:
        if rank() > 0:
            return
        file = self.work / BEST.format(step)
        partial = file.with_suffix(".partial")
        with disk_errors(file):
            save_file({n: w.detach().cpu().contiguous() for n, w in _trained(self.trainer.model).items()}, partial)
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(file)

    def _remove_all_but(self, best: dict[str, Any] | None) -> None:
        """Only when a checkpoint is whole, for the training may go on from the one before."""
        for file in self.work.glob(BEST.format("*")) if rank() == 0 else ():
            if best is None or file.name != BEST.format(best["step"]):
                file.unlink()


_RATE = {"": "mean", "_low": "low", "_high": "high"}


def measurements(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a trainer's log that measure held-out rows."""
    return [row for row in history if "eval_loss" in row]


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The measurement of the lowest loss after the first step, of equal ones the earliest; None where there is none
    yet."""
    found = [row for row in measurements(history) if row["step"] > 0]
    return min(found, key=lambda row: (row["eval_loss"], row["step"])) if found else None


def _told(row: dict[str, Any]) -> Measured:
    rate = {name: row[f"eval_accuracy{part}"] for part, name in _RATE.items() if f"eval_accuracy{part}" in row}
    return {"loss": row["eval_loss"], **({"accuracy": rate} if rate else {})}


def _trained(model: Any) -> dict[str, Any]:
    return {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
