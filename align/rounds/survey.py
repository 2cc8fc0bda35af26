"""How a labelling stands: progress, every annotator's numbers, the time left."""

from dataclasses import dataclass
from typing import Any

from align.rounds.journal import read_journal
from align.rounds.labelling import Desk
from align.types import Judgement, Task, to_table
from annotation.annotators import statistics, time_left
from annotation.backend import AnnotationBackend, Progress
from annotation.compile import compile_labels

SILENT = {"value": None, "reason": "nothing said yet"}


@dataclass(frozen=True, slots=True)
class Survey:
    """`people` has each annotator's numbers by name: those of `annotation.annotators.statistics`, and from the label
    compiler `reliability`, `gold` and `consistency`. `closed` says why nothing more is asked, or is None; `notes` are
    the compiler's sentences about the labels so far.
    """

    url: str
    closed: str | None
    progress: Progress
    people: dict[str, dict[str, Any]]
    judgements: list[Judgement]
    left: dict[str, Any]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        state = self.progress
        return {
            "wanted": state.wanted,
            "answers": state.answers,
            "tasks": state.tasks,
            "completed": state.completed,
            "exhausted": state.exhausted,
            "closed": self.closed,
            "url": self.url,
            "left": self.left,
            "annotators": self.people,
            "notes": self.notes,
        }


def survey(desk: Desk, backend: AnnotationBackend) -> Survey:
    """Ask the server how the desk's labelling stands. Nothing is written. Raises ServiceError.

    Counted is what the server has, and what the journal still has of people who are no longer there; who is forgotten
    is not counted, though the server's own progress, which decides what it asks next, knows nothing of that.
    """
    progress, collected = backend.progress(), backend.collect()
    journal = read_journal(desk.journal)
    said = {(j.task_id, j.annotator): j for j in journal.judgements(task.id for task in desk.tasks)}
    said |= {(j.task_id, j.annotator): j for j in journal.in_force(collected)}
    judgements = list(said.values())
    present = progress.annotators.keys() - journal.forgotten.annotators
    people = statistics(desk.tasks, judgements, present)
    tables = to_table(Task, desk.tasks), to_table(Judgement, judgements)
    compiled = compile_labels(*tables, model=desk.annotate.compiler, sides_drawn=True)
    for name, numbers in people.items():
        numbers |= {
            what: compiled.annotators.get(name, {}).get(what, SILENT) for what in ("reliability", "gold", "consistency")
        }
    return Survey(
        url=backend.url,
        closed=journal.closed.get(desk.tasks_id),
        progress=progress,
        people=people,
        judgements=judgements,
        left=time_left(progress, people),
        notes=compiled.notes,
    )
