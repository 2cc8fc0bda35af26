"""Who of the simulated annotators answers what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from align.config.recipe import Persona
from align.ids import seed_for
from align.types import Judgement, Message, Task
from annotation.backend import Answer, Count, Progress, progress_of
from annotation.controls import repeats
from annotation.form import Form
from annotation.memory import MemoryBackend
from annotation.simulate import assignment, label, plan
from annotation.tasks import item_of, make_tasks
from tests.labelling import pair_tasks, world

PERSONAS = [Persona(name=n, temperature=0.5, skip_rate=s) for n, s in (("ann", 0.0), ("bob", 0.3), ("cyd", 0.6))]
TASKS = pair_tasks(60, overlap=2)


def taste(_: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    return [float(seed_for(a) % 7) for a in answers]


class Memory(MemoryBackend):
    """A backend in memory that can die after some answers; its judgements have no time."""

    def __init__(self, dies_after: int | None = None, tasks: Sequence[Task] = TASKS) -> None:
        super().__init__()
        self.submit(tasks)
        self.calls, self.dies_after = 0, dies_after

    @property
    def said(self) -> list[tuple[str, str, str]]:
        return [(j.annotator, j.task_id, j.outcome) for j in self.collect()]

    def collect(self) -> list[Judgement]:
        return [replace(judgement, time=None) for judgement in super().collect()]

    def answer(self, api_key: str, answers: Sequence[Answer]) -> None:
        before = {(who, task) for who, task, _ in self.said}
        for given in answers:
            if self.dies_after == self.calls:
                raise ConnectionError
            self.calls += 1
            assert (api_key, given.task_id) not in before, "answered twice"
            super().answer(api_key, [given])


def test_a_task_is_asked_until_it_has_what_it_wants() -> None:
    planned = plan(TASKS, PERSONAS, taste, seed=0)
    answers = {(name, a.task_id): a.outcome for name, given in planned.items() for a in given}
    exhausted = 0
    for task in TASKS:
        order = [p.name for p in assignment(task, PERSONAS, 0)]
        asked = [name for name in order if (name, task.id) in answers]
        said = [answers[name, task.id] for name in asked]
        assert asked == order[: len(asked)], "somebody was passed over"
        assert said[-1] != "skipped" or len(asked) == 3, "asking stopped at a skip"
        submitted = sum(o != "skipped" for o in said)
        assert submitted == 2 or len(asked) == 3
        exhausted += submitted < 2
    assert exhausted > 0  # the case is there


def test_the_plan_does_not_depend_on_order() -> None:
    planned = plan(TASKS, PERSONAS, taste, seed=0)
    assert plan(TASKS[::-1], PERSONAS[::-1], taste, seed=0) == planned
    assert plan(TASKS, PERSONAS, taste, seed=1) != planned


def test_work_is_shared() -> None:
    alike = [Persona(name=n) for n in ("ann", "bob", "cyd")]
    counts = Counter(assignment(t, alike, 0)[0].name for t in pair_tasks(300))
    assert all(70 < n < 130 for n in counts.values()) and len(counts) == 3


def test_shuffled_labels_keep_skips_and_know_nothing() -> None:
    tasks = pair_tasks(400)
    personas = [Persona(name="ann", skip_rate=0.2, tie_width=0.5)]
    true, coin = (plan(tasks, personas, taste, seed=0, shuffle=s)["ann"] for s in (False, True))
    assert [a.task_id for a in true if a.outcome == "skipped"] == [a.task_id for a in coin if a.outcome == "skipped"]
    assert {a.outcome for a in true} == {"a", "b", "tie", "skipped"} and {a.outcome for a in coin} == {
        "a",
        "b",
        "skipped",
    }
    pairs = [(x.outcome, y.outcome) for x, y in zip(true, coin, strict=True) if x.outcome in ("a", "b")]
    assert 0.43 < sum(x == y for x, y in pairs) / len(pairs) < 0.57
    assert plan(tasks, personas, taste, seed=0, shuffle=True)["ann"] == coin


@pytest.mark.parametrize("dies_after", [0, 1, 57, 110])
def test_a_call_after_a_death_gives_the_rest(dies_after: int) -> None:
    whole = Memory()
    total = label(whole, TASKS, PERSONAS, taste, seed=0)
    broken = Memory(dies_after)
    with pytest.raises(ConnectionError):
        label(broken, TASKS, PERSONAS, taste, seed=0)
    broken.dies_after = None
    assert label(broken, TASKS, PERSONAS, taste, seed=0) == total - dies_after
    assert broken.collect() == whole.collect()
    assert label(broken, TASKS, PERSONAS, taste, seed=0) == 0


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    total = label(Memory(), TASKS, PERSONAS, taste, seed=0, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (total, total) and all(of == total for _, of in told)


def test_progress_counts() -> None:
    status = {
        "done": {"ann": "submitted", "bob": "submitted", "cyd": "submitted"},
        "half": {"ann": "submitted"},
        "exhausted": {"ann": "skipped", "bob": "submitted", "cyd": "skipped"},
        "skipped by some": {"ann": "skipped"},
        "untouched": {},
    }
    found = progress_of(status, 2, {"ann", "bob", "cyd", "dan"} - {"dan"})
    assert found == Progress(
        5, 1, 1, 10, 4, 5, {"ann": Count(2, 2, left=1), "bob": Count(2, 0, left=3), "cyd": Count(1, 1, left=3)}
    )
    assert found.open == 3


def test_somebody_who_has_not_come_yet_can_still_be_asked() -> None:
    assert progress_of({"t": {"ann": "skipped"}}, 1, {"ann", "bob"}).exhausted == 0
    assert progress_of({"t": {"ann": "skipped"}}, 1, {"ann"}).exhausted == 1


def test_a_draft_is_counted_and_is_no_answer_yet() -> None:
    found = progress_of({"t": {"ann": "draft", "bob": "skipped"}}, 1, {"ann", "bob"})
    assert found == Progress(1, 0, 0, 1, 0, 1, {"ann": Count(0, 0, drafts=1, left=1), "bob": Count(0, 1)})
    assert (found.open, found.drafts) == (1, 1)


def test_an_owner_who_labels_alone_counts_as_everyone() -> None:
    assert progress_of({"t": {"owner": "skipped"}, "u": {}}, 1, set()).exhausted == 1
    assert progress_of({"t": {}}, 1, set()).exhausted == 0


def test_a_repeat_is_asked_of_those_who_answered_the_original() -> None:
    again = repeats(TASKS, share=0.5, seed=0)
    planned = plan([*again, *TASKS], PERSONAS, taste, seed=0)
    said = {(name, a.task_id): a.outcome for name, given in planned.items() for a in given}
    both = 0
    for task in again:
        first = {p.name for p in PERSONAS if said.get((p.name, item_of(task)), "skipped") != "skipped"}
        asked = {p.name for p in PERSONAS if (p.name, task.id) in said}
        skipped = {name for name in asked if said[name, task.id] == "skipped"}
        assert asked <= first or (first <= asked and (skipped or len(first) < task.wanted)), (
            "others only where one skips"
        )
        both += len(first & asked)
    assert both > 40
    alone = plan(TASKS, PERSONAS, taste, seed=0)
    asked_once = {t.id for t in TASKS}
    assert {n: [a for a in g if a.task_id in asked_once] for n, g in planned.items()} == alone


def test_shuffled_labels_of_every_kind_are_coins() -> None:
    form = Form(kind="rank", answers=3)
    tasks = make_tasks(*world(200, answers=3), round=1, count=200, overlap=1, seed=0, form=form)[0]
    exact = [Persona(name="ann")]
    true, blind = (plan(tasks, exact, taste, seed=0, shuffle=s, form=form)["ann"] for s in (False, True))
    same = sum(x.ranking == y.ranking for x, y in zip(true, blind, strict=True))
    assert 15 < same < 55, "a sixth of the orders agree by chance"
