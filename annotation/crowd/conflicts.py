"""Contradictions in what people said: the same pair both ways, and A over B over C over A."""

from typing import Any

import numpy as np
import pyarrow as pa

from annotation.crowd.arrays import Array, group_sums
from annotation.crowd.evidence import TRAIN, Evidence
from annotation.crowd.majority import outcomes
from annotation.crowd.reading import TaskArrays

LISTED = 1_000
"""Conflicts listed of each sort; all are counted."""


def find(asked: TaskArrays, evidence: Evidence, node_ids: pa.Array, circles: list[list[int]]) -> dict[str, Any]:
    """Conflicts of judgements on training pairs, JSON-able; `circles` as `circles` finds them.

    `both_ways` has pairs of which each answer is preferred by somebody, `cycles` the prompts whose net preferences go
    round in a circle, with one circle for each knot of candidates; `self_contradictions` counts annotators' pairs to
    which the same person answered both ways. Each has its `count` and, as `listed`, the first of them by prompt.
    """
    votes = evidence.votes
    said = _scored(evidence)
    hard, count = outcomes(votes)[said], counts(evidence)
    both = np.flatnonzero((count[:, 0] > 0) & (count[:, 1] > 0))
    return {
        "both_ways": {
            "count": len(both),
            "listed": [_pair(asked, evidence, node_ids, f, count[f]) for f in both[:LISTED].tolist()],
        },
        "cycles": {
            "count": len(circles),
            "listed": [_circle(asked, evidence, node_ids, nodes) for nodes in circles[:LISTED]],
        },
        "self_contradictions": {"count": _self(votes.factor[said], votes.annotator[said], hard)},
    }


def counts(evidence: Evidence) -> Array:
    """Votes [F, 3] for the first and the second, and ties, on each training pair; 0 for other factors."""
    said = _scored(evidence)
    found = np.zeros((len(evidence.first), 3))
    return group_sums(outcomes(evidence.votes)[said], evidence.votes.factor[said], len(found)) if said.any() else found


def _scored(evidence: Evidence) -> Array:
    """Which votes are main votes on training pairs, bool [V]."""
    votes = evidence.votes
    trained = (evidence.second >= 0) & (evidence.kind[evidence.first] == TRAIN)
    return votes.main & trained[votes.factor]


def _pair(asked: TaskArrays, evidence: Evidence, ids: pa.Array, factor: int, count: Array) -> dict[str, Any]:
    first, second = int(evidence.first[factor]), int(evidence.second[factor])
    return {
        "prompt_id": asked.prompts[int(evidence.prompt[first])].as_py(),
        "candidates": [ids[first].as_py(), ids[second].as_py()],
        "first": int(count[0]),
        "second": int(count[1]),
        "ties": int(count[2]),
    }


def _circle(asked: TaskArrays, evidence: Evidence, ids: pa.Array, nodes: list[int]) -> dict[str, Any]:
    return {
        "prompt_id": asked.prompts[int(evidence.prompt[nodes[0]])].as_py(),
        "candidates": [ids[n].as_py() for n in nodes],
    }


def _self(factor: Array, annotator: Array, hard: Array) -> int:
    key, inverse = np.unique(factor * (annotator.max(initial=0) + 1) + annotator, return_inverse=True)
    count = group_sums(hard, inverse, len(key)) if len(key) else np.zeros((0, 3))
    return int(((count[:, 0] > 0) & (count[:, 1] > 0)).sum())


def circles(evidence: Evidence) -> list[list[int]]:
    """One circle of net preferences, each node beating the next, for each knot of nodes that has any."""
    count = counts(evidence)
    net = count[:, 0] - count[:, 1]
    decided = np.flatnonzero(net != 0)
    winner = np.where(net > 0, evidence.first, evidence.second)[decided]
    loser = np.where(net > 0, evidence.second, evidence.first)[decided]
    n = len(evidence.kind)
    while True:  # a node that nothing beats, or that beats nothing, is in no circle
        keep = (np.bincount(loser, minlength=n) > 0)[winner] & (np.bincount(winner, minlength=n) > 0)[loser]
        if keep.all():
            break
        winner, loser = winner[keep], loser[keep]
    beaten: dict[int, list[int]] = {}
    for won, lost in sorted(zip(winner.tolist(), loser.tolist(), strict=True)):
        beaten.setdefault(won, []).append(lost)
    return _walk(beaten)


def _walk(beaten: dict[int, list[int]]) -> list[list[int]]:
    """Shortest circles through the least node of each knot; every node left beats some node that is left."""
    found, done = [], set()
    for start in sorted(beaten):
        if start in done:
            continue
        path = _shortest(beaten, start)
        if path:
            found.append(path)
            done |= set(path)
    return found


def _shortest(beaten: dict[int, list[int]], start: int) -> list[int]:
    """The shortest circle from `start` back to it, breadth first; empty if there is none."""
    came = {start: -1}
    queue = [start]
    for node in queue:
        for other in beaten.get(node, []):
            if other == start:
                path = [node]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return path[::-1]
            if other not in came:
                came[other] = node
                queue.append(other)
    return []
