import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import DataError
from align.evaluation.statistics import Interval, clustered_bootstrap, paired_difference, t_quantile
from align.intervals import wilson


def test_the_mean_and_the_counts_are_those_of_the_values() -> None:
    found = clustered_bootstrap([1.0, 0.0, 0.5, 1.0], ["a", "a", "b", "c"], seed=0)
    assert (found.mean, found.n, found.clusters) == (0.625, 4, 3)
    assert 0.0 <= found.low < 0.625 < found.high <= 1.0


def test_one_seed_gives_one_interval_and_another_seed_another() -> None:
    values = np.random.default_rng(0).random(60).tolist()
    clusters = [f"p{i // 2}" for i in range(60)]
    first = clustered_bootstrap(values, clusters, seed=7)
    assert first == clustered_bootstrap(values, clusters, seed=7)
    other = clustered_bootstrap(values, clusters, seed=8)
    assert other != first and abs(other.low - first.low) < 0.02


def test_the_interval_is_the_normal_one_where_there_are_many_clusters() -> None:
    values = np.random.default_rng(3).normal(size=2000)
    found = clustered_bootstrap(values.tolist(), list(range(2000)), seed=0)
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_copies_within_a_prompt_add_no_certainty() -> None:
    values = np.random.default_rng(1).random(40).tolist()
    single = clustered_bootstrap(values, list(range(40)), seed=0)
    copied = clustered_bootstrap(values * 9, list(range(40)) * 9, seed=0)
    assert copied.n == 360 and copied.clusters == 40
    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))
    naive = clustered_bootstrap(values * 9, list(range(360)), seed=0)
    assert naive.high - naive.low < 0.5 * (copied.high - copied.low)


def test_a_higher_level_is_wider() -> None:
    values = np.random.default_rng(2).random(50).tolist()
    widths = [
        (i := clustered_bootstrap(values, list(range(50)), seed=0, level=x)).high - i.low
        for x in (0.5, 0.8, 0.95, 0.99)
    ]
    assert widths == sorted(widths) and widths[0] < 0.6 * widths[2]


@pytest.mark.parametrize("prompts, least, most", [(8, 0.92, 0.985), (100, 0.92, 0.975)])
def test_coverage_of_a_simulated_win_rate_of_one_half(prompts: int, least: float, most: float) -> None:
    """Prompts differ in how often the new model wins; 400 repetitions should cover 0.5 about 380 times.

    Three standard errors of a share of 0.95 in 400 are 0.033.
    """
    rng = np.random.default_rng(20)
    covered = 0
    for repetition in range(400):
        chance = rng.beta(2, 2, size=prompts)
        wins = (rng.random((prompts, 4)) < chance[:, None]).astype(float).ravel().tolist()
        found = clustered_bootstrap(wins, np.repeat(np.arange(prompts), 4).tolist(), seed=repetition, draws=1000)
        covered += found.low <= 0.5 <= found.high
    assert least <= covered / 400 <= most


def test_ignoring_prompts_would_not_cover() -> None:
    """The negative control of the test above: with every answer its own cluster the interval is far too narrow."""
    rng = np.random.default_rng(20)
    covered = 0
    for repetition in range(200):
        wins = (rng.random((30, 1)) < rng.beta(0.3, 0.3, size=(30, 1))).repeat(8, axis=1).astype(float).ravel().tolist()
        found = clustered_bootstrap(wins, list(range(240)), seed=repetition, draws=500)
        covered += found.low <= 0.5 <= found.high
    assert covered / 200 < 0.7


def test_a_paired_difference_is_narrower_than_its_sides() -> None:
    rng = np.random.default_rng(5)
    hard = rng.normal(size=80) * 3
    old, new = (hard + rng.normal(size=80) * 0.1).tolist(), (hard + 0.2 + rng.normal(size=80) * 0.1).tolist()
    found = paired_difference(new, old, list(range(80)), seed=0)
    assert found.low > 0.1 and found.mean == pytest.approx(np.mean(new) - np.mean(old))
    with pytest.raises(DataError, match="2 new values cannot be paired with 1 old ones"):
        paired_difference([1.0, 2.0], [1.0], ["a", "b"], seed=0)


@pytest.mark.parametrize(
    "values, clusters, message",
    [
        ([], [], "nothing to average"),
        ([1.0, 0.0], ["p", "p"], r"all 2 values belong to one cluster \('p'\)"),
        ([1.0, math.nan], ["p", "q"], "value 1 of cluster 'q' is nan"),
        ([math.inf, 1.0], ["p", "q"], "value 0 of cluster 'p' is inf"),
        ([1.0], ["p", "q"], "1 values came with 2 cluster names"),
    ],
)
def test_what_has_no_interval_is_said_so(values: list[float], clusters: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        clustered_bootstrap(values, clusters, seed=0)


def test_equal_values_have_no_spread() -> None:
    assert clustered_bootstrap([0.1] * 7, list("abcdefg"), seed=0) == Interval(
        pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 7, 7
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 6)), min_size=2, max_size=30), st.integers(0, 99))
def test_bounds_hold_the_mean_and_stay_among_the_values(rows: list[tuple[float, int]], seed: int) -> None:
    values, clusters = [v for v, _ in rows], [c for _, c in rows]
    if len(set(clusters)) < 2:
        return
    found = clustered_bootstrap(values, clusters, seed=seed, draws=200)
    assert min(values) - 1e-9 <= found.low <= found.mean <= found.high <= max(values) + 1e-9


@pytest.mark.parametrize("freedom, value", [(3, 3.1824), (5, 2.5706), (9, 2.2622), (30, 2.0423), (1000, 1.9623)])
def test_t_quantiles_against_the_table(freedom: int, value: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(value, rel=0.005)


def test_wilson_against_published_values() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-4)
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=5e-4), 1.0)
    assert wilson(0.0, 10) == (0.0, pytest.approx(0.2775, abs=5e-4))
