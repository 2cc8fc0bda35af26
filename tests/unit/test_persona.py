"""The simulated annotator."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.recipe import Persona
from align.errors import DataError
from align.types import Task
from annotation.persona import answer
from tests.labelling import make_task

TASKS = [make_task(f"t{n}", shown=(0, 1) if n % 2 else (1, 0)) for n in range(2000)]


def share(outcome: str, persona: Persona, utilities: tuple[float, float], tasks: list[Task] = TASKS) -> float:
    return Counter(answer(t, utilities, persona, seed=0).outcome for t in tasks)[outcome] / len(tasks)


def test_without_noise_the_greater_utility_wins() -> None:
    exact = Persona(name="ann")
    assert share("a", exact, (1.0, 0.9)) == 1 and share("b", exact, (-1.0, 0.0)) == 1


@pytest.mark.parametrize("difference", [0.5, -2.0])
def test_noise_is_bradley_terry(difference: float) -> None:
    expected = 1 / (1 + math.exp(-difference / 0.8))
    assert share("a", Persona(name="ann", temperature=0.8), (difference, 0.0)) == pytest.approx(expected, abs=0.03)


def test_equal_utilities_are_a_coin() -> None:
    assert share("a", Persona(name="ann"), (1.0, 1.0)) == pytest.approx(0.5, abs=0.03)


def test_a_positive_bias_favours_the_left_side() -> None:
    biased = Persona(name="ann", temperature=1.0, position_bias=1.5)
    left = [t for t in TASKS if t.shown[0] == 0]
    right = [t for t in TASKS if t.shown[0] == 1]
    assert share("a", biased, (0.0, 0.0), left) == pytest.approx(0.818, abs=0.04)
    assert share("b", biased, (0.0, 0.0), right) == pytest.approx(0.818, abs=0.04)


def test_slips_turn_a_share_of_preferences_around() -> None:
    assert share("b", Persona(name="ann", error_rate=0.2), (1.0, 0.0)) == pytest.approx(0.2, abs=0.03)
    assert share("b", Persona(name="ann", error_rate=1.0), (1.0, 0.0)) == 1


def test_close_utilities_are_a_tie() -> None:
    persona = Persona(name="ann", tie_width=0.25)
    assert share("tie", persona, (0.2, 0.0)) == 1
    assert share("a", persona, (0.25, 0.0)) == 1  # not closer than the width


def test_skips() -> None:
    assert share("skipped", Persona(name="ann", skip_rate=0.3), (1.0, 0.0)) == pytest.approx(0.3, abs=0.03)
    assert answer(TASKS[0], (None, 1.0), Persona(name="ann"), 0).outcome == "skipped"


def test_a_utility_that_is_no_number_is_an_error() -> None:
    with pytest.raises(DataError, match="the utility of an answer is nan"):
        answer(TASKS[0], (1.0, math.nan), Persona(name="ann"), 0)


@given(st.floats(-1e308, 1e308), st.floats(-1e308, 1e308), st.floats(0, 1e-300), st.floats(-1e3, 1e3))
def test_no_size_of_number_overflows(a: float, b: float, temperature: float, bias: float) -> None:
    persona = Persona(name="ann", temperature=temperature, position_bias=bias)
    assert answer(TASKS[0], (a, b), persona, 0).outcome in ("a", "b")


def test_personas_and_seeds_draw_apart() -> None:
    def said(name: str, seed: int) -> list[str]:
        return [answer(t, (0.0, 0.0), Persona(name=name), seed).outcome for t in TASKS[:50]]

    assert said("ann", 0) == said("ann", 0)
    assert len({tuple(said("ann", 0)), tuple(said("bob", 0)), tuple(said("ann", 1))}) == 3
