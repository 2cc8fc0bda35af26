"""The reference's log-probabilities: computed once for each pair and checkpoint, and kept for whoever asks again.

A cache is a folder of tables, one for each shard of a call's pairs. Shards depend on the pairs alone, and a shard's
pairs that earlier calls have not left are computed together; so a call that is killed and repeated gives the same
bits as one that is not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import StageError
from align.ids import content_id
from align.store import disk_errors, read_table, remove_damaged, sync_folder, write_table
from align.train.world import rank, wait_for_all, world_size

if TYPE_CHECKING:
    from torch import Tensor

    from align.train.examples import Pair

SHARD = 512
"""Pairs in a table."""
CACHED_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of an answer's mean token log-probability, in nats, between the cache and the model at hand."""

Logps = tuple[float, float]
"""Log-probabilities of chosen and of rejected under the reference, in nats."""
Compute = Callable[[Sequence[int]], list[Logps]]
"""Rows of a call → their log-probabilities."""


def pair_id(pair: Pair) -> str:
    """Content id of what the reference sees of a pair."""
    hidden = [pair.hidden] if any(pair.hidden) else []
    return content_id([pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, *hidden])


def reference_logps(folder: Path, pairs: Sequence[Pair], rows: Iterable[int], compute: Compute) -> dict[int, Logps]:
    """The log-probabilities of `rows` of `pairs`: those that stand in the cache `folder`, and the rest by `compute`.

    `folder` belongs to one checkpoint, number type and definition of the sum. Of several processes each computes a
    part of the shards; they see the same folder.
    """
    ids = {row: pair_id(pairs[row]) for row in sorted(set(rows))}
    first = {key: row for row, key in reversed(ids.items())}  # a pair that comes twice is computed once
    order = sorted(first, key=lambda key: (pairs[first[key]].tokens, key))
    shards = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]
    paths = [folder / f"{content_id(shard)}.parquet" for shard in shards]
    if rank() == 0:
        remove_damaged(folder, _schema())
    wait_for_all()
    known = _read(path for path in _tables(folder) if path not in paths)
    for number, (shard, path) in enumerate(zip(shards, paths, strict=True)):
        if not path.exists() and number % world_size() == rank():
            new = [key for key in shard if key not in known]
            found = known | dict(zip(new, compute([first[key] for key in new]), strict=True)) if new else known
            _write(path, {key: found[key] for key in shard})
    wait_for_all()
    values = _read(paths)
    return {row: values[key] for row, key in ids.items()}


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([("pair", pa.string()), ("chosen", pa.float64()), ("rejected", pa.float64())])


def _tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _read(paths: Iterable[Path]) -> dict[str, Logps]:
    values: dict[str, Logps] = {}
    for path in paths:
        table = read_table(path).to_pydict()
        values |= dict(zip(table["pair"], zip(table["chosen"], table["rejected"], strict=True), strict=True))
    return values


def _write(path: Path, values: Mapping[str, Logps]) -> None:
    import pyarrow as pa

    chosen, rejected = zip(*values.values(), strict=True)
    table = pa.table({"pair": list(values), "chosen": chosen, "rejected": rejected}, schema=_schema())
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{rank()}.part")
        write_table(partial, table)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def check_cached(pairs: Sequence[Pair], cached: Sequence[Logps], fresh: Sequence[Logps], dtype: str, at: Path) -> None:
    """StageError where the cache and the model at hand do not speak of the same reference."""
    for pair, old, new in zip(pairs, cached, fresh, strict=True):
        for answer, before, now in zip((pair.chosen_ids, pair.rejected_ids), old, new, strict=True):
            difference = abs(before - now) / len(answer)
            if not difference <= CACHED_TOLERANCE[dtype] or math.isnan(now):
                raise StageError(
                    f"the kept log-probabilities of the reference differ from the model's by {difference:.3g} a token",
                    where=str(at),
                    hint="remove that folder; it is computed again",
                )


def largest_differences(logps: Iterable[Sequence[Tensor]]) -> Iterator[float]:
    """Of each two tensors of shape (B,), policy's and reference's log-probabilities of answers."""
    return (float((policy_B - reference_B).abs().max()) for policy_B, reference_B in logps)


def require_same_start(differences: Iterable[float], tolerance: float) -> float:
    """The largest of the `differences` between policy's and reference's log-probabilities before the first step, in
    nats.

    Raises StageError where it is over `tolerance`."""
    worst = 0.0
    for difference in differences:
        worst = difference if not difference <= worst else worst  # keeps a NaN
    if not worst <= tolerance:
        raise StageError(
            f"policy and reference differ before the first step: log-probabilities by {worst:.3g}, allowed is {tolerance:g}",
            hint="the reference has to be the parent checkpoint; this is a defect of training's set-up",
        )
    return worst


def add_columns(data: Any, values: Mapping[int, Logps], names: Sequence[str]) -> Any:
    """`data` (a `datasets.Dataset`) with the two numbers of each row; NaN where a row was not asked for."""
    rows = [values.get(row, (math.nan, math.nan)) for row in range(len(data))]
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        data = data.add_column(name, list(column))
    return data
