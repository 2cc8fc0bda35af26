"""What is asked beside the tasks proper: repeats, gold tasks, suggestions."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from align.types import Preference, Task, candidate_id, preference_id, task_id
from annotation.controls import Suggestion, gold_tasks, repeats, suggest
from annotation.form import Form
from annotation.tasks import item_of, make_tasks
from tests.labelling import make_prompt, make_task, pair_tasks, world


def known(n: int, chosen: str = "right", rejected: str = "wrong") -> Preference:
    prompt = make_prompt(f"known question {n}")
    ids = [candidate_id(prompt.id, text, "given") for text in (chosen, rejected)]
    return Preference(
        preference_id(prompt.id, *ids), prompt.id, prompt.messages, *ids, chosen, rejected, 1.0, 1.0, 0.0, 0, []
    )


GOLD = [known(n) for n in range(40)]


def rankings(prompts: int) -> list[Task]:
    form = Form(kind="rank", answers=3)
    return make_tasks(*world(prompts, answers=3), round=1, count=prompts, overlap=1, seed=0, form=form)[0]


def test_a_repeat_asks_the_same_in_the_opposite_order() -> None:
    for tasks in (pair_tasks(20, overlap=2), rankings(20)):
        asked = {t.id: t for t in tasks}
        again = repeats(tasks, share=0.25, seed=0)
        assert len(again) == 5
        for task in again:
            original = asked[item_of(task)]
            assert task.shown == original.shown[::-1] and task.repeat == 1 and task.wanted == original.wanted
            assert task.id == task_id(task.kind, task.prompt_id, task.candidates, "train", 1, 1) != original.id
            assert (task.candidates, task.texts) == (original.candidates, original.texts)


def test_no_repeats_unless_asked_for() -> None:
    assert repeats(pair_tasks(20), share=0.0, seed=0) == []


@given(st.sampled_from([0.05, 0.3, 0.5]), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_what_is_drawn_does_not_depend_on_order(share: float, seed: int, shuffler: random.Random) -> None:
    tasks, gold = pair_tasks(12), GOLD[:7]
    mixed, mixed_gold = shuffler.sample(tasks, 12), shuffler.sample(gold, 7)
    assert repeats(tasks, share=share, seed=seed) == repeats(mixed, share=share, seed=seed)
    options = {"kind": "pair", "share": share, "round": 1, "overlap": 1, "seed": seed}
    assert gold_tasks(gold, tasks, **options) == gold_tasks(mixed_gold, mixed, **options)  # type: ignore[arg-type]
    scores = {t.id: [1.0, 2.0] for t in tasks}
    shown, suggestions = suggest(mixed, scores, share=share, seed=seed)
    assert suggest(tasks, scores, share=share, seed=seed)[1] == suggestions
    assert {t.id for t in shown if t.suggested == "b"} == {s.task_id for s in suggestions if s.shown}


def test_a_gold_pair_expects_the_chosen_answer() -> None:
    tasks, dropped = gold_tasks(GOLD, pair_tasks(100), kind="pair", share=0.2, round=3, overlap=2, seed=0)
    assert len(tasks) == 20 and dropped == []
    for task in tasks:
        assert task.texts["ab".index(task.expected or "")] == "right"
        assert (task.purpose, task.round, task.wanted, task.repeat) == ("gold", 3, 2, 0)
        assert task.candidates == sorted(task.candidates)
    assert len({t.expected for t in tasks}) == len({tuple(t.shown) for t in tasks}) == 2


def test_a_single_gold_task_is_one_of_the_two_answers() -> None:
    tasks, _ = gold_tasks(GOLD, pair_tasks(100), kind="single", share=0.4, round=1, overlap=1, seed=0)
    assert {(t.texts[0], t.expected) for t in tasks} == {("right", "good"), ("wrong", "bad")}
    assert {tuple(t.shown) for t in tasks} == {(0,)}


def test_other_rounds_draw_other_gold() -> None:
    drawn = [
        {t.prompt_id for t in gold_tasks(GOLD, pair_tasks(40), kind="pair", share=0.2, round=r, overlap=1, seed=0)[0]}
        for r in (1, 2)
    ]
    assert len(drawn[0]) == 8 and drawn[0] != drawn[1]


def test_gold_is_at_least_one_task_and_at_most_the_file() -> None:
    options = {"kind": "pair", "round": 1, "overlap": 1, "seed": 0}
    assert len(gold_tasks(GOLD, pair_tasks(3), share=0.05, **options)[0]) == 1  # type: ignore[arg-type]
    assert len(gold_tasks(GOLD[:2], pair_tasks(100), share=0.5, **options)[0]) == 2  # type: ignore[arg-type]


def test_gold_whose_answers_look_the_same_is_dropped() -> None:
    same = known(1, "yes", " yes\n")
    tasks, dropped = gold_tasks([same], pair_tasks(4), kind="pair", share=0.5, round=1, overlap=1, seed=0)
    assert tasks == []
    assert [(d.what, d.where, d.reason) for d in dropped] == [("gold", same.id, "its two answers look the same")]


def test_gold_and_repeats_lie_among_the_others_in_the_queue() -> None:
    """Three tasks a prompt have the priorities 0, -1 and -2; what is added is spread over them as they are."""
    tasks = make_tasks(*world(100, answers=3), round=1, count=300, overlap=1, seed=0)[0]
    assert Counter(t.priority for t in tasks) == {0.0: 100, -1.0: 100, -2.0: 100}
    gold, _ = gold_tasks([known(n) for n in range(150)], tasks, kind="pair", share=0.5, round=1, overlap=1, seed=0)
    for added in (gold, repeats(tasks, share=0.5, seed=0)):
        assert all(35 <= n <= 65 for n in Counter(t.priority for t in added).values())


def test_the_better_answer_is_suggested_on_a_share_of_the_tasks() -> None:
    tasks = pair_tasks(400)
    scores = {t.id: [1.0, 0.0] if n % 2 else [0.0, 1.0] for n, t in enumerate(tasks)}
    shown, suggestions = suggest(tasks, scores, share=0.3, seed=0)
    assert len(suggestions) == 400 and 90 < sum(s.shown for s in suggestions) < 150
    said = {s.task_id: s for s in suggestions}
    for n, task in enumerate(shown):
        assert said[task.id].outcome == ("a" if n % 2 else "b")
        assert task.suggested == (said[task.id].outcome if said[task.id].shown else None)
    assert [replace(t, suggested=None) for t in shown] == tasks


def test_no_suggestion_where_scores_say_nothing_and_none_on_a_repeat() -> None:
    tasks = [make_task("equal"), make_task("unscored"), make_task("again", repeat=1), make_task("said")]
    scores = {"equal": [1.0, 1.0], "unscored": [1.0, None], "again": [1.0, 0.0], "said": [1.0, 0.0]}
    assert suggest(tasks, scores, share=0.999, seed=0)[1] == [Suggestion("said", "a", True)]


def test_a_single_answer_is_held_against_the_median() -> None:
    tasks = [replace(make_task(str(n)), kind="single") for n in range(5)]
    scores = {str(n): [float(n)] for n in range(5)}
    found = {s.task_id: s.outcome for s in suggest(tasks, scores, share=0.5, seed=0)[1]}
    assert found == {"0": "bad", "1": "bad", "3": "good", "4": "good"}
