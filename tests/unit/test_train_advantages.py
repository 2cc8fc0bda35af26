"""PPO's arithmetic against tables computed by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from align.train.advantages import (
    adapted_beta,
    explained_variance,
    gae,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)

# Two answers, of three tokens and of two.
MASK = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
REWARDS = torch.tensor([[0.0, 1, 2], [1, 3, 0]])
VALUES = torch.tensor([[1.0, 2, 4], [2, 1, 9]])


def close(found: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_gae_is_the_table_by_hand() -> None:
    """gamma ½, lam ½, so gamma · lam is ¼.

    First answer:  δ₂ = 2 − 4 = −2            Â₂ = −2
                   δ₁ = 1 + ½·4 − 2 = 1       Â₁ = 1 − ¼·2 = 0.5
                   δ₀ = 0 + ½·2 − 1 = 0       Â₀ = 0 + ¼·0.5 = 0.125
    Second:        δ₁ = 3 − 1 = 2             Â₁ = 2      (the 9 lies behind its end)
                   δ₀ = 1 + ½·1 − 2 = −0.5    Â₀ = −0.5 + ¼·2 = 0
    """
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=0.5, lam=0.5)
    close(advantages, [[0.125, 0.5, -2], [0, 2, 0]])
    close(returns, [[1.125, 2.5, 2], [2, 3, 0]])


@given(st.lists(st.lists(st.floats(-3, 3), min_size=4, max_size=4), min_size=2, max_size=2))
def test_gae_with_lam_one_is_the_rewards_to_come(numbers: list[list[float]]) -> None:
    rewards, values = (torch.tensor([row], dtype=torch.float64) for row in numbers)
    advantages, returns = gae(rewards, values, torch.ones(1, 4, dtype=torch.float64), gamma=1, lam=1)
    torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1))
    torch.testing.assert_close(advantages, returns - values)


def test_the_score_is_on_the_last_token_and_the_divergence_on_every_one() -> None:
    log_ratio = torch.tensor([[1.0, -2, 4], [2, 0, 5]])
    close(token_rewards(torch.tensor([10.0, -1]), log_ratio, MASK, beta=0.5), [[-0.5, 1, 8], [-1, -1, 0]])
    nothing = torch.zeros(1, 3)
    close(token_rewards(torch.tensor([10.0]), log_ratio[:1], nothing, beta=0.5), [[0, 0, 0]])


def test_whitening() -> None:
    """2, 4, 6, 8, 10 on the tokens: mean 6, variance 8."""
    x = torch.tensor([[2.0, 4, 6], [8, 10, 99]])
    unit = 1 / 8**0.5
    close(whiten(x, MASK), [[-4 * unit, -2 * unit, 0], [2 * unit, 4 * unit, 0]])
    close(whiten(x, MASK, keep_mean=True), [[6 - 4 * unit, 6 - 2 * unit, 6], [6 + 2 * unit, 6 + 4 * unit, 0]])
    close(whiten(torch.full((2, 3), 7.0), MASK), [[0, 0, 0], [0, 0, 0]])


def test_the_coefficient_goes_up_where_the_policy_is_too_far_away() -> None:
    assert adapted_beta(2.0, 6.6, target=6, gain=0.5) == pytest.approx(2 * 1.05)
    assert adapted_beta(2.0, 60, target=6, gain=0.5) == pytest.approx(2 * 1.1)
    assert adapted_beta(2.0, 0, target=6, gain=0.5) == pytest.approx(2 * 0.9)
    assert adapted_beta(2.0, 6, target=6, gain=0.5) == 2


def test_the_clipped_policy_loss() -> None:
    """Ratios 1.5, 1.5, 0.5, 0.5 with advantages 2, −2, 2, −2 and clip 0.2: the clip holds where going on would gain."""
    logps = torch.tensor([[1.5, 1.5, 0.5, 0.5, 7]]).log()
    mask = torch.tensor([[1.0, 1, 1, 1, 0]])
    advantages = torch.tensor([[2.0, -2, 2, -2, 5]])
    loss, held = policy_loss(logps, torch.zeros(1, 5), advantages, mask, clip=0.2)
    assert float(loss) == pytest.approx(-(2.4 - 3 + 1 - 1.6))
    assert float(held) == 0.5


def test_the_clipped_value_loss() -> None:
    """From 0 to 1 with returns 2 and 0: clipped at 0.2, errors are (0.2 − 2)² and 1²."""
    values, old, returns, mask = torch.tensor([[1.0, 1, 5]]), torch.zeros(1, 3), torch.tensor([[2.0, 0, 0]]), MASK[1:]
    assert float(value_loss(values, old, returns, mask, clip=0.2)) == pytest.approx(0.5 * (3.24 + 1))
    assert float(value_loss(values, old, returns, mask, clip=None)) == pytest.approx(0.5 * (1 + 1))


def test_explained_variance() -> None:
    assert explained_variance(REWARDS, REWARDS, MASK) == 1
    assert explained_variance(torch.zeros(2, 3), REWARDS, MASK) == 0
