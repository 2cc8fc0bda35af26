"""The runner: goes through the plan, does what is missing, stops where people have the word."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from align.ids import content_id
from align.rounds.fingerprint import PRINTS, Fingerprints
from align.rounds.hub import with_commit
from align.rounds.intact import remember, require_whole
from align.rounds.journal import read_journal, said
from align.rounds.labelling import Waiting, closed, desk_of_round, journal_of, late_text, waits
from align.rounds.left import note_left
from align.rounds.lock import run_lock
from align.rounds.parts import name_bases
from align.rounds.plan import Labelling, Step, find_stage, make_plan
from align.rounds.run import Run
from align.rounds.stage import (
    CURRENT,
    KEY,
    WORK,
    Job,
    Receipt,
    Ref,
    Stage,
    current,
    partial_folder,
    point_to,
    pointed_key,
    published,
    put_aside,
    seal,
    stage_folder,
    stage_key,
)
from align.rounds.worker import run_apart, run_here
from align.store import read_table
from align.train.launch import require_no_launcher
from annotation.crowd.advice import name_people
from rollouts.server_process import kept_server


@dataclass(frozen=True, slots=True)
class Event:
    """What the runner tells while it works; `done` of `total` is a stage's or the labelling's progress, and `text` what is
    said of it."""

    kind: Literal["start", "progress", "done", "kept", "labelling", "closed", "note"]
    ref: Ref
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    text: str = ""


Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call of the runner ended. `ran` are the stages that it did itself."""

    state: Literal["finished", "waiting"]
    ran: list[Ref]
    waiting: Waiting | None = None


def run_rounds(
    run: Run, tell: Tell, *, wait: bool = False, start_from: str | None = None, verify: bool = False
) -> Outcome:
    """Do what the recipe asks and is not done yet. With `wait`, follow the labelling instead of returning.

    With `start_from` that stage and all after it are done anew (labels are kept). Files that a stage is going to read are
    compared with their receipts, by content where size or time have changed; with `verify` all files of all stages, by
    content. Raises AlignError.
    """
    require_no_launcher()
    with run_lock(run.folder), _server(run):
        run = with_commit(run)
        name_bases(run)
        prints = Fingerprints(run.folder / PRINTS)
        steps = make_plan(run.recipe, prints)
        prints.save()
        if start_from is not None:
            _retire(run.folder, steps[find_stage(steps, start_from) :])
        return _go(run, steps, tell, wait, verify)


def _server(run: Run) -> AbstractContextManager[None]:
    """Where rollouts come from a server of ours, it stays from stage to stage; it begins when it is first needed."""
    rollouts = run.recipe.rollouts
    own = rollouts.type == "server" and (rollouts.server is None or rollouts.server.url is None)
    return kept_server() if own else nullcontext()


def recompile(run: Run, tell: Tell) -> list[Ref]:
    """Do those snapshots anew about which the journal says something else now, and the light stages made from them.

    Nothing is sampled or trained; rounds that have no snapshot yet are left alone. Raises AlignError.
    """
    with run_lock(run.folder):
        run = with_commit(run, look=False)
        receipts: dict[Ref, Receipt] = {}
        compiled: set[Ref] = set()
        ran: list[Ref] = []
        for step in make_plan(run.recipe, Fingerprints(run.folder / PRINTS)):
            receipt = current(run.folder, step.ref)
            if isinstance(step, Labelling) or receipt is None:
                continue
            fresh = step.work == "snapshot" or not compiled.isdisjoint(step.inputs.values())
            if fresh and not step.heavy and all(ref in receipts for ref in step.inputs.values()):
                compiled.add(step.ref)
                receipt, new = _done(run, step, {name: receipts[ref] for name, ref in step.inputs.items()}, tell)
                ran += [step.ref] if new else []
            receipts[step.ref] = receipt
        return ran


def plan_states(run: Run) -> list[tuple[Step, str]]:
    """Each step with `done`, `to run`, or `waiting for people`, without doing anything (for `--dry-run`)."""
    run = with_commit(run, look=False)
    receipts: dict[Ref, Receipt] = {}
    states: list[tuple[Step, str]] = []
    for step in make_plan(run.recipe, Fingerprints(run.folder / PRINTS)):
        if isinstance(step, Labelling):
            tasks = receipts.get(step.tasks)
            closed = tasks is not None and tasks.output in read_journal(run.journal, ()).closed
            states.append((step, "done" if closed else "to run" if tasks is None else "waiting for people"))
            continue
        receipt = None
        if all(ref in receipts for ref in step.inputs.values()):
            inputs = {name: receipts[ref] for name, ref in step.inputs.items()}
            stage = _frozen(run, step, inputs)
            receipt = published(run.folder, step.ref, stage_key(stage, inputs))
        if receipt is not None:
            receipts[step.ref] = receipt
        states.append((step, "done" if receipt is not None else "to run"))
    return states


def _go(run: Run, steps: list[Step], tell: Tell, wait: bool, verify: bool = False) -> Outcome:
    receipts: dict[Ref, Receipt] = {}
    ran: list[Ref] = []
    for step in steps:
        if isinstance(step, Labelling):
            waiting = _label(run, step, receipts[step.tasks], tell, wait)
            if waiting is not None:
                return Outcome("waiting", ran, waiting)
            continue
        receipts[step.ref], new = _done(run, step, {name: receipts[ref] for name, ref in step.inputs.items()}, tell)
        ran += [step.ref] if new else []
        if verify and not new:
            require_whole(run.folder, [receipts[step.ref]], known=False)
    return Outcome("finished", ran)


def _done(run: Run, step: Stage, inputs: dict[str, Receipt], tell: Tell) -> tuple[Receipt, bool]:
    """The stage's receipt, and whether it had to be done for it."""
    stage = _frozen(run, step, inputs)
    key = stage_key(stage, inputs)
    receipt = published(run.folder, stage.ref, key)
    if receipt is None:
        return _execute(run.folder, stage, key, inputs, tell), True
    point_to(run.folder, stage.ref, key)
    tell(Event("kept", stage.ref, seconds=receipt.seconds))
    return receipt, False


def _execute(run: Path, stage: Stage, key: str, inputs: dict[str, Receipt], tell: Tell) -> Receipt:
    tell(Event("start", stage.ref))
    require_whole(run, list(inputs.values()))
    folders = {name: stage_folder(run, receipt.ref) / receipt.key for name, receipt in inputs.items()}
    job = Job(
        stage.ref.round,
        stage.ref.stage,
        folders,
        dict(stage.settings),
        dict(stage.tuning),
        partial_folder(run, stage.ref, key),
    )
    for left in note_left(job.out.with_suffix(WORK), stage, inputs):
        tell(Event("note", stage.ref, text=left))
    started, clock = datetime.now(UTC), time.monotonic()

    def progress(done: int, total: int, said: str = "") -> None:
        tell(Event("progress", stage.ref, done, total, text=said))

    summary = (run_apart if stage.heavy else run_here)(stage.work, job, progress)
    seconds, ended = time.monotonic() - clock, datetime.now(UTC)
    receipt = seal(
        run,
        stage,
        key,
        inputs,
        summary,
        started.isoformat(timespec="milliseconds"),
        ended.isoformat(timespec="milliseconds"),
        seconds,
    )
    remember(run, receipt)
    tell(Event("done", stage.ref, seconds=seconds))
    if summary.get("notes"):
        for note in name_people(summary["notes"], read_journal(run / "journal.jsonl", ()).everybody()):
            tell(Event("note", stage.ref, text=note))
    return receipt


def _label(run: Run, step: Labelling, tasks: Receipt, tell: Tell, wait: bool) -> Waiting | None:
    """None when the labelling is closed, else what is still missing."""
    desk, clock = desk_of_round(run, tasks), time.monotonic()
    journal = journal_of(desk)
    if tasks.output in journal.closed:
        late = len(journal.late([task.id for task in desk.tasks], tasks.output))
        note = f"; {late_text(late)}" if late else ""
        tell(Event("closed", step.ref, text=journal.closed[tasks.output] + note))
        return None
    tell(Event("start", step.ref))

    def progress(done: int, total: int, said: str = "") -> None:
        tell(Event("labelling", step.ref, done, total))

    for waiting in waits(desk, progress):
        tell(Event("labelling", step.ref, waiting.done, waiting.total, text=waiting.url))
        if not wait:
            return waiting
    tell(Event("closed", step.ref, seconds=time.monotonic() - clock, text=closed(desk) or ""))
    return None


def _frozen(run: Run, stage: Stage, inputs: dict[str, Receipt]) -> Stage:
    """A snapshot's key depends on what counts now: what the journal said when the labelling was closed, without what is
    forgotten since; other stages are as planned."""
    if stage.work != "snapshot":
        return stage
    asked = inputs["tasks"]
    tasks = read_table(stage_folder(run.folder, asked.ref) / asked.key / "tasks.parquet").column("id").to_pylist()
    journal = read_journal(run.journal, tasks)
    judgements = journal.judgements(tasks, asked.output)
    # what is read here is what the stage reads: people write on meanwhile
    frozen = {"journal": str(run.journal), "labelling": asked.output, "until": journal.length}
    return replace(stage, files={"judgements": content_id([said(j) for j in judgements])}, tuning=frozen)


def _retire(run: Path, steps: list[Step]) -> None:
    """Put the published folders of `steps` aside (`align clean` removes them), so that they are done anew."""
    for step in steps:
        folder = stage_folder(run, step.ref)
        key = pointed_key(folder)
        known = [folder / key] if key else [p for p in folder.glob("*/") if KEY.fullmatch(p.name)]
        (folder / CURRENT).unlink(missing_ok=True)
        for path in known:  # of a pointer that cannot be read any of them may be meant
            put_aside(path, "retired")
