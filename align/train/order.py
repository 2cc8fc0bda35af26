"""In which order rows are trained on: a pure function of lengths, seed and epoch, so a resumed run sees the same."""

import random
from collections.abc import Iterator, Sequence

from align.ids import seed_for

BATCHES_SORTED_TOGETHER = 32


def length_grouped_order(lengths: Sequence[int], batch: int, seed: int, epoch: int) -> list[int]:
    """A permutation of the rows in which each stretch of `batch` rows has similar lengths, so little is padding.

    Rows are shuffled, sorted by length within stretches of a few batches, and the batches are shuffled again.
    An incomplete batch is drawn from all lengths and comes last.
    """
    rng = random.Random(seed_for("order", seed, epoch))
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    whole = len(rows) - len(rows) % batch
    stretch = batch * max(1, min(BATCHES_SORTED_TOGETHER, whole // (4 * batch)))
    batches: list[list[int]] = []
    for start in range(0, whole, stretch):
        together = sorted(rows[start : min(start + stretch, whole)], key=lambda row: (lengths[row], row))
        batches += [together[i : i + batch] for i in range(0, len(together), batch)]
    rng.shuffle(batches)
    return [row for rows_of_batch in batches for row in rows_of_batch] + rows[whole:]


class LengthGrouped:
    """A sampler for torch's DataLoader over `length_grouped_order`; the trainer tells it the epoch."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(length_grouped_order(self.lengths, self.batch, self.seed, self.epoch))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def passes(sizes: Sequence[int], tokens: int | None, rows: int | None, *, padded: bool) -> list[list[int]]:
    """Consecutive rows in forward passes of at most `rows` rows and `tokens` tokens; None is no limit.

    `sizes` are the rows' tokens. Where a pass is `padded` all its rows count as long as its longest. A row that is
    longer than `tokens` goes alone.
    """
    found: list[list[int]] = []
    for row in range(len(sizes)):
        together = [*found[-1], row] if found else [row]
        longest = max(sizes[n] for n in together)
        cost = longest * len(together) if padded else sum(sizes[n] for n in together)
        if found and (tokens is None or cost <= tokens) and (rows is None or len(together) <= rows):
            found[-1] = together
        else:
            found.append([row])
    return found
