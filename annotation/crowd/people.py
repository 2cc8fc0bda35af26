"""Numbers about each annotator: reliability, position bias, control items, consistency."""

from typing import Any

import numpy as np

from align.intervals import wilson
from annotation.crowd.arrays import Array, runs
from annotation.crowd.beliefs import Beliefs
from annotation.crowd.evidence import Evidence
from annotation.crowd.reading import JudgementArrays, TaskArrays


def numbers_of(
    asked: TaskArrays, said: JudgementArrays, evidence: Evidence, beliefs: Beliefs | None
) -> dict[str, dict[str, Any]]:
    """For each annotator who said anything, by name:

    - `labels`: how many of their judgements count, skips not among them;
    - `reliability`: the probability of agreeing with the truth on a typical clear pair (one whose difference is one
      standard deviation), {value, low, high} in [0, 1] with a 95% interval; one half is a coin, less an adversary;
    - `position_bias`: log-odds in favour of the answer on the left, {value, low, high};
    - `gold`: control items answered as expected, {hits, n, value, low, high} with Wilson's interval;
    - `consistency`: items that they were asked more than once and answered alike each time, in the same form.

    What is not known is {value: None, reason}.
    """
    count = len(said.names)
    labels = np.bincount(said.annotator, minlength=count)
    gold, same = _gold(evidence, count), _same(evidence, count)
    found = {}
    for a, name in enumerate(said.names.to_pylist()):
        found[name] = {
            "labels": int(labels[a]),
            "reliability": _estimate(None if beliefs is None else beliefs.people.reliability[a]),
            "position_bias": _estimate(None if beliefs is None else beliefs.people.position_bias[a]),
            "gold": _share(*gold[a], "no control item answered"),
            "consistency": _share(*same[a], "nothing was asked twice"),
        }
    return found


def _estimate(bounds: Array | None) -> dict[str, Any]:
    if bounds is None or not np.isfinite(bounds).all():
        return {"value": None, "reason": "the model does not tell, or there is no vote"}
    value, low, high = bounds.tolist()
    return {"value": value, "low": low, "high": high}


def _share(hits: int, n: int, reason: str) -> dict[str, Any]:
    if n == 0:
        return {"value": None, "reason": reason, "hits": 0, "n": 0}
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "hits": hits, "n": n}


def _gold(evidence: Evidence, count: int) -> list[tuple[int, int]]:
    """Hits and answers on gold factors."""
    votes = evidence.votes
    known = evidence.known[votes.factor]
    mine = (known != 0) & votes.main
    said = np.where(votes.tie, 2, np.sign(votes.outcome))
    hits = np.bincount(votes.annotator[mine], (said == known)[mine], count).astype(int)
    return list(zip(hits.tolist(), np.bincount(votes.annotator[mine], minlength=count).tolist(), strict=True))


def _same(evidence: Evidence, count: int) -> list[tuple[int, int]]:
    """Of the factors that an annotator spoke about more than once: how many alike each time, and how many."""
    votes = evidence.votes
    main = np.flatnonzero(votes.main)
    order = main[np.lexsort((votes.outcome[main], votes.family[main], votes.annotator[main], votes.factor[main]))]
    key = (votes.factor[order] * max(1, count) + votes.annotator[order]) * 3 + votes.family[order]
    starts = runs(key)
    ends = np.r_[starts[1:], len(key)]
    twice = ends - starts > 1
    first, last = order[starts[twice]], order[ends[twice] - 1]
    alike = votes.outcome[first] == votes.outcome[last]
    hits = np.bincount(votes.annotator[first], alike, count).astype(int)
    return list(zip(hits.tolist(), np.bincount(votes.annotator[first], minlength=count).tolist(), strict=True))
