"""Human judgements that others collected, where they lie beside the checkout; the counts are what stands in those files."""

import gzip
import json
from itertools import combinations
from pathlib import Path

import pytest

from align.dropped import count_reasons
from align.errors import DataError
from align.labelling.outside.load import load_judgements
from align.labelling.outside.words import Reading
from align.provenance.imported import import_files
from tests.loop import write_jsonl

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real data sets are not at {DATA}")


def test_hh_names_nobody() -> None:
    path = DATA / "hh_helpful_base_test.jsonl.gz"
    with pytest.raises(DataError, match=r"no annotator: the row does not say whose judgement it is \(--annotator NAME"):
        load_judgements(path)
    found = load_judgements(path, annotator="hh")
    reasons = count_reasons(found.dropped)
    assert sum(reasons.values()) + len(found.judgements) == 2354
    assert (len(found.judgements), reasons) == (
        2336,
        {"prompts differ": 9, "roles out of turn": 6, "no difference": 2, "empty": 1},
    )
    assert (found.report["sides_known"], found.report["outcomes"].keys()) == (0, {"a", "b"})


def test_sharegpt_preferences() -> None:
    found = load_judgements(DATA / "llamafactory_dpo_en_demo.jsonl.gz", annotator="them")
    assert (len(found.judgements), count_reasons(found.dropped)) == (295, {"duplicate": 5})


def test_four_answers_compared_in_pairs_with_ties(tmp_path: Path) -> None:
    """FineGrainedRLHF's `preference` has 0 for a tie, 1 for the first and 2 for the second of each pair of four answers."""
    with gzip.open(DATA / "qa_feedback_250.jsonl.gz", "rt", encoding="utf-8") as file:
        given = [json.loads(line) for line in file]
    rows = [
        {
            "prompt": row["question"],
            "answers": [row[f"prediction {i + 1}"], row[f"prediction {j + 1}"]],
            "winner": value,
        }
        for row in given
        for (i, j), value in zip(combinations(range(4), 2), row["preference"], strict=True)
    ]
    write_jsonl(tmp_path / "qa.jsonl", rows)
    reading = Reading(annotator="them", outcomes={"0": "tie", "1": "a", "2": "b"})
    report = import_files([tmp_path / "qa.jsonl"], tmp_path / "out", reading, "auto")
    assert report["judgements"] + sum(report["dropped"].values()) == 1500
    assert report["prompts"] <= 250 and report["ties"] > 100
    assert report["compiled"]["preferences"] > 700
    with pytest.raises(DataError, match=r"unknown outcome: 0 \(--outcome VALUE=a\|b\|tie\|both_bad\|skipped"):
        load_judgements(tmp_path / "qa.jsonl", annotator="them")
