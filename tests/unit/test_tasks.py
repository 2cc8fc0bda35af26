"""Which comparisons are asked."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import DataError
from annotation.tasks import make_tasks
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
