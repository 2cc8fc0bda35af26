"""The step where people have the word: put the tasks on the server, take judgements into the journal, close.

A desk is what the step needs to know; it comes from a round of a run, or from a folder of one's own that
`align annotate push` made. Waiting is no sleeping process but the state of the desk's journal.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from align.config.recipe import Annotate, EmbeddedServer, People, Personas, RemoteServer
from align.errors import ConfigError, ServiceError
from align.ids import content_id
from align.rounds.journal import close, read_journal, record
from align.rounds.plan import BLIND
from align.rounds.run import Run
from align.rounds.stage import Receipt, stage_folder
from align.store import read_json, read_table
from align.types import Judgement, Task, from_table
from annotation.form import Form, blind_form, form_of

if TYPE_CHECKING:
    from annotation.argilla_backend import ArgillaBackend
    from annotation.backend import Submitted

DESK = "desk.json"
POLL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Desk:
    """`tasks_id` is the content id of the tasks' folder; a closing holds for it alone."""

    journal: Path
    round: int
    tasks: list[Task]
    tasks_id: str
    workspace: str
    dataset: str
    annotate: Annotate
    seed: int

    @property
    def form(self) -> Form:
        """What is asked of people: one desk has tasks of one kind."""
        blind = bool(self.tasks) and self.tasks[0].kind == "blind_ab"
        return blind_form(self.annotate) if blind else form_of(self.annotate)

    @property
    def overlap(self) -> int:
        """How many answers each task wants."""
        return self.tasks[0].wanted if self.tasks else self.annotate.overlap


@dataclass(frozen=True, slots=True)
class Waiting:
    """`done` of `total` wanted answers are in; people label at `url`."""

    done: int
    total: int
    url: str

    def __str__(self) -> str:
        return f"{self.done} of {self.total} answers are in; label at {self.url}"


def desk_of_round(run: Run, asked: Receipt) -> Desk:
    """The desk for the tasks of a stage: a round's selection, or its blind comparisons."""
    if run.recipe.annotate is None:
        raise ConfigError("this run asks nobody: its labels come from a file, or it needs none", where=str(run.folder))
    tasks = stage_folder(run.folder, asked.ref) / asked.key / "tasks.parquet"
    return Desk(
        journal=run.journal,
        round=asked.round,
        tasks=from_table(Task, read_table(tasks)),
        tasks_id=asked.output,
        workspace=f"{run.recipe.name}-{run.id}",
        dataset=f"{'blind' if asked.stage == BLIND else 'round'}-{asked.round}-{asked.output[:8]}",
        annotate=run.recipe.annotate,
        seed=run.recipe.seed,
    )


def desk_of_folder(folder: Path) -> Desk:
    """The desk of a folder that `align annotate push` made."""
    if not (folder / DESK).is_file():
        raise ConfigError(
            f"there are no tasks in {folder}", hint="make them with `align annotate push FOLDER --candidates FILE`"
        )
    desk = read_json(folder / DESK)
    tasks = from_table(Task, read_table(folder / "tasks.parquet"))
    annotate = Annotate.model_validate(desk["annotate"])
    return Desk(
        folder / "journal.jsonl", 1, tasks, desk["tasks_id"], desk["workspace"], desk["dataset"], annotate, desk["seed"]
    )


def desk_of_tasks(tasks: list[Task], folder: Path, annotate: Annotate, *, round: int, seed: int) -> Desk:
    """A desk for tasks that are in memory; its journal is in `folder`, whose name is the workspace's."""
    tasks_id = content_id([task.id for task in tasks])
    return Desk(
        folder / "journal.jsonl", round, tasks, tasks_id, folder.name, f"round-{round}-{tasks_id[:8]}", annotate, seed
    )


def open_backend(desk: Desk) -> "ArgillaBackend":
    """Connect to the desk's server; the embedded one is started when it is not up. Raises ServiceError."""
    from annotation.argilla_backend import open_argilla

    url, api_key = _server(desk.annotate.server)
    guidelines = desk.annotate.guidelines.read_text(encoding="utf-8") if desk.annotate.guidelines else None
    return open_argilla(
        url,
        api_key,
        workspace=desk.workspace,
        dataset=desk.dataset,
        guidelines=guidelines,
        overlap=desk.overlap,
        form=desk.form,
        revive=_reviver(desk.annotate.server),
    )


def offer(desk: Desk) -> "tuple[ArgillaBackend, Submitted]":
    """Put the tasks that are missing on the server; on the embedded one, everybody with an account may label them.

    Tasks that are forgotten are not asked, and annotators who are do not come back.
    """
    backend = open_backend(desk)
    submitted = backend.submit(_asked(desk))
    _admit(desk, backend)
    return backend, submitted


def _asked(desk: Desk) -> list[Task]:
    """The desk's tasks that are not forgotten."""
    forgotten = read_journal(desk.journal).forgotten.tasks
    return [task for task in desk.tasks if task.id not in forgotten]


def _admit(desk: Desk, backend: "ArgillaBackend") -> None:
    if isinstance(desk.annotate.by, People) and isinstance(desk.annotate.server, EmbeddedServer):
        backend.admit_people(without=read_journal(desk.journal).forgotten.annotators)


def waits(desk: Desk, progress: Callable[[int, int], None] | None = None) -> Iterator[Waiting]:
    """Push what is missing, let simulated annotators work, and pull, until the labelling is closed: every task has what
    it wants, or somebody closed it. Gives what is missing until then, whenever that changes; whoever does not want to
    wait asks no further.

    Doing it again repeats nothing: tasks, responses and judgements are found by their ids. Answers are read only when
    the server says that something changed, and at most a quarter of the time. `progress` is told (given, planned)
    answers of simulated annotators.
    """
    if not desk.tasks and closed(desk) is None:
        close(desk.journal, desk.round, desk.tasks_id, "there is nothing to ask")
    backend, version, before = None, None, None
    while closed(desk) is None:
        began = time.monotonic()
        try:
            if backend is None:
                backend, _ = offer(desk)
            else:
                _admit(desk, backend)
            latest = backend.version()
            missing = before if latest == version else _take(desk, backend, progress)
        except ServiceError:
            if version is None:
                raise
            backend = version = None  # the server went away; it is sought, or started, once more
            continue
        pause = max(POLL_SECONDS, 3 * (time.monotonic() - began))
        if missing is not None and missing != before:
            yield missing
        version, before = latest, missing
        if missing is not None:
            time.sleep(pause)


def _take(desk: Desk, backend: "ArgillaBackend", progress: Callable[[int, int], None] | None) -> Waiting | None:
    """Take what was said into the journal, and close the labelling where nobody is left to ask; else what is missing."""
    if isinstance(desk.annotate.by, Personas):
        _simulate(desk, desk.annotate.by, backend, progress)
    record(desk.journal, backend.collect())
    state = backend.progress()
    if state.open:
        return Waiting(state.answers, state.wanted, backend.url)
    skipped = f"; {state.exhausted} were skipped by everyone" if state.exhausted else ""
    close(
        desk.journal, desk.round, desk.tasks_id, f"{state.completed} of {state.tasks} tasks have their answers{skipped}"
    )
    return None


def follow(desk: Desk, tell: Callable[[Waiting], None]) -> list[Judgement]:
    """Wait until nothing is missing; `tell` hears what is, whenever that changes. Returns the judgements."""
    for waiting in waits(desk):
        tell(waiting)
    return judgements_of(desk)


def judgements_of(desk: Desk) -> list[Judgement]:
    """What the journal says now about the desk's tasks."""
    return read_journal(desk.journal).judgements(t.id for t in desk.tasks)


def closed(desk: Desk) -> str | None:
    """Why the desk's labelling is closed, or None while it is open."""
    return read_journal(desk.journal).closed.get(desk.tasks_id)


def _simulate(
    desk: Desk, personas: Personas, backend: "ArgillaBackend", progress: Callable[[int, int], None] | None
) -> None:
    from annotation.simulate import label
    from reward.functions import FunctionScorer, load_function

    utility = FunctionScorer(load_function(personas.utility, Path()))
    forgotten = read_journal(desk.journal).forgotten.annotators
    label(
        backend,
        _asked(desk),
        [persona for persona in personas.personas if persona.name not in forgotten],
        utility.score,
        seed=desk.seed,
        shuffle=personas.shuffle_labels,
        progress=progress,
        form=desk.form,
    )


def _reviver(server: EmbeddedServer | RemoteServer) -> Callable[[], bool]:
    """What starts the embedded server again where it died while it is asked."""
    if isinstance(server, RemoteServer):
        return lambda: False
    home = server.home

    def again() -> bool:
        from annotation.server import revive

        return revive(home)

    return again


def _server(server: EmbeddedServer | RemoteServer) -> tuple[str, str]:
    """Address and owner's API key."""
    if isinstance(server, RemoteServer):
        key = os.environ.get(server.api_key_env)
        if not key:
            raise ConfigError(
                f"the environment variable {server.api_key_env} is not set",
                where="annotate.server.api_key_env",
                hint="put the Argilla owner's API key there",
            )
        return server.url, key
    from annotation.server import credentials, start

    return start(server.home).url, credentials(server.home).api_key
