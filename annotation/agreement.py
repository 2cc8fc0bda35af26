"""How far annotators agree with each other, and each one's habits."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from align.types import Judgement, Task
from annotation.compile import latest
from annotation.crowd.people import wilson
from annotation.crowd.reading import TRAINABLE

DRAWS = 2_000
"""Bootstrap resamples of whole prompts."""


def summary(tasks: list[Task], judgements: list[Judgement]) -> dict[str, Any]:
    """Agreement and habits over the pair tasks, as JSON-able values.

    `percent_agreement` is, averaged over tasks with two answers or more, the share of pairs of annotators who gave the
    same one; `alpha` is Krippendorff's, nominal, over a, b, tie and both_bad (a skip is a missing value). Both come
    as {value, low, high, tasks, prompts}, with a 95% interval from resampling prompts, or as {value: null, reason}.
    `left` is the share of choices that fell on the left answer {value, low, high, n} with Wilson's 95% interval; with
    random sides an unbiased annotator has 0.5.
    """
    pairs = {t.id: t for t in tasks if t.kind == "pair"}
    given = [j for j in latest(judgements) if j.task_id in pairs]
    names = sorted({j.annotator for j in given})
    annotators = {name: _habits([j for j in given if j.annotator == name], pairs) for name in names}
    return {
        "tasks": len(pairs),
        **_habits(given, pairs),
        **_agreement(given, pairs),
        "contradictory_pairs": _contradictory(given, pairs),
        "annotators": annotators,
    }


def _habits(judgements: list[Judgement], tasks: dict[str, Task]) -> dict[str, Any]:
    counts = Counter(j.outcome for j in judgements)
    choices = [tasks[j.task_id].shown["ab".index(j.outcome)] for j in judgements if j.outcome in ("a", "b")]
    return {
        "judgements": len(judgements),
        "outcomes": dict(sorted(counts.items())),
        "skip_share": counts["skipped"] / len(judgements) if judgements else None,
        "left": _share(choices.count(0), len(choices))
        if choices
        else {"value": None, "reason": "no choice between left and right"},
    }


def _share(hits: int, n: int) -> dict[str, Any]:
    low, high = wilson(hits, n)
    return {"value": hits / n, "low": low, "high": high, "n": n}


def _contradictory(judgements: list[Judgement], tasks: dict[str, Task]) -> int:
    """Pairs of candidates, asked about in training, of which each is preferred by somebody."""
    preferred: dict[tuple[str, ...], set[str]] = {}
    for judgement in judgements:
        task = tasks[judgement.task_id]
        if task.purpose in TRAINABLE and judgement.outcome in ("a", "b"):
            preferred.setdefault((task.prompt_id, *task.candidates), set()).add(judgement.outcome)
    return sum(len(outcomes) == 2 for outcomes in preferred.values())


def _agreement(judgements: list[Judgement], tasks: dict[str, Task]) -> dict[str, Any]:
    """Percent agreement and alpha with intervals, or the reason why there are none."""
    answers: dict[str, list[str]] = {}
    for judgement in judgements:
        if judgement.outcome != "skipped":
            answers.setdefault(judgement.task_id, []).append(judgement.outcome)
    shared = {task: given for task, given in sorted(answers.items()) if len(given) > 1}
    prompts: dict[str, list[list[str]]] = {}
    for task, given in shared.items():
        prompts.setdefault(tasks[task].prompt_id, []).append(given)
    if len(prompts) < 2:  # of one prompt there is nothing to resample
        count = "only one prompt" if prompts else "no task"
        nothing = {"value": None, "reason": f"{count} has answers of two annotators"}
        return {"percent_agreement": nothing, "alpha": dict(nothing)}
    clusters = [_sums(units) for units in prompts.values()]
    sizes = {"tasks": len(shared), "prompts": len(prompts)}
    resampled = _resample(clusters)
    return {
        "percent_agreement": _estimate(clusters, resampled, _percent, "", sizes),
        "alpha": _estimate(
            clusters, resampled, _alpha, "all answers are the same, so chance agreement is complete", sizes
        ),
    }


CATEGORIES = ("a", "b", "tie", "both_bad")


def _sums(units: Sequence[Sequence[str]], categories: Sequence[str] = CATEGORIES) -> list[float]:
    """What percent agreement and alpha need of some units, as sums that add up over units:
    [units, sum of agreeing shares, observed disagreement, count of each category]."""
    total = [0.0] * (3 + len(categories))
    for values in units:
        m = len(values)
        counts = [values.count(c) for c in categories]
        agreeing = sum(n * (n - 1) for n in counts)
        total = [
            x + y
            for x, y in zip(
                total,
                [1, agreeing / (m * (m - 1)), (m * m - sum(n * n for n in counts)) / (m - 1), *counts],
                strict=True,
            )
        ]
    return total


def _percent(sums: Sequence[float]) -> float | None:
    return sums[1] / sums[0]


def _alpha(sums: Sequence[float]) -> float | None:
    """1 − (n − 1) · Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").

    None where all values are of one category.
    """
    counts = sums[3:]
    n = sum(counts)
    expected = n * n - sum(c * c for c in counts)
    return 1 - (n - 1) * sums[2] / expected if expected > 0 else None


def krippendorff_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Nominal alpha of `units`, the values that each got; units of fewer than two values do not count.

    None where it is undefined: nothing to compare, or one category only.
    """
    comparable = [values for values in units if len(values) > 1]
    categories = sorted({value for values in comparable for value in values})
    return _alpha(_sums(comparable, categories)) if comparable else None


def _resample(clusters: list[list[float]]) -> list[list[float]]:
    """Sums of DRAWS bootstrap samples of clusters; the same clusters give the same draws."""
    import numpy as np

    generator, sums = np.random.default_rng(0), np.asarray(clusters)
    even = np.full(len(clusters), 1 / len(clusters))
    return [(generator.multinomial(len(clusters), even) @ sums).tolist() for _ in range(DRAWS)]


def _estimate(
    clusters: list[list[float]], resampled: list[list[float]], statistic: Any, reason: str, sizes: dict[str, int]
) -> dict[str, Any]:
    value = statistic([sum(column) for column in zip(*clusters, strict=True)])
    if value is None:
        return {"value": None, "reason": reason, **sizes}
    found = sorted(x for draw in resampled if (x := statistic(draw)) is not None)
    low, high = found[int(0.025 * (len(found) - 1))], found[math.ceil(0.975 * (len(found) - 1))]
    return {"value": value, "low": low, "high": high, **sizes}
