"""In which order rows are trained on: a pure function of lengths, seed and epoch, so a resumed run sees the same."""

import math
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


class DistributedBatchSampler:
    """A batch sampler for one of several processes: its rows of each optimiser step, in micro-batches.

    `order` are the rows of a process that trains alone, `batch` of them a step. Each process takes every n-th row of a
    step, so that all have short and long ones. Where the last step's rows do not come out even, `padding` fills up: a
    row that counts nothing. So every process has as many micro-batches as the others.
    """

    batch_size = None

    def __init__(
        self, order: LengthGrouped, *, batch: int, micro: int, rank: int, processes: int, padding: int
    ) -> None:
        self.sampler, self.batch, self.micro = order, batch, micro
        self.rank, self.processes, self.padding = rank, processes, padding

    def _of_step(self, rows: int) -> int:
        """Rows of a step's `rows` that each process has."""
        return math.ceil(rows / self.processes)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.sampler), self.batch)
        steps = [self.batch] * whole + [rest] * (rest > 0)
        return sum(math.ceil(self._of_step(rows) / self.micro) for rows in steps)

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        for start in range(0, len(rows), self.batch):
            step = rows[start : start + self.batch]
            mine = step[self.rank :: self.processes]
            mine += [self.padding] * (self._of_step(len(step)) - len(mine))
            yield from (mine[i : i + self.micro] for i in range(0, len(mine), self.micro))

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)


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
