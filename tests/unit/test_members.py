"""An ensemble's members: what they count, how far they spread, and whose files they are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import DataError
from align.store import read_json, write_json
from reward.members import (
    DIMENSIONS,
    FUNCTIONS,
    PRECISION,
    SUMMARY,
    Members,
    draw_members,
    member_count,
    ngram_counts,
    read_members,
    write_members,
)


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=30), min_size=1, max_size=5))
def test_every_token_and_every_pair_of_neighbours_is_counted_once(answers: list[list[int]]) -> None:
    counts = ngram_counts(answers)
    assert counts.shape == (len(answers), DIMENSIONS)
    assert counts.sum(axis=1).tolist() == [2 * len(ids) - 1 for ids in answers]
    assert (counts == ngram_counts([*answers, [7]])[:-1]).all()


def test_order_matters_and_places_stay_where_they_are() -> None:
    one, other, token = ngram_counts([[5, 6], [6, 5], [5]])
    assert np.abs(one - other).sum() == 2, "the tokens are the same, the pair is another"
    assert token.argmax() == 876, "scores that are kept on disk rest on it"
    assert ngram_counts([[], [3]])[0].sum() == 0


def pairs() -> tuple[list[list[int]], list[list[int]]]:
    """Forty pairs that differ in tokens 10 and 11, and one that differs in 12 and 13."""
    return [[1, 10, 2]] * 40 + [[1, 12, 2]], [[1, 11, 2]] * 40 + [[1, 13, 2]]


def drawn(members: int, seed: int = 0) -> Members:
    chosen, rejected = pairs()
    differences = np.linspace(-1, 2, len(chosen))
    return draw_members(chosen, rejected, differences, np.linspace(0.5, 1.5, len(chosen)), members=members, seed=seed)


def test_members_have_the_model_as_their_mean_and_say_nothing_of_the_middle() -> None:
    five = drawn(5)
    assert five.functions.shape == (5, DIMENSIONS)
    assert np.abs(five.functions.mean(axis=0)).max() < 1e-6
    assert (five.functions == drawn(5).functions).all()
    assert (five.functions != drawn(5, seed=1).functions).any()
    chosen, rejected = pairs()
    said = five.deviations([*chosen, *rejected])
    assert said.shape == (82, 5)
    assert np.abs(said.mean(axis=0)).max() < 1e-4, "on average over the answers that were learned from"


def test_members_disagree_about_what_few_pairs_have_shown() -> None:
    many = drawn(500)
    seen, seldom, never = (
        (np.subtract(*many.deviations([[1, a, 2], [1, b, 2]]))).std(ddof=1) for a, b in ((10, 11), (12, 13), (14, 15))
    )
    assert seen < 0.6 * seldom
    assert seldom < 0.9 * never


def test_members_spread_as_the_inverse_hessian() -> None:
    """By automatic differentiation of `reward_loss`, along the differences of three pairs of answers."""
    import torch

    from reward.trainer import reward_loss

    chosen, rejected = pairs()
    apart = torch.from_numpy(ngram_counts(chosen) - ngram_counts(rejected)).double()
    differences = torch.linspace(-1, 2, 41, dtype=torch.float64)
    weights = torch.linspace(0.5, 1.5, 41, dtype=torch.float64)
    used = apart.abs().sum(0) > 0

    def loss(own: torch.Tensor) -> torch.Tensor:
        scores = differences + apart[:, used] @ own
        target = torch.ones(41, dtype=torch.float64)
        mean = reward_loss(scores, torch.zeros_like(scores), target, weights, torch.zeros_like(scores), center=0.0)
        return 41 * mean + PRECISION / 2 * (own**2).sum()

    at_zero = torch.zeros(int(used.sum()), dtype=torch.float64)
    expected = torch.linalg.inv(torch.autograd.functional.hessian(loss, at_zero))  # type: ignore[no-untyped-call]
    found = np.cov(drawn(8000).functions[:, used.numpy()].T)
    assert np.allclose(found, expected.numpy(), atol=0.06)


def test_members_are_kept_beside_the_model_and_known_again(tmp_path: Path) -> None:
    assert (member_count(tmp_path), read_members(tmp_path)) == (1, None)
    five = drawn(5)
    write_members(tmp_path, five)
    assert member_count(tmp_path) == 5
    again = read_members(tmp_path)
    assert again is not None
    assert (again.functions == five.functions).all()
    assert (again.middle == five.middle).all()
    write_json(tmp_path / SUMMARY, {**read_json(tmp_path / SUMMARY), "functions": "others"})
    with pytest.raises(DataError, match=r"not those that members\.json names"):
        read_members(tmp_path)
    (tmp_path / FUNCTIONS).unlink()
    with pytest.raises(DataError, match=r"not those that members\.json names"):
        read_members(tmp_path)
