"""Packed rows: every row once, whole, and blind to the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.errors import ConfigError
from align.train.packing import PackCollator, best_fit, require_apart

PACK = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, -100, 9], "lengths": [3, 2]}


def test_the_longest_come_first_each_where_it_fits_best() -> None:
    assert best_fit([5, 3, 6, 2, 4], 8) == [[2, 3], [0, 1], [4]]
    assert best_fit([9, 1], 8) == [[0], [1]]
    assert best_fit([], 8) == []


@given(st.lists(st.integers(1, 12), max_size=60), st.integers(8, 30))
def test_each_row_is_in_one_pack_and_no_two_share_too_little_room(lengths: list[int], size: int) -> None:
    packs = best_fit(lengths, size)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(len(pack) == 1 or sum(lengths[row] for row in pack) <= size for pack in packs)
    sums = sorted(sum(lengths[row] for row in pack) for pack in packs)
    assert len(sums) < 2 or sums[0] + sums[1] > size  # else the two fullest-fit packs would be one


def test_positions_begin_again_and_no_row_predicts_the_next() -> None:
    batch = PackCollator(0)([PACK, {"input_ids": [1], "labels": [1], "lengths": [1]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [1, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9], [-100, -100, -100, -100, -100]]
    assert "attention_mask" not in batch


def test_a_model_that_lets_rows_see_each_other_is_refused() -> None:
    import torch

    class Leaky(torch.nn.Module):
        """Every token sees the sum of all before it, whatever the positions say."""

        device = "cpu"

        def forward(self, input_ids, position_ids, use_cache):  # type: ignore[no-untyped-def]
            seen_BTV = torch.nn.functional.one_hot(input_ids, 16).cumsum(1).float()
            return type("Output", (), {"logits": seen_BTV})

    with pytest.raises(ConfigError, match="packed rows of this model see each other"):
        require_apart(Leaky(), [PACK], PackCollator(0), "float32")
