"""Several short rows in one sequence, each blind to the others: less padding, the same loss.

Rows are packed by best-fit decreasing (Ding et al. 2024, arXiv 2404.10830) and never cut. Positions start again with
each row; from that transformers makes the attention mask that keeps rows apart (`require_apart` checks that it does).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from align.errors import ConfigError

NOT_LEARNED = -100
ROWS_CHECKED = 8
APART_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-1}
"""Largest difference of a token's log-probability, in nats, between a row in its pack and the row alone."""


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows in packs of at most `size` tokens: the longest first, each into the fullest pack that has room for it.

    A row that is longer than `size` has a pack of its own.
    """
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, pack), sorted
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        place = bisect.bisect_left(room, (lengths[row], -1))
        left, pack = room.pop(place) if place < len(room) else (max(size, lengths[row]), len(packs))
        if pack == len(packs):
            packs.append([])
        packs[pack].append(row)
        bisect.insort(room, (left - lengths[row], pack))
    return packs


class PackCollator:
    """Packs as tensors of the longest one's length. A pack is the rows' `input_ids` and `labels` one after another
    and their `lengths`.

    The result has no attention mask: `position_ids` say where a row begins, and what pads a pack is a row of its own.
    The first token of a row is never predicted, as it is not where the row stands alone.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad = pad_token_id

    def __call__(self, packs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        longest = max(len(pack["input_ids"]) for pack in packs)
        ids, labels, positions = [], [], []
        for pack in packs:
            padding = longest - len(pack["input_ids"])
            lengths = [*pack["lengths"], *([padding] if padding else [])]
            places = [place for length in lengths for place in range(length)]
            said = [*pack["labels"], *[NOT_LEARNED] * padding]
            ids.append([*pack["input_ids"], *[self.pad] * padding])
            labels.append([NOT_LEARNED if place == 0 else label for place, label in zip(places, said, strict=True)])
            positions.append(places)
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            "position_ids": torch.tensor(positions),
        }


def require_apart(model: Any, packs: Sequence[dict[str, Any]], collator: PackCollator, dtype: str) -> float:
    """The largest difference of a token's log-probability between a row in its pack and the row alone.

    Looks at the first packs of two rows and more. Raises ConfigError where the model lets packed rows see each other.
    """
    import torch

    worst, training = 0.0, model.training
    model.eval()
    with torch.no_grad():
        for pack in [pack for pack in packs if len(pack["lengths"]) > 1][:ROWS_CHECKED]:
            together, start = _logps(model, collator([pack])), 0
            for length in pack["lengths"]:
                alone = {name: pack[name][start : start + length] for name in ("input_ids", "labels")}
                alone_T = _logps(model, collator([{**alone, "lengths": [length]}]))
                difference = float((together[start : start + length - 1] - alone_T).abs().max()) if length > 1 else 0.0
                worst = difference if not difference <= worst else worst  # keeps a NaN
                start += length
    model.train(training)
    if not worst <= APART_TOLERANCE[dtype]:
        raise ConfigError(
            f"packed rows of this model see each other: log-probabilities differ by {worst:.3g}",
            where="sft.packing",
            hint="leave packing out",
        )
    return worst


def _logps(model: Any, batch: dict[str, Any]) -> Any:
    """[T − 1] log-probability of each token after the first."""
    batch = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
    logits_TV = model(**batch, use_cache=False).logits[0].float()
    return logits_TV[:-1].log_softmax(-1).gather(-1, batch["input_ids"][0, 1:, None])[:, 0]
