"""What an ensemble is made of, as numbers: the spread of its members, and what cannot act."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from align.config.training import RewardModel, Rewards
from reward.ensemble import spread


def test_spread_is_the_mean_and_the_sample_deviation() -> None:
    assert spread([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt((4 + 1 + 9) / 2)))
    assert spread([2.0, 2.0]) == (2.0, 0.0)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(-50, 50))
def test_a_shift_of_all_members_moves_the_mean_alone(scores: list[float], shift: float) -> None:
    mean, deviation = spread(scores)
    moved, same = spread([score + shift for score in scores])
    assert moved == pytest.approx(mean + shift, abs=1e-9)
    assert same == pytest.approx(deviation, abs=1e-6)


def test_a_bound_needs_members_and_a_length_head_needs_pairs() -> None:
    assert Rewards(model=RewardModel(members=3), bound=1.0).bound == 1.0
    with pytest.raises(ValidationError, match=r"`bound` acts on an ensemble alone, found model\.members: 1"):
        Rewards(model=RewardModel(), bound=1.0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Rewards(model=RewardModel(members=3), bound=-1.0)
    with pytest.raises(ValidationError, match="needs at least 4 pairs, found 2"):
        RewardModel(length_head=True, batch_size=16, micro_batch_size=2)
