"""Several scorers as one."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from align.errors import ConfigError
from align.types import Message
from reward.compose import weighted

ASKED: list[Message] = [{"role": "user", "content": "Hi"}]


@dataclass(frozen=True)
class Fixed:
    scores: list[float | None]

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        return self.scores[: len(answers)]


def test_the_sum_is_weighted_and_an_unscored_part_makes_no_score() -> None:
    scorer = weighted([(Fixed([1.0, 2.0, None]), 1.0), (Fixed([10.0, None, 3.0]), -0.5)])
    assert scorer.score([ASKED] * 3, ["a", "b", "c"]) == [-4.0, None, None]
    assert scorer.score([], []) == []


def test_a_part_of_weight_zero_is_asked_all_the_same() -> None:
    assert weighted([(Fixed([1.0]), 2.0), (Fixed([None]), 0.0)]).score([ASKED], ["a"]) == [None]


def test_nothing_to_score_with_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nothing to score with"):
        weighted([])
