"""How a labelling stands: progress, every annotator's numbers, the time left."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.labelling.session import Session, journal_of, left_behind
from align.types import Judgement, Task, as_dict, to_table
from annotation.annotators import statistics, time_left
from annotation.backend import Progress
from annotation.compile import compile_labels
from annotation.crowd.advice import name_people
from annotation.journal import Journal, differs

if TYPE_CHECKING:
    from annotation.backend import AnnotationBackend

SILENT = {"value": None, "reason": "nothing said yet"}


@dataclass(frozen=True, slots=True)
class Survey:
    """`people` has each annotator's numbers by id: those of `annotation.annotators.statistics`, from the label compiler
    `reliability`, `gold` and `consistency`, `drafts` on the server, and `name`, what that person is called now.
    `closed` says why nothing more is asked, or is None; `late` counts the answers that came after that and do not
    count, `superseded` those that were given in data sets of tasks that are no longer asked; `notes` are the compiler's
    sentences about the labels so far.
    """

    url: str
    closed: str | None
    progress: Progress
    people: dict[str, dict[str, Any]]
    judgements: list[Judgement]
    left: dict[str, Any]
    notes: list[str]
    late: int
    superseded: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        state = self.progress
        return {
            "wanted": state.wanted,
            "answers": state.answers,
            "tasks": state.tasks,
            "completed": state.completed,
            "exhausted": state.exhausted,
            "closed": self.closed,
            "late": self.late,
            "superseded": self.superseded,
            "dropped": [as_dict(row) for row in state.dropped],
            "drafts": state.drafts,
            "url": self.url,
            "left": self.left,
            "annotators": self.people,
            "notes": self.notes,
        }


def survey(session: Session, backend: "AnnotationBackend") -> Survey:
    """Ask the server how the session's labelling stands. Nothing is written. Raises ServiceError.

    Counted is what the server has, and what the journal still has of people who are no longer there; of a closed
    labelling, what the journal had when it was closed. Who is forgotten is not counted, though the server's own
    progress, which decides what it asks next, knows nothing of that.
    """
    progress, collected, names = backend.progress(), backend.collect(), backend.people()
    journal = journal_of(session)
    judgements, late = _counted(session, journal.meet(collected, names), collected)
    present = progress.annotators.keys() - journal.forgotten.annotators
    people = statistics(session.tasks, judgements, present)
    tables = to_table(Task, session.tasks), to_table(Judgement, judgements)
    compiled = compile_labels(*tables, model=session.annotate.compiler, sides_drawn=True)
    for name, numbers in people.items():
        numbers["name"] = names.get(name) or journal.called(name)
        numbers["drafts"] = progress.annotators[name].drafts if name in progress.annotators else 0
        numbers |= {
            what: compiled.annotators.get(name, {}).get(what, SILENT) for what in ("reliability", "gold", "consistency")
        }
    return Survey(
        url=backend.url,
        closed=journal.closed.get(session.tasks_id),
        progress=progress,
        people=people,
        judgements=judgements,
        left=time_left(progress, people),
        late=late,
        superseded=left_behind(session, backend),
        notes=name_people(compiled.notes, {person: numbers["name"] for person, numbers in people.items()}),
    )


def _counted(session: Session, journal: Journal, collected: list[Judgement]) -> tuple[list[Judgement], int]:
    """What counts of the journal and of what the server has, and how many answers came too late for that."""
    tasks = [task.id for task in session.tasks]
    counted = {(j.task_id, j.annotator): j for j in journal.judgements(tasks, session.tasks_id)}
    newer = {(j.task_id, j.annotator): j for j in [*journal.judgements(tasks), *journal.valid(collected)]}
    if session.tasks_id not in journal.closed:
        return list((counted | newer).values()), 0
    owners = {(task, journal.identity(who)): judgement for (task, who), judgement in counted.items()}
    return list(counted.values()), sum(differs(owners.get(key), judgement) for key, judgement in newer.items())
