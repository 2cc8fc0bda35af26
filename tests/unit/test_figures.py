"""Numbers as people read them: one way to write each kind, everywhere."""

import re
from pathlib import Path

import pytest

from align.figures import bounds, counted, duration, interval, number, points, share, significant

ROOT = Path(__file__).parents[2]


def test_a_count_agrees_with_its_word() -> None:
    assert [counted(n, "answer") for n in (0, 1, 1200)] == ["0 answers", "1 answer", "1,200 answers"]
    assert (counted(1, "loss", "losses"), counted(3, "loss", "losses")) == ("1 loss", "3 losses")


def test_numbers_have_their_digits_a_true_minus_and_a_dash_where_there_is_none() -> None:
    assert (number(0.785), number(-0.1234, 3), number(0.25, signed=True), number(None)) == (
        "0.79",
        "−0.123",
        "+0.25",
        "–",
    )
    assert (significant(0.123456), significant(-1234.56), significant(1e-5)) == ("0.1235", "−1235", "1e-05")
    assert (points(0.123), points(-0.04)) == ("+12", "−4")


def test_an_interval_has_one_notation() -> None:
    found = {"mean": 0.78, "low": 0.74, "high": 0.82, "clusters": 40}
    assert interval(found) == "0.78 [0.74, 0.82]"
    assert interval({"value": -0.5, "low": -1.0, "high": 0.25}, significant) == "−0.5 [−1, 0.25]"
    assert (bounds(found, share), interval({"value": None, "reason": "nobody said"}), interval(None)) == (
        "[74%, 82%]", "–", "–",
    )  # fmt: skip


@pytest.mark.parametrize("seconds, text", [(59.94, "1 min 0 s"), (3599.6, "1 h 0 min"), (86400, "24 h 0 min")])
def test_times(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nobody_writes_an_interval_by_hand() -> None:
    """`0.5 [0.4, 0.6]`, `0.4 to 0.6` and the like are in `align.figures` alone."""
    by_hand = re.compile(r"\{[^{}]*\blow\b[^{}]*\}(, | to | – |–)\{+[^{}]*\bhigh\b")
    files = [p for name in ("align", "annotation", "reward", "rollouts") for p in (ROOT / name).rglob("*") if p.suffix in (".py", ".j2")]  # fmt: skip
    found = {str(p.relative_to(ROOT)) for p in files if by_hand.search(p.read_text(encoding="utf-8"))}
    bad_values = {
        "align/config/space.py",
        "align/data/preferences.py",
        "align/labelling/outside/words.py",
    }  # a range that a value has to lie in
    assert found - bad_values == {"align/figures.py"}
