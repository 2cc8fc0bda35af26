"""Agreement between annotators, against published examples."""

import json
from dataclasses import replace

import numpy as np
import pytest

from align.types import Task
from annotation.agreement import krippendorff_alpha, suggestion_effect, summary
from annotation.kappa import Sums, cohen, fleiss
from tests.labelling import judge, make_task


def units(*rows: str) -> list[list[str]]:
    """Columns of a reliability data matrix with one row per observer; "." is a missing value."""
    return [[value for value in column if value != "."] for column in zip(*(row.split() for row in rows), strict=True)]


def test_alpha_of_two_observers_and_binary_data() -> None:
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section A.
    assert krippendorff_alpha(units("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_two_observers_and_nominal_data() -> None:
    # Section B.
    assert krippendorff_alpha(units("a a b b d c c c e d d a", "b a b b b c c c e d d d")) == pytest.approx(
        0.692, abs=5e-4
    )


def test_alpha_of_four_observers_and_missing_data() -> None:
    # Section C.
    matrix = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    assert krippendorff_alpha(units(*matrix)) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_ordinal_data() -> None:
    # Krippendorff's own example of section C, with the ordinal metric.
    matrix = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    assert krippendorff_alpha(units(*matrix), "ordinal") == pytest.approx(0.815, abs=5e-4)


def test_fleiss_kappa() -> None:
    # Fleiss 1971 as worked out by Wikipedia: ten subjects, fourteen raters, five categories.
    n = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    pairs = np.einsum("ui,uj->uij", n, n) - np.einsum("ui,ij->uij", n, np.eye(5))
    agreeing = np.trace(pairs, axis1=1, axis2=2) / (14 * 13)
    assert fleiss(np.array(10.0), agreeing.sum(), (pairs / 13).sum(0)) == pytest.approx(0.210, abs=5e-4)


def test_cohens_kappa() -> None:
    # Fifty proposals, two readers: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no.
    found = Sums(np.array(50.0), np.array(50.0), np.array([[20.0, 5.0], [10.0, 15.0]]))
    assert cohen(found.units, found.agreeing, found.coincidences) == pytest.approx(0.4)


def test_alpha_is_undefined_without_variation_or_overlap() -> None:
    assert krippendorff_alpha(units("a a", "a a")) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None


TASKS = [
    make_task(f"t{n}", prompt=f"p{n // 2}", candidates=(f"c{n}", f"d{n}"), shown=(0, 1) if n % 2 else (1, 0))
    for n in range(8)
]


def test_one_annotator_has_no_agreement_and_a_reason() -> None:
    found = summary(TASKS, [judge(f"t{n}", "ann", "a") for n in range(8)])
    assert (
        found["percent_agreement"]
        == found["alpha"]
        == {"value": None, "reason": "no task has answers of two annotators"}
    )
    assert found["left"]["value"] == 0.5 and found["judgements"] == 8 and found["skip_share"] == 0
    json.dumps(found, allow_nan=False)


def test_agreement_counts_answers_and_not_skips() -> None:
    said = [judge(f"t{n}", "ann", "a") for n in range(4)] + [judge("t0", "bob", "a"), judge("t1", "bob", "b")]
    said += [judge("t2", "bob", "a"), judge("t3", "bob", "skipped"), judge("t4", "bob", "skipped")]
    found = summary(TASKS, said)
    assert found["percent_agreement"]["value"] == pytest.approx(2 / 3)
    assert (found["percent_agreement"]["tasks"], found["percent_agreement"]["prompts"]) == (3, 2)
    assert found["alpha"]["value"] == pytest.approx(krippendorff_alpha([["a", "a"], ["a", "b"], ["a", "a"]]))
    assert found["percent_agreement"]["low"] <= 2 / 3 <= found["percent_agreement"]["high"]
    assert found["contradictory_pairs"] == 1
    assert found["annotators"]["bob"]["skip_share"] == pytest.approx(2 / 5)
    assert found["annotators"]["bob"]["outcomes"] == {"a": 2, "b": 1, "skipped": 2}


def test_the_left_side_is_where_the_answer_stood() -> None:
    always_left = [judge(t.id, "ann", "ab"[t.shown[0]]) for t in TASKS]
    found = summary(TASKS, always_left)["annotators"]["ann"]["left"]
    assert found["value"] == 1.0 and found["n"] == 8 and found["low"] == pytest.approx(0.6756, abs=1e-4)
    assert summary(TASKS, [judge("t0", "ann", "tie")])["left"]["value"] is None


def test_full_agreement_on_one_outcome_leaves_alpha_undefined() -> None:
    found = summary(TASKS, [judge(f"t{n}", who, "a") for n in range(8) for who in ("ann", "bob")])
    assert found["percent_agreement"]["value"] == found["percent_agreement"]["low"] == 1.0
    assert found["alpha"]["value"] is None and "all answers are the same" in found["alpha"]["reason"]


def test_one_prompt_gives_no_interval() -> None:
    found = summary(TASKS, [judge("t0", "ann", "a"), judge("t0", "bob", "b")])
    assert found["alpha"] == {"value": None, "reason": "only one prompt has answers of two annotators"}


def test_the_interval_widens_with_clustering() -> None:
    many = [make_task(f"t{n}", prompt=f"p{n}", candidates=(f"c{n}", f"d{n}")) for n in range(60)]
    few = [make_task(f"t{n}", prompt=f"p{n // 20}", candidates=(f"c{n}", f"d{n}")) for n in range(60)]
    said = [judge(f"t{n}", "ann", "a") for n in range(60)] + [
        judge(f"t{n}", "bob", "a" if n < 20 else "b") for n in range(60)
    ]
    width = [
        found["high"] - found["low"] for tasks in (many, few) if (found := summary(tasks, said)["percent_agreement"])
    ]
    assert 0.18 < width[0] < 0.3 and width[1] > 0.6  # 1/3 of 60: ±0.12; of three prompts: anything


def test_no_judgements_at_all() -> None:
    found = summary(TASKS, [])
    assert found["judgements"] == 0 and found["skip_share"] is None and found["annotators"] == {}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_questions_slices_and_couples() -> None:
    said = [replace(judge(t.id, "ann", "a"), strength=1 + n % 3, flags=["b:wrong"]) for n, t in enumerate(TASKS)]
    said += [replace(judge(t.id, "bob", "ab"[n == 7]), strength=1 + n % 3) for n, t in enumerate(TASKS)]
    found = summary(TASKS, said)
    assert set(found["questions"]) == {"outcome (pair)", "strength", "flag (wrong)"}
    assert (
        found["questions"]["strength"]["level"] == "ordinal" and found["questions"]["strength"]["alpha"]["value"] == 1
    )
    assert found["questions"]["flag (wrong)"]["percent_agreement"]["value"] == 0.5  # all agree that a is not wrong
    assert found["questions"]["outcome (pair)"]["alpha"] == found["alpha"]
    assert found["slices"]["purpose"]["train"]["alpha"] == found["alpha"] and set(found["slices"]["length"]) == {
        "one length"
    }
    [couple] = found["cohen"]
    assert couple["annotators"] == ["ann", "bob"] and couple["tasks"] == 8 and couple["value"] == 0
    json.dumps(found, allow_nan=False)


def test_other_kinds_have_agreement_too() -> None:
    single = [replace(t, kind="single", candidates=t.candidates[:1], texts=["x"], shown=[0]) for t in TASKS]
    said = [
        replace(judge(t.id, who, "bad" if n < 2 else "good"), kind="single")
        for n, t in enumerate(single)
        for who in "xy"
    ]
    assert summary(single, said)["alpha"]["value"] == 1 and summary(single, said)["tasks"] == 8
    ranks = [replace(t, kind="rank") for t in TASKS]
    said = [replace(judge(t.id, who, "ranked"), kind="rank", ranking=[1, 2]) for t in ranks for who in "xy"]
    assert summary(ranks, said)["alpha"]["value"] == 1 and summary(ranks, said)["alpha"]["tasks"] == 16
    rated = [replace(t, kind="rating") for t in single]
    said = [
        replace(judge(t.id, who, "rated"), kind="rating", ratings=[{"criterion": "kind", "score": 1 + n % 5}])
        for n, t in enumerate(rated)
        for who in "xy"
    ]
    found = summary(rated, said)
    assert found["alpha"]["value"] == found["questions"]["rating (kind)"]["alpha"]["value"] == 1


def swayed(follow_shown: int, follow_hidden: int) -> dict:
    shown = [replace(make_task(f"s{n}", prompt=f"p{n}"), suggested="a") for n in range(40)]
    hidden: list[Task] = [make_task(f"h{n}", prompt=f"q{n}") for n in range(40)]
    said = [judge(t.id, "ann", "a" if n < follow_shown else "b") for n, t in enumerate(shown)]
    said += [judge(t.id, "ann", "b" if n < follow_hidden else "tie") for n, t in enumerate(hidden)]
    return suggestion_effect(shown + hidden, said, {t.id: "b" for t in hidden})


def test_sway_is_what_a_shown_suggestion_adds() -> None:
    found = swayed(36, 20)
    assert (found["shown"]["value"], found["not_shown"]["value"]) == (0.9, 0.5)
    assert (
        found["effect"]["value"] == pytest.approx(0.4)
        and 0.15 < found["effect"]["low"] < 0.4 < found["effect"]["high"] < 0.65
    )
    none = swayed(20, 20)["effect"]
    assert none["low"] < 0 < none["high"]


def test_sway_without_one_side_says_why() -> None:
    found = suggestion_effect([replace(make_task("t"), suggested="a")], [judge("t", "ann", "a")], {})
    assert found["not_shown"]["value"] is None and "without" in found["not_shown"]["reason"]
    assert suggestion_effect([], [], {})["effect"]["value"] is None
    json.dumps(found, allow_nan=False)


def test_many_prompts_are_resampled_in_bundles() -> None:
    many = [make_task(f"t{n}", prompt=f"p{n}", candidates=(f"c{n}", f"d{n}")) for n in range(2_500)]
    said = [
        judge(t.id, who, "ab"[(n % 10 == 0) and who == "bob"]) for n, t in enumerate(many) for who in ("ann", "bob")
    ]
    found = summary(many, said)["percent_agreement"]
    assert found["value"] == 0.9 and found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.006, rel=0.2)
