"""Agreement between annotators, against published examples."""

import json

import pytest

from annotation.agreement import krippendorff_alpha, summary, wilson
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


def test_alpha_is_undefined_without_variation_or_overlap() -> None:
    assert krippendorff_alpha(units("a a", "a a")) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None


def test_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


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
