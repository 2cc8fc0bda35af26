"""Plots keep to their axes: literal SVG numbers."""

import re
from typing import Any

import pytest

from align.figures import number
from align.report.plots import Estimate, Frame, Series, curves_plot, estimates_plot, nice_ticks, slices_plot
from align.report.sweep import sweep_svg


def ticks(picture: str) -> list[str]:
    """The texts at the vertical axis, from below."""
    return re.findall(r'text-anchor="end">([^<]*)</text>', picture)


def ys(picture: str, kind: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(rf'<line class="{kind}" [^>]*y1="([\d.]+)"[^>]*y2="([\d.]+)"', picture)]  # fmt: skip


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([0.0, 1.0], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([1.0, 1.0], ["0.900", "0.925", "0.950", "0.975", "1.000"]),
        ([0.0, 0.0], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
    ],
)
def test_a_share_over_steps_stays_within_0_and_1(values: list[float], wanted: list[str]) -> None:
    """It was −0.5 to 1.5 for 0 and 1, and up to 1.1 for 1 alone."""
    picture = str(curves_plot([("round 1", 1, list(enumerate(values)))], title="pairs ranked right", bounds=(0, 1)))
    assert ticks(picture)[:-1] == wanted  # the last is that of the steps


def test_what_is_never_negative_has_no_scale_below_0() -> None:
    picture = str(curves_plot([("SFT", 0, [(1, 3.0), (2, 0.01)])], title="loss"))
    assert ticks(picture)[:-1] == ["0", "1", "2", "3", "4"]
    below = str(curves_plot([("SFT", 0, [(1, -3.0), (2, -0.01)])], title="reward"))
    assert ticks(below)[:-1] == ["−4", "−3", "−2", "−1", "0"]
    across = str(curves_plot([("SFT", 0, [(1, -1.0), (2, 1.0)])], title="reward"))
    assert ticks(across)[:-1] == ["−2", "−1", "0", "1", "2"]


def test_one_point_has_an_axis_of_round_numbers() -> None:
    one = Series("over SFT", "main", [Estimate(1, 0.5, 0.5, 0.5)])
    given: dict[str, Any] = {"title": "win rate", "labels": {1: "round 1"}, "form": number, "bounds": (0, 1)}
    assert ticks(str(estimates_plot([one], **given)))[:-1] == ["0.44", "0.46", "0.48", "0.50", "0.52", "0.54", "0.56"]
    sure = Series("over SFT", "main", [Estimate(1, 1.0, 0.4, 1.0)])
    picture = str(estimates_plot([sure], **given))
    assert ticks(picture)[:-1] == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert ys(picture, "bar") == [(123.5, 14.0)], "the interval's end is the axis' end"


def test_what_lies_beyond_an_axis_is_drawn_at_its_edge() -> None:
    frame = Frame(100, 100, (0, 1), (0, 1), left=10, right=10, top=10, bottom=10)
    assert [frame.py(y) for y in (-0.5, 0, 0.5, 1, 1.5)] == [90, 90, 50, 10, 10]
    assert [frame.px(x) for x in (-1, 0, 1, 9)] == [10, 10, 90, 90]
    wide = Series("over SFT", "main", [Estimate(1, 0.9, 0.5, 1.2)])
    picture = str(estimates_plot([wide], title="win rate", labels={1: "1"}, form=number, bounds=(0, 1)))
    assert ticks(picture)[:-1] == ["0.4", "0.6", "0.8", "1.0"]
    assert ys(picture, "bar") == [(135.7, 14.0)]


def test_a_slice_that_is_a_coin_exactly_can_be_drawn() -> None:
    """Equal scores give an accuracy of one half with an interval of no width; that ended the report."""
    assert nice_ticks(0.5, 0.5) == [0.44, 0.46, 0.48, 0.5, 0.52, 0.54, 0.56]
    assert (nice_ticks(1.0, 1.0)[-1], nice_ticks(0.0, 0.0)) == (1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    picture = str(slices_plot([("Length", [("shorter", 0.5, 0.5, 0.5, 1)])], title="slices", line=(0.5, "a coin")))
    assert "Length, shorter: 0.50 [0.50, 0.50], 1 pair<" in picture


def test_a_sweep_of_win_rates_stays_within_0_and_1_and_numbers_its_trials_from_1() -> None:
    trials = [
        {"number": n, "values": {"beta": b}, "value": v, "low": v - 0.1, "high": 1.0, "state": "complete"}
        for n, b, v in ((1, 0.1, 0.6), (2, 0.2, 0.98))
    ]
    result = {
        "metric": "win_rate", "tuning_prompts": 9, "start": {"beta": 0.1}, "start_value": 0.5, "best_trial": 2, "trials": trials,
    }  # fmt: skip
    figure = sweep_svg(result)
    assert ticks(figure)[:4] == ["0.4", "0.6", "0.8", "1.0"]
    assert "trial 1: 0.6 [0.5, 1], beta 0.1" in figure and "trial 2: 0.98 [0.88, 1], beta 0.2" in figure
    assert figure.count('aria-label="2 trials, win rate on 9 prompts"') == 1


def test_the_words_of_a_level_stand_where_no_bar_is() -> None:
    def at(*estimates: Estimate) -> list[str]:
        one = Series("over SFT", "main", list(estimates))
        names = {e.x: str(e.x) for e in estimates}
        picture = estimates_plot(
            [one], title="t", labels=names, form=number, bounds=(0, 1), line=(0.5, "no difference")
        )
        return re.findall(r'level-text" x="([\d.]+)"[^>]*text-anchor="(\w+)"', str(picture))

    low, high = Estimate(1, 0.5, 0.4, 0.6), Estimate(2, 0.9, 0.85, 0.95)
    assert at(low, high) == [("342.0", "end")]
    assert at(Estimate(1, 0.9, 0.85, 0.95), Estimate(2, 0.5, 0.4, 0.6)) == [("50.0", "start")]
    assert at(low) == at(low, Estimate(2, 0.5, 0.4, 0.6)) == [("50.0", "start")]
