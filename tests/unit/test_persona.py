"""The simulated annotator."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.recipe import Persona
from align.errors import DataError
from align.types import OUTCOMES, Message, Task, TaskKind
from annotation.form import Form
from annotation.persona import answer, coin
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


def of_kind(kind: TaskKind, answers: int, n: int = 2000) -> list[Task]:
    """Tasks with readable ids; every order is shown equally often."""
    orders = list(itertools.permutations(range(answers)))
    ids = [f"c{i}" for i in range(answers)]
    message: list[Message] = [{"role": "user", "content": "?"}]
    return [
        Task(f"{kind}{i}", kind, 1, "train", 0, "p", message, ids, ids, list(orders[i % len(orders)]), 1)
        for i in range(n)
    ]


def test_an_exact_persona_ranks_by_utility() -> None:
    assert answer(of_kind("rank", 4)[0], (0.1, 3.0, -1.0, 2.0), Persona(name="ann"), 0).ranking == [3, 1, 4, 2]


def test_a_noisy_ranking_is_plackett_luce() -> None:
    """The first place goes to i with probability exp(u_i / T) / Σ exp(u_j / T), and so on among the rest."""
    utilities, temperature = (1.0, 0.5, 0.0), 0.7
    said = [
        answer(t, utilities, Persona(name="ann", temperature=temperature), 0).ranking for t in of_kind("rank", 3, 6000)
    ]
    worth = [math.exp(u / temperature) for u in utilities]
    for order in itertools.permutations(range(3)):
        expected = worth[order[0]] / sum(worth) * worth[order[1]] / (worth[order[1]] + worth[order[2]])
        found = sum(r is not None and [r[i] for i in order] == [1, 2, 3] for r in said) / len(said)
        assert found == pytest.approx(expected, abs=0.02)


def test_a_ranking_of_two_with_a_bias_is_the_choice_of_a_pair() -> None:
    persona = Persona(name="ann", temperature=0.8, position_bias=0.7)
    left = [t for t in of_kind("rank", 2, 8000) if t.shown[0] == 0]
    first = sum(answer(t, (0.3, 0.0), persona, 0).ranking == [1, 2] for t in left) / len(left)
    assert first == pytest.approx(1 / (1 + math.exp(-(0.3 / 0.8 + 0.7))), abs=0.03)


def test_ties_in_a_ranking_and_a_slip_that_reverses_it() -> None:
    task = of_kind("rank", 4)[0]
    assert answer(task, (2.0, 1.0, 1.05, 0.0), Persona(name="ann", tie_width=0.2), 0).ranking == [1, 2, 2, 4]
    assert answer(task, (3.0, 2.0, 1.0, 0.0), Persona(name="ann", error_rate=1.0), 0).ranking == [4, 3, 2, 1]


def test_a_single_answer_is_held_against_the_standard() -> None:
    tasks = of_kind("single", 1)

    def good(persona: Persona, utility: float) -> float:
        return sum(answer(t, (utility,), persona, 0).outcome == "good" for t in tasks) / len(tasks)

    exact = Persona(name="ann", standard=1.0)
    assert (good(exact, 1.1), good(exact, 0.9)) == (1, 0)
    noisy = Persona(name="ann", standard=1.0, temperature=0.5)
    assert good(noisy, 1.5) == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert good(Persona(name="ann", error_rate=0.2), 5.0) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("utility", "score"), [(-9.0, 1), (0.0, 1), (0.6, 2), (1.2, 3), (0.8, 3), (1.6, 4), (2.0, 5), (1e308, 5)]
)
def test_a_rating_is_three_at_the_standard_and_one_more_a_step(utility: float, score: int) -> None:
    form = Form(kind="rating", answers=1, criteria=("helpful", "correct"))
    said = answer(of_kind("rating", 1)[0], (utility,), Persona(name="ann", standard=1.0, step=0.5), 0, form)
    expected = [{"criterion": c, "score": score} for c in ("helpful", "correct")]
    assert (said.outcome, said.ratings) == ("rated", expected)
    slip = Persona(name="ann", standard=1.0, step=0.5, error_rate=1.0)
    turned = answer(of_kind("rating", 1)[0], (utility,), slip, 0, form).ratings
    assert turned == [{"criterion": c, "score": 6 - score} for c in ("helpful", "correct")]


def test_criteria_are_rated_with_noise_of_their_own() -> None:
    form = Form(kind="rating", answers=1, criteria=("helpful", "correct"))
    persona = Persona(name="ann", temperature=1.0)
    said = [answer(t, (0.0,), persona, 0, form).ratings or [] for t in of_kind("rating", 1, 500)]
    assert {r["score"] for ratings in said for r in ratings} == {1, 2, 3, 4, 5}
    assert 0.05 < sum(a["score"] == b["score"] for a, b in said) / 500 < 0.5


def test_strength_is_the_size_of_the_perceived_difference() -> None:
    exact = Persona(name="ann", step=0.5)
    assert [answer(TASKS[0], (u, 0.0), exact, 0).strength for u in (0.4, 0.5, -0.9, 1.0, 7.0)] == [1, 2, 2, 3, 3]
    assert answer(TASKS[0], (0.0, 0.0), Persona(name="ann", tie_width=1.0), 0).strength is None
    assert answer(TASKS[0], (1.0, 0.0), exact, 0, Form()).strength is None, "it is not asked"
    noisy = Persona(name="ann", temperature=1.0)
    assert {answer(t, (0.5, 0.0), noisy, 0).strength for t in TASKS} == {1, 2, 3}


def test_strength_does_not_change_what_is_preferred() -> None:
    noisy = Persona(name="ann", temperature=0.6, position_bias=0.4, error_rate=0.1)
    with_strength = [answer(t, (0.3, 0.0), noisy, 0).outcome for t in TASKS[:300]]
    assert with_strength == [answer(t, (0.3, 0.0), noisy, 0, Form()).outcome for t in TASKS[:300]]


def test_a_suggestible_persona_follows_a_share_of_what_is_suggested() -> None:
    persona = Persona(name="ann", suggestible=0.4)
    suggested = [replace(t, suggested="b") for t in TASKS]
    assert share("b", persona, (1.0, 0.0), suggested) == pytest.approx(0.4, abs=0.03)
    assert share("b", persona, (1.0, 0.0)) == 0, "nothing is suggested"
    assert share("b", Persona(name="ann"), (1.0, 0.0), suggested) == 0, "it looks for itself"


KINDS: list[tuple[TaskKind, int]] = [("pair", 2), ("blind_ab", 2), ("rank", 4), ("single", 1), ("rating", 1)]


@given(
    st.sampled_from(KINDS),
    st.lists(st.floats(-1e308, 1e308), min_size=4, max_size=4),
    st.floats(0, 1e-300),
    st.floats(-1e3, 1e3),
    st.booleans(),
)
def test_every_kind_is_answered_within_its_outcomes(
    kind: tuple[TaskKind, int], utilities: list[float], temperature: float, bias: float, blind: bool
) -> None:
    persona = Persona(name="ann", temperature=temperature, position_bias=bias, standard=bias, tie_width=0.1)
    task, form = of_kind(*kind, n=1)[0], Form(kind=kind[0], answers=kind[1], criteria=("helpful",))
    said = coin(task, persona, 0, form) if blind else answer(task, utilities[: kind[1]], persona, 0, form)
    assert said.outcome in OUTCOMES[kind[0]] and said.outcome != "skipped"
    assert (said.ranking is not None) == (kind[0] == "rank") and (said.ratings is not None) == (kind[0] == "rating")
    assert said.ranking is None or (min(said.ranking) == 1 and max(said.ranking) <= 4 and len(said.ranking) == 4)
    assert said.ratings is None or [1 <= r["score"] <= 5 for r in said.ratings] == [True]


def test_a_coin_knows_nothing() -> None:
    persona = Persona(name="ann")
    ranks = [coin(t, persona, 0).ranking for t in of_kind("rank", 3, 3000)]
    assert all(430 < ranks.count(list(r)) < 570 for r in itertools.permutations((1, 2, 3)))
    form = Form(kind="rating", answers=1, criteria=("helpful",))
    scores = [r["score"] for t in of_kind("rating", 1) for r in coin(t, persona, 0, form).ratings or []]
    assert all(340 < scores.count(s) < 460 for s in range(1, 6))
    assert 920 < sum(coin(t, persona, 0).outcome == "good" for t in of_kind("single", 1)) < 1080
