"""A reward model's accuracy by slice, and its drift on new labels."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from align.evaluation.pairs import order_accuracy
from align.evaluation.statistics import Interval, independent_difference
from align.intervals import wilson
from align.types import Preference
from reward.drift import drift, warnings
from reward.measure import THIRDS, is_held_out, measure, score_pairs, slices_of, summary


def pair(n: int, **changes: Any) -> Preference:
    given = {
        "id": f"pair{n}", "prompt_id": f"prompt{n}", "messages": [{"role": "user", "content": "?"}],
        "chosen_id": "a", "rejected_id": "b", "chosen": "x" * 10, "rejected": "y" * 10,
        "target": 1.0, "weight": 1.0, "margin": 0.0, "round": 1, "judgements": [],
    }  # fmt: skip
    return Preference(**{**given, **changes})


LENGTHS = {1: "less than half as long", 5: "shorter", 8: "shorter", 9: "about as long", 10: "about as long",
           11: "longer", 19: "longer", 20: "more than twice as long", 90: "more than twice as long"}  # fmt: skip


def test_pairs_are_sliced_by_the_better_answers_length_the_turn_the_label_and_the_round() -> None:
    found = slices_of([pair(n, chosen="x" * n) for n in LENGTHS])
    assert dict(zip(LENGTHS, found["length"], strict=True)) == LENGTHS
    later = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}, {"role": "user", "content": "?"}]
    rows = [
        pair(0, target=0.6),
        pair(1, target=0.75, messages=later),
        pair(2, target=0.95, round=10),
        pair(3, rejected=""),
    ]
    found = slices_of(rows)
    assert found["turn"] == ["first turn", "later turn", "first turn", "first turn"]
    assert found["target"] == ["below 0.75", "0.75 to 0.95", "0.95 and more", "0.95 and more"]
    assert found["round"] == ["round 1", "round 1", "round 10", "round 1"]


def test_a_slice_has_its_own_pairs_and_one_alone_is_left_out() -> None:
    rows = [pair(n, round=2 + 8 * (n % 2)) for n in range(8)]
    result = measure(rows, [1.0, -1.0] * 3 + [None, 0.0], seed=0, slices=slices_of(rows))
    assert set(result["slices"]) == {"round"}, "all else is alike in all pairs"
    assert list(result["slices"]["round"]) == ["round 2", "round 10"]
    two, ten = result["slices"]["round"].values()
    assert (two["accuracy"]["mean"], two["pairs"], two["unscored"]) == (1.0, 3, 1)
    assert (ten["accuracy"]["mean"], ten["pairs"]) == (0.125, 4)
    assert (two["accuracy"]["low"], two["accuracy"]["high"]) == pytest.approx(wilson(3, 3)), "three do not make it sure"
    assert result["accuracy"]["mean"] == pytest.approx(3.5 / 7)
    assert result["calibration"] is None and "temperature" not in summary(result)


def test_a_pair_without_a_slice_is_in_none() -> None:
    rows = [pair(n) for n in range(4)]
    result = measure(rows, [1.0] * 4, seed=0, slices={"agreement": ["one annotator", None, "all agreed", "all agreed"]})
    assert {name: part["pairs"] for name, part in result["slices"]["agreement"].items()} == {
        "one annotator": 1, "all agreed": 2,
    }  # fmt: skip


def test_an_ensembles_pairs_are_sliced_by_how_far_its_members_disagree() -> None:
    class Ensemble:
        """Its members say the answer's length times 1, 2 and 3; it cannot read "?"."""

        def outputs(self, prompts: Any, answers: list[str]) -> list[list[float] | str]:
            return ["it cannot be read" if a == "?" else [float(len(a) * k) for k in (1, 2, 3)] for a in answers]

    rows = [pair(n, chosen="x" * (10 + n)) for n in (6, 1, 4)] + [pair(7, chosen="?"), *(pair(n) for n in (8, 9, 10))]
    differences, reasons, slices = score_pairs(rows, Ensemble())  # type: ignore[arg-type]
    assert reasons == [None, None, None, "chosen: it cannot be read", None, None, None]
    assert differences == [12.0, 2.0, 8.0, None, 0.0, 0.0, 0.0]
    sure, middle, least = THIRDS
    assert slices["doubt"] == [least, middle, least, None, sure, sure, middle]
    one = type("One", (), {"outputs": lambda self, prompts, answers: [[float(len(a))] for a in answers]})()
    assert score_pairs(rows[:2], one) == ([6.0, 1.0], [None, None], {}), "one member has no deviation"


def test_every_pair_without_a_score_is_counted_with_its_reason() -> None:
    long = "longer than the reward model's context ({} tokens, it reads 10)"

    class Scorer:
        def outputs(self, prompts: Any, answers: list[str]) -> list[list[float] | str]:
            return [[1.0] if len(a) < 12 else long.format(len(a)) for a in answers]

    rows = [pair(0, chosen="x" * 20), pair(1, chosen="x" * 30), pair(2, chosen="x" * 20, rejected="y" * 25), pair(3)]
    rows.append(pair(4, chosen="x" * 20, target=0.5))
    differences, reasons, _ = score_pairs(rows, Scorer())  # type: ignore[arg-type]
    told = measure(rows, differences, seed=0, slices={}, reasons=reasons)
    assert reasons[0] == "chosen: longer than the reward model's context (20 tokens, it reads 10)"
    assert told["unscored"] == sum(told["unscored_reasons"].values()) == 3
    assert told["unscored_reasons"] == {
        "chosen: longer than the reward model's context": 2, "both answers: longer than the reward model's context": 1,
    }  # fmt: skip


def test_ties_and_what_has_no_score_are_not_calibrated() -> None:
    rows = [pair(n, target=0.5 if n == 0 else 1.0) for n in range(40)]
    differences = [100.0, None, *([1.0, 1.0, 1.0, -1.0] * 10)[:38]]
    told = measure(rows, differences, seed=0, slices={})
    found = summary(told)
    assert (found["pairs"], found["ties"], found["unscored"]) == (38, 1, 1)
    assert told["calibration"] is not None
    assert told["calibration"]["fit"] == pytest.approx(1 / np.log(29 / 9), rel=1e-6)
    assert found["temperature"] is None, "of so few pairs it would raise the log loss of others"


def test_a_prompt_is_held_out_by_its_id_alone_and_stays_so_when_the_share_grows() -> None:
    ids = [f"prompt{n}" for n in range(2000)]
    few, more = ({i for i in ids if is_held_out(i, share)} for share in (0.1, 0.2))
    assert few < more and 150 < len(few) < 250 and not any(is_held_out(i, 0.0) for i in ids)


def test_a_difference_of_independent_shares_is_newcombes() -> None:
    """His tenth method's interval for 56 of 70 and 48 of 80 (Newcombe 1998, table II, example a)."""
    new, old = (Interval(k / n, *wilson(k, n), n, n) for k, n in ((56, 70), (48, 80)))
    found = independent_difference(new, old)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert (found.n, found.clusters) == (150, 150)
    back = independent_difference(old, new)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def judged(n: int, right: float, *, seed: int) -> dict[str, Any]:
    """What a reward model that is right in the share `right` of pairs makes of `n` of them."""
    rows = [pair(i, prompt_id=f"{seed} {i}") for i in range(n)]
    signs = np.where(np.random.default_rng(seed).random(n) < right, 1.0, -1.0)
    return order_accuracy(rows, signs.tolist(), seed=seed)


def test_a_fall_is_told_with_its_numbers_and_no_fall_is_not_told() -> None:
    old, new = judged(300, 0.75, seed=1), judged(300, 0.5, seed=2)
    change = drift(new, old)
    assert change is not None
    assert change["accuracy"]["mean"] == pytest.approx(new["accuracy"]["mean"] - old["accuracy"]["mean"])
    first, second = warnings(new, change, round=3, against="on the pairs held out from its training")
    shown = f"{new['accuracy']['mean']:.2f} [{new['accuracy']['low']:.2f}, {new['accuracy']['high']:.2f}]"
    assert first.startswith(
        f"Drift: of the new labels of round 3, the reward model of round 2 puts the better answer first in {shown}, which"
        f" is by {-change['accuracy']['mean']:.2f} [{-change['accuracy']['high']:.2f}, {-change['accuracy']['low']:.2f}]"
        " less often than on the pairs held out from its training."
    )
    assert second.startswith("Drift: on the new labels of round 3, the log loss of the reward model of round 2 is by ")
    assert warnings(old, drift(old, new), round=3, against="x") == [], "it got better"
    assert warnings(new, None, round=3, against="x") == []
    (wrong,) = warnings(judged(300, 0.3, seed=3), None, round=3, against="x")
    assert wrong.startswith("The reward model of round 2 orders the new labels of round 3 the wrong way round: 0.2")


def test_what_was_not_measured_has_not_fallen() -> None:
    none = order_accuracy([pair(0)], [1.0], seed=0)
    assert none["accuracy"] is None
    assert drift(none, judged(50, 0.7, seed=0)) is None
    assert warnings(none, None, round=2, against="x") == []


@pytest.mark.parametrize(("after", "least", "most"), [(0.75, 0, 3), (0.5, 18, 20)])
def test_luck_alone_warns_rarely_and_a_fall_is_seen(after: float, least: int, most: int) -> None:
    """Twenty times 150 held-out pairs, of which three quarters are right, and 150 new ones."""
    fallen = 0
    for seed in range(20):
        change = drift(judged(150, after, seed=1000 + seed), judged(150, 0.75, seed=seed))
        assert change is not None
        fallen += change["accuracy"]["high"] < 0
    assert least <= fallen <= most


def test_a_wrong_scale_that_was_wrong_before_is_no_drift() -> None:
    """Behind the temperature both have the same log loss, though the scores say ten times too much."""
    rng = np.random.default_rng(5)
    rows = [pair(n) for n in range(800)]
    d_N = rng.normal(0, 1, 800)
    d_N = np.where(rng.random(800) < 1 / (1 + np.exp(-d_N)), d_N, -d_N) * 10
    old = measure(rows[:400], d_N[:400].tolist(), seed=0, slices={})
    assert old["calibration"] is not None
    told = old["calibration"]["temperature"]
    fresh = [replace(row, prompt_id=f"new {row.prompt_id}") for row in rows[400:]]
    new = measure(fresh, d_N[400:].tolist(), seed=0, slices={}, temperature=told)
    assert 8 < told < 12.5 and new["calibration"]["temperature"] == told
    change = drift(new, old)
    assert change is not None and abs(change["log_loss"]["mean"]) < 0.06
