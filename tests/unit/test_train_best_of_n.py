"""Best of n: the highest score of each prompt, never an answer without one, never one that the limit cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import DataError
from align.train.best_of_n import CUT, NONE_LEFT, UNSCORED, best_of
from align.types import Candidate, Dropped, FinishReason, Prompt


def prompt(name: str) -> Prompt:
    return Prompt(name, [{"role": "user", "content": f"{name}?"}], "train", f"prompts.jsonl:{name}")


def answer(name: str, sample: int, text: str, finish: FinishReason = "stop") -> Candidate:
    return Candidate(f"{name}-{sample}", name, text, "c", sample, 3, finish)


def test_the_highest_score_of_each_prompt_in_the_prompts_order() -> None:
    candidates = [answer("a", 0, "low"), answer("b", 0, "only"), answer("a", 1, "high"), answer("a", 2, "middle")]
    rows, dropped = best_of(candidates, [0.1, -5.0, 0.9, 0.5], [prompt("b"), prompt("a")])
    assert rows == [
        ([{"role": "user", "content": "b?"}], candidates[1]),
        ([{"role": "user", "content": "a?"}], candidates[2]),
    ]
    assert dropped == []


def test_of_equal_scores_the_earliest_sample_wins_wherever_it_stands() -> None:
    rows, _ = best_of([answer("a", 3, "later"), answer("a", 1, "earlier")], [2.0, 2.0], [prompt("a")])
    assert [answer.text for _, answer in rows] == ["earlier"]


def test_what_is_left_out_has_a_reason() -> None:
    candidates = [answer("a", 0, "unscored"), answer("a", 1, "cut", "length"), answer("b", 0, "fine")]
    rows, dropped = best_of(candidates, [None, 99.0, 0.0], [prompt("a"), prompt("b"), prompt("c")])
    assert [answer.text for _, answer in rows] == ["fine"]
    assert dropped == [
        Dropped("answer", "prompt a, sample 0", UNSCORED),
        Dropped("answer", "prompt a, sample 1", CUT),
        Dropped("prompt", "prompts.jsonl:a", NONE_LEFT),
        Dropped("prompt", "prompts.jsonl:c", NONE_LEFT),
    ]


def test_scores_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(DataError, match="1 scores for 2 answers"):
        best_of([answer("a", 0, "x"), answer("a", 1, "y")], [1.0], [prompt("a")])
    with pytest.raises(DataError, match="prompt z: the prompt of answer z-0 is not there"):
        best_of([answer("z", 0, "x")], [1.0], [prompt("a")])


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.floats(-9, 9), st.booleans()), max_size=30))
def test_no_answer_that_could_be_chosen_is_better(given_rows: list[tuple[int, float | None, bool]]) -> None:
    candidates = [
        answer(str(name), sample, f"{sample}", "stop" if whole else "length")
        for sample, (name, _, whole) in enumerate(given_rows)
    ]
    scores = [score for _, score, _ in given_rows]
    prompts = [prompt(str(name)) for name in range(4)]
    rows, dropped = best_of(candidates, scores, prompts)
    chosen = {messages[0]["content"][:-1]: int(answer.text) for messages, answer in rows}
    for name in "0123":
        usable = [(s, -i) for i, (n, s, whole) in enumerate(given_rows) if str(n) == name and s is not None and whole]
        assert chosen.get(name) == (-max(usable)[1] if usable else None)
    assert len(rows) + sum(d.what == "prompt" for d in dropped) == 4
