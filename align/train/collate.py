"""Pairs as tensors: an optimiser step's pairs in forward passes of bounded size, prompts shared where the model can.

Imports torch and TRL: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from trl.trainer.dpo_trainer import DataCollatorForPreference

from align.train.lanes import deal
from align.train.last_layer import read_at
from align.train.order import passes
from align.train.prefix import row_inputs

PAIR_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
SOFT_COLUMNS = ("target", "weight")
REFERENCE_COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")
HIDDEN_COLUMNS = ("chosen_hidden", "rejected_hidden")
"""How many of each answer's first tokens the loss does not see; there only where some are hidden."""
COUNT_COLUMNS = ("chosen_tokens", "rejected_tokens")
"""Tokens of each answer that the loss sees, stop token included."""
PASSES = "passes"
LANES = "lanes"
PADDING_ROW = "padding"
"""Marks a row that counts nothing, and a pass of such rows alone (`align.train.order.DistributedBatchSampler`)."""

Row = Mapping[str, Any]
Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PairCollator:
    """The rows of an optimiser step → `{"passes": [batch, …], "lanes": [[0, …], …]}`, in the rows' order.

    A pass has at most `pairs` pairs and `tokens` tokens (None: no limit), padding included; a longer pair goes alone.
    With several `lanes` rows are dealt out first, so that as many tokens come to each, and `lanes` in the result are
    the numbers of each one's passes (`align.train.lanes`). With `shared` it is a row of pairs as `align.train.prefix`
    describes it; otherwise it is TRL's padded batch, all chosen before all rejected. Either carries the rows' numbers
    and `COUNT_COLUMNS`, one for each pair.
    """

    pad_token_id: int
    shared: bool
    tokens: int | None = None
    pairs: int | None = None
    lanes: int = 1

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        sizes = [_tokens(row, self.shared) for row in rows]
        found: list[Batch] = []
        lanes: list[list[int]] = []
        for mine in deal(sizes, self.lanes) if self.lanes > 1 else [range(len(rows))]:
            parts = passes([sizes[n] for n in mine], self.tokens, self.pairs, padded=not self.shared)
            lanes.append([len(found) + n for n in range(len(parts))])
            found += [self._counted([rows[mine[n]] for n in part]) for part in parts]
        return {PASSES: found, LANES: lanes}

    def _counted(self, rows: Sequence[Row]) -> Batch:
        """A pass without its padding rows; where there are no others, one of them makes a pass that is marked so."""
        real = [row for row in rows if PADDING_ROW not in row]
        return self.batch(real) if real else {**self.batch(rows[:1]), PADDING_ROW: True}

    def batch(self, rows: Sequence[Row]) -> Batch:
        """One forward pass over all `rows`."""
        batch = _shared(rows) if self.shared else _padded(rows, self.pad_token_id)
        for name in (*SOFT_COLUMNS, *REFERENCE_COLUMNS):
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        for name, ids, hidden in zip(COUNT_COLUMNS, PAIR_COLUMNS[1:], HIDDEN_COLUMNS, strict=True):
            batch[name] = torch.tensor([len(row[ids]) - row.get(hidden, 0) for row in rows])
        return batch


def _tokens(row: Row, shared: bool) -> int:
    """Places that a pair takes in a pass, before padding to the longest pair of it."""
    prompt, chosen, rejected = (len(row[name]) for name in PAIR_COLUMNS)
    return prompt - 1 + chosen + rejected if shared else 2 * (prompt + max(chosen, rejected))


def _shared(rows: Sequence[Row]) -> Batch:
    ids: list[int] = []
    positions: list[int] = []
    answers: list[int] = []
    targets: list[int] = []
    lengths = []
    for row in rows:
        prompt, chosen, rejected = (list(row[name]) for name in PAIR_COLUMNS)
        before = len(prompt) - 1
        answers += range(len(ids) + before, len(ids) + before + len(chosen) + len(rejected))
        ids += prompt + chosen[:-1] + prompt[-1:] + rejected[:-1]
        positions += [*range(before + len(chosen)), *range(before, before + len(rejected))]
        targets += chosen + rejected
        lengths.append((before, len(chosen), len(rejected)))
    hidden = [tuple(row.get(name, 0) for name in HIDDEN_COLUMNS) for row in rows]
    return {
        **({"pair_hidden": hidden} if any(map(any, hidden)) else {}),
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "answer_places": torch.tensor(answers),
        "answer_ids": torch.tensor(targets),
        "pair_lengths": lengths,
    }


def _padded(rows: Sequence[Row], pad: int) -> Batch:
    bare = [{name: list(row[name]) for name in PAIR_COLUMNS} for row in rows]
    batch: Batch = DataCollatorForPreference(pad_token_id=pad)(bare)
    for half, hidden in enumerate(HIDDEN_COLUMNS):
        for place, row in enumerate(rows):
            start = len(row[PAIR_COLUMNS[0]])
            batch["completion_mask"][half * len(rows) + place, start : start + row.get(hidden, 0)] = 0
    return batch


def tokens_of(batch: Batch) -> int:
    """Tokens of a pass's sequences, padding left out, a shared prompt counted for either answer, as TRL counts."""
    if "pair_lengths" in batch:
        return sum(2 * (prompt + 1) + chosen + rejected for prompt, chosen, rejected in batch["pair_lengths"])
    return int(batch["attention_mask"].sum())


def answer_logps(model: Any, batch: Batch, *, tail: float | None = None) -> tuple[Tensor, Tensor]:
    """Log-probabilities of chosen and of rejected under `model`: one sum over tokens for each pair, two of shape (B,).

    With `tail` (α of length-desensitised DPO, Liu et al. 2024, equation 10) an answer's tokens beyond the length of
    the shorter answer count α times. Logits are computed at the places that predict an answer's token only; where
    prompts are not shared TRL's fused head does what it can. `model` is called as it is, so wrappers act.
    """
    per_token = _shared_logps(model, batch) if "pair_lengths" in batch else _padded_logps(model, batch)
    chosen_B, rejected_B = (_sums(tokens, tail, batch) for tokens in per_token)
    return chosen_B, rejected_B


def _sums(per_token: Sequence[Tensor], tail: float | None, batch: Batch) -> Tensor:
    if tail is None:
        return torch.stack([tokens.sum() for tokens in per_token])
    both = torch.minimum(*(batch[name] for name in COUNT_COLUMNS)).tolist()
    return torch.stack([t[:n].sum() + tail * t[n:].sum() for t, n in zip(per_token, both, strict=True)])


def _shared_logps(model: Any, batch: Batch) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    ids, places, targets = batch["input_ids"], batch["answer_places"], batch["answer_ids"]
    inputs = {"input_ids": ids, "position_ids": batch["position_ids"], "use_cache": False}
    inputs |= row_inputs(batch["pair_lengths"], ids.device)
    with read_at(places, ids.shape[1]):
        if ids.device.type == "cuda":  # the fused head scores answers alone there, and never holds their logits
            labels = torch.full_like(ids, -100)
            labels[0, places] = targets
            logps = model(**inputs, shift_labels=labels, fused_lm_head=True).log_probs[0, places]
        else:
            logits = model(**inputs, logits_to_keep=places).logits[0]
            logps = -cross_entropy(logits.float(), targets, reduction="none")
    parts = logps.split([size for _, chosen, rejected in batch["pair_lengths"] for size in (chosen, rejected)])
    if (hidden := batch.get("pair_hidden")) is not None:
        parts = tuple(part[first:] for part, first in zip(parts, chain.from_iterable(hidden), strict=True))
    return parts[0::2], parts[1::2]


def _padded_logps(model: Any, batch: Batch) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    mask = batch["completion_mask"][:, 1:].bool()
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    passed = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logps = model(**passed, labels=labels, use_cache=False, fused_lm_head=True).log_probs
    parts = [row[kept] for row, kept in zip(logps, mask, strict=True)]
    return parts[: len(parts) // 2], parts[len(parts) // 2 :]
