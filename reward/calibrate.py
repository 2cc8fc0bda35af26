"""Calibration: which probability a difference of two scores stands for, and how far it can be taken at its word.

A reward model says that the answer with the higher score is the better one with probability σ(d), d being the
difference of the scores. Its order may be right and its probabilities wrong, since scores learn their scale from
little; one number, the temperature T, mends the scale: σ(d / T) (Guo et al. 2017, "On Calibration of Modern Neural
Networks"). Orders, and so accuracy, stay as they are.

Pairs have no natural first answer, so everything is said of the answer that the model prefers: its *confidence* lies in
[½, 1], and what is *observed* is how often people prefer it too (of a soft target, with which probability).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from align.evaluation.statistics import clustered_bootstrap, paired_difference
from align.evaluation.winrate import clustered_interval
from align.ids import seed_for, unit_for

Numbers = Sequence[float] | np.ndarray

BINS = 10
"""Bins of a reliability diagram: as many pairs in each, since confidences crowd where the model is unsure."""
IN_A_BIN = 20
"""Pairs that a bin has at least; of few pairs there are fewer bins."""
FOLDS = 5
"""Parts of the prompts: each part's pairs are told by the temperature that fits the other parts."""
PROMPTS = 20
"""Of fewer prompts nothing is said about calibration."""
REACH = 100.0
"""A temperature lies within this factor of the differences' root mean square, either way."""
DRAWS = 2_000
CLUSTERS = 1_000
"""Of more prompts, bundles of them are drawn: the variance is the same and the time is bounded."""


def fit_temperature(differences: Numbers, targets: Numbers) -> float:
    """The T > 0 with the smallest mean log loss of σ(d / T) against `targets` in [0, 1].

    That loss is convex in 1 / T, so the minimum is found by bisection of its slope. Scores that order no better than a
    coin have no finite T, and scores that order everything right none above 0: then T is 100 times the root mean square
    of `differences`, or a hundredth of it. 1 where all differences are 0. Raises ValueError for no pairs.
    """
    d_N, p_N = np.asarray(differences, np.float64), np.asarray(targets, np.float64)
    if not len(d_N) or len(d_N) != len(p_N):
        raise ValueError(f"a target for each of at least one difference is needed, found {len(d_N)} and {len(p_N)}")
    scale = float(np.sqrt(np.mean(d_N**2)))
    if scale == 0:
        return 1.0
    low, high = math.log(scale / REACH), math.log(scale * REACH)
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(np.mean(d_N * (sigmoid(d_N * math.exp(-middle)) - p_N)))  # of the loss against 1 / T
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp((low + high) / 2)


def calibration(
    differences: Numbers,
    targets: Numbers,
    prompts: Sequence[str],
    *,
    seed: int,
    temperature: float | None = None,
) -> dict[str, Any] | None:
    """How far probabilities can be trusted, before and after a temperature; None for fewer than `PROMPTS` prompts.

    `differences` are chosen less rejected, `targets` in [0.5, 1] the probability that chosen is better, `prompts` the
    clusters. `before` is σ(d), `after` σ(d / T): each has its `log_loss` in nats with a 95% interval over prompts, its
    `ece` (see `calibration_error`) and the `bins` of its reliability diagram. `change` is log loss after less before.

    With `temperature` `after` has that one, which must come from other pairs. Without, the result's `temperature` is
    the one that fits all pairs, and `after` is cross-fitted: of each fifth of the prompts by the temperature that fits
    the other fifths. So no pair speaks for a temperature that it helped to choose. `limit` says "high" or "low" where
    the temperature went as far as it may (see `fit_temperature`).

    A temperature is *offered* where it has no `limit` and does not raise the cross-fitted log loss by more than twice
    what choosing one number costs anyway (1 / 2N nats of N prompts): few pairs, all or nearly all of them ordered
    right, fit one that a single other pair would pay for dearly. `temperature` is None where it is not, and `fit` is
    what these pairs would want.
    """
    d_N, p_N = np.asarray(differences, np.float64), np.asarray(targets, np.float64)
    if len(set(prompts)) < PROMPTS:
        return None
    if temperature is None:
        found, scaled_N = fit_temperature(d_N, p_N), _cross_fitted(d_N, p_N, prompts, seed)
    else:
        found, scaled_N = temperature, d_N / temperature
    before, after = log_losses(d_N, p_N), log_losses(scaled_N, p_N)
    ratio = found / float(np.sqrt(np.mean(d_N**2)) or 1.0)
    limit = None if temperature else "high" if ratio > 0.99 * REACH else "low" if ratio < 1.01 / REACH else None
    change = asdict(paired_difference(after.tolist(), before.tolist(), prompts, seed=seed))
    offered = temperature is not None or (limit is None and change["mean"] <= 1 / len(set(prompts)))
    return {
        "temperature": found if offered else None,
        "fit": found,
        "limit": limit,
        "fitted": temperature is None,
        "pairs": len(d_N),
        "before": _told(d_N, p_N, before, prompts, seed),
        "after": _told(scaled_N, p_N, after, prompts, seed),
        "change": change,
    }


def calibration_error(confidence: Numbers, observed: Numbers, prompts: Sequence[str], *, seed: int) -> dict[str, float]:
    """The expected calibration error, in [0, ½]: {value, low, high, chance}.

        ECE = Σ over bins b of n_b / N · |mean observed in b − mean confidence in b|        (Naeini et al. 2015)

    over `BINS` bins of equal number (Nguyen & O'Connor 2015). It never is 0, since in each bin luck is left over:
    `chance` is what a perfectly calibrated model would have on these pairs on average, found by turning the signs of
    whole prompts' deviations at random. The 95% interval is the bootstrap's over prompts, less its bias twice: that of
    resampling, and that of `value` itself. It begins at 0 where luck alone explains `value`. In simulations of 600
    pairs and of 200 it covered the true error in 82 of 100 at least (`tests/unit/test_reward_calibrate.py`).
    """
    confidence_N, observed_N = np.asarray(confidence, np.float64), np.asarray(observed, np.float64)
    groups = _bins(confidence_N)
    sums_KB, counts_K, number = _deviations(observed_N - confidence_N, groups, prompts)
    value = float(np.abs(sums_KB.sum(0)).sum() / number)
    rng = np.random.default_rng(seed_for("calibration error", seed))
    k = len(sums_KB)
    picked_DK = rng.multinomial(k, np.full(k, 1 / k), size=DRAWS)
    drawn_D = np.abs(picked_DK @ sums_KB).sum(1) / (picked_DK @ counts_K)
    low, high = np.quantile(drawn_D, [0.025, 0.975]) - 2 * (drawn_D.mean() - value)
    centred_N = observed_N - confidence_N
    for rows in groups:
        centred_N[rows] -= centred_N[rows].mean()
    centred_KB, _, _ = _deviations(centred_N, groups, prompts)
    luck_D = np.abs(rng.choice([-1.0, 1.0], size=(DRAWS, k)) @ centred_KB).sum(1) / number
    return {
        "value": value,
        "low": 0.0 if value <= np.quantile(luck_D, 0.975) else float(np.clip(low, 0.0, value)),
        "high": float(max(value, high)),
        "chance": float(luck_D.mean()),
    }


def reliability(confidence: Numbers, observed: Numbers, prompts: Sequence[str], *, seed: int) -> list[dict[str, float]]:
    """The bins of a reliability diagram in the order of their confidence: `confidence` and `observed` are means, with
    the observed one's 95% interval over prompts (`low` and `high`; none where a bin has one prompt), and `n` pairs."""
    confidence_N, observed_N = np.asarray(confidence, np.float64), np.asarray(observed, np.float64)
    found = []
    for rows in _bins(confidence_N):
        mine = [prompts[row] for row in rows]
        bin_ = {"confidence": float(confidence_N[rows].mean()), "observed": float(observed_N[rows].mean())}
        if len(set(mine)) > 1:
            _, bin_["low"], bin_["high"] = clustered_interval(observed_N[rows].tolist(), mine, seed=seed)
        found.append({**bin_, "n": len(rows)})
    return found


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^−x) without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def log_losses(differences: Any, targets: Any) -> Any:
    """−p · log σ(d) − (1 − p) · log σ(−d) of each pair, in nats."""
    return np.logaddexp(0, -differences) * targets + np.logaddexp(0, differences) * (1 - targets)


def _cross_fitted(d_N: Any, p_N: Any, prompts: Sequence[str], seed: int) -> Any:
    """Each difference over the temperature that fits the pairs of other folds' prompts."""
    order = sorted(set(prompts), key=lambda prompt: unit_for("calibration", seed, prompt))
    fold = {prompt: place % FOLDS for place, prompt in enumerate(order)}
    fold_N = np.array([fold[prompt] for prompt in prompts])
    scaled_N = np.empty_like(d_N)
    for number in range(FOLDS):
        mine = fold_N == number
        scaled_N[mine] = d_N[mine] / fit_temperature(d_N[~mine], p_N[~mine])
    return scaled_N


def _told(d_N: Any, p_N: Any, losses_N: Any, prompts: Sequence[str], seed: int) -> dict[str, Any]:
    """Log loss, calibration error and reliability of σ(d)."""
    confidence_N = sigmoid(np.abs(d_N))
    observed_N = np.where(d_N > 0, p_N, np.where(d_N < 0, 1 - p_N, 0.5))
    return {
        "log_loss": asdict(clustered_bootstrap(losses_N.tolist(), prompts, seed=seed)),
        "ece": calibration_error(confidence_N, observed_N, prompts, seed=seed),
        "bins": reliability(confidence_N, observed_N, prompts, seed=seed),
    }


def _bins(confidence_N: Any) -> list[Any]:
    """Row numbers by bin, the least confident first."""
    count = max(1, min(BINS, len(confidence_N) // IN_A_BIN))
    return [rows for rows in np.array_split(np.argsort(confidence_N, kind="stable"), count) if len(rows)]


def _deviations(deviation_N: Any, groups: Sequence[Any], prompts: Sequence[str]) -> tuple[Any, Any, int]:
    """Sums of `deviation_N` by prompt (or bundle of prompts) and bin, [K, B]; pairs of each, [K]; pairs of all."""
    order: dict[str, int] = {}
    index_N = np.array([order.setdefault(prompt, len(order)) for prompt in prompts]) % CLUSTERS
    k = min(len(order), CLUSTERS)
    sums_KB = np.zeros((k, len(groups)))
    for number, rows in enumerate(groups):
        sums_KB[:, number] = np.bincount(index_N[rows], weights=deviation_N[rows], minlength=k)
    return sums_KB, np.bincount(index_N, minlength=k).astype(np.float64), len(index_N)
