"""What an ensemble is made of, as numbers: spread, bootstrap weights, where heads begin."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from align.config.training import RewardModel, Rewards
from reward.ensemble import PRIOR, bootstrap, random_heads, spread


def test_spread_is_the_mean_and_the_sample_deviation() -> None:
    assert spread([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt((4 + 1 + 9) / 2)))
    assert spread([2.0, 2.0]) == (2.0, 0.0)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(-50, 50))
def test_a_shift_of_all_members_moves_the_mean_alone(scores: list[float], shift: float) -> None:
    mean, deviation = spread(scores)
    moved, same = spread([score + shift for score in scores])
    assert moved == pytest.approx(mean + shift, abs=1e-9)
    assert same == pytest.approx(deviation, abs=1e-6)


def test_pairs_of_a_prompt_are_drawn_together_and_members_apart() -> None:
    a, b, again = bootstrap(["x", "y", "x"], 3, seed=7)
    assert a == again
    assert len({*a, *b}) == 6
    assert bootstrap(["x"], 5, seed=7)[0][:3] == a, "a draw does not depend on how many members there are"
    assert bootstrap(["x"], 3, seed=8)[0] != a


def test_bootstrap_weights_are_exponential() -> None:
    weights = [w for row in bootstrap([str(n) for n in range(4000)], 2, seed=0) for w in row]
    assert min(weights) > 0
    assert sum(weights) / len(weights) == pytest.approx(1, abs=0.05)
    assert sum(w > math.log(2) for w in weights) / len(weights) == pytest.approx(0.5, abs=0.03)
    assert sum(w > 2 for w in weights) / len(weights) == pytest.approx(math.exp(-2), abs=0.02)


def test_heads_begin_apart_and_their_mean_at_0() -> None:
    heads = random_heads(5, 64, seed=3, more=1)
    assert heads.shape == (6, 64)
    assert heads[:5].mean(dim=0).abs().max() < 1e-6
    assert heads[5].norm().item() == pytest.approx(PRIOR)
    assert len({tuple(row.tolist()) for row in heads}) == 6
    assert heads.equal(random_heads(5, 64, seed=3, more=1))
    assert not heads.equal(random_heads(5, 64, seed=4, more=1))
    assert random_heads(1, 64, seed=3, more=1)[0].norm().item() == pytest.approx(PRIOR)


def test_a_bound_needs_members_and_a_length_head_needs_pairs() -> None:
    assert Rewards(model=RewardModel(members=3), bound=1.0).bound == 1.0
    with pytest.raises(ValidationError, match=r"`bound` acts on an ensemble alone, found model\.members: 1"):
        Rewards(model=RewardModel(), bound=1.0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Rewards(model=RewardModel(members=3), bound=-1.0)
    with pytest.raises(ValidationError, match="needs at least 4 pairs, found 2"):
        RewardModel(length_head=True, batch_size=16, micro_batch_size=2)
