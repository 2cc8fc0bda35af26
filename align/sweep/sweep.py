"""A sweep: which settings of one training give the best answers, searched by Optuna on a budget.

Every trial trains the same parent on the same rows with other settings and is scored by its answers to prompts set
aside for that: neither trained on nor used in the final comparison. A look at fractions of the training lets a trial
that falls behind the median end early. At the end the best settings and the starting ones train again, with a seed
that no trial had, and are compared on prompts that no trial saw.

Optuna's journal lies in the work folder; after a kill the same sweep goes on, and only the trial that was running
runs again, with the same settings as before: what is tried next depends on the finished trials and the seed alone.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from align.config.base import Sampling
from align.config.load import Places, set_value, validated
from align.config.space import Choices, Dimension, Range
from align.config.training import Training
from align.errors import ConfigError, DataError, StageError
from align.evaluation.statistics import paired_difference
from align.evaluation.winrate import win_rate
from align.ids import content_id, seed_for, unit_for
from align.store import checkpoint_id, read_json, remove_folder, write_json
from align.sweep.measuring import Answering, measured
from align.sweep.trials import Budget, Report, Search, Tell, Trial, run_trials, said
from align.types import Prompt, Score

Train = Callable[..., dict[str, Any]]
"""(config, *, seed, out, work) → metrics; parent, rows and the rest are bound already."""
Measure = Callable[[Any], tuple[float, float, float]]
"""A model in memory → the metric with its interval: (mean, low, high)."""

JOURNAL, START, SCRATCH = "optuna.log", "start.json", "trial"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is swept: a training from its starting settings, and how its answers are measured.

    `tuning` are the prompts that trials are scored on, `final` those of the last comparison; neither may be among the
    prompts trained on.
    """

    start: Training
    train: Train
    parent: Path
    tuning: Sequence[Prompt]
    final: Sequence[Prompt]
    score: Score
    sampling: Sampling
    tie_width: float = 0.0
    max_prompt_tokens: int = 512
    dtype: str = "float32"
    data_id: str = ""
    """Content id of the rows, so that other rows never meet this sweep's trials."""


class _EnoughError(Exception):
    """Ends a trial's training after its last look, for nobody needs its checkpoint, or because it `fell_behind`."""

    fell_behind = False


class _BehindError(_EnoughError):
    fell_behind = True


def tuning_and_final(prompts: Sequence[Prompt], share: float, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Two disjoint shares of `prompts`, each of `share`, by a hash of their ids."""
    drawn = {p.id: unit_for("sweep", seed, p.id) for p in prompts}
    return (
        [p for p in prompts if drawn[p.id] < share],
        [p for p in prompts if share <= drawn[p.id] < 2 * share],
    )


def sweep(
    subject: Subject, search: Search, budget: Budget, *, work: Path, tell: Tell = lambda text: None
) -> dict[str, Any]:
    """Search, then compare the best with the starting settings; the result as plain data.

    `best` and `start` are the values of the searched keys; `comparison` has the win rate of the best over the
    starting settings on `final` prompts and the paired difference of mean scores, both with 95% intervals over
    prompts. The best settings' checkpoint lies in `work/…/compared/best`, named by `policy`.
    Raises DataError where no trial finished or nothing could be scored, ConfigError for keys that are no settings.
    """
    _require_prompts(subject)
    folder = work / f"sweep-{_identity(subject, search)}"
    folder.mkdir(parents=True, exist_ok=True)
    began = _start_values(subject.start, search.space)
    measure = _measure(subject, search, folder)
    start = _start(subject, search, measure, folder, began, tell)

    def objective(number: int, values: dict[str, Any], report: Report) -> Trial:
        return _one(subject, search, measure, folder, number, values, report)

    trials = run_trials(search, budget, folder / JOURNAL, objective, start=start, tell=tell)
    finished = [t for t in trials if t.state == "complete"]
    if not finished:
        raise DataError(
            f"none of {len(trials)} trials finished: " + "; ".join(sorted({str(t.reason) for t in trials})),
            where="align sweep",
            hint="narrow the ranges",
        )
    best = max(finished, key=lambda t: (-math.inf if t.value is None else t.value, -t.number))
    comparison, policy = _compare(subject, search, folder, best.values, tell)
    return {
        "metric": search.metric,
        "sampler": search.sampler,
        "seed": search.seed,
        "tuning_prompts": len(subject.tuning),
        "final_prompts": len(subject.final),
        "start": began,
        "start_value": start.value,
        "best": best.values,
        "best_value": best.value,
        "best_trial": best.number,
        "trials": [asdict(t) for t in trials],
        "comparison": comparison,
        "policy": str(policy) if policy is not None else None,
    }


def with_values(start: Training, values: dict[str, Any]) -> Training:
    """`start` with other values at (dotted) keys, checked as in a recipe. Raises ConfigError."""
    data = start.model_dump(mode="json", by_alias=True)
    places: Places = {(): ("align sweep", 0)}
    for key, value in values.items():
        set_value(data, places, f"{key}={json.dumps(value)}", "setting", type(start))
    return validated(type(start), data, places, Path.cwd(), False)


def _require_prompts(subject: Subject) -> None:
    if len(subject.tuning) < 2 or len(subject.final) < 2:
        found = f"found {len(subject.tuning)} for the trials and {len(subject.final)} for the final comparison"
        raise DataError(
            f"a sweep needs two prompts or more of each kind, {found}", hint="give more prompts or a larger share"
        )
    if {p.id for p in subject.tuning} & {p.id for p in subject.final}:
        raise ValueError("the trials' prompts and those of the final comparison overlap")


def _identity(subject: Subject, search: Search) -> str:
    """What a trial's result depends on; the budget does not belong to it, so that a sweep can go on for longer."""
    return content_id(
        [
            type(subject.start).__name__,
            subject.start.model_dump(mode="json"),
            checkpoint_id(subject.parent),
            subject.data_id,
            sorted(p.id for p in subject.tuning),
            subject.sampling.model_dump(mode="json"),
            [subject.tie_width, subject.max_prompt_tokens],
            [[type(d).__name__, asdict(d)] for d in search.space],
            [search.sampler, search.metric, list(search.looks), search.seed],
        ]
    )[:16]


def _start_values(start: Training, space: Sequence[Dimension]) -> dict[str, Any]:
    """The starting settings' values at the searched keys; None where a key is not set. ConfigError for no such key."""
    found: dict[str, Any] = {}
    for d in space:
        probe = d.values[0] if isinstance(d, Choices) else d.low
        with_values(start, {d.key: probe}) if isinstance(d, Range) else _some_choice_fits(start, d)
        value: Any = start.model_dump(mode="json", by_alias=True)
        for part in d.key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[d.key] = value
    return found


def _some_choice_fits(start: Training, d: Choices) -> None:
    """A choice that fails beside the starting settings may fit others; one key with none that fits is a mistake."""
    problem: ConfigError | None = None
    for value in d.values:
        try:
            with_values(start, {d.key: value})
        except ConfigError as error:
            problem = error
        else:
            return
    if problem is not None:
        raise problem


def _measure(subject: Subject, search: Search, folder: Path) -> Measure:
    """How a trial's model is scored; for win rates the parent answers the same prompts once."""
    answering = _answering(subject, subject.tuning, search.seed)
    against: list[list[float | None]] | None = None
    if search.metric == "win_rate":
        file = folder / "parent.json"
        if not file.is_file():
            write_json(file, answering.scores_of(subject.parent, subject.dtype))
        against = read_json(file)
    return lambda model: measured(answering, model, against, tie_width=subject.tie_width, seed=search.seed)


def _answering(subject: Subject, prompts: Sequence[Prompt], seed: int) -> Answering:
    draws = seed_for(seed, "sweep answers") % 2**31
    return Answering.to(
        prompts,
        subject.parent,
        subject.sampling,
        subject.score,
        max_prompt_tokens=subject.max_prompt_tokens,
        seed=draws,
    )


def _start(
    subject: Subject, search: Search, measure: Measure, folder: Path, values: dict[str, Any], tell: Tell
) -> Trial:
    """The starting settings as a trial of their own (number 0), measured once."""
    file = folder / START
    if not file.is_file():
        trial = _one(subject, search, measure, folder, 0, values, None)
        write_json(file, asdict(trial))
        tell(f"start: {said(trial)}")
    return Trial(**read_json(file))


def _one(
    subject: Subject,
    search: Search,
    measure: Measure,
    folder: Path,
    number: int,
    values: dict[str, Any],
    report: Report | None,
) -> Trial:
    """Train once with these settings and measure at each look; without `report` they are the starting ones."""
    place, looks, last = folder / SCRATCH, dict[str, float](), list[tuple[float, float, float]]()
    began = time.monotonic()
    state, reason = "complete", None

    def callback(model: Any, step: int, steps: int) -> None:
        due = [math.ceil(fraction * steps) for fraction in search.looks]
        if step in due or step == steps:
            last[:] = [measure(model)]
            looks[f"{step / steps:.3g}"] = last[0][0]
        if step == steps:
            raise _EnoughError
        if step in due and report is not None and report(last[0][0], due.index(step)):
            raise _BehindError

    remove_folder(place)
    try:
        config = subject.start if report is None else with_values(subject.start, values)
        _trained(subject, config, search.seed, place, callback)
    except _EnoughError as end:
        state, reason = ("pruned", "it fell behind the median") if end.fell_behind else (state, reason)
    except ConfigError as error:
        if report is None:
            raise
        state, reason = "refused", str(error)
    except StageError as error:
        state, reason = "diverged", error.what
    remove_folder(place)
    gc.collect()
    value, low, high = last[0] if last else (None, None, None)
    seconds = round(time.monotonic() - began, 2)
    return Trial(number, values, state, value, low, high, looks, seconds, search.seed, reason)


def _trained(subject: Subject, config: Training, seed: int, place: Path, callback: Any) -> dict[str, Any]:
    """One training in `place`, watched by `callback` where there is one."""
    from align.train.loop import evaluation_callback

    folders = {"out": place / "policy", "work": place / "work"}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    if callback is None:
        return subject.train(config, seed=seed, **folders)
    with evaluation_callback(callback):
        return subject.train(config, seed=seed, **folders)


def _compare(
    subject: Subject, search: Search, folder: Path, best: dict[str, Any], tell: Tell
) -> tuple[dict[str, Any], Path | None]:
    """Both settings trained again with a seed that no trial had, compared on the prompts that no trial saw."""
    seed = seed_for("sweep comparison", search.seed) % 2**31
    policies: dict[str, Path] = {}
    for name, config in (("best", with_values(subject.start, best)), ("start", subject.start)):
        place = folder / "compared" / content_id([name, config.model_dump(mode="json")])[:16]
        try:
            if not (place / "done.json").is_file():
                _trained(subject, config, seed, place, None)
                write_json(place / "done.json", {"seed": seed})
            policies[name] = place / "policy"
        except StageError as error:
            tell(f"the {name} settings do not train to the end: {error.what}")
    known: dict[str, Any] = {"seed": seed, "better": None}
    if len(policies) < 2:
        ended = "starting" if "best" in policies else "best"
        return known | {"note": f"the {ended} settings do not train to the end"}, policies.get("best")
    answering = _answering(subject, subject.final, search.seed)
    names = [p.id for p in answering.prompts]
    new, old = (answering.scores_of(policies[name], subject.dtype) for name in ("best", "start"))
    won = win_rate(new, old, names, tie_width=subject.tie_width, seed=search.seed)
    pairs = [(a, b, id) for (a,), (b,), id in zip(new, old, names, strict=True) if a is not None and b is not None]
    gain = paired_difference(*zip(*pairs, strict=True), seed=search.seed)  # type: ignore[arg-type]
    return known | {
        "win_rate": won.as_dict(),
        "mean_score_best": fmean(a for a, _, _ in pairs),
        "mean_score_start": fmean(b for _, b, _ in pairs),
        "difference": {"mean": gain.mean, "low": gain.low, "high": gain.high},
        "better": won.low > 0.5,
    }, policies["best"]
