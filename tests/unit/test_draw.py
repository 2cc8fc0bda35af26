"""Which prompts a round asks and an evaluation uses; and who hears what while people label."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.recipe import Annotate
from align.data.prompts import held_out_prompts, prompts_of_round
from align.rounds import labelling
from align.rounds.labelling import Waiting, desk_of_tasks, follow
from tests.labelling import make_prompt, make_task

TRAIN = [make_prompt(f"train {n}") for n in range(7)]
TEST = [make_prompt(f"test {n}", split="test") for n in range(5)]


@given(count=st.integers(1, 9), seed=st.integers(0, 3))
def test_no_prompt_comes_twice_before_all_came_once(count: int, seed: int) -> None:
    rounds = [prompts_of_round([*TRAIN, *TEST], round=n, count=count, seed=seed) for n in range(1, 8)]
    assert {len(drawn) for drawn in rounds} == {min(count, len(TRAIN))}
    if count <= len(TRAIN):
        line = [p.id for drawn in rounds for p in drawn]
        whole = [line[i : i + len(TRAIN)] for i in range(0, len(line) - len(TRAIN) + 1, len(TRAIN))]
        assert all(set(turn) == {p.id for p in TRAIN} for turn in whole)


def test_the_order_depends_on_the_seed_and_not_on_the_file() -> None:
    first = prompts_of_round(TRAIN, round=1, count=7, seed=0)
    assert prompts_of_round(TRAIN[::-1], round=1, count=7, seed=0) == first
    assert prompts_of_round(TRAIN, round=1, count=7, seed=1) != first


@given(order=st.permutations([*TRAIN, *TEST]))
def test_the_same_prompts_are_held_out_in_any_order(order: list) -> None:  # type: ignore[type-arg]
    assert held_out_prompts(order, 3) == held_out_prompts(TEST, 9)[:3]
    assert sorted(p.id for p in held_out_prompts(order, 9)) == sorted(p.id for p in TEST)


def test_who_follows_hears_each_change_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [Waiting(n, 2, "http://127.0.0.1:1/dataset/x") for n in (0, 0, 1, 1)]
    coming = iter([*states, None])
    monkeypatch.setattr(labelling, "advance", lambda desk, progress: next(coming))
    monkeypatch.setattr(labelling, "POLL_SECONDS", 0.0)
    heard: list[str] = []
    desk = desk_of_tasks([make_task("t")], tmp_path / "mine", Annotate(), round=2, seed=0)
    assert follow(desk, lambda waiting: heard.append(str(waiting))) == []
    assert heard == [f"{n} of 2 answers are in; label at http://127.0.0.1:1/dataset/x" for n in (0, 1)]
    assert (desk.workspace, desk.journal, desk.round) == ("mine", tmp_path / "mine" / "journal.jsonl", 2)
