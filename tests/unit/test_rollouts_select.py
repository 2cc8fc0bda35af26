"""The best of n, and statistical rejection sampling."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.section import Answers, load_section
from align.errors import ConfigError, DataError
from align.types import Candidate
from rollouts.select import best_of_n, rejection_sample


def candidates(*prompts: str) -> list[Candidate]:
    return [Candidate(f"c{n}", prompt, f"text {n}", "model", n, 3, "stop") for n, prompt in enumerate(prompts)]


def test_the_best_answer_to_each_prompt():
    rows = candidates("p", "p", "p", "q", "q", "r")
    chosen, dropped = best_of_n(rows, [1.0, 3.0, 3.0, None, -2.0, None])
    assert chosen == [1, 4]
    assert [(d.what, d.where, d.reason) for d in dropped] == [
        ("answer", "prompt p, sample 0", "sample 1 has a higher score, or came first"),
        ("answer", "prompt p, sample 2", "sample 1 has a higher score, or came first"),
        ("answer", "prompt q, sample 3", "it cannot be scored"),
        ("answer", "prompt r, sample 5", "it cannot be scored"),
    ]
    with pytest.raises(DataError, match="there are 1 scores for 6 answers"):
        best_of_n(rows, [1.0])


def test_answers_are_accepted_by_their_distance_to_the_best():
    rows = candidates(*["p"] * 8000)
    scores = [0.0] + [-1.0] * 4000 + [-2.0] * 3999
    chosen, dropped = rejection_sample(rows, scores, beta=2.0, seed=3)
    assert chosen[0] == 0, "the best one is always accepted"
    ones, twos = sum(scores[i] == -1 for i in chosen), sum(scores[i] == -2 for i in chosen)
    assert abs(ones / 4000 - math.exp(-0.5)) < 0.03  # four standard deviations
    assert abs(twos / 3999 - math.exp(-1)) < 0.03
    assert len(chosen) + len(dropped) == len(rows)
    assert {d.reason for d in dropped} == {"rejected at beta 2"}
    assert rejection_sample(rows, scores, beta=2.0, seed=3)[0] == chosen
    assert rejection_sample(rows, scores, beta=2.0, seed=4)[0] != chosen


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(0, 5))
def test_a_small_beta_is_the_best_of_n(scores: list[float], seed: int):
    rows = candidates(*["p"] * len(scores))
    chosen, _ = rejection_sample(rows, scores, beta=1e-9, seed=seed)
    assert best_of_n(rows, scores)[0][0] in chosen
    assert all(max(scores) - scores[i] < 1e-6 for i in chosen)


def test_beta_goes_with_rejection_sampling():
    assert load_section(Answers, ["keep=rejection", "beta=0.5"]).beta == 0.5
    for settings in (["keep=rejection"], ["beta=0.5"], ["keep=best", "beta=0.5"]):
        with pytest.raises(ConfigError, match="`beta` goes with `keep: rejection` and is needed there"):
            load_section(Answers, settings)
