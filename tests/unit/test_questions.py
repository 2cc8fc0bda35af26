"""What people say on the screen and what it means: both ways, for every kind of task."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import DataError
from align.escape import escape
from align.types import FLAGS, LETTERS, OUTCOMES, STRENGTHS, Rating
from annotation.backend import Answer
from annotation.form import ANSWERS, Form
from annotation.questions import from_screen, questions, to_screen

CRITERIA = ("helpful", "to the point")
ASK = ("strength", "flags", "edit", "reason")
KINDS = ("pair", "rank", "single", "rating", "blind_ab")
ANY_TEXT = st.text(st.characters(exclude_categories=[]), min_size=1).filter(str.strip).map(escape)


def form(kind: str, answers: int | None = None) -> Form:
    return Form(kind, answers or ANSWERS[kind], CRITERIA if kind == "rating" else (), ASK)  # type: ignore[arg-type]


@st.composite
def said(draw: st.DrawFn) -> tuple[Form, list[int], Answer]:
    """A form, an order on the screen and any answer to it."""
    kind = draw(st.sampled_from(KINDS))
    asked = form(kind, draw(st.integers(3, 4)) if kind == "rank" else None)
    size = draw(st.integers(2, asked.answers)) if kind == "rank" else asked.answers
    shown = draw(st.permutations(range(size)))
    outcome = draw(st.sampled_from(OUTCOMES[kind]))
    ranks = draw(st.lists(st.integers(1, size), min_size=size, max_size=size))
    scores = draw(st.lists(st.integers(1, 5), min_size=2, max_size=2))
    flags = [f"{letter}:{flag}" for letter in LETTERS[:size] for flag in FLAGS]
    answer = Answer(
        "t",
        outcome,
        strength=draw(st.none() | st.sampled_from(STRENGTHS)) if outcome in ("a", "b") else None,
        flags=sorted(draw(st.sets(st.sampled_from(flags)))) or None,
        edit=draw(st.none() | ANY_TEXT) if outcome != "skipped" else None,
        reason=draw(st.none() | ANY_TEXT),
        ranking=[sorted(set(ranks)).index(r) + 1 for r in ranks] if outcome == "ranked" else None,
        ratings=[Rating(criterion=c, score=s) for c, s in zip(CRITERIA, scores, strict=True)]
        if outcome == "rated"
        else None,
    )
    return asked, shown, answer


@given(said())
def test_what_is_said_comes_back(case: tuple[Form, list[int], Answer]) -> None:
    asked, shown, answer = case
    values = to_screen(answer, shown, asked)
    assert values.keys() <= {q["name"] for q in questions(asked)}
    assert from_screen("t", values, shown, asked, skipped=answer.outcome == "skipped") == answer


@given(said(), st.data())
def test_another_order_on_the_screen_means_the_same(case: tuple[Form, list[int], Answer], data: st.DataObject) -> None:
    """Candidates that stand elsewhere take what is said about them along."""
    asked, shown, answer = case
    other = data.draw(st.permutations(shown))
    moved = from_screen("t", to_screen(answer, other, asked), other, asked, skipped=answer.outcome == "skipped")
    assert moved == from_screen("t", to_screen(answer, shown, asked), shown, asked, skipped=answer.outcome == "skipped")


@given(said())
def test_every_value_is_one_that_argilla_offers(case: tuple[Form, list[int], Answer]) -> None:
    asked, shown, answer = case
    offered = {q["name"]: [o["value"] for o in q["settings"].get("options", [])] for q in questions(asked)}
    for name, value in to_screen(answer, shown, asked).items():
        match value["value"]:
            case list(items) if name == "ranking":
                assert [item["value"] for item in items] == offered[name]
                assert all(1 <= item["rank"] <= len(items) for item in items)
            case list(items):
                assert set(items) <= set(offered[name])
            case one if name not in ("edit", "reason"):
                assert one in offered[name]


@pytest.mark.parametrize(
    ("label", "shown", "outcome"),
    [
        ("left", [0, 1], "a"), ("right", [0, 1], "b"), ("left", [1, 0], "b"), ("right", [1, 0], "a"),
        ("tie", [1, 0], "tie"), ("both_bad", [0, 1], "both_bad"),
    ],
)  # fmt: skip
def test_the_left_answer_is_the_first_shown(label: str, shown: list[int], outcome: str) -> None:
    values = {"preference": {"value": label}}
    assert from_screen("t", values, shown, form("pair"), skipped=False) == Answer("t", outcome)
    assert to_screen(Answer("t", outcome), shown, form("pair")) == values


def test_places_of_a_ranking_and_of_flags_are_told_by_what_stands_there() -> None:
    ranked = [{"value": p, "rank": r} for p, r in zip("ABCD", (2, 1, 2, 4), strict=True)]
    values = {"ranking": {"value": ranked}, "flags": {"value": ["C:off_topic", "A:unsafe"]}}
    found = from_screen("t", values, [3, 1, 0, 2], form("rank"), skipped=False)
    assert found.ranking == [2, 1, 3, 2]  # candidates 0 to 3 stand at C, B, D, A; the empty third place is closed up
    assert found.flags == ["a:off_topic", "d:unsafe"]


def test_a_place_without_an_answer_says_nothing() -> None:
    ranked = [{"value": p, "rank": r} for p, r in zip("ABCD", (4, 3, 2, 1), strict=True)]
    values = {"ranking": {"value": ranked}, "flags": {"value": ["D:wrong", "B:wrong"]}}
    found = from_screen("t", values, [0, 1, 2], form("rank"), skipped=False)
    assert (found.ranking, found.flags) == ([3, 2, 1], ["b:wrong"])


def test_a_strength_beside_a_tie_says_nothing() -> None:
    values = {"preference": {"value": "tie"}, "strength": {"value": "far"}}
    assert from_screen("t", values, [0, 1], form("pair"), skipped=False).strength is None


def test_a_skip_keeps_why_and_nothing_that_was_filled_in_before() -> None:
    values = {"preference": {"value": "left"}, "strength": {"value": "far"}, "edit": {"value": "x"}}
    values |= {"flags": {"value": ["A:unsafe"]}, "reason": {"value": "both are jokes"}}
    found = from_screen("t", values, [1, 0], form("pair"), skipped=True)
    assert found == Answer("t", "skipped", reason="both are jokes", flags=["b:unsafe"])
    assert from_screen("t", None, [1, 0], form("pair"), skipped=True) == Answer("t", "skipped")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("pair", {}), ("pair", {"preference": {"value": "middle"}}), ("single", {"verdict": {"value": "left"}}),
        ("rank", {"ranking": {"value": [{"value": "A", "rank": 1}]}}), ("rating", {"rating_helpful": {"value": 3}}),
        ("rating", {"rating_helpful": {"value": 6}, "rating_to the point": {"value": 1}}),
        ("pair", {"preference": {"value": ["left"]}}), ("rank", {"ranking": {"value": "A, B"}}),
        ("rank", {"ranking": {"value": [{"value": "A"}, {"value": "B"}, 3]}}),
        ("pair", {"preference": {"value": "left"}, "strength": {"value": "much"}}),
        ("pair", {"preference": {"value": "left"}, "flags": {"value": ["unsafe"]}}),
        ("pair", {"preference": {"value": "left"}, "flags": {"value": "A:unsafe"}}),
        ("pair", {"preference": {"value": "left"}, "flags": {"value": [["A:unsafe"]]}}),
        ("pair", {"preference": {"value": "left"}, "reason": {"value": 5}}),
    ],
)  # fmt: skip
def test_an_answer_that_no_question_offers_is_named(kind: str, values: dict[str, Any]) -> None:
    asked = form(kind)
    with pytest.raises(DataError, match=r"unknown value .* correct it in Argilla"):
        from_screen("t", values, list(range(asked.answers)), asked, skipped=False)


def test_what_each_kind_asks() -> None:
    names = {kind: [(q["name"], q["required"]) for q in questions(form(kind))] for kind in KINDS}
    beside = [("flags", False), ("edit", False), ("reason", False)]
    assert names["pair"] == [("preference", True), ("strength", False), *beside]
    assert names["rating"][:2] == [("rating_helpful", True), ("rating_to the point", True)]
    assert names["single"][0] == ("verdict", True) and names["rank"][0] == ("ranking", True)
    assert [q["name"] for q in questions(Form("blind_ab", 2, (), ("reason",)))] == ["preference", "reason"]
    assert [q["name"] for q in questions(Form())] == ["preference"]
