"""The soft preference loss: literal values, and the ways in which it is TRL's loss."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.losses import soft_preference_loss, weights_of_mean_one

torch = pytest.importorskip("torch")
MARGINS = st.floats(-20, 20)
SHARES = st.floats(0, 1)


def loss(margins: list[float], targets: list[float], weights: list[float]) -> float:
    as_tensor = [torch.tensor(values, dtype=torch.float64) for values in (margins, targets, weights)]
    return float(soft_preference_loss(*as_tensor))


def test_literal_values() -> None:
    assert loss([0.0], [1.0], [1.0]) == pytest.approx(math.log(2))
    assert loss([2.0], [1.0], [1.0]) == pytest.approx(0.126928011)  # log(1 + e^-2)
    assert loss([2.0], [0.75], [1.0]) == pytest.approx(0.626928011)  # + (1 - 0.75) * 2
    assert loss([2.0, 0.0], [1.0, 0.5], [0.5, 1.5]) == pytest.approx((0.5 * 0.126928011 + 1.5 * math.log(2)) / 2)


def test_hard_target_is_the_dpo_loss_with_its_gradient() -> None:
    margin_B = torch.tensor([-3.0, -0.1, 0.0, 0.7, 12.0], requires_grad=True)
    ones_B = torch.ones(5)
    ours = soft_preference_loss(margin_B, ones_B, ones_B)
    theirs = -torch.nn.functional.logsigmoid(margin_B).mean()
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(value, margin_B)[0] for value in (ours, theirs)))


def test_the_gradient_vanishes_where_the_margin_says_the_target() -> None:
    target_B = torch.tensor([0.6, 0.9])
    margin_B = torch.logit(target_B).requires_grad_()
    (gradient_B,) = torch.autograd.grad(soft_preference_loss(margin_B, target_B, torch.ones(2)), margin_B)
    assert gradient_B.abs().max() < 1e-7


@given(MARGINS, SHARES)
def test_swapping_the_answers_and_the_target_changes_nothing(margin: float, target: float) -> None:
    assert loss([margin], [target], [1.0]) == pytest.approx(loss([-margin], [1 - target], [1.0]), abs=1e-9)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_weights_average_one_and_keep_their_proportions(weights: list[float]) -> None:
    scaled = weights_of_mean_one(weights)
    assert sum(scaled) / len(scaled) == pytest.approx(1)
    assert scaled[0] * weights[-1] == pytest.approx(scaled[-1] * weights[0])


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        weights_of_mean_one(weights)
