"""The reference's log-probabilities: computed once, found again, the same bits after a kill, never another model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from align.errors import StageError
from align.train import reference
from align.train.examples import Pair

PAIRS = [Pair([1] * (1 + n % 3), [n, 2], [n + 1, n, 2], 1.0, 1.0) for n in range(10)]


class Model:
    """Counts what is asked. A row's number depends on which rows are computed together, as a real model's last bits do."""

    def __init__(self, stop_after: int = 99) -> None:
        self.asked: list[list[int]] = []
        self.stop_after = stop_after

    def __call__(self, rows: Sequence[int]) -> list[reference.Logps]:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(list(rows))
        return [(-float(row) - len(rows) * 1e-6, -2.0 * row) for row in rows]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SHARD", 4)


def test_every_row_is_computed_once_and_by_length(tmp_path: Path) -> None:
    model = Model()
    found = reference.reference_logps(tmp_path / "cache", PAIRS, range(10), model)
    assert sorted(row for rows in model.asked for row in rows) == list(range(10))
    assert [len(rows) for rows in model.asked] == [4, 4, 2]
    lengths = [PAIRS[row].tokens for rows in model.asked for row in rows]
    assert lengths == sorted(lengths)
    assert all(found[row][1] == -2 * row for row in range(10))


def test_a_second_call_computes_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first = reference.reference_logps(tmp_path, PAIRS, range(10), Model())
    again = Model()
    assert reference.reference_logps(tmp_path, PAIRS, range(10), again) == first
    assert again.asked == []


def test_a_later_call_computes_only_what_is_new_whatever_the_weights_are(tmp_path: Path) -> None:
    reference.reference_logps(tmp_path, PAIRS[:6], range(6), Model())
    later = [Pair(p.prompt_ids, p.chosen_ids, p.rejected_ids, 0.7, 3.0) for p in PAIRS]
    model = Model()
    found = reference.reference_logps(tmp_path, later, range(10), model)
    assert sorted(row for rows in model.asked for row in rows) == [6, 7, 8, 9]
    assert [found[row][1] for row in range(10)] == [-2.0 * row for row in range(10)]


def test_a_killed_call_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    for folder in ("whole", "cut"):
        reference.reference_logps(tmp_path / folder, PAIRS[:3], range(3), Model())
    whole = reference.reference_logps(tmp_path / "whole", PAIRS, range(10), Model())
    with pytest.raises(KeyboardInterrupt):
        reference.reference_logps(tmp_path / "cut", PAIRS, range(10), Model(stop_after=2))
    rest = Model()
    assert reference.reference_logps(tmp_path / "cut", PAIRS, range(10), rest) == whole
    assert len(rest.asked) == 1


def test_only_the_rows_that_are_asked_for(tmp_path: Path) -> None:
    model = Model()
    assert set(reference.reference_logps(tmp_path, PAIRS, [7, 2, 2], model)) == {2, 7}
    assert sorted(row for rows in model.asked for row in rows) == [2, 7]


def test_a_pair_that_comes_twice_is_computed_once(tmp_path: Path) -> None:
    model = Model()
    found = reference.reference_logps(tmp_path, [PAIRS[0], PAIRS[1], PAIRS[0]], range(3), model)
    assert model.asked == [[0, 1]]
    assert found[0] == found[2] != found[1]


def test_another_models_numbers_are_noticed(tmp_path: Path) -> None:
    pair = Pair([1], [5, 2], [6, 7, 2], 1.0, 1.0)
    reference.check_cached([pair], [(-4.0, -6.0)], [(-4.001, -6.002)], "float32", tmp_path)
    with pytest.raises(StageError, match=r"differ from the model's by 0\.1 a token") as raised:
        reference.check_cached([pair], [(-4.0, -6.0)], [(-4.0, -6.3)], "float32", tmp_path)
    assert "remove that folder" in str(raised.value)
    with pytest.raises(StageError, match="nan a token"):
        reference.check_cached([pair], [(-4.0, -6.0)], [(-4.0, float("nan"))], "bfloat16", tmp_path)


def test_a_shard_that_is_not_whole_is_computed_again(tmp_path: Path) -> None:
    model = Model()
    found = reference.reference_logps(tmp_path, PAIRS, range(10), model)
    torn = sorted(tmp_path.glob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:-30])
    assert reference.reference_logps(tmp_path, PAIRS, range(10), model) == found
    assert len(model.asked) == 4 and model.asked[3] in model.asked[:3]
