"""Losses: literal values, their symmetries, and what weights become. `test_train_parity.py` compares them with TRL's."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.training import Dpo
from align.errors import DataError
from align.losses import hinge, ipo, kto, robust, robust_weights, soft_preference_loss, weights_of_mean_one
from align.train.dpo import targets_and_weights
from align.train.examples import Pair

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


@given(st.lists(st.floats(0.05, 100), min_size=1, max_size=30))
def test_weights_average_one_and_keep_their_proportions(weights: list[float]) -> None:
    scaled = weights_of_mean_one(weights)
    assert sum(scaled) / len(scaled) == pytest.approx(1)
    assert scaled[0] * weights[-1] == pytest.approx(scaled[-1] * weights[0])


def test_weights_of_nothing_but_doubt_are_not_blown_up() -> None:
    assert weights_of_mean_one([0.001, 0.003]) == pytest.approx([0.02, 0.06])  # over 0.05, not over their mean 0.002
    assert weights_of_mean_one([0.05, 0.15]) == pytest.approx([0.5, 1.5])


def each(values: list[float]) -> Any:
    return torch.tensor(values, dtype=torch.float64)


def test_literal_values_of_the_other_losses() -> None:
    margin_B, target_B = each([0.5, -2.0, 3.0]), each([1.0, 1.0, 0.75])
    assert hinge(margin_B, target_B).tolist() == pytest.approx([0.5, 3.0, 0.25 * 4])
    # (h - (2p - 1) / 2β)² with h = m / 0.1: (5 - 5)², (-20 - 5)², (30 - 2.5)²
    assert ipo(margin_B, target_B, 0.1).tolist() == pytest.approx([0.0, 625.0, 756.25])
    # m = 2: −log σ(2) = 0.126928011, −log σ(−2) = 2.126928011; ε = 0.3
    flat = robust(each([2.0]), each([0.7])).item()
    assert flat == pytest.approx((0.7 * 0.126928011 - 0.3 * 2.126928011) / 0.4)


@given(MARGINS, st.floats(0.51, 1))
def test_the_robust_loss_is_unbiased(margin: float, target: float) -> None:
    """Its mean over a label that is flipped with probability 1 − p is the loss of the true label."""
    as_labelled, flipped = (robust(each([m]), each([target])).item() for m in (margin, -margin))
    true = -torch.nn.functional.logsigmoid(each([margin])).item()
    assert target * as_labelled + (1 - target) * flipped == pytest.approx(true, abs=1e-6)


def test_a_pair_that_says_nothing_weighs_nothing_in_the_robust_loss() -> None:
    assert robust_weights([1.0, 2.0, 5.0], [1.0, 0.75, 0.5]) == [1.0, 0.5, 0.0]
    assert torch.isfinite(robust(each([40.0]), each([0.5]))).all()


@given(MARGINS, SHARES)
def test_soft_hinge_and_ipo_do_not_care_which_answer_is_called_chosen(margin: float, target: float) -> None:
    for loss_of in (hinge, lambda m, p: ipo(m, p, 0.1)):
        there, back = loss_of(each([margin]), each([target])), loss_of(each([-margin]), each([1 - target]))
        assert there.item() == pytest.approx(back.item(), abs=1e-6)


def test_one_rate_for_all_pairs_is_no_reason_to_learn_less() -> None:
    pairs = [Pair([1], [2], [3], target, 1.0) for target in (1.0, 0.75, 0.5)]
    config = Dpo(loss="robust", label_noise=0.45)
    assert targets_and_weights(pairs, config) == {"target": [0.55] * 3, "weight": [1.0] * 3}
    own = targets_and_weights(pairs, Dpo(loss="robust"))
    assert own == {"target": [1.0, 0.75, 0.5], "weight": pytest.approx([2.4, 0.6, 0.0])}
    assert targets_and_weights(pairs[:1], Dpo(loss="robust")) == {}
    with pytest.raises(DataError, match=r"every target is 0\.5"):
        targets_and_weights(pairs[2:], Dpo(loss="robust"))


def test_ktos_literal_values() -> None:
    reward_B, one_B = each([1.0, 1.0, 1.0]), each([1.0, 1.0, 1.0])
    found = kto(reward_B, each([1.0, 0.0, 0.25]), torch.tensor(0.5), 2 * one_B, 3 * one_B).tolist()
    good, bad = 2 * 0.377540669, 3 * 0.622459331  # 1 − σ(0.5), 1 − σ(−0.5)
    assert found == pytest.approx([good, bad, 0.25 * good + 0.75 * bad])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ld_alpha": 0.3}, "`ld_alpha` acts with `length: ld` alone, found length: sum"),
        ({"loss": "ipo", "length": "mean"}, "`length: mean` is what `loss: ipo` does anyway"),
        (
            {"loss": "hinge", "trainer": {"loss_type": "aot"}},
            "`loss` cannot act on a loss of TRL's own; found trainer.lo",
        ),
        ({"label_noise": 0.5}, "label_noise"),
    ],
)
def test_an_option_that_cannot_act_is_an_error_that_names_it(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Dpo(**options)
    Dpo(**Dpo().model_dump())  # defaults spelled out are no options


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_mean_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        weights_of_mean_one(weights)
