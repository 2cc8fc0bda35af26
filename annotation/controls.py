"""What is asked beside the tasks proper, to learn about the annotators: repeats, gold tasks, suggestions. All pure, and
unmarked: neither place in the queue nor look gives them away."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from align.ids import unit_for
from align.normal import normal
from align.types import Dropped, Preference, Task, TaskKind, task_id
from annotation.tasks import order_shown


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The outcome that was suggested for a task, or, where not `shown`, that would have been."""

    task_id: str
    outcome: str
    shown: bool


def repeats(tasks: Sequence[Task], *, share: float, seed: int) -> list[Task]:
    """A `share` in [0, 1] of `tasks`, asked once more with the answers in the opposite order."""
    drawn = sorted(tasks, key=lambda t: (unit_for(seed, "repeat", t.id), t.id))[: _part(share, len(tasks))]
    again = [
        replace(
            task,
            id=task_id(task.kind, task.prompt_id, task.candidates, task.purpose, 1, task.round),
            repeat=1,
            shown=task.shown[::-1],
            suggested=None,
        )
        for task in drawn
    ]
    return _hidden(again, tasks, seed)


def gold_tasks(
    preferences: Sequence[Preference],
    tasks: Sequence[Task],
    *,
    kind: TaskKind,
    share: float,
    round: int,
    overlap: int,
    seed: int,
) -> tuple[list[Task], list[Dropped]]:
    """Control tasks made of known `preferences`, as a `share` of `tasks` (at least one, at most all), drawn by seed and
    round; and the preferences whose two answers look the same.

    A pair expects the chosen answer. A single answer is the chosen one of a preference, expected good, or the rejected
    one, expected bad.
    """
    alike = {p.id for p in preferences if normal(p.chosen) == normal(p.rejected)}
    usable = [p for p in preferences if p.id not in alike]
    dropped = [Dropped("gold", name, "its two answers look the same") for name in sorted(alike)]
    drawn = sorted(usable, key=lambda p: (unit_for(seed, "gold", round, p.id), p.id))[: gold_wanted(share, len(tasks))]
    made = [_gold(p, kind, round, overlap, seed) for p in drawn]
    return _hidden(made, tasks, seed), dropped


def suggest(
    tasks: Sequence[Task], scores: Mapping[str, Sequence[float | None]], *, share: float, seed: int
) -> tuple[list[Task], list[Suggestion]]:
    """`tasks`, a random `share` of which shows a suggestion, and all suggestions, shown or not, sorted by task.

    `scores` are of each task's canonical candidates. For a pair the answer with the higher score is suggested; for a
    single answer, good where its score is above the median of all, bad where it is below. Equal scores, and answers
    that could not be scored, give none; nor are repeats suggested, which compare people with themselves.
    """
    known = [s for t in tasks if t.kind == "single" for s in scores[t.id] if s is not None]
    middle = median(known) if known else 0.0
    found = {t.id: _better(scores[t.id], middle) for t in tasks if t.repeat == 0}
    suggestions = [
        Suggestion(name, outcome, unit_for(seed, "suggest", name) < share)
        for name, outcome in sorted(found.items())
        if outcome is not None
    ]
    shown = {s.task_id: s.outcome for s in suggestions if s.shown}
    return [replace(t, suggested=shown.get(t.id)) for t in tasks], suggestions


def gold_wanted(share: float, tasks: int) -> int:
    """How many control tasks a share of `tasks` is: at least one."""
    return max(1, _part(share, tasks))


def _part(share: float, of: int) -> int:
    """`share` of a count, rounded to the nearest whole one."""
    return int(share * of + 0.5)


def _hidden(added: Sequence[Task], others: Sequence[Task], seed: int) -> list[Task]:
    """`added`, each with the priority of a random one of `others`, so that its place in the queue says nothing."""
    levels = sorted(t.priority for t in others) or [0.0]
    draws = (unit_for(seed, "priority", task.id) for task in added)
    return [replace(t, priority=levels[int(draw * len(levels))]) for t, draw in zip(added, draws, strict=True)]


def _gold(preference: Preference, kind: TaskKind, round: int, overlap: int, seed: int) -> Task:
    chosen, rejected = (preference.chosen_id, preference.chosen), (preference.rejected_id, preference.rejected)
    if kind == "single":
        good = unit_for(seed, "gold side", round, preference.id) < 0.5
        answers, expected = [chosen if good else rejected], "good" if good else "bad"
    else:
        answers = sorted([chosen, rejected])
        expected = "ab"[answers.index(chosen)]
    ids = [name for name, _ in answers]
    name = task_id(kind, preference.prompt_id, ids, "gold", 0, round)
    return Task(
        id=name,
        kind=kind,
        round=round,
        purpose="gold",
        repeat=0,
        prompt_id=preference.prompt_id,
        messages=preference.messages,
        candidates=ids,
        texts=[text for _, text in answers],
        shown=order_shown(name, len(ids), seed),
        wanted=overlap,
        expected=expected,
    )


def _better(scores: Sequence[float | None], middle: float) -> str | None:
    """The suggested outcome; a single answer is held against `middle`."""
    first, second = (scores[0], middle) if len(scores) == 1 else scores
    if first is None or second is None or first == second:
        return None
    outcomes = ("good", "bad") if len(scores) == 1 else ("a", "b")
    return outcomes[0] if first > second else outcomes[1]
