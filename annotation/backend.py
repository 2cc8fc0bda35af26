"""The seam to whatever shows tasks to people and keeps their answers."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from align.types import Dropped, Judgement, Rating, Task


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submit did: tasks that it `added`, and tasks that were `present` already."""

    added: int
    present: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One annotator's answer to one task; every field as in `Judgement`: a and b are the canonical candidates."""

    task_id: str
    outcome: str
    reason: str | None = None
    strength: int | None = None
    flags: list[str] | None = None
    edit: str | None = None
    ranking: list[int] | None = None
    ratings: list[Rating] | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """How many tasks one annotator answered, skipped, and has a draft of, which is nobody's answer yet; and how many
    more that person can be asked (`left`)."""

    submitted: int
    skipped: int
    drafts: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the labelling is. `answers` of the `wanted` are in (more than a task wants are not counted); of those
    that are missing, `reachable` are such that somebody here can still give them.

    A task is `completed` when it has the answers it wants, and `exhausted` when it has not and every annotator has
    answered or skipped it, so that nobody is left to ask. `annotators` are counted by id. `dropped` are tasks, records
    and answers that are not as they were left, each with the reason; they count nowhere else.
    """

    tasks: int
    completed: int
    exhausted: int
    wanted: int
    answers: int
    reachable: int
    annotators: dict[str, Count]
    dropped: tuple[Dropped, ...] = ()

    @property
    def open(self) -> int:
        """Tasks that still wait for somebody."""
        return self.tasks - self.completed - self.exhausted

    @property
    def drafts(self) -> int:
        """Answers that people began and have not submitted."""
        return sum(person.drafts for person in self.annotators.values())


class AnnotationBackend(Protocol):
    """Takes tasks, shows them to people, gives their judgements back."""

    @property
    def url(self) -> str:
        """Where a person goes to label."""

    def submit(self, tasks: Sequence[Task]) -> Submitted:
        """Add the tasks that are not there yet; a second call, or one after a kill, adds only what is missing."""

    def version(self) -> str:
        """Changes whenever `progress`, `collect` or `people` may: whoever follows reads these only then."""

    def admit(self, without: Collection[str] = ()) -> list[str]:
        """Let every person who can log in label here, `without` some of them, by annotator or by name; returns what the
        new ones are called."""

    def close(self) -> None:
        """Nothing more is asked here. An answer that somebody has before them is still taken."""

    def close_others(self, family: str) -> None:
        """Close what a run asked elsewhere on this server. Where it is called as `family` begins, this took its place,
        and no answer is taken either."""

    def given_in_others(self) -> dict[str, list[tuple[str, str, str]]]:
        """What another labelling of the run is called → (task, annotator, time) of each answer and skip that was given
        in it though it is closed."""

    def progress(self) -> Progress:
        """How far the labelling is."""

    def collect(self) -> list[Judgement]:
        """Each annotator's latest word on each task, sorted by id, with revision 0 (the journal counts revisions).

        What is not as it was left (a record that somebody edited, an answer that no question has) is not among them:
        `progress` names it.
        """

    def people(self) -> dict[str, str]:
        """Everybody who could answer here: annotator → what that person is called now. A name may change; the annotator
        of a judgement does not."""


@runtime_checkable
class SimulationBackend(AnnotationBackend, Protocol):
    """A backend in which simulated annotators can be real users."""

    def ensure_annotator(self, name: str) -> str:
        """Make the simulated annotator `name` if there is none, let it label here, and return its API key. Its
        judgements are by `name`, whatever its user is called on the server later."""

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        """Give answers as the user whose key it is; a second answer to a task replaces the first."""


def progress_of(
    status: Mapping[str, Mapping[str, str]],
    wanted: int,
    annotators: Collection[str],
    dropped: Collection[Dropped] = (),
) -> Progress:
    """Progress from each task's {annotator: "submitted" | "skipped" | "draft"}.

    `annotators` are those who could be asked. Where none is named, those who have answered anything count as all.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in annotators}
    for answers in status.values():
        for name, state in answers.items():
            counts.setdefault(name, Counter())[state] += 1
    everyone = set(annotators) or set(counts)
    completed = exhausted = given = reachable = 0
    for answers in status.values():
        submitted = sum(state == "submitted" for state in answers.values())
        free = everyone - {name for name, state in answers.items() if state != "draft"}
        given += min(submitted, wanted)
        completed += submitted >= wanted
        exhausted += submitted < wanted and bool(everyone) and not free
        if submitted < wanted:
            reachable += min(wanted - submitted, len(free))
            for name in free:
                counts[name]["left"] += 1
    return Progress(
        tasks=len(status),
        completed=completed,
        exhausted=exhausted,
        wanted=wanted * len(status),
        answers=given,
        reachable=reachable,
        annotators={
            name: Count(said["submitted"], said["skipped"], said["draft"], said["left"])
            for name, said in sorted(counts.items())
        },
        dropped=tuple(dropped),
    )
