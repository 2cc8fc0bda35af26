"""The order of training rows: every row once, similar lengths together, the same for the same seed and epoch."""

from hypothesis import given
from hypothesis import strategies as st

from align.train.order import DistributedBatchSampler, LengthGrouped, length_grouped_order

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=150)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_row_comes_exactly_once(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    assert sorted(length_grouped_order(lengths, batch, seed, epoch)) == list(range(len(lengths)))


def test_it_is_the_same_again_and_differs_by_seed_and_epoch() -> None:
    lengths = [n % 17 for n in range(100)]
    orders = [length_grouped_order(lengths, 8, *key) for key in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_a_known_order() -> None:
    """Resuming a run after an upgrade must not meet another order."""
    assert length_grouped_order([5, 1, 4, 2, 3, 9, 7], 2, seed=0, epoch=0) == [3, 6, 4, 2, 1, 5, 0]


def test_batches_are_much_tighter_than_chance() -> None:
    lengths = [1 + (n * 7919) % 100 for n in range(640)]
    order = length_grouped_order(lengths, 16, seed=0, epoch=0)
    batches = [[lengths[row] for row in order[i : i + 16]] for i in range(0, 640, 16)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches) / sum(lengths)
    assert padding < 0.15  # about 0.9 in random order
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)


def test_the_incomplete_batch_is_last_and_of_all_lengths() -> None:
    lengths = list(range(1, 103))
    tails = {tuple(length_grouped_order(lengths, 10, seed, 0)[-2:]) for seed in range(20)}
    assert len(tails) > 10


def test_the_sampler_follows_the_epoch_it_is_told() -> None:
    sampler = LengthGrouped([3, 1, 2, 5, 4, 6], 2, seed=7)
    first = list(sampler)
    sampler.set_epoch(1)
    assert len(sampler) == 6
    assert first == length_grouped_order([3, 1, 2, 5, 4, 6], 2, 7, 0)
    assert list(sampler) == length_grouped_order([3, 1, 2, 5, 4, 6], 2, 7, 1)


@given(rows=st.integers(1, 60), per_process=st.integers(1, 8), processes=st.integers(1, 5), micro=st.integers(1, 8))
def test_processes_share_the_steps_of_one(rows: int, per_process: int, processes: int, micro: int) -> None:
    """Together they see each step's rows once, in as many micro-batches each, and padding rows in the last step alone."""
    batch, lengths = per_process * processes, [n % 7 for n in range(rows)]
    whole = list(LengthGrouped(lengths, batch, 5))
    steps = [whole[start : start + batch] for start in range(0, rows, batch)]
    shares = [
        DistributedBatchSampler(
            LengthGrouped(lengths, batch, 5), batch=batch, micro=micro, rank=r, processes=processes, padding=rows
        )
        for r in range(processes)
    ]
    dealt = [list(share) for share in shares]
    assert [len(share) for share in shares] == [len(micros) for micros in dealt] == [len(dealt[0])] * processes
    assert [[len(part) for part in micros] for micros in dealt] == [[len(part) for part in dealt[0]]] * processes
    seen = [[row for part in micros for row in part] for micros in dealt]
    start = 0
    for step in steps:
        mine = -(-len(step) // processes)
        found = [row for rows_of_one in seen for row in rows_of_one[start : start + mine]]
        assert sorted(row for row in found if row < rows) == sorted(step)
        assert found.count(rows) == mine * processes - len(step) < processes
        start += mine
    assert start == len(seen[0])


def test_shares_follow_the_epoch() -> None:
    share = DistributedBatchSampler(LengthGrouped(range(40), 4, 5), batch=4, micro=2, rank=1, processes=2, padding=40)
    first = list(share)
    share.set_epoch(1)
    assert list(share) != first
    share.set_epoch(0)
    assert list(share) == first
