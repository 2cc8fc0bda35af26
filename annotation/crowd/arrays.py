"""Arrow columns as numpy arrays, without a Python object for each row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray[Any, np.dtype[Any]]
CHUNK = 1 << 14
"""Rows of a table in hand at a time: few enough for the processor's cache."""
FEW = 32
"""So few long groups are summed one by one."""


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array; of several chunks the offsets grow to 64 bits, since texts may be more than 2 GiB."""
    if isinstance(column, pa.Array):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.cast(large(column.type)).combine_chunks()


def large(kind: pa.DataType) -> pa.DataType:
    """`kind` with 64 bit offsets wherever it has offsets."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.large_list(large(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(f.name, large(f.type)) for f in kind])
    return kind


def ranked(values: pa.Array) -> tuple[Array, pa.Array]:
    """For each of N strings its place among the sorted distinct ones, int64 [N], and these."""
    encoded = values.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return rank[encoded.indices.to_numpy(zero_copy_only=False)], encoded.dictionary.take(order)


def place_in(values: pa.Array, known: list[str] | pa.Array) -> Array:
    """For each string its index in `known`, int64; -1 where it is not there or null."""
    among = known if isinstance(known, pa.Array) else pa.array(known, pa.string())
    if values.type != among.type:
        among = among.cast(values.type)
    found = pc.fill_null(pc.index_in(values, value_set=among, skip_nulls=True), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int64)


def sizes(lists: pa.Array) -> Array:
    """The length of each list, int64; 0 for null."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def owners(lists: pa.Array) -> Array:
    """For each value of `lists.flatten()` the row that it belongs to, int64."""
    return pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)


def numbers(column: pa.Array, missing: float = 0) -> Array:
    """A numeric column with `missing` for null."""
    return pc.fill_null(column, missing).to_numpy(zero_copy_only=False)


def group_sums(values: Array, groups: Array, count: int) -> Array:
    """Sums [count, ...] of the rows of `values` in each of `count` groups."""
    flat = values.reshape(len(values), -1)
    found = np.stack([np.bincount(groups, flat[:, k], count) for k in range(flat.shape[1])], axis=1)
    return found.reshape(count, *values.shape[1:])


def runs(ordered: Array) -> Array:
    """Where each run of equal values begins in a sorted array, int64."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)


@dataclass(frozen=True)
class Runs:
    """Rows in groups, for sums over groups. The longest group comes first, so that those which have a k-th row are the
    beginning of the list."""

    rows: Array
    """[rows], ordered by group"""
    start: Array
    size: Array
    group: Array
    """[groups that have rows], longest first"""
    count: int
    """How many groups there are, empty ones too."""

    @staticmethod
    def of(groups: Array, rows: Array, count: int) -> "Runs":
        """`rows[i]` belongs to `groups[i]`, one of `count`."""
        order = np.argsort(groups, kind="stable")
        starts = runs(groups[order])
        size = np.diff(np.r_[starts, len(groups)])
        longest = np.argsort(-size, kind="stable")
        return Runs(rows[order], starts[longest], size[longest], groups[order][starts[longest]], count)

    def sums(self, table: Array) -> Array:
        """Sums [count, G] of `table[rows]` [.., G] in each group. `np.add.reduceat` takes five times as long."""
        total = np.zeros((len(self.start), table.shape[1]))
        long = 0
        for k in range(int(self.size.max(initial=0))):
            active = int(np.searchsorted(-self.size, -k))
            if active <= FEW:
                long = active
                break
            for low in range(0, active, CHUNK):
                high = min(active, low + CHUNK)
                total[low:high] += table[self.rows[self.start[low:high] + k]]
        for n in range(long):
            total[n] += table[self.rows[self.start[n] + k : self.start[n] + self.size[n]]].sum(0)
        found = np.zeros((self.count, table.shape[1]))
        found[self.group] = total
        return found
