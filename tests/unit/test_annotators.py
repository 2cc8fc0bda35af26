"""Annotators' numbers, by hand: pace, agreement, side, time left."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.intervals import wilson
from align.types import Judgement, Task
from annotation.annotators import alike, clustered_share, pace, statistics, time_left
from annotation.backend import Count, Progress, progress_of
from tests.labelling import judge, make_task


def at(task: str, annotator: str, outcome: str, clock: str) -> Judgement:
    return replace(judge(task, annotator, outcome), time=f"2026-11-02T{clock}+00:00")


def ranked(task: Task, annotator: str, ranking: list[int]) -> Judgement:
    return replace(judge(task.id, annotator, "ranked"), kind="rank", ranking=ranking)


def test_pace_leaves_pauses_out() -> None:
    clocks = ["10:00:00", "10:00:20", "10:01:20", "11:00:00", "11:00:10", "11:05:10"]
    found = pace(at(f"t{n}", "ann", "a", clock) for n, clock in enumerate(reversed(clocks)))
    assert found == {"tasks_per_hour": pytest.approx(3600 * 4 / (20 + 60 + 10 + 300)), "seconds": 40.0, "n": 4}


def test_pace_is_unknown_with_the_reason() -> None:
    assert pace([at("t1", "ann", "a", "10:00:00")])["reason"] == "there are no two answers within five minutes"
    same = [at(f"t{n}", "ann", "a", "10:00:00") for n in range(3)]
    assert pace(same) == {"tasks_per_hour": None, "reason": "all answers came at the same moment"}
    assert pace([judge("t1", "ann", "a"), judge("t2", "ann", "b")])["tasks_per_hour"] is None


def test_statistics_by_hand() -> None:
    tasks = [make_task("t1", prompt="p1"), make_task("t2", prompt="p2", shown=(1, 0)), make_task("t3", prompt="p3")]
    said = [
        *(judge("t1", name, outcome) for name, outcome in (("ann", "a"), ("bob", "a"), ("cyd", "b"))),
        *(judge("t2", name, outcome) for name, outcome in (("ann", "b"), ("bob", "b"), ("cyd", "skipped"))),
        judge("t3", "ann", "tie"),
        judge("of another data set", "ann", "a"),
    ]
    found = statistics(tasks, said)
    assert list(found) == ["ann", "bob", "cyd"]
    assert (found["ann"]["submitted"], found["ann"]["skipped"]) == (3, 0)
    assert (found["cyd"]["submitted"], found["cyd"]["skipped"]) == (1, 1)
    assert found["ann"]["agreement"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert found["ann"]["agreement"]["n"] == 2, "on t3 there is nobody to agree with"
    assert found["cyd"]["agreement"]["value"] == 0
    low, high = wilson(2, 2)
    assert found["ann"]["left"] == {"value": 1.0, "low": pytest.approx(low), "high": high, "n": 2}
    assert found["cyd"]["left"]["value"] == 0
    assert statistics(tasks, [], ["dan"])["dan"]["submitted"] == 0
    alone = statistics(tasks, [judge("t3", "ann", "tie")])["ann"]
    assert alone["agreement"] == {"value": None, "reason": "nobody else answered the same tasks"}
    assert alone["left"] == {"value": None, "reason": "no choice between one answer and another beside it"}


def test_rankings_and_ratings_agree_in_part() -> None:
    task = replace(make_task("t1"), kind="rank", candidates=["c0", "c1", "c2"], shown=[2, 0, 1])
    ann, bob = ranked(task, "ann", [1, 2, 3]), ranked(task, "bob", [1, 3, 2])
    assert alike(ann, bob) == pytest.approx(2 / 3)
    assert alike(ann, ranked(task, "bob", [1, 1, 2])) == pytest.approx(2 / 3)
    left = statistics([task], [ann])["ann"]["left"]
    assert (left["value"], left["n"]) == (pytest.approx(1 / 3), 3), "c0 before c1 is the one order from left to right"
    scores = [{"criterion": "helpful", "score": 4}, {"criterion": "correct", "score": 2}]
    rated = replace(judge("t1", "ann", "rated"), kind="rating", ratings=scores)
    other = replace(rated, annotator="bob", ratings=[scores[0], {"criterion": "correct", "score": 3}])
    assert alike(rated, other) == 0.5
    assert alike(judge("t1", "ann", "a"), judge("t1", "bob", "tie")) == 0


def test_a_share_of_single_trials_is_wilsons() -> None:
    found = clustered_share([(1, 1)] * 7 + [(0, 1)] * 3, "none")
    low, high = wilson(7, 10)
    assert found == {"value": 0.7, "low": pytest.approx(low), "high": pytest.approx(high), "n": 10}


def test_trials_that_say_the_same_within_each_cluster_count_once() -> None:
    found = clustered_share([(5, 5)] * 7 + [(0, 5)] * 3, "none")
    low, high = wilson(7, 10)
    assert (found["low"], found["high"], found["n"]) == (pytest.approx(low), pytest.approx(high), 50)
    same = clustered_share([(5, 5)] * 4, "none")
    assert (same["low"], same["high"]) == (pytest.approx(wilson(4, 4)[0]), 1.0)


@given(st.lists(st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=9))
def test_an_interval_holds_its_share_and_lies_in_zero_to_one(clusters: list[tuple[int, int]]) -> None:
    found = clustered_share(clusters, "none")
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_time_left_is_what_is_missing_over_the_groups_pace() -> None:
    waits = {name: Count(5, 0, left=5) for name in ("ann", "bob", "cyd")}
    progress = Progress(10, 4, 0, wanted=20, answers=11, reachable=9, annotators=waits)
    people = {name: {"pace": {"tasks_per_hour": pace}} for name, pace in (("ann", 30.0), ("bob", 60.0), ("cyd", None))}
    assert time_left(progress, people) == {"answers": 9, "nobody": 0, "hours": 0.1, "people": 2}
    unknown = time_left(progress, {"cyd": people["cyd"]})
    reason = "the pace of those who have something left to do is not known yet"
    assert unknown == {"answers": 9, "nobody": 0, "hours": None, "people": 0, "reason": reason}
    assert time_left(Progress(1, 1, 0, 1, 1, 0, {}), {}) == {"answers": 0, "nobody": 0, "hours": 0.0, "people": 0}


def test_time_left_counts_what_somebody_here_can_give_and_who_has_something_left() -> None:
    """Two answers wanted; ann answered all six tasks, bob three, and one was skipped by him: ann cannot help."""
    said = {f"t{n}": {"ann": "submitted", "bob": "submitted"} for n in range(3)}
    said |= {"t3": {"ann": "submitted", "bob": "skipped"}, "t4": {"ann": "submitted"}, "t5": {"ann": "submitted"}}
    progress = progress_of(said, 2, {"ann", "bob"})
    assert (progress.wanted, progress.answers, progress.reachable, progress.exhausted) == (12, 9, 2, 1)
    people = {name: {"pace": {"tasks_per_hour": pace}} for name, pace in (("ann", 300.0), ("bob", 4.0))}
    assert time_left(progress, people) == {"answers": 2, "nobody": 1, "hours": 0.5, "people": 1}
    alone = time_left(progress_of({"t": {"ann": "submitted"}}, 2, {"ann"}), {"ann": people["ann"]})
    assert alone == {"answers": 0, "nobody": 1, "hours": 0.0, "people": 0}
