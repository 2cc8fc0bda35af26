"""Similarity by cosine over all vectors of one setting, with numpy; scores as Elasticsearch gives them, (1 + cos) /
2."""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KEPT = 4
"""How many matrices stay in memory."""


@dataclass
class Matrix:
    """Unit vectors, one row a record."""

    record_ids: list[str]
    rows_RD: np.ndarray  # noqa: N815 - the suffix names its shape


_matrices: OrderedDict[tuple[Any, ...], Matrix] = OrderedDict()


def cached(signature: tuple[Any, ...]) -> Matrix | None:
    """The matrix of that signature (setting, count, newest change), if it is still kept."""
    if signature in _matrices:
        _matrices.move_to_end(signature)
    return _matrices.get(signature)


def keep(signature: tuple[Any, ...], matrix: Matrix) -> None:
    _matrices[signature] = matrix
    while len(_matrices) > KEPT:
        _matrices.popitem(last=False)


def build(rows: Sequence[tuple[str, str]]) -> Matrix:
    """From (record id, vector as JSON), normalised. Takes seconds for many, so it is done beside the event loop."""
    values_RD = np.array([json.loads(value) for _, value in rows], dtype=np.float32).reshape(
        len(rows), -1 if rows else 0
    )
    norms_R1 = np.linalg.norm(values_RD, axis=1, keepdims=True)
    return Matrix([record_id for record_id, _ in rows], values_RD / np.maximum(norms_R1, 1e-12))


def nearest(matrix: Matrix, value: Sequence[float], *, least: bool) -> list[tuple[str, float]]:
    """(record id, score in [0, 1]) of every row, best first; with `least` the least similar is the best."""
    if not matrix.record_ids:
        return []
    query_D = np.asarray(value, dtype=np.float32)
    query_D = query_D / max(float(np.linalg.norm(query_D)), 1e-12)
    scores_R = (1 + matrix.rows_RD @ (-query_D if least else query_D)) / 2
    return [(matrix.record_ids[i], float(scores_R[i])) for i in np.argsort(-scores_R, kind="stable")]
