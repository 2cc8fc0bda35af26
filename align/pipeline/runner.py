"""The runner: goes through a plan, does what is missing, stops where it waits for labels or a stage refuses to go
on."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from align.errors import ConfigError
from align.pipeline.intact import remember, require_whole
from align.pipeline.left import note_left
from align.pipeline.receipts import (
    CURRENT,
    KEY,
    Receipt,
    current,
    partial_folder,
    point_to,
    pointed_key,
    publish_stage,
    published,
    put_aside,
    stage_folder,
    stage_key,
)
from align.pipeline.stage import Job, Ref, Stage, Step, Wait, Waiting, function_of
from align.pipeline.stage_worker import run_apart, run_here
from align.progress import Progress


@dataclass(frozen=True, slots=True)
class Event:
    """What the runner tells while it works; `done` of `total` is a stage's or the labelling's progress, and `text` what
    is said of it."""

    kind: Literal["start", "progress", "done", "kept", "labelling", "closed", "note"]
    ref: Ref
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    text: str = ""


Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of the runner ended. `ran` are the stages that it did itself; `blocked` says why the stage `by` stops
    the run."""

    state: Literal["finished", "waiting", "blocked"]
    ran: list[Ref]
    waiting: Waiting | None = None
    blocked: str = ""
    by: Ref | None = None


class Labelling(Protocol):
    """What the runner asks about a `Wait`; `tasks` is the receipt of the stage whose tasks people answer."""

    def closed(self, tasks: Receipt) -> str | None:
        """Why nothing more is asked, or None while it is."""
        ...

    def waits(self, tasks: Receipt, progress: Progress) -> Iterator[Waiting]:
        """Ask, and give what is missing whenever that changes, until nothing more is asked."""
        ...


def go(
    run: Path, steps: list[Step], labelling: Labelling, tell: Tell, *, wait: bool = False, verify: bool = False
) -> Outcome:
    """Do what of `steps` is not done yet. With `wait`, follow the labelling instead of returning.

    Files that a stage is going to read are compared with their receipts, by content where size or time have changed;
    with `verify` all files of all stages, by content. Raises AlignError.
    """
    receipts: dict[Ref, Receipt] = {}
    ran: list[Ref] = []
    for step in steps:
        if isinstance(step, Wait):
            waiting = _label(step, receipts[step.tasks], labelling, tell, wait)
            if waiting is not None:
                return Outcome("waiting", ran, waiting)
            continue
        receipt, new = bring_about(run, step, receipts, tell)
        receipts[step.ref] = receipt
        ran += [step.ref] if new else []
        if verify and not new:
            require_whole(run, [receipt], known=False)
        if blocked := receipt.summary.get("blocked"):
            return Outcome("blocked", ran, blocked=str(blocked), by=step.ref)
    return Outcome("finished", ran)


def bring_about(run: Path, step: Stage, receipts: dict[Ref, Receipt], tell: Tell) -> tuple[Receipt, bool]:
    """The stage's receipt, and whether it had to be done for it; `receipts` has those of its inputs."""
    inputs = {name: receipts[ref] for name, ref in step.inputs.items()}
    stage = frozen(run, step, inputs)
    key = stage_key(stage, inputs)
    receipt = published(run, stage.ref, key)
    if receipt is None:
        return _execute(run, stage, key, inputs, tell), True
    point_to(run, stage.ref, key)
    tell(Event("kept", stage.ref, seconds=receipt.seconds))
    return receipt, False


def refresh(run: Path, steps: list[Step], tell: Tell) -> list[Ref]:
    """Do those stages again whose key depends on what is outside the run and has changed, and the light ones made from
    them; returns them. Nothing is sampled or trained; what has not run yet is left alone. Raises AlignError."""
    receipts: dict[Ref, Receipt] = {}
    fresh: set[Ref] = set()
    ran: list[Ref] = []
    for step in steps:
        receipt = current(run, step.ref)
        if isinstance(step, Wait) or receipt is None:
            continue
        affected = step.declared.freeze is not None or not fresh.isdisjoint(step.inputs.values())
        if affected and not step.declared.subprocess and all(ref in receipts for ref in step.inputs.values()):
            fresh.add(step.ref)
            receipt, new = bring_about(run, step, receipts, tell)
            ran += [step.ref] if new else []
        receipts[step.ref] = receipt
    return ran


def states(run: Path, steps: list[Step], labelling: Labelling) -> list[tuple[Step, str]]:
    """Each step with `done`, `to run`, or `waiting for labels`, without doing anything."""
    receipts: dict[Ref, Receipt] = {}
    found: list[tuple[Step, str]] = []
    for step in steps:
        if isinstance(step, Wait):
            tasks = receipts.get(step.tasks)
            closed = tasks is not None and labelling.closed(tasks) is not None
            found.append((step, "done" if closed else "to run" if tasks is None else "waiting for labels"))
            continue
        receipt = None
        if all(ref in receipts for ref in step.inputs.values()):
            inputs = {name: receipts[ref] for name, ref in step.inputs.items()}
            receipt = published(run, step.ref, stage_key(frozen(run, step, inputs), inputs))
        if receipt is not None:
            receipts[step.ref] = receipt
        found.append((step, "done" if receipt is not None else "to run"))
    return found


def find_stage(steps: list[Step], text: str) -> int:
    """The index of the step that `text` names: `policy` (its first) or `2/policy`. Raises ConfigError."""
    for index, step in enumerate(steps):
        if text in (str(step.ref), step.ref.stage):
            return index
    names = ", ".join(str(step.ref) for step in steps)
    raise ConfigError(f"there is no stage {text!r}", where="--from", hint=f"this recipe's stages are {names}")


def archive(run: Path, steps: list[Step]) -> None:
    """Put the published folders of `steps` aside (`align clean` removes them), so that they are done again."""
    for step in steps:
        folder = stage_folder(run, step.ref)
        key = pointed_key(folder)
        known = [folder / key] if key else [p for p in folder.glob("*/") if KEY.fullmatch(p.name)]
        (folder / CURRENT).unlink(missing_ok=True)
        for path in known:  # of a pointer that cannot be read any of them may be meant
            put_aside(path, "archived")


def frozen(run: Path, stage: Stage, inputs: dict[str, Receipt]) -> Stage:
    """The stage with what its key depends on besides its inputs, where there is such a thing."""
    freeze = stage.declared.freeze
    return stage if freeze is None else function_of(freeze)(run, stage, inputs)  # type: ignore[no-any-return]


def _execute(run: Path, stage: Stage, key: str, inputs: dict[str, Receipt], tell: Tell) -> Receipt:
    tell(Event("start", stage.ref))
    require_whole(run, list(inputs.values()))
    folders = {name: stage_folder(run, receipt.ref) / receipt.key for name, receipt in inputs.items()}
    out = partial_folder(run, stage.ref, key)
    job = Job(stage.ref.round, stage.ref.stage, folders, dict(stage.settings), dict(stage.runtime), out)
    for left in note_left(job.scratch, stage, inputs):
        tell(Event("note", stage.ref, text=left))
    started, clock = datetime.now(UTC), time.monotonic()

    def progress(done: int, total: int, said: str = "") -> None:
        tell(Event("progress", stage.ref, done, total, text=said))

    summary = (run_apart if stage.declared.subprocess else run_here)(stage.declared.function, job, progress)
    seconds, ended = time.monotonic() - clock, datetime.now(UTC)
    times = (started.isoformat(timespec="milliseconds"), ended.isoformat(timespec="milliseconds"), seconds)
    receipt = publish_stage(run, stage, key, inputs, summary, *times)
    remember(run, receipt)
    tell(Event("done", stage.ref, seconds=seconds))
    for note in summary.get("notes") or ():
        tell(Event("note", stage.ref, text=note))
    return receipt


def _label(step: Wait, tasks: Receipt, labelling: Labelling, tell: Tell, wait: bool) -> Waiting | None:
    """None when the labelling is closed, else what is still missing."""
    clock = time.monotonic()
    if (why := labelling.closed(tasks)) is not None:
        tell(Event("closed", step.ref, text=why))
        return None
    tell(Event("start", step.ref))

    def progress(done: int, total: int, said: str = "") -> None:
        tell(Event("labelling", step.ref, done, total))

    for waiting in labelling.waits(tasks, progress):
        tell(Event("labelling", step.ref, waiting.done, waiting.total, text=waiting.url))
        if not wait:
            return waiting
    tell(Event("closed", step.ref, seconds=time.monotonic() - clock, text=labelling.closed(tasks) or ""))
    return None
