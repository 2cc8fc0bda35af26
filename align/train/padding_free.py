"""Forward passes over answers of different lengths, in chunks of similar length with next to no padding. Imports torch.

A batch is as TRL's online trainers make it: prompts padded on the left, answers on the right, one beside the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from align.train.lanes import deal, side_by_side

CHUNK_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of the chunks that are computed at a time, padding included: small enough to sort lengths apart and to stay
in a core's cache, large enough to keep the device busy. Lanes share them."""


class Chunk(NamedTuple):
    """Some rows of a batch, and the columns that any of them needs; the last `answer` of these are answers' tokens."""

    rows: Tensor
    columns: slice
    answer: int


def chunks(attention_mask_BT: Tensor, answer: int, *, tokens: int, most_rows: int | None = None) -> Iterator[Chunk]:
    """Cut a batch, whose last `answer` columns are answers, into chunks of at most `tokens` tokens, the shortest first.

    A row that is longer than `tokens` is a chunk of its own. Every row is in one chunk.
    """
    prompt = attention_mask_BT.size(1) - answer
    before = attention_mask_BT[:, :prompt].sum(1).tolist()
    after = attention_mask_BT[:, prompt:].sum(1).clamp(min=1).tolist()
    order = sorted(range(len(before)), key=lambda row: (before[row] + after[row], row))
    for rows, width, behind in _groups(order, before, after, tokens, most_rows or len(order)):
        here = torch.tensor(rows, device=attention_mask_BT.device)
        yield Chunk(here, slice(prompt - width, prompt + behind), behind)


def _groups(
    order: Sequence[int], before: Sequence[int], after: Sequence[int], tokens: int, most_rows: int
) -> Iterator[tuple[list[int], int, int]]:
    """(rows, widest prompt, longest answer)."""
    rows: list[int] = []
    width = behind = 0
    for row in order:
        wider, longer = max(width, before[row]), max(behind, after[row])
        if rows and ((len(rows) + 1) * (wider + longer) > tokens or len(rows) == most_rows):
            yield rows, width, behind
            rows, wider, longer = [], before[row], after[row]
        rows, width, behind = [*rows, row], wider, longer
    if rows:
        yield rows, width, behind


def by_chunks(
    compute: Callable[[Tensor, Tensor, int], Sequence[Tensor | None]],
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor,
    answer: int,
    *,
    tokens: int | None = None,
    most_rows: int | None = None,
    lanes: int = 1,
) -> list[Tensor | None]:
    """What `compute(input_ids, attention_mask, answer)` gives for each chunk, put together; 0 where nothing was
    computed.

    `compute` gives tensors [rows, answer], or None in place of one. Gradients flow. With several `lanes`
    (`align.train.lanes`) chunks are computed side by side, each of its share of `tokens` (`CHUNK_TOKENS`).
    """
    tokens = tokens or CHUNK_TOKENS[attention_mask_BT.device.type]
    cut = list(chunks(attention_mask_BT, answer, tokens=tokens // lanes, most_rows=most_rows))
    learning = torch.is_grad_enabled()  # a thread has its own opinion

    def lane(mine: Sequence[int]) -> list[tuple[Chunk, Sequence[Tensor | None]]]:
        found = []
        with torch.set_grad_enabled(learning):
            for number in mine:
                chunk = cut[number]
                ids, mask = (x[chunk.rows][:, chunk.columns] for x in (input_ids_BT, attention_mask_BT))
                found.append((chunk, compute(ids, mask, chunk.answer)))
        return found

    sizes = [len(chunk.rows) * (chunk.columns.stop - chunk.columns.start) for chunk in cut]
    parts = [part for found in side_by_side([partial(lane, mine) for mine in deal(sizes, lanes)]) for part in found]
    kinds = range(len(parts[0][1]))
    return [_together([(chunk, found[kind]) for chunk, found in parts], answer) for kind in kinds]


def _together(parts: Sequence[tuple[Chunk, Tensor | None]], answer: int) -> Tensor | None:
    padded = [torch.nn.functional.pad(found, (0, answer - chunk.answer)) for chunk, found in parts if found is not None]
    if not padded:
        return None
    back = torch.cat([chunk.rows for chunk, _ in parts]).argsort()
    return torch.cat(padded)[back]
