"""Simulated annotators at work: who answers what is decided first and purely; then real users say it to the server."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from align.config.recipe import Persona
from align.ids import unit_for
from align.progress import Progress
from align.turns import said
from align.types import Message, Task
from annotation.backend import Answer, SimulationBackend
from annotation.form import Form
from annotation.persona import PAIR, answer, coin
from annotation.tasks import item_of

Utility = Callable[[Sequence[list[Message]], Sequence[str]], list[float | None]]
"""The hidden preference: (conversations, answers) → one number each, higher is better; None where it cannot judge."""


def label(
    backend: SimulationBackend,
    tasks: Sequence[Task],
    personas: Sequence[Persona],
    utility: Utility,
    seed: int,
    shuffle: bool = False,
    progress: Progress | None = None,
    form: Form = PAIR,
) -> int:
    """Have `personas` answer `tasks` through the backend; returns how many answers this call gave.

    Answers that are there already are left alone, so that a call after a kill gives the rest: the judgements in the
    end depend on (tasks, personas, utility, seed, shuffle, form) only. `progress` is called with (given, planned).
    """
    planned = plan(tasks, personas, utility, seed, shuffle, form)
    keys = {p.name: backend.ensure_annotator(p.name) for p in personas}
    before = {(j.annotator, j.task_id) for j in backend.collect()}
    missing = [(name, a) for name in planned for a in planned[name] if (name, a.task_id) not in before]
    total = sum(len(answers) for answers in planned.values())
    done = total - len(missing)
    for name in planned:
        for answers in batched([a for who, a in missing if who == name], CHUNK):
            backend.answer(keys[name], answers)
            done += len(answers)
            if progress:
                progress(done, total)
    return len(missing)


CHUNK = 100
"""Answers of one persona between two reports of progress."""


def plan(
    tasks: Sequence[Task],
    personas: Sequence[Persona],
    utility: Utility,
    seed: int,
    shuffle: bool = False,
    form: Form = PAIR,
) -> dict[str, list[Answer]]:
    """Every answer that each persona gives. Pure.

    A task is asked of its first `wanted` personas in the order of `assignment`; for each who skips, the next is asked.
    A repeat goes to those first who have answered its original. With `shuffle` each answer that is not a skip becomes
    a coin: the control in which there is nothing to learn.
    """
    utilities = _utilities(tasks, utility, form)
    planned: dict[str, list[Answer]] = defaultdict(list)
    answered: dict[str, set[str]] = defaultdict(set)
    for task in sorted(tasks, key=lambda t: (t.repeat, t.id)):
        before, submitted = answered[item_of(task)], 0
        order = assignment(task, personas, seed)
        for persona in sorted(order, key=lambda p: p.name not in before) if task.repeat else order:
            if submitted == task.wanted:
                break
            given = answer(task, utilities[task.id], persona, seed, form)
            if given.outcome != "skipped":
                submitted += 1
                if not task.repeat:
                    before.add(persona.name)
                if shuffle:
                    given = coin(task, persona, seed, form)
            planned[persona.name].append(given)
    return {p.name: planned[p.name] for p in personas}


def batched(answers: list[Answer], size: int) -> Iterator[list[Answer]]:
    return (answers[i : i + size] for i in range(0, len(answers), size))


def assignment(task: Task, personas: Sequence[Persona], seed: int) -> list[Persona]:
    """The order in which `personas` are asked about `task`; the same for its repeats."""
    return sorted(personas, key=lambda p: (unit_for(seed, "assignment", item_of(task), p.name), p.name))


def _utilities(tasks: Sequence[Task], utility: Utility, form: Form) -> dict[str, list[float | None]]:
    """Task id → the utilities of its candidates, in canonical order; one call for all."""
    ordered = sorted(tasks, key=lambda t: t.id)
    texts = [said(text) if form.hide_thinking else text for t in ordered for text in t.texts]
    scores = utility([t.messages for t in ordered for _ in t.texts], texts)
    found = iter(scores)
    return {t.id: [next(found) for _ in t.texts] for t in ordered}
