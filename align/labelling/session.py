"""The step that waits for labels: put the tasks on the server, take judgements into the journal, close.

A session is what the step needs to know; it comes from a round of a run, or from a folder of your own that
`align annotate push` made. Waiting is no sleeping process but the state of the session's journal.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from align.config.recipe import Annotate, EmbeddedServer, People, Personas, RemoteServer
from align.errors import ConfigError, DataError, ServiceError
from align.figures import counted
from align.pipeline.migration import rename_pulled
from align.pipeline.receipts import Receipt, stage_folder
from align.pipeline.run import Run
from align.pipeline.stage import Waiting
from align.progress import Progress
from align.store import disk_errors, read_json, read_table
from align.types import Dropped, Judgement, Task, from_table
from annotation.form import Form, blind_form, form_of
from annotation.journal import Journal, close, read_journal, record

if TYPE_CHECKING:
    from annotation.argilla_api import Api
    from annotation.argilla_backend import ArgillaBackend
    from annotation.backend import AnnotationBackend, SimulationBackend, Submitted

SESSION = "session.json"
_BEFORE = "desk.json"
"""What a version before December 2026 called it."""
POLL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Session:
    """`tasks_id` is the content id of the tasks' folder; a closing holds for it alone. `dataset` names the data set for
    us, and `title` for people. Other data sets of the workspace whose names begin with `family` asked what was to be
    asked before; empty where there can be none."""

    journal: Path
    round: int
    tasks: list[Task]
    tasks_id: str
    workspace: str
    dataset: str
    annotate: Annotate
    seed: int
    family: str = ""
    hide_thinking: bool = False
    title: str = ""

    @property
    def form(self) -> Form:
        """What is asked of people: one session has tasks of one kind."""
        blind = bool(self.tasks) and self.tasks[0].kind == "blind_ab"
        return (blind_form if blind else form_of)(self.annotate, self.hide_thinking)

    @property
    def overlap(self) -> int:
        """How many answers each task wants."""
        return self.tasks[0].wanted if self.tasks else self.annotate.overlap


def session_of_round(run: Run, asked: Receipt) -> Session:
    """The session for the tasks of a stage: a round's, or its blind comparisons."""
    if run.recipe.annotate is None:
        raise ConfigError("this run asks nobody: its labels come from a file, or it needs none", where=str(run.folder))
    found = from_table(Task, read_table(stage_folder(run.folder, asked.ref) / asked.key / "tasks.parquet"))
    blind = any(task.kind == "blind_ab" for task in found)
    family = f"{'blind' if blind else 'round'}-{asked.round}-"
    which = "comparison" if blind else "round"
    return Session(
        journal=run.journal,
        round=asked.round,
        tasks=found,
        tasks_id=asked.output,
        workspace=f"{run.recipe.name}-{run.id}",
        dataset=f"{family}{asked.output[:8]}",
        annotate=run.recipe.annotate,
        seed=run.recipe.seed,
        family=family,
        hide_thinking="annotators" in run.recipe.model.hide_thinking,
        title=f"{title_of(run.recipe.name, found)} ({which} {asked.round})",
    )


def has_session(folder: Path) -> bool:
    """Whether `align annotate push` made this folder. The files of an earlier version get the names of today.

    Raises ServiceError where that cannot be written.
    """
    if (folder / SESSION).is_file() or not _is_of_before(folder / _BEFORE):
        return (folder / SESSION).is_file()
    with disk_errors(folder), suppress(FileNotFoundError):  # another process was first
        rename_pulled(folder)
        (folder / _BEFORE).rename(folder / SESSION)
    return True


def _is_of_before(path: Path) -> bool:
    try:
        return path.is_file() and {"tasks_id", "workspace"} <= dict(read_json(path)).keys()
    except (DataError, TypeError, ValueError):
        return False


def session_of_folder(folder: Path) -> Session:
    """The session of a folder that `align annotate push` made."""
    if not has_session(folder):
        raise ConfigError(
            f"there are no tasks in {folder}", hint="make them with `align annotate push FOLDER --candidates FILE`"
        )
    session = read_json(folder / SESSION)
    tasks = from_table(Task, read_table(folder / "tasks.parquet"))
    annotate = Annotate.model_validate(session["annotate"])
    known = session["tasks_id"], session["workspace"], session["dataset"]
    title = title_of(folder.resolve().name, tasks)
    return Session(
        folder / "journal.jsonl", session.get("round", 1), tasks, *known, annotate, session["seed"],
        title=title, hide_thinking=session.get("hide_thinking", False),
    )  # fmt: skip


QUESTIONS = {
    "pair": "which answer is better?",
    "blind_ab": "which answer is better?",
    "rank": "which answers are better?",
    "single": "is this a good answer?",
    "rating": "how good is this answer?",
}
"""What a data set asks, by the kind of its tasks; a blind comparison looks like any pair."""


def title_of(name: str, tasks: Sequence[Task]) -> str:
    """What annotators read on the server's home page.

    >>> title_of("support-desk", [])
    'Support desk'
    """
    words = re.sub(r"[-_\s]+", " ", name).strip()
    asked = f": {QUESTIONS[tasks[0].kind]}" if tasks else ""
    return f"{words[:1].upper()}{words[1:]}{asked}"


def open_backend(session: Session) -> "ArgillaBackend":
    """Connect to the session's server; the embedded one is started when it is not up. Raises ServiceError."""
    from annotation.argilla_backend import open_argilla
    from annotation.argilla_dataset import DONE

    url, api_key = _server(session.annotate.server)
    guidelines = session.annotate.guidelines.read_text(encoding="utf-8") if session.annotate.guidelines else None
    journal = read_journal(session.journal, ())
    forgotten = journal.forgotten.tasks
    return open_argilla(
        url,
        api_key,
        workspace=session.workspace,
        dataset=session.dataset,
        title=session.title,
        guidelines=DONE if session.tasks_id in journal.closed else guidelines,
        overlap=session.overlap,
        form=session.form,
        tasks=_asked(session, forgotten),
        without=forgotten,
        revive=_reviver(session.annotate.server),
    )


def connect_server(session: Session) -> "Api | None":
    """The session's server as its owner, with nothing made on it; None where the embedded one was never started. Raises
    ServiceError and ConfigError."""
    from annotation.argilla_api import connect
    from annotation.argilla_backend import PATIENCE, SUPPORTED
    from annotation.server import has_server

    server = session.annotate.server
    if isinstance(server, EmbeddedServer) and not has_server(server.home):
        return None
    url, api_key = _server(server)
    return connect(url.rstrip("/"), api_key, PATIENCE, SUPPORTED, _reviver(server))


def offer(session: Session, backend: "AnnotationBackend | None" = None) -> "tuple[AnnotationBackend, Submitted]":
    """Put the tasks that are missing on the session's server, or into a `backend` of the caller's own, close the other
    data sets of the run, and on the embedded server let everybody with an account label them.

    Tasks that are forgotten are not asked, and annotators who are do not come back.
    """
    journal = journal_of(session)
    backend = backend or open_backend(session)
    submitted = backend.submit(_asked(session, journal.forgotten.tasks))
    if journal.strangers:  # an earlier version wrote down names; whose they are must be known before anybody is let in
        take_in(session, backend, journal)
    _admit(session, backend, journal)
    if session.family:
        backend.close_others(session.family)
    return backend, submitted


def left_behind(session: Session, backend: "AnnotationBackend") -> dict[str, int]:
    """Data sets of what is not asked any more, or of labellings that are closed → how many answers were given there
    that the journal does not have."""
    given = backend.given_in_others() if session.family else {}
    if not given:
        return {}
    journal = read_journal(session.journal, {task for answers in given.values() for task, _, _ in answers})
    times = {key: judgement.time or "" for key, judgement in journal.latest.items()}
    hidden = journal.forgotten
    counts = {
        name: sum(time > times.get((task, who), "") for task, who, time in answers if not hidden.hide("", who, task))
        for name, answers in given.items()
    }
    return {name: count for name, count in counts.items() if count}


def left_behind_text(counts: Mapping[str, int]) -> str:
    """What is to be said of answers in superseded data sets; empty where there are none."""
    found = ", ".join(f"{count} in {name}" for name, count in counts.items())
    return f"answers to what is no longer asked do not count: {found}; ask as before to take them in" if found else ""


def take_in(session: Session, backend: "AnnotationBackend", journal: Journal | None = None) -> list[Judgement]:
    """Take what the server has, and what people are called there, into the journal; returns what is new."""
    return record(session.journal, backend.collect(), backend.people(), journal)


def journal_of(session: Session) -> Journal:
    """The session's journal, as far as it is about the session's tasks."""
    return read_journal(session.journal, {task.id for task in session.tasks})


def _asked(session: Session, forgotten: Collection[str]) -> list[Task]:
    """The session's tasks that are not `forgotten`."""
    return [task for task in session.tasks if task.id not in forgotten]


def _admit(session: Session, backend: "AnnotationBackend", journal: Journal) -> None:
    if isinstance(session.annotate.by, People) and isinstance(session.annotate.server, EmbeddedServer):
        backend.admit(without=journal.read_on().forgotten.annotators)


def waits(
    session: Session, progress: Progress | None = None, backend: "AnnotationBackend | None" = None
) -> Iterator[Waiting]:
    """Push what is missing, let simulated annotators work, and pull, until the labelling is closed: every task has what
    it wants, or somebody closed it. Gives what is missing until then, whenever that changes; whoever does not want to
    wait asks no further.

    Doing it again repeats nothing: tasks, responses and judgements are found by their ids. Answers are read only when
    the server says that something changed, and at most a quarter of the time; of the journal, what is new. `progress`
    is told (given, planned) answers of simulated annotators. People label on the session's server, or in a `backend` of
    the caller's own, which must take answers of personas where there are any.
    """
    journal, own = journal_of(session), backend
    if not session.tasks and session.tasks_id not in journal.closed:
        close(session.journal, session.round, session.tasks_id, "there is nothing to ask")
    backend, version, before, note = None, None, None, ""  # found again, or begun, where it went away
    while session.tasks_id not in journal.read_on().closed:
        began = time.monotonic()
        try:
            if backend is None:
                backend, _ = offer(session, own)
                note = left_behind_text(left_behind(session, backend))
            else:
                _admit(session, backend, journal)
            latest = backend.version()
            missing = before if latest == version else _take(session, backend, journal, progress)
        except ServiceError:
            if version is None:
                raise
            backend = version = None  # the server went away; it is sought, or started, once more
            continue
        pause = max(POLL_SECONDS, 3 * (time.monotonic() - began))
        if missing is not None and missing != before:
            yield replace(missing, note=note)
        version, before = latest, missing
        if missing is not None:
            time.sleep(pause)


def _take(
    session: Session, backend: "AnnotationBackend", journal: Journal, progress: Progress | None
) -> Waiting | None:
    """Take what was said into the journal, and close the labelling where nobody is left to ask; else what is
    missing."""
    if isinstance(session.annotate.by, Personas):
        _simulate(session, session.annotate.by, cast("SimulationBackend", backend), journal, progress)
    take_in(session, backend, journal)
    state = backend.progress()
    if state.open:
        return Waiting(state.answers, state.wanted, backend.url)
    reason = f"{state.completed} of {state.tasks} tasks have their answers"
    reason += "".join(f"; {said}" for said in (short_text(state.exhausted), dropped_text(state.dropped)) if said)
    finish(session, backend, reason, journal)
    return None


def finish(session: Session, backend: "AnnotationBackend", reason: str, journal: Journal | None = None) -> None:
    """Take what is there, close the labelling and its data set, and take what came in between, which is told of as
    late."""
    take_in(session, backend, journal)
    close(session.journal, session.round, session.tasks_id, reason)
    backend.close()
    take_in(session, backend, journal)


NAMED = 5
"""So many of what is dropped are named; the others are counted."""


def short_text(exhausted: int) -> str:
    """What is to be said of tasks that all have answered or skipped; empty where there are none."""
    if not exhausted:
        return ""
    have = "has" if exhausted == 1 else "have"
    return f"{counted(exhausted, 'task')} {have} fewer answers than wanted, for everybody has answered or skipped"


def dropped_text(dropped: Sequence[Dropped]) -> str:
    """What is not as it was left on the server, by name; empty where everything is."""
    if not dropped:
        return ""
    names = [f"{row.what} {row.where} ({row.reason})" for row in dropped[:NAMED]]
    more = f" and {len(dropped) - NAMED} more" if len(dropped) > NAMED else ""
    return f"dropped: {', '.join(names)}{more}"


def follow(
    session: Session,
    tell: Callable[[Waiting], None],
    *,
    backend: "AnnotationBackend | None" = None,
    progress: Progress | None = None,
) -> list[Judgement]:
    """Wait until nothing is missing, on the session's server or on a `backend` of the caller's own; `tell` hears what
    is, whenever that changes. Returns the judgements."""
    for waiting in waits(session, progress, backend):
        tell(waiting)
    return judgements_of(session)


def judgements_of(session: Session) -> list[Judgement]:
    """What counts about the session's tasks: what the journal says now, or said when the labelling was closed."""
    return journal_of(session).judgements((t.id for t in session.tasks), session.tasks_id)


def closed(session: Session) -> str | None:
    """Why the session's labelling is closed, or None while it is open."""
    return read_journal(session.journal, ()).closed.get(session.tasks_id)


def late_text(count: int) -> str:
    """What is to be said of `count` answers that came after a closing."""
    if count == 1:
        return "1 answer came after the closing and does not count; `align annotate reopen` counts it"
    return f"{count} answers came after the closing and do not count; `align annotate reopen` counts them"


def _simulate(
    session: Session,
    personas: Personas,
    backend: "SimulationBackend",
    journal: Journal,
    progress: Progress | None,
) -> None:
    from annotation.simulate import label
    from reward.functions import FunctionScorer, load_function

    utility = FunctionScorer(load_function(personas.utility, Path()))
    forgotten = journal.forgotten
    label(
        backend,
        _asked(session, forgotten.tasks),
        [persona for persona in personas.personas if persona.name not in forgotten.annotators],
        utility.score,
        seed=session.seed,
        shuffle=personas.shuffle_labels,
        progress=progress,
        form=session.form,
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
    """Address and owner's API key. The embedded server is started when it is not up; a home that the recipe names has
    to have one already."""
    if isinstance(server, RemoteServer):
        key = os.environ.get(server.api_key_env)
        if not key:
            raise ConfigError(
                f"the environment variable {server.api_key_env} is not set",
                where="annotate.server.api_key_env",
                hint="put the Argilla owner's API key there",
            )
        return server.url, key
    from annotation.server import credentials, require_server, start

    require_server(server.home)
    return start(server.home).url, credentials(server.home).api_key
