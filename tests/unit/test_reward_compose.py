"""Several scorers as one."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from align.errors import ConfigError
from align.types import Message
from reward.compose import weighted

ASKED: list[Message] = [{"role": "user", "content": "Hi"}]


CLOSED: list[list[float | None]] = []


@dataclass(frozen=True)
class Fixed:
    scores: list[float | None]

    id: str = "fixed"

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return self.scores[: len(answers)]

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        return ["no score" if score is None else score for score in self.score(prompts, answers)]

    def close(self) -> None:
        CLOSED.append(self.scores)


def test_the_sum_is_weighted_and_an_unscored_part_makes_no_score() -> None:
    scorer = weighted([(Fixed([1.0, 2.0, None]), 1.0), (Fixed([10.0, None, 3.0]), -0.5)])
    assert scorer.score([ASKED] * 3, ["a", "b", "c"]) == [-4.0, None, None]
    assert scorer.score([], []) == []


def test_a_part_of_weight_zero_is_asked_all_the_same() -> None:
    assert weighted([(Fixed([1.0]), 2.0), (Fixed([None]), 0.0)]).score([ASKED], ["a"]) == [None]


def test_reasons_ids_and_the_end_are_those_of_the_parts() -> None:
    scorer = weighted([(Fixed([1.0, None]), 2.0), (Fixed([3.0, 4.0]), 1.0)])
    assert scorer.explain([ASKED] * 2, ["a", "b"]) == [5.0, "no score"]
    assert scorer.id != weighted([(Fixed([1.0, None]), 2.0), (Fixed([3.0, 4.0]), 1.5)]).id
    CLOSED.clear()
    scorer.close()
    assert CLOSED == [[1.0, None], [3.0, 4.0]]


def test_nothing_to_score_with_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to score with"):
        weighted([])
