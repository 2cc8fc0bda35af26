"""Temperatures, calibration errors and reliability diagrams, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.calibrate import (
    PROMPTS,
    REACH,
    calibration,
    calibration_error,
    fit_temperature,
    log_losses,
    reliability,
    sigmoid,
)

PAIRS = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.5, 1)), min_size=1, max_size=60)


def world(n: int, true: float, *, seed: int, per_prompt: int = 1) -> tuple[list[float], list[float], list[str]]:
    """Pairs whose better answer follows σ(d / true), chosen first: differences, targets, prompts."""
    rng = np.random.default_rng(seed)
    d_N = rng.normal(0, 2, n)
    right_N = rng.random(n) < sigmoid(d_N / true)
    return np.where(right_N, d_N, -d_N).tolist(), [1.0] * n, [f"p{i // per_prompt}" for i in range(n)]


def test_three_right_of_four_alike_make_the_temperature_that_says_three_quarters() -> None:
    assert fit_temperature([2.0, 2.0, -2.0, 2.0], [1.0] * 4) == pytest.approx(2 / math.log(3), rel=1e-6)
    assert fit_temperature([1.0], [0.75]) == pytest.approx(1 / math.log(3), rel=1e-6), "a soft target says so alone"


def test_scores_without_a_finite_temperature_stop_at_its_limits() -> None:
    assert fit_temperature([-2.0, -2.0, 2.0], [1.0] * 3) == pytest.approx(2 * REACH, rel=1e-6)
    assert fit_temperature([2.0, 2.0], [1.0, 1.0]) == pytest.approx(2 / REACH, rel=1e-6)
    assert fit_temperature([0.0, 0.0], [1.0, 1.0]) == 1.0
    with pytest.raises(ValueError, match="found 0 and 0"):
        fit_temperature([], [])
    for sign, limit in ((-1.0, "high"), (1.0, "low")):
        found = calibration([sign] * 30, [1.0] * 30, [str(n) for n in range(30)], seed=0)
        assert found is not None and found["limit"] == limit
        assert found["temperature"] is None, "none is offered"


@given(PAIRS, st.floats(0.01, 100))
def test_the_temperature_follows_the_scale_of_the_scores(pairs: list[tuple[float, float]], scale: float) -> None:
    d, p = zip(*pairs, strict=True)
    if max(map(abs, d)) > 1e-3:
        assert fit_temperature([scale * x for x in d], p) == pytest.approx(scale * fit_temperature(d, p), rel=1e-6)


@given(PAIRS)
def test_no_other_temperature_fits_the_same_pairs_better(pairs: list[tuple[float, float]]) -> None:
    d_N, p_N = (np.array(side) for side in zip(*pairs, strict=True))
    best = fit_temperature(d_N, p_N)
    loss = log_losses(d_N / best, p_N).mean()
    scale = math.sqrt((d_N**2).mean()) or 1.0
    for other in (best * 0.9, best * 1.1, scale, scale / 50, scale * 50):
        if scale / REACH <= other <= scale * REACH:
            assert loss <= log_losses(d_N / other, p_N).mean() + 1e-9


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_of_a_world_is_found_again(true: float) -> None:
    found = calibration(*world(4000, true, seed=1, per_prompt=2), seed=0)
    assert found is not None and found["temperature"] == pytest.approx(true, rel=0.1)
    assert found["after"]["ece"]["value"] < 2 * found["after"]["ece"]["chance"] < 0.05
    if true != 1:
        assert found["before"]["ece"]["low"] > found["before"]["ece"]["chance"]
        assert found["change"]["high"] < 0


def test_no_pair_helps_to_choose_the_temperature_that_tells_it() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(size=40).tolist()
    found = calibration(d, [1.0] * 40, [str(n) for n in range(40)], seed=0)
    assert found is not None and found["fitted"]
    own = float(log_losses(np.array(d) / found["fit"], np.ones(40)).mean())
    assert found["after"]["log_loss"]["mean"] > own, "in the sample the fitted one is best"
    given = calibration(d, [1.0] * 40, [str(n) for n in range(40)], seed=0, temperature=found["fit"])
    assert given is not None and not given["fitted"]
    assert given["after"]["log_loss"]["mean"] == pytest.approx(own)


def test_a_temperature_that_one_pair_would_pay_for_is_not_offered() -> None:
    """Twenty pairs of different scores, all but one ordered right: what fits the others makes that one very dear."""
    d = [1.0 + n / 10 for n in range(19)] + [-1.2]
    found = calibration(d, [1.0] * 20, [str(n) for n in range(20)], seed=0)
    assert found is not None and found["limit"] is None
    assert found["before"]["log_loss"]["mean"] < 0.3 < 1 < found["after"]["log_loss"]["mean"]
    assert found["temperature"] is None and found["fit"] < 1
    given = calibration(d, [1.0] * 20, [str(n) for n in range(20)], seed=0, temperature=2.0)
    assert given is not None and given["temperature"] == 2.0, "one that comes from other pairs is told as it is"


def test_few_prompts_say_nothing() -> None:
    assert calibration([1.0] * 90, [1.0] * 90, [str(n % (PROMPTS - 1)) for n in range(90)], seed=0) is None


CONFIDENCE = [0.6] * 20 + [0.9] * 20
OBSERVED = [1.0, 0.0] * 10 + [1.0] * 20
NAMES = [str(n) for n in range(40)]


def test_the_calibration_error_is_the_mean_distance_from_the_diagonal() -> None:
    found = calibration_error(CONFIDENCE, OBSERVED, NAMES, seed=0)
    assert found["value"] == pytest.approx((0.1 + 0.1) / 2)
    assert found["low"] < found["value"] < found["high"]
    # of signs ±: |mean of 20 deviations of ½| on average, in half of the pairs
    assert found["chance"] == pytest.approx(0.5 * 0.5 * math.sqrt(2 / math.pi / 20), rel=0.1)
    low, high = reliability(CONFIDENCE, OBSERVED, NAMES, seed=0)
    assert (low["confidence"], low["observed"], low["n"]) == (pytest.approx(0.6), 0.5, 20)
    assert (high["observed"], high["high"], high["n"]) == (1.0, 1.0, 20)
    assert high["low"] == pytest.approx(0.839, abs=1e-3), "Wilson's, where the bootstrap has no spread"


def test_copies_of_a_prompts_pair_make_luck_larger_and_nothing_surer() -> None:
    d, p, names = world(300, 1.0, seed=3)
    once = calibration(d, p, names, seed=0)
    copied = calibration(d * 6, p * 6, names * 6, seed=0)
    assert once is not None and copied is not None
    assert copied["before"]["ece"]["chance"] > 0.9 * once["before"]["ece"]["chance"]
    for bound in ("low", "high"):
        assert copied["change"][bound] == pytest.approx(once["change"][bound], abs=0.01)


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 150), st.integers(0, 10**6))
def test_every_pair_is_in_one_bin_and_shares_are_shares(n: int, seed: int) -> None:
    found = calibration(*world(n, 1.0, seed=seed), seed=0)
    assert found is not None
    for told in (found["before"], found["after"]):
        assert sum(one["n"] for one in told["bins"]) == n
        assert [one["confidence"] for one in told["bins"]] == sorted(one["confidence"] for one in told["bins"])
        assert all(0.5 <= one["confidence"] <= 1 and 0 <= one["low"] <= one["high"] <= 1 for one in told["bins"])
        assert 0 <= told["ece"]["low"] <= told["ece"]["value"] <= told["ece"]["high"]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("pairs", [600, 200])
@pytest.mark.parametrize(("true", "least"), [(0.8, 0.82), (1.0, 0.9), (1.2, 0.88), (2.0, 0.84)])
def test_the_interval_of_the_calibration_error_covers_it(true: float, least: float, pairs: int) -> None:
    """Against the error that a very large sample of the same world has, 200 times."""
    d, _, _ = world(400_000, true, seed=99)
    d_N, right_N = np.abs(d), np.array(d) > 0
    bins = np.array_split(np.argsort(d_N), 10)
    exact = 0.0 if true == 1 else sum(abs(right_N[rows].mean() - sigmoid(d_N[rows]).mean()) for rows in bins) / 10
    hits = 0
    for seed in range(200):
        d, _, names = world(pairs, true, seed=seed)
        found = calibration_error(sigmoid(np.abs(d)), (np.array(d) > 0).astype(float), names, seed=seed)
        hits += found["low"] <= exact <= found["high"]
    assert hits / 200 >= least
