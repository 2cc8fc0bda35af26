"""The gate: evidence that holds at every look, intervals that know the raters, and what they decide."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import DataError
from align.evaluation.evidence import by_prompt, labels_for, log_evidence
from align.evaluation.gate import Check, Comparisons, decide, evidence_over_labels, sentence
from align.evaluation.raters import rater_interval, t_quantile


def labelled(wins: int, losses: int, people: int = 10, ties: int = 0) -> Comparisons:
    """One label a prompt, in an order in which wins and losses are spread evenly over labels and people."""
    values = [1.0] * wins + [0.0] * losses + [0.5] * ties
    order = np.random.default_rng(0).permutation(len(values))
    return Comparisons(
        [values[n] for n in order], [f"p{n}" for n in order], [f"r{n % people}" for n in range(len(values))]
    )


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_t_quantiles_are_those_of_the_table(freedom: int, value: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(value, abs=5e-5)
    assert t_quantile(0.975, freedom + 0.5) < value


def test_evidence_is_the_mean_wealth_of_those_who_bet() -> None:
    """Against a sum over bets done here, and one value by hand: a tie changes nothing."""
    shares = (np.arange(199) + 0.5) / 199
    weights = (1 - shares**2) ** 4
    wealth = (1 + shares) ** 12 * (1 - shares) ** 8
    assert math.exp(log_evidence([1.0] * 12 + [0.0] * 8)) == pytest.approx(
        float((weights * wealth).sum() / weights.sum())
    )
    assert log_evidence([0.5] * 50) == pytest.approx(0.0, abs=1e-12)
    assert log_evidence([1.0] * 120 + [0.0] * 80) == pytest.approx(math.log(20.0), abs=0.01)


def test_evidence_against_another_threshold() -> None:
    """Values above it are evidence, values at it are none on average."""
    assert log_evidence([0.5] * 400, above=0.45) > math.log(20)
    assert log_evidence([0.45] * 400, above=0.45) == pytest.approx(0.0, abs=1e-9)
    assert log_evidence([0.4] * 400, above=0.45) < 0
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        log_evidence([1.2])


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_evidence_is_a_fair_bet(values: list[float]) -> None:
    """After any labels, the expected evidence of one more, a win or a loss at even odds, is what it was."""
    now = math.exp(log_evidence(values))
    then = (math.exp(log_evidence([*values, 1.0])) + math.exp(log_evidence([*values, 0.0]))) / 2
    assert then == pytest.approx(now, rel=1e-9)


def test_labels_that_a_rate_needs() -> None:
    """Near the 180 and 80 that `benchmarks/gate.py` measures."""
    assert (labels_for(0.6, alpha=0.05), labels_for(0.65, alpha=0.05)) == (174, 77)


def test_a_prompt_counts_once() -> None:
    assert by_prompt([1.0, 0.0, 1.0], ["b", "a", "b"]) == [1.0, 0.0]
    twice = Comparisons([1.0] * 40 + [0.0] * 20, [f"p{n // 2}" for n in range(60)], [f"r{n % 6}" for n in range(60)])
    assert decide(twice).evidence == pytest.approx(math.exp(log_evidence([1.0] * 20 + [0.0] * 10)))


def test_raters_who_lean_widen_the_interval() -> None:
    """Four raters at 0.3, 0.5, 0.7, 0.9 with endless labels: the t interval of these four numbers."""
    rates = (0.3, 0.5, 0.7, 0.9)
    values = [float(k < 1000 * rate) for rate in rates for k in range(1000)]
    raters = [rate for rate in rates for _ in range(1000)]
    found = rater_interval(values, list(range(4000)), raters)
    error = np.std(rates, ddof=1) / 2
    assert found.mean == pytest.approx(0.6) and found.few
    assert found.error == pytest.approx(error, rel=1e-3)
    assert found.high - found.mean == pytest.approx(3.1824 * error, rel=0.01)
    assert found.between == pytest.approx(float(np.std(rates, ddof=1)), rel=0.01)


def test_raters_alike_give_the_interval_over_prompts() -> None:
    values = np.random.default_rng(1).integers(0, 2, 2000).astype(float)
    found = rater_interval(values.tolist(), list(range(2000)), [n % 20 for n in range(2000)])
    assert found.high - found.mean == pytest.approx(1.96 * values.std() / math.sqrt(2000), rel=0.35)
    assert not found.few


def test_one_rater_or_one_prompt_is_no_interval() -> None:
    with pytest.raises(DataError, match="at least two raters, found 1"):
        rater_interval([1.0, 0.0], ["a", "b"], ["ann", "ann"])
    with pytest.raises(DataError, match="at least two prompts, found 1"):
        rater_interval([1.0, 0.0], ["a", "a"], ["ann", "bob"])
    with pytest.raises(DataError, match="value 1 is not a finite number"):
        rater_interval([1.0, math.nan], ["a", "b"], ["ann", "bob"])


def test_the_four_verdicts() -> None:
    found = decide(labelled(130, 70))
    assert found.verdict == "go" and found.evidence > 20 and found.more is None
    assert sentence(found) == "go: the win rate is 0.65, and above one half for people like these"
    found = decide(labelled(30, 20))
    assert (found.verdict, found.more) == ("labels", 124)
    assert (
        sentence(found) == "not decided: 50 labels do not decide it yet (win rate 0.60); judge about 124 more prompts"
    )
    found = decide(labelled(150, 250))
    assert found.verdict == "stop" and found.reason == "the win rate (0.38) is not 0.55 or more"
    found = decide(labelled(130, 70, people=1))
    assert (found.verdict, found.more, found.rate) == ("people", 4, None)
    assert sentence(found) == "not decided: 1 person judged, too few to speak of people like them; ask 4 more people"


def test_three_people_of_whom_one_decides_are_not_people_like_these() -> None:
    """Two see no difference, the third always prefers the new one: much evidence of labels, none about others."""
    values = [float(n % 2) for n in range(200)] + [1.0] * 100
    found = decide(Comparisons(values, [f"p{n}" for n in range(300)], [f"r{n // 100}" for n in range(300)]))
    assert found.evidence > 1e6 and found.verdict == "people"
    assert found.more is not None and found.more >= 2
    assert "differ too much from each other" in found.reason


def test_what_got_worse_stops_it_and_what_is_open_asks_for_more() -> None:
    better = labelled(130, 70)
    worse = Check("format", [-1.0] * 40 + [0.0] * 60, margin=0.1)
    found = decide(better, [worse])
    assert found.verdict == "stop" and found.reason == "format got worse by 0.400, allowed are 0.1"
    kept = Check("format", [0.0] * 100, margin=0.1)
    assert decide(better, [kept]).verdict == "go" and decide(better, [kept]).checks[0].state == "passed"
    few = Check("format", [0.0] * 5, margin=0.1)
    found = decide(better, [kept, few])
    assert found.verdict == "labels" and "whether format got worse is not decided yet" in found.reason
    assert json.loads(json.dumps(found.as_dict()))["checks"][1]["state"] == "open"


def test_nothing_judged_is_said() -> None:
    with pytest.raises(DataError, match="no blind comparison was judged yet"):
        decide(Comparisons([], [], []))


def test_evidence_over_labels_ends_with_the_decision() -> None:
    found = labelled(70, 35)
    curve = evidence_over_labels(found)
    assert [n for n, _ in curve] == [20, 40, 60, 80, 100, 105]
    assert curve[-1][1] == pytest.approx(decide(found).evidence)


def test_without_improvement_a_go_is_rare_at_twenty_looks() -> None:
    """Ten people who lean by five points, looked at after every 20 labels: at most 5% in `benchmarks/gate.py`."""
    rng = np.random.default_rng(7)
    went = 0
    for _ in range(100):
        raters = rng.integers(0, 10, 300)
        rate = 0.5 + rng.normal(0, 0.05, 10)[raters]
        found = Comparisons(
            (rng.random(300) < rate).astype(float).tolist(), [f"p{n}" for n in range(300)], [f"r{n}" for n in raters]
        )
        went += any(decide(found.first(n)).verdict == "go" for n in range(20, 301, 20))
    assert went <= 7
