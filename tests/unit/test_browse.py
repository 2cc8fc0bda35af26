"""What people said, in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from align.provenance.browse import _names, browse, choice_text
from align.store import read_table
from align.types import Judgement, Task
from tests.fake_run import make_run
from tests.labelling import judge, make_task

FOUR = ("aaaaaaaa1", "bbbbbbbb2", "cccccccc3", "dddddddd4")


def task(answers: int) -> Task:
    return replace(make_task("t"), candidates=list(FOUR[:answers]))


@pytest.mark.parametrize(
    ("answers", "said", "words"),
    [
        (2, judge("t", "ann", "b"), "[bbbbbbbb] is better than [aaaaaaaa]"),
        (2, replace(judge("t", "ann", "a"), strength=3), "[aaaaaaaa] is far better than [bbbbbbbb]"),
        (2, judge("t", "ann", "tie"), "[aaaaaaaa] and [bbbbbbbb] are equally good"),
        (2, judge("t", "ann", "both_bad"), "[aaaaaaaa] and [bbbbbbbb] are both bad"),
        (1, judge("t", "ann", "good"), "[aaaaaaaa] is good"),
        (
            4,
            replace(judge("t", "ann", "ranked"), ranking=[3, 1, 1, 4]),
            "best first: [bbbbbbbb] = [cccccccc], [aaaaaaaa], [dddddddd]",
        ),
        (
            1,
            replace(judge("t", "ann", "rated"), ratings=[{"criterion": "helpful", "score": 4}]),
            "[aaaaaaaa]: helpful 4 of 5",
        ),
        (2, judge("t", "ann", "skipped"), "skipped"),
    ],
)
def test_every_outcome_has_its_words(answers: int, said: Judgement, words: str) -> None:
    assert choice_text(said, _names(task(answers))) == words


def test_a_run_that_asks_nobody_shows_its_answers_to_held_out_prompts(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1, method="ppo", labels=False)
    found = browse(run, None, None)
    held_out = read_table(next(run.glob("round_001/evaluation/*/samples.parquet"))).to_pylist()
    assert {a["id"] for entry in found for a in entry["answers"]} == {row["id"] for row in held_out}
    assert all(entry["round"] == 1 and entry["messages"] and entry["labels"] == [] for entry in found)


def test_answers_that_people_are_asked_about_come_before_those_of_the_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path, rounds=1)
    asked = read_table(next(run.glob("round_001/rollouts/*/candidates.parquet"))).to_pylist()
    assert {a["id"] for entry in browse(run, None, None) for a in entry["answers"]} == {row["id"] for row in asked}
