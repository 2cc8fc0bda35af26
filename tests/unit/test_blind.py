"""How often people prefer the new policy, from blind comparisons: against literal values."""

import pytest

from align.evaluation.blind import blind_win_rate
from align.intervals import wilson
from align.types import Judgement, Task
from tests.labelling import judge, make_task


def world(*outcomes: tuple[str, ...]) -> tuple[list[Task], list[Judgement]]:
    """One prompt for each entry; the new policy's answer is canonical a in even prompts and b in odd ones."""
    tasks, said = [], []
    for n, given in enumerate(outcomes):
        ids = (f"new{n}", f"old{n}") if n % 2 == 0 else (f"old{n}", f"new{n}")
        tasks.append(make_task(f"t{n}", prompt=f"p{n}", candidates=ids, purpose="eval"))
        said += [judge(f"t{n}", f"ann{k}", outcome) for k, outcome in enumerate(given)]
    return tasks, said


NEW = {f"new{n}" for n in range(99)}


def test_a_win_is_the_new_policys_answer_wherever_it_stands() -> None:
    found = blind_win_rate(*world(("a",), ("b",), ("b",), ("a",)), NEW, seed=0)
    assert (found["mean"], found["wins"], found["losses"], found["ties"]) == (0.5, 2, 2, 0)
    assert 0 <= found["low"] < 0.5 < found["high"] <= 1


def test_a_prompt_counts_once_however_many_judged_it() -> None:
    found = blind_win_rate(*world(("a", "a", "a"), ("a",)), NEW, seed=0)
    assert (found["mean"], found["n"], found["clusters"], found["annotators"]) == (0.5, 4, 2, 3)


def test_tie_and_both_bad_are_half_a_win_and_skips_are_counted_apart() -> None:
    found = blind_win_rate(*world(("a", "tie"), ("b", "both_bad"), ("skipped",), ()), NEW, seed=0)
    assert found["mean"] == 0.75
    assert {k: found[k] for k in ("wins", "ties", "both_bad", "unscored", "unanswered", "clusters")} == {
        "wins": 2,
        "ties": 2,
        "both_bad": 1,
        "unscored": 1,
        "unanswered": 2,
        "clusters": 2,
    }


def test_answers_that_are_the_same_are_ties_that_nobody_was_asked_about() -> None:
    found = blind_win_rate(*world(("a",), ("b",)), NEW, {"p7", "p8"}, seed=0)
    assert (found["mean"], found["clusters"], found["ties"], found["same"]) == (0.75, 4, 2, 2)
    alone = blind_win_rate([], [], NEW, {"p7", "p8"}, seed=0)
    assert (alone["mean"], alone["annotators"]) == (0.5, 0)


def test_where_all_say_the_same_the_interval_is_wilsons() -> None:
    found = blind_win_rate(*world(*[("a",), ("b",)] * 10), NEW, seed=0)
    assert (found["mean"], (found["low"], found["high"])) == (1.0, pytest.approx(wilson(20, 20)))


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [((("a",),), "one prompt was judged"), ((("skipped",), ()), "no prompt was judged"), ((), "no prompt was judged")],
)
def test_too_little_is_no_win_rate_and_no_error(outcomes: tuple[tuple[str, ...], ...], reason: str) -> None:
    found = blind_win_rate(*world(*outcomes), NEW, seed=0)
    assert found["mean"] is None and found["reason"] == f"{reason}, and an interval needs two"
