"""People's win rate with a judge's help, and the win rate at equal lengths: against literal numbers and known truths."""

import math

import numpy as np
import pytest

from align.errors import DataError
from align.evaluation.length import length_controlled
from align.evaluation.powered import agreement, powered


def prompts(values: np.ndarray) -> dict[str, float]:
    return {f"p{n:05d}": float(value) for n, value in enumerate(values)}


def world(seed: int, judged: int, labelled: int, bias: float) -> tuple[dict[str, float], dict[str, float]]:
    """People's values and a judge's, which correlate by 0.8; people are drawn at random, here the first ones."""
    rng = np.random.default_rng(seed)
    shared, own = rng.normal(size=(2, judged))
    quality = 0.5 + 0.15 * shared
    people = np.clip(quality + 0.02, 0, 1)
    judge = np.clip(0.5 + 0.15 * (0.8 * shared + 0.6 * own) + bias + 0.02, 0, 1)
    return dict(list(prompts(people).items())[:labelled]), prompts(judge)


def test_a_judge_on_three_prompts_by_hand() -> None:
    """y = 1, 0, 1 and f = 1, 0, 0 on the shared ones, f = 1, 1, 0, 0 on the others."""
    found = powered({"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 1, "b": 0, "c": 0, "d": 1, "e": 1, "f": 0, "g": 0})
    variance = np.var([1, 0, 0, 1, 1, 0, 0], ddof=1)
    weight = float(np.cov([1, 0, 1], [1, 0, 0])[0, 1] / variance / (1 + 3 / 4))
    assert found.weight == pytest.approx(weight)
    assert found.mean == pytest.approx(2 / 3 - weight / 3 + weight / 2)
    assert (found.people_mean, found.judge, found.prompts, found.judged) == (
        pytest.approx(2 / 3),
        pytest.approx(3 / 7),
        3,
        7,
    )
    assert found.useless is not None and found.useless.startswith("only 3 prompts")


def test_many_verdicts_of_a_biased_judge_narrow_the_interval_and_do_not_move_it() -> None:
    people, judge = world(2, 10_000, 300, bias=0.05)
    found = powered(people, judge)
    assert 0.55 < found.width < 0.7 and found.useless is None
    assert found.bias == pytest.approx(0.05, abs=0.02) and 0.7 < found.correlation < 0.9
    assert found.low < 0.52 < found.high and found.judge > 0.56


def test_the_interval_holds_the_truth() -> None:
    held = [powered(*world(seed, 2_000, 100, bias=0.05)) for seed in range(200)]
    assert 0.91 <= sum(one.low <= 0.52 <= one.high for one in held) / 200 <= 0.985


def test_a_judge_that_knows_nothing_is_named_and_changes_nothing() -> None:
    people, judge = world(3, 5_000, 300, bias=0.0)
    values = np.random.default_rng(0).permutation(list(judge.values()))
    found = powered(people, prompts(values))
    assert found.useless == "its verdicts may have nothing to do with people's"
    assert found.width == pytest.approx(1.0, abs=0.02)
    constant = powered(people, dict.fromkeys(judge, 0.5))
    assert (constant.weight, constant.mean) == (0.0, pytest.approx(constant.people_mean))


def test_people_and_judge_share_prompts_or_there_is_no_interval() -> None:
    with pytest.raises(DataError, match="share 1 prompts"):
        powered({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 1.0})


def test_agreement_is_over_prompts_on_which_both_prefer_one() -> None:
    assert agreement({"a": 1.0, "b": 0.0, "c": 0.5, "d": 1.0}, {"a": 0.8, "b": 0.9, "c": 1.0, "e": 0.0}) == (1, 2)


def test_length_control_is_the_reference_s_formula() -> None:
    """The coefficients solve the score equations of AlpacaEval's minimal model, which are checked here one by one."""
    values = [1.0, 1.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.0]
    differences = [120.0, 300.0, -50.0, 10.0, -20.0, 80.0, 40.0, -200.0]
    found = length_controlled(values, differences, list("abcdefgh"))
    x = np.tanh(np.array(differences) / np.std(differences, ddof=1))
    theta = math.log(found.mean / (1 - found.mean))
    left = np.array(values) - 1 / (1 + np.exp(-(theta + found.per_deviation * x)))
    assert left.sum() == pytest.approx(0, abs=1e-8) and (left * x).sum() == pytest.approx(0, abs=1e-8)
    assert found.mean == pytest.approx(0.4772, abs=5e-5) and found.per_deviation == pytest.approx(2.893, abs=5e-4)


def test_length_control_finds_the_rate_at_equal_lengths() -> None:
    """True rate 0.6 at equal lengths; answers are longer, and the judge likes that: the raw rate is far higher."""
    rng = np.random.default_rng(0)
    differences = rng.normal(80, 100, 8000)
    spread = differences.std(ddof=1)
    rate = 1 / (1 + np.exp(-(math.log(1.5) + 1.2 * np.tanh(differences / spread))))
    values = (rng.random(8000) < rate).astype(float)
    found = length_controlled(values.tolist(), differences.tolist(), list(range(8000)))
    assert found.mean == pytest.approx(0.6, abs=0.02) and found.low < 0.6 < found.high
    assert values.mean() > 0.68


def test_what_length_control_cannot_say() -> None:
    with pytest.raises(DataError, match="came out alike"):
        length_controlled([1.0, 1.0], [1.0, 2.0], ["a", "b"])
    with pytest.raises(DataError, match="length alone tells wins from losses"):
        length_controlled([1.0, 1.0, 0.0, 0.0], [5.0, 6.0, -5.0, -6.0], list("abcd"))
    with pytest.raises(DataError, match="at least two prompts"):
        length_controlled([1.0, 0.0], [5.0, 6.0], ["a", "a"])
    same = length_controlled([1.0, 0.0, 1.0, 1.0], [3.0] * 4, list("abcd"))
    assert same.mean == pytest.approx(0.75) and same.per_deviation == 0.0
