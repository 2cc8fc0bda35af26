"""What people said, in words."""

from dataclasses import replace

import pytest

from align.rounds.browse import _said
from align.types import Judgement, Task
from tests.labelling import judge, make_task

FOUR = ("aaaaaaaa1", "bbbbbbbb2", "cccccccc3", "dddddddd4")


def task(answers: int) -> Task:
    return replace(make_task("t"), candidates=list(FOUR[:answers]))


@pytest.mark.parametrize(
    ("answers", "said", "words"),
    [
        (2, judge("t", "ann", "b"), "[bbbbbbbb] is better than [aaaaaaaa]"),
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
    assert _said(said, task(answers)) == words
