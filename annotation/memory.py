"""A backend in memory, for notebooks and tests: who answers calls `answer` under a name, and nobody has a page."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from align.errors import DataError
from align.types import OUTCOMES, Judgement, Task, judgement_id
from annotation.backend import Answer, Progress, Submitted, progress_of


class MemoryBackend:
    """A `SimulationBackend` that lives as long as the process. An annotator is a name, which is their key too."""

    url = "memory"

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self._said: dict[tuple[str, str], Judgement] = {}
        self._names: list[str] = []
        self._changes = 0

    def submit(self, tasks: Sequence[Task]) -> Submitted:
        new = [task for task in tasks if task.id not in self.tasks]
        self.tasks |= {task.id: task for task in new}
        self._changes += len(new)
        return Submitted(len(new), len(tasks) - len(new))

    def version(self) -> str:
        return str(self._changes)

    def admit(self, without: Collection[str] = ()) -> list[str]:
        """Whoever has a name may answer, so nobody is new."""
        return []

    def close(self) -> None:
        """An answer is taken all the same, as from somebody who has the task before them."""

    def close_others(self, family: str) -> None:
        """There are no others."""

    def given_in_others(self) -> dict[str, list[tuple[str, str, str]]]:
        return {}

    def progress(self) -> Progress:
        status: dict[str, dict[str, str]] = {name: {} for name in self.tasks}
        for (task, who), said in self._said.items():
            status[task][who] = "skipped" if said.outcome == "skipped" else "submitted"
        wanted = max((task.wanted for task in self.tasks.values()), default=1)
        return progress_of(status, wanted, self._names)

    def collect(self) -> list[Judgement]:
        return sorted(self._said.values(), key=lambda judgement: judgement.id)

    def people(self) -> dict[str, str]:
        return {name: name for name in self._names}

    def ensure_annotator(self, name: str) -> str:
        if name not in self._names:
            self._names.append(name)
            self._changes += 1
        return name

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        """Raises DataError for a task that is not here, and for an outcome that its kind cannot have."""
        for given in answers:
            task = self.tasks.get(given.task_id)
            if task is None:
                raise DataError(
                    "the task is not in this backend", where=f"task {given.task_id}", hint="submit it first"
                )
            if given.outcome not in OUTCOMES[task.kind]:
                what = f"an answer to a task of kind {task.kind} cannot be {given.outcome!r}"
                raise DataError(what, where=f"task {task.id}", hint=f"say {', '.join(OUTCOMES[task.kind])}")
            who = self.ensure_annotator(api_key)
            self._said[task.id, who] = Judgement(
                id=judgement_id(task.id, who, 0),
                task_id=task.id,
                kind=task.kind,
                annotator=who,
                revision=0,
                outcome=given.outcome,
                strength=given.strength,
                flags=given.flags,
                edit=given.edit,
                reason=given.reason,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                ranking=given.ranking,
                ratings=given.ratings,
            )
            self._changes += 1
