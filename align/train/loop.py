"""Runs a trainer to its end: resumes after a kill, saves by the clock, writes metrics. Needs torch: import it late."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from align.errors import DataError, StageError
from align.figures import significant
from align.ids import content_id
from align.progress import Progress, TimeLeft, line
from align.store import LOGS, disk_errors, read_json, write_json, write_rows
from align.train.held_out import Measuring, Watch
from align.train.world import agreed, check_world, rank, wait_for_all, world_size

MARK = "complete.json"
"""Written last into a trainer checkpoint; a folder without it was cut short by a kill."""
SAVE_SECONDS = 10.0
"""Least work between two saves: about what starting again costs anyway."""
SAVE_SHARE = 1 / 20
"""Most of the time that may go into saving."""
PRINT_SECONDS = 5.0


EvaluationCallback = Callable[[Any, int, int], None]
"""Is given (the model as it is, steps done, steps in all)."""
_callback: ContextVar[EvaluationCallback | None] = ContextVar("callback", default=None)


@contextmanager
def evaluation_callback(callback: EvaluationCallback) -> Iterator[None]:
    """Inside the block each training calls `callback` after every optimiser step; what it raises ends that training.

    A look must leave the model as it was and draw no numbers from the global generators.
    """
    token = _callback.set(callback)
    try:
        yield
    finally:
        _callback.reset(token)


def run_trainer(
    trainer: Any,
    *,
    work: Path,
    out: Path,
    inputs: dict[str, Any],
    progress: Progress | None = None,
    save_every: int = 1,
    measuring: Measuring | None = None,
) -> dict[str, Any]:
    """Train to the end and return a summary of the metrics; the full ones are in `out/logs/metrics.jsonl`.

    Goes on from the last whole checkpoint in `work` that was made from the same `inputs` (`made_from`); all others
    there are removed, and where that throws work away `thrown_away` in the summary says what it was and what differed.
    Saves come at multiples of `save_every` steps, for a trainer that cannot resume between them. With `measuring`,
    held-out rows are measured (`align.train.held_out`), and what that found is `held_out` in the summary. Raises
    StageError when the loss is no longer a number.
    """
    check_world(trainer)
    inputs = agreed({**inputs, "processes": world_size()})
    checkpoint, thrown = agreed(whole_checkpoint(work, inputs) if rank() == 0 else (None, None))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Metrics(out / LOGS / "metrics.jsonl", progress))
    trainer.add_callback(_Saving(work, inputs, save_every))
    if (callback := _callback.get()) is not None:
        trainer.add_callback(_AfterEachStep(callback))
    watch = Watch(trainer, measuring, work) if measuring is not None else None
    if watch is not None:
        trainer.add_callback(watch)  # behind the one that saves: it may take a save back
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    told = summary(trainer.state.log_history, trainer.state.global_step)
    if watch is not None:
        told |= {"held_out": watch.finish()}
    return {**told, "thrown_away": thrown} if thrown else told


def made_from(model: Path, rows: object, config: Any, *, seed: int, dtype: str, **others: str) -> dict[str, Any]:
    """All that a training's result depends on, by name, so that a difference can be said."""
    settings = config.model_dump(mode="json")
    return {"model": str(model), "rows": content_id(rows), "settings": settings, "seed": seed, "dtype": dtype, **others}


def whole_checkpoint(work: Path, inputs: dict[str, Any]) -> tuple[Path | None, str | None]:
    """The newest whole checkpoint in `work` that belongs to `inputs`; removes what was cut short or is of others, and
    says which steps of others that were and what differs."""
    found: list[tuple[int, Path]] = []
    thrown: list[str] = []
    for folder in sorted(work.glob("checkpoint-*")):
        mark, step = folder / MARK, int(folder.name.rpartition("-")[2])
        made = _made_from(mark) if mark.is_file() else None
        if made == inputs:
            found.append((step, folder))
            continue
        if made is not None:
            thrown.append(f"{step} steps of another training ({_difference(made, inputs)})")
            print(f"thrown away: {thrown[-1]}", file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    return max(found)[1] if found else None, "; ".join(thrown) or None


def _difference(made: Any, inputs: dict[str, Any]) -> str:
    """What differs between two trainings, with both values where they are short."""
    if not isinstance(made, dict):
        return "by an earlier version"
    old, new = ({**d, **d.get("settings", {}), "settings": None} for d in (made, inputs))
    words = []
    for name in sorted({*old, *new}):
        if (before := old.get(name)) != (now := new.get(name)):
            short = name != "rows" and len(f"{before}{now}") < 100
            words.append(f"{name}: {before} then, {now} now" if short else f"other {name}")
    return ", ".join(words)


def _made_from(mark: Path) -> Any:
    """The inputs of a checkpoint by its mark; None where it is damaged."""
    try:
        return read_json(mark)["inputs"]
    except (DataError, KeyError, TypeError):
        return None


def summary(history: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    """First and last logged values of what tells how training went."""
    logged = [row for row in history if "loss" in row]
    result: dict[str, Any] = {"steps": steps}
    if logged:
        first, last = logged[0], logged[-1]
        result |= {"train_loss_first": first["loss"], "train_loss_last": last["loss"]}
        kept = ("rewards/accuracies", "rewards/margins", "mean_token_accuracy")
        result |= {name.replace("/", "_"): last[name] for name in kept if name in last}
    return result


class Clock:
    """Seconds of each part of a training, for `logs/seconds.json`."""

    def __init__(self, began: float) -> None:
        self.last, self.seconds = began, dict[str, float]()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self.last = round(now - self.last, 2), now

    def write(self, out: Path) -> None:
        """Of several processes the first one's are kept."""
        if rank() == 0:
            write_json(out / LOGS / "seconds.json", self.seconds)


def figure(logs: dict[str, Any]) -> str:
    """What a logged step says of how training goes: the reward where one is raised, else the loss."""
    reward = logs.get("reward")
    name = "reward" if reward is not None and math.isfinite(reward) else "loss"
    return f"{name} {significant(logs[name])}"


class _Metrics(TrainerCallback):  # type: ignore[misc]
    """One JSON line a logged step; with no terminal and nobody to report to, a plain line on stderr now and then."""

    def __init__(self, path: Path, progress: Progress | None) -> None:
        self.path, self.progress, self.printed = path, progress, -math.inf
        self.left, self.told, self.said = TimeLeft(), True, ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if rank() > 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(self.path, state.log_history)  # what stands in a resumed trainer's memory, without the lost steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.told = False
        if not control.should_log:  # else the step's own figure is about to come
            self._tell(args, state)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if rank() == 0:
            with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise StageError(
                f"the loss is {loss} at step {state.global_step} of {state.max_steps}",
                hint="lower the learning rate, or warm up (trainer: {warmup_steps: …})",
            )
        self.said = figure(logs or {})
        if not self.told:
            self._tell(args, state)

    def _tell(self, args: Any, state: Any) -> None:
        self.told = True
        done, total, now = state.global_step, state.max_steps, time.monotonic()
        if self.progress:
            self.progress(done, total, self.said)
            return
        left = self.left.seconds(done, total)
        if rank() == 0 and args.disable_tqdm and now - self.printed >= PRINT_SECONDS:
            self.printed = now
            print(line("training", done, total, self.said, left), file=sys.stderr, flush=True)


class _AfterEachStep(TrainerCallback):  # type: ignore[misc]
    def __init__(self, callback: EvaluationCallback) -> None:
        self.callback = callback

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.callback(model, state.global_step, state.max_steps)


class _Saving(TrainerCallback):  # type: ignore[misc]
    """Saves at logged steps (so that a resumed log has no gap), as often as the clock and the cost of a save allow."""

    def __init__(self, work: Path, inputs: dict[str, Any], every: int = 1) -> None:
        self.work, self.inputs, self.every = work, inputs, every
        self.saved = self.began = time.monotonic()
        self.cost = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self.began = time.monotonic()
        due = self.began - self.saved >= max(SAVE_SECONDS, self.cost / SAVE_SHARE)
        may = state.global_step % math.lcm(state.logging_steps, self.every) == 0
        if may and state.global_step < state.max_steps and agreed(due):
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = self.work / f"checkpoint-{state.global_step}"
        wait_for_all()  # each process writes a part
        if rank() == 0:
            self._finish(folder)
        self.saved = time.monotonic()
        self.cost = self.saved - self.began

    def _finish(self, folder: Path) -> None:
        with disk_errors(folder):
            write_json(folder / MARK, {"inputs": self.inputs})
            for other in self.work.glob("checkpoint-*"):
                if other != folder:
                    shutil.rmtree(other)
