"""Best-of-n from one sample: by hand, against every subset, and against the truth of a small policy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.evaluation.best_of_n import chances, kl_of_best, kl_with_ties

SCORES = st.lists(st.integers(-2, 3).map(float), min_size=1, max_size=7)


@pytest.mark.parametrize(
    ("scores", "n", "expected"),
    [
        ([5.0, 7.0, 6.0], 1, [1 / 3, 1 / 3, 1 / 3]),
        ([5.0, 7.0, 6.0], 2, [0, 2 / 3, 1 / 3]),
        ([5.0, 7.0, 6.0], 3, [0, 1, 0]),
        ([1.0, 2.0, 3.0, 4.0], 2, [0, 1 / 6, 2 / 6, 3 / 6]),
        ([2.0, 2.0, 1.0], 2, [0.5, 0.5, 0]),
        ([0.0, 0.0, 0.0], 2, [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_chances_by_hand(scores: list[float], n: int, expected: list[float]) -> None:
    assert chances(scores, n).tolist() == pytest.approx(expected)


@given(SCORES, st.data())
def test_chances_are_those_of_every_subset(scores: list[float], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(scores)))
    expected = np.zeros(len(scores))
    subsets = list(itertools.combinations(range(len(scores)), n))
    for subset in subsets:
        best = [i for i in subset if scores[i] == max(scores[j] for j in subset)]
        expected[best] += 1 / len(best) / len(subsets)
    assert chances(scores, n).tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_estimate_is_unbiased(n: int) -> None:
    """A policy with three answers, of which two score the same: its best-of-n is known, and so are all its samples."""
    probability, score, value = [0.5, 0.2, 0.3], [0.0, 1.0, 1.0], [2.0, 5.0, -3.0]
    low = 0.5**n  # all n answers are the first one
    truth = low * 2.0 + (1 - low) * (0.2 * 5.0 + 0.3 * -3.0) / 0.5
    expected = 0.0
    for sample in itertools.product(range(3), repeat=4):
        weight = math.prod(probability[i] for i in sample)
        expected += weight * float(chances([score[i] for i in sample], n) @ np.array([value[i] for i in sample]))
    assert expected == pytest.approx(truth)


def test_a_thousand_answers_are_no_matter() -> None:
    found = chances([float(i) for i in range(1024)], 512)
    assert found.sum() == pytest.approx(1) and found[-1] == pytest.approx(0.5) and found[510] == 0


@pytest.mark.parametrize("n", [0, 4])
def test_more_than_was_sampled_cannot_be_told(n: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the 3 answers, found {n}"):
        chances([1.0, 2.0, 3.0], n)


def test_a_score_that_is_none() -> None:
    with pytest.raises(ValueError, match="answer 1 has no finite score"):
        chances([1.0, math.nan], 1)


def test_kl_by_hand() -> None:
    assert [kl_of_best(n) for n in (1, 2, 4)] == pytest.approx([0, math.log(2) - 0.5, math.log(4) - 0.75])
    assert kl_with_ties([1.0, 2.0], 1) == pytest.approx(0)
    assert kl_with_ties([1.0, 2.0], 2) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert kl_with_ties([1.0, 1.0], 8) == 0
    assert kl_with_ties([0.0, 0.0, 1.0, 1.0], 1000) == pytest.approx(math.log(2)), "half of the answers remain"


@given(SCORES, st.integers(1, 50))
def test_the_formula_is_an_upper_bound(scores: list[float], n: int) -> None:
    assert -1e-12 <= kl_with_ties(scores, n) <= kl_of_best(n) + 1e-12


def test_the_formula_is_met_without_ties() -> None:
    scores = [float(i) for i in range(4096)]
    assert all(kl_with_ties(scores, n) == pytest.approx(kl_of_best(n), abs=0.01) for n in (2, 16, 128))
