"""Which model to believe: ours, unless what people say next shows that a rival knows better.

Each label of a pair that several people judged is held out once, and each model predicts it for the person who gave it,
from all other labels. Ours is left only where a rival's log loss is lower by two standard errors, clustered by pair.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa

from annotation.crowd.arrays import Array
from annotation.crowd.beliefs import Beliefs
from annotation.crowd.bradley_terry import kept, part, thinned
from annotation.crowd.evidence import COMPARE, Evidence, shared
from annotation.crowd.reading import TaskArrays

LEAST, MOST = 200, 3_000
"""With fewer labels than LEAST there is no choice; of more than about MOST a part is looked at, whole components of
it."""
FOLDS = 4
ERRORS = 2.0
"""How many standard errors a rival has to be better by."""


@dataclass(frozen=True)
class Choice:
    """Which model was taken, and why: `labels` were predicted, of `pairs`; `loss` is our log loss for each, `gains` by
    how much each rival's is lower, with its standard error."""

    model: str
    reason: str
    labels: int
    pairs: int
    loss: float | None
    gains: dict[str, dict[str, float]]

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def choose(
    asked: TaskArrays, evidence: Evidence, models: Mapping[str, Callable[[Evidence], Beliefs]], ours: str
) -> Choice:
    """The model of `models` to believe; `ours` is one of them."""
    out = _predicted(evidence)
    if len(out) < LEAST:
        reason = f"{len(out)} labels of pairs that several people judged; a comparison of models takes {LEAST}"
        return Choice(ours, reason, len(out), len(np.unique(evidence.votes.factor[out])), None, {})
    evidence = _few(evidence, out)
    out = _predicted(evidence)
    pairs = len(np.unique(evidence.votes.factor[out]))
    fold = _folds(asked, evidence, out)
    losses = {name: _losses(evidence, fit, out, fold) for name, fit in models.items()}
    gains = {
        name: _gain(losses[ours] - loss, evidence.votes.factor[out]) for name, loss in losses.items() if name != ours
    }
    better = {name: g for name, g in gains.items() if g["gain"] > ERRORS * g["error"]}
    best = max(better, key=lambda name: better[name]["gain"], default=ours)
    reason = "no rival predicts held-out labels better by two standard errors"
    if best != ours:
        reason = "it predicts held-out labels better by {gain:.4f} ± {error:.4f} in log loss".format(**gains[best])
    return Choice(best, reason, len(out), pairs, float(losses[ours].mean()), gains)


def _few(evidence: Evidence, out: Array) -> Evidence:
    """About MOST labels of pairs that several people judged, and as many others."""
    marked = np.zeros(len(evidence.first), bool)
    marked[evidence.votes.factor[out]] = True
    strides = [max(1, -(-count // MOST)) for count in (len(out), len(evidence.votes.factor) - len(out))]
    return evidence if max(strides) == 1 else part(evidence, thinned(evidence, marked, *strides))[0]


def _predicted(evidence: Evidence) -> Array:
    """The votes that are held out in some fold: people's own words, said once, on pairs that others judged as well."""
    votes = evidence.votes
    mine = shared(evidence) & votes.main & (votes.family == COMPARE) & (votes.weight == 1)
    return np.flatnonzero(mine & (evidence.known[votes.factor] == 0))


def _folds(asked: TaskArrays, evidence: Evidence, out: Array) -> Array:
    """The fold of each vote in `out`. A pair's votes are in different folds, so that the others are known; where it
    begins hangs on the task's id alone."""
    factor = evidence.votes.factor[out]
    place = np.arange(len(out)) - np.searchsorted(factor, factor)
    ids = asked.ids.take(pa.array(evidence.task[factor])).to_pylist()
    return (np.array([crc32(name.encode()) for name in ids], np.int64) + place) % FOLDS


def _losses(evidence: Evidence, fit: Callable[[Evidence], Beliefs], out: Array, fold: Array) -> Array:
    votes = evidence.votes
    word = np.where(votes.tie, 2, np.where(votes.outcome > 0, 0, 1))
    found = np.empty(len(out))
    for k in range(FOLDS):
        mine = out[fold == k]
        # all of these judgements: a flag, a correction or the rest of a ranking would give the word away
        rest = ~np.isin(votes.judgement, votes.judgement[mine])
        beliefs = fit(replace(evidence, votes=kept(votes, rest)))
        chance = beliefs.predict(votes.factor[mine], votes.annotator[mine], votes.position[mine])
        found[fold == k] = -np.log(np.maximum(chance[np.arange(len(mine)), word[mine]], 1e-12))
    return found


def _gain(better: Array, pair: Array) -> dict[str, float]:
    """The mean, and its standard error over pairs."""
    mean = better.mean()
    _, cluster = np.unique(pair, return_inverse=True)
    sums = np.bincount(cluster, better - mean)
    n = len(sums)
    error = np.sqrt((sums**2).sum() * n / max(1, n - 1)) / len(better)
    return {"gain": float(mean), "error": float(error)}
