"""Which comparisons are asked."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import DataError
from align.types import TaskKind
from annotation.form import Form
from annotation.tasks import blind_tasks, make_tasks
from tests.labelling import make_candidate, make_prompt, world


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_what_is_asked_depends_on_content_and_seed_alone(
    sizes: list[int], pairs: int, seed: int, shuffler: random.Random
) -> None:
    prompts = [make_prompt(f"question {n}") for n in range(len(sizes))]
    candidates = [
        make_candidate(p, f"answer {k}", k) for p, size in zip(prompts, sizes, strict=True) for k in range(size)
    ]
    tasks, dropped = make_tasks(prompts, candidates, round=1, count=pairs, overlap=2, seed=seed)
    shuffled = [shuffler.sample(rows, len(rows)) for rows in (prompts, candidates)]
    assert make_tasks(*shuffled, round=1, count=pairs, overlap=2, seed=seed) == (tasks, dropped)  # type: ignore[arg-type]

    possible = sum(size * (size - 1) // 2 for size in sizes)
    assert len(tasks) == min(pairs, possible)
    assert len({t.id for t in tasks}) == len({tuple(t.candidates) for t in tasks}) == len(tasks)
    texts = {c.id: c.text for c in candidates}
    for task in tasks:
        assert task.candidates == sorted(task.candidates) and sorted(task.shown) == [0, 1] and task.wanted == 2
        assert task.texts == [texts[c] for c in task.candidates]
    answered = {c.prompt_id for c in candidates}
    assert {t.prompt_id for t in tasks} | {d.where for d in dropped} == answered
    assert not {t.prompt_id for t in tasks} & {d.where for d in dropped}


def test_every_prompt_gets_a_pair_before_any_gets_a_second() -> None:
    prompts, candidates = world(5, answers=3)
    tasks, _ = make_tasks(prompts, candidates, round=1, count=8, overlap=1, seed=0)
    assert len({t.prompt_id for t in tasks[:5]}) == 5
    assert len({t.prompt_id for t in tasks[5:]}) == 3


def test_pairs_that_share_no_answer_come_first() -> None:
    prompts, candidates = world(1, answers=4)
    tasks, _ = make_tasks(prompts, candidates, round=1, count=6, overlap=1, seed=0)
    assert set(tasks[0].candidates) | set(tasks[1].candidates) == {c.id for c in candidates}
    assert len({tuple(t.candidates) for t in tasks}) == 6


def test_the_left_side_is_random_and_depends_on_the_seed() -> None:
    prompts, candidates = world(400)
    left = [make_tasks(prompts, candidates, round=1, count=400, overlap=1, seed=s)[0] for s in (0, 1)]
    flipped = [{t.id: t.shown[0] for t in tasks} for tasks in left]
    assert 160 < sum(flipped[0].values()) < 240
    assert flipped[0] != flipped[1] and flipped[0].keys() == flipped[1].keys()


def test_answers_that_look_the_same_make_no_pair() -> None:
    same, one, good = (make_prompt(text) for text in ("same", "one", "good"))
    candidates = [make_candidate(same, "yes"), make_candidate(same, " yes\n"), make_candidate(one, "yes")]
    candidates += [make_candidate(good, "yes"), make_candidate(good, "no"), make_candidate(good, "")]
    tasks, dropped = make_tasks(
        [same, one, good, make_prompt("never sampled")], candidates, round=1, count=9, overlap=1, seed=0
    )
    assert [t.prompt_id for t in tasks] == [good.id] * 3
    assert {d.where: d.reason for d in dropped} == {
        same.id: "all its answers are the same",
        one.id: "it has only one answer",
    }


def test_prompts_beyond_the_wanted_pairs_are_named() -> None:
    prompts, candidates = world(3)
    tasks, dropped = make_tasks(prompts, candidates, round=1, count=1, overlap=1, seed=0)
    assert len(tasks) == 1 and {d.reason for d in dropped} == {"the 1 pairs asked for came from other prompts"}


def test_a_held_out_prompt_is_never_labelled() -> None:
    held_out = make_prompt("held out", split="test")
    with pytest.raises(DataError, match="test split, which nobody may label"):
        make_tasks([held_out], [], round=1, count=1, overlap=1, seed=0)


def test_a_candidate_of_an_unknown_prompt_is_refused() -> None:
    prompts, candidates = world(2)
    with pytest.raises(DataError, match="unknown prompt"):
        make_tasks(prompts[:1], candidates, round=1, count=1, overlap=1, seed=0)


RANK = Form(kind="rank", answers=4)


def test_rankings_hold_every_answer_in_random_order() -> None:
    prompts, candidates = world(60, answers=4)
    tasks, dropped = make_tasks(prompts, candidates, round=1, count=60, overlap=1, seed=0, form=RANK)
    assert len(tasks) == 60 and dropped == []
    assert {len(t.candidates) for t in tasks} == {4} and all(sorted(t.shown) == [0, 1, 2, 3] for t in tasks)
    assert {t.shown[0] for t in tasks} == {0, 1, 2, 3} and len({tuple(t.shown) for t in tasks}) > 15


@pytest.mark.parametrize(("answers", "sizes"), [(1, []), (2, [2]), (3, [3]), (4, [4]), (5, [4, 4]), (9, [4, 4, 4])])
def test_rankings_take_what_there_is_and_leave_no_answer_out(answers: int, sizes: list[int]) -> None:
    prompts, candidates = world(1, answers=answers)
    tasks, dropped = make_tasks(prompts, candidates, round=1, count=9, overlap=1, seed=0, form=RANK)
    assert [len(t.candidates) for t in tasks] == sizes
    assert {c for t in tasks for c in t.candidates} == ({c.id for c in candidates} if sizes else set())
    assert [d.reason for d in dropped] == ([] if sizes else ["it has only one answer"])


@pytest.mark.parametrize("kind", ["single", "rating"])
def test_single_answers_are_asked_prompt_by_prompt(kind: TaskKind) -> None:
    prompts, candidates = world(6, answers=2)
    alone = make_candidate(make_prompt("alone"), "the only answer")
    form = Form(kind=kind, answers=1, criteria=("helpful",) if kind == "rating" else ())
    tasks, _ = make_tasks(
        [*prompts, make_prompt("alone")], [*candidates, alone], round=1, count=13, overlap=1, seed=0, form=form
    )
    assert Counter(t.prompt_id for t in tasks) == {p.id: 2 for p in prompts} | {alone.prompt_id: 1}
    assert all(t.shown == [0] and len(t.texts) == 1 for t in tasks)
    order = [t.prompt_id for t in tasks]
    assert sorted(order, key=order.index) == order, "all answers of a prompt before the next prompt's"
    assert [t.priority for t in tasks] == [-float(list(dict.fromkeys(order)).index(p)) for p in order]
    short, dropped = make_tasks(prompts, candidates, round=1, count=4, overlap=1, seed=0, form=form)
    assert len({t.prompt_id for t in short}) == 2 and len(dropped) == 4


def test_a_first_pair_has_priority_over_any_second() -> None:
    tasks, _ = make_tasks(*world(5, answers=3), round=1, count=8, overlap=1, seed=0)
    assert [t.priority for t in tasks] == [0.0] * 5 + [-1.0] * 3


def test_blind_tasks_ask_about_two_policies_and_know_ties() -> None:
    prompts = [make_prompt(f"held out {n}", split="test") for n in range(40)]
    new = [replace(make_candidate(p, f"new {p.id}"), checkpoint="n") for p in prompts]
    old = [make_candidate(p, f"new {p.id} " if n < 4 else f"old {p.id}") for n, p in enumerate(prompts)]
    later = [make_candidate(p, "a second sample", sample=1) for p in prompts]
    options = {"round": 2, "overlap": 3, "seed": 0}
    tasks, same = blind_tasks(prompts, [*later, *new], old[::-1], count=99, **options)
    assert same == sorted(p.id for p in prompts[:4]) and len(tasks) == 36
    texts = {p.id: {f"new {p.id}", f"old {p.id}"} for p in prompts}
    assert all(set(t.texts) == texts[t.prompt_id] and t.wanted == 3 for t in tasks)
    assert {(t.kind, t.purpose, t.round) for t in tasks} == {("blind_ab", "eval", 2)}
    fewer, same = blind_tasks(prompts, new, old, count=10, **options)
    assert len(fewer) + len(same) == 10, "a prompt that is a tie is not replaced by another"
    left = sum(t.candidates[t.shown[0]] in {c.id for c in new} for t in tasks)
    assert 9 < left < 27, "either policy stands on the left"


def test_blind_tasks_use_no_train_prompt() -> None:
    with pytest.raises(DataError, match="train split, which blind comparisons may not use"):
        blind_tasks([make_prompt("trained on")], [], [], round=1, count=1, overlap=1, seed=0)


def test_ids_and_sides_stay_as_they_were() -> None:
    """Labels that people have given are found by these ids: literal, from the release before there were kinds."""
    task = make_tasks(*world(1), round=1, count=1, overlap=1, seed=0)[0][0]
    assert (task.id, task.shown) == ("2914295315d2b81f9303fcec1a9edd46", [1, 0])
