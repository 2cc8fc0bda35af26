"""Judgements → preferences."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import DataError
from align.types import Judgement, preference_id
from annotation.compile import compile_preferences, tally
from tests.labelling import judge, make_task


def test_one_vote() -> None:
    task = make_task("t", texts=("one", "two"))
    [row], dropped = compile_preferences([task], [judge("t", "ann", "b")])
    assert dropped == []
    assert (row.chosen, row.rejected, row.chosen_id, row.rejected_id) == ("two", "one", "c1", "c0")
    assert (row.target, row.weight, row.round) == (1.0, 1.0, 1)
    assert row.margin == pytest.approx(math.log(3))
    assert row.id == preference_id("p", "c1", "c0")
    assert row.judgements == [judge("t", "ann", "b").id]


def test_votes_and_ties_make_a_soft_target() -> None:
    said = [judge("t", name, outcome) for name, outcome in zip("vwxyz", ["a", "a", "a", "b", "tie"], strict=True)]
    [row], _ = compile_preferences([make_task("t")], said)
    assert row.chosen_id == "c0" and row.target == pytest.approx(0.7) and len(row.judgements) == 5
    assert row.margin == pytest.approx(math.log(4.0 / 2.0))


@pytest.mark.parametrize("said", [["tie"], ["a", "b"], ["a", "b", "tie"]])
def test_one_half_is_no_preference(said: list[str]) -> None:
    rows, dropped = compile_preferences([make_task("t")], [judge("t", str(n), o) for n, o in enumerate(said)])
    assert rows == [] and [d.what for d in dropped] == ["pair"] and dropped[0].reason.startswith("no preference")


def test_unscored_judgements_are_dropped_with_reasons_and_never_ties() -> None:
    said = [judge("t", "ann", "both_bad"), judge("t", "bob", "skipped"), judge("t", "cyd", "a")]
    [row], dropped = compile_preferences([make_task("t")], said)
    assert row.target == 1.0 and row.judgements == [said[2].id]
    assert {d.where: d.reason.split()[0] for d in dropped} == {said[0].id: "both", said[1].id: "the"}


def test_a_pair_that_nobody_scored_is_dropped() -> None:
    rows, dropped = compile_preferences([make_task("t"), make_task("u", prompt="q")], [judge("t", "ann", "skipped")])
    assert rows == [] and sorted(d.where for d in dropped if d.what == "pair") == ["t", "u"]


def test_tasks_about_the_same_pair_join() -> None:
    tasks = [make_task("t"), make_task("u", repeat=1, shown=(1, 0))]
    [row], _ = compile_preferences(tasks, [judge("t", "ann", "a"), judge("u", "ann", "a"), judge("u", "bob", "b")])
    assert row.target == pytest.approx(2 / 3) and len(row.judgements) == 3


def test_only_the_latest_revision_counts() -> None:
    said = [judge("t", "ann", "b", revision=1), judge("t", "ann", "a", revision=0)]
    [row], _ = compile_preferences([make_task("t")], said)
    assert row.chosen_id == "c1" and row.target == 1.0 and row.judgements == [said[0].id]


def test_gold_and_eval_tasks_are_not_trained_on() -> None:
    tasks = [make_task("t", purpose="gold"), make_task("u", purpose="control", prompt="q")]
    rows, dropped = compile_preferences(tasks, [judge("t", "ann", "a"), judge("u", "ann", "a")])
    assert [r.prompt_id for r in rows] == ["q"] and [(d.what, d.where) for d in dropped] == [("task", "t")]


def test_a_gold_repeat_does_not_vote_on_the_trained_pair() -> None:
    tasks = [make_task("t"), make_task("g", purpose="gold")]
    [row], _ = compile_preferences(tasks, [judge("t", "ann", "a"), judge("g", "ann", "b")])
    assert row.target == 1.0


def test_judgements_of_other_tasks_are_named() -> None:
    _, dropped = compile_preferences([make_task("t")], [judge("t", "ann", "a"), judge("elsewhere", "ann", "a")])
    assert [d.reason for d in dropped] == ["its task is not among the tasks compiled"]


def test_an_unknown_outcome_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot have the outcome 'left'"):
        compile_preferences([make_task("t")], [judge("t", "ann", "left")])


def test_contradictory_pairs_are_found() -> None:
    tasks = [make_task("t"), make_task("u", prompt="q")]
    said = [judge("t", "ann", "a"), judge("t", "bob", "b"), judge("u", "ann", "a"), judge("u", "bob", "tie")]
    assert [v.task.id for v in tally(tasks, said)[0] if v.contradictory] == ["t"]


OUTCOMES = st.sampled_from(["a", "b", "tie", "both_bad", "skipped"])


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), OUTCOMES), max_size=30), st.randoms(use_true_random=False)
)
def test_order_changes_nothing_and_every_judgement_is_accounted_for(
    rows: list[tuple[int, int, str]], shuffler: random.Random
) -> None:
    tasks = [make_task(f"t{n}", prompt=f"p{n}") for n in range(5)]
    said: list[Judgement] = list(
        {j.id: j for j in (judge(f"t{t}", str(who), outcome) for t, who, outcome in rows)}.values()
    )
    kept, dropped = compile_preferences(tasks, said)
    assert compile_preferences(shuffler.sample(tasks, 5), shuffler.sample(said, len(said))) == (kept, dropped)
    assert all(0.5 < row.target <= 1 and row.margin > 0 for row in kept)
    scored = {j for row in kept for j in row.judgements}
    without_preference = {d.where for d in dropped if d.what == "pair"}
    named = {d.where for d in dropped if d.what == "judgement"}
    assert all(j.id in scored or j.id in named or j.task_id in without_preference for j in said)
    assert len(kept) + len(without_preference) == 5 and not scored & named
