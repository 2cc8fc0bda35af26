"""Trials in Optuna's hands: proposed, pruned, kept in a journal that a kill cannot spoil.

What is tried next depends on the finished trials and the seed alone, so a sweep that was killed goes on as if it had
not been: the trial that was running is dropped and proposed again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from align.config.space import Choices, Dimension, contains
from align.figures import interval, significant
from align.ids import seed_for
from align.sweep.measuring import Metric

Tell = Callable[[str], None]
Sampler = Literal["tpe", "random"]
Report = Callable[[float, int], bool]
"""(value, number of the look) → whether the trial fell behind and should end."""
STARTUP = 5
"""Trials before TPE (Bergstra et al. 2011) models anything, and before the median prunes."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The sweep ends after `trials` finished ones, or before the trial that would begin after `minutes` of them."""

    trials: int = 20
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """How settings are searched. `looks` are the fractions of a training at which a trial may be pruned."""

    space: Sequence[Dimension]
    sampler: Sampler = "tpe"
    metric: Metric = "mean_score"
    looks: Sequence[float] = (0.25, 0.5)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished trial; the first has `number` 1, and 0 are the starting settings. `value` is the metric at its last
    look, with its interval over prompts; None where training ended without one. `state` is complete, pruned (fell
    behind), diverged or refused; `reason` says why."""

    number: int
    values: dict[str, Any]
    state: str
    value: float | None
    low: float | None
    high: float | None
    looks: dict[str, float]
    seconds: float
    seed: int
    reason: str | None = None


def run_trials(
    search: Search,
    budget: Budget,
    journal: Path,
    objective: Callable[[int, dict[str, Any], Report], Trial],
    *,
    start: Trial,
    tell: Tell,
) -> list[Trial]:
    """Trials until the budget is spent, those in `journal` included, in their order.

    `objective` runs one, given its number, its values and a way to report looks. `start` is one more result to learn
    from, where its values lie inside the ranges. The folder of `journal` must be this process's alone.
    """
    from optuna.trial import TrialState

    study = _study(journal, search)
    distributions = {d.key: _distribution(d) for d in search.space}
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # a kill ended it; it runs again
        study.tell(left.number, state=TrialState.FAIL)
    _teach(study, distributions, search.space, start)
    done = _finished(study)
    while len(done) < budget.trials and not _spent(done, budget):
        study.sampler = _sampler(search, len(done))
        asked = study.ask(fixed_distributions=distributions)

        def report(value: float, look: int, asked: Any = asked) -> bool:
            asked.report(value, look)
            return bool(asked.should_prune())

        trial = objective(len(done) + 1, dict(asked.params), report)
        asked.set_user_attr("trial", asdict(trial))
        if trial.state == "complete":
            study.tell(asked, trial.value)
        else:
            study.tell(asked, state=TrialState.PRUNED)
        done.append(trial)
        best = max((t.value for t in done if t.state == "complete" and t.value is not None), default=None)
        tell(
            f"trial {trial.number} of {budget.trials}: {said(trial)}"
            + (f"; best {significant(best)}" if best is not None else "")
        )
    return done


def said(trial: Trial) -> str:
    """A trial's values and result on one line."""
    values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.values.items())
    result = "no score" if trial.value is None else interval(asdict(trial), significant)
    return f"{values}: {result}" + (f" ({trial.state}: {trial.reason})" if trial.reason else "")


def _spent(done: Sequence[Trial], budget: Budget) -> bool:
    """Whether the minutes are over; one trial may always be."""
    return budget.minutes is not None and bool(done) and sum(t.seconds for t in done) >= 60 * budget.minutes


def _study(file: Path, search: Search) -> Any:
    """Optuna's study in a journal file; what a kill left half written goes first."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file.with_name(file.name + ".lock").unlink(missing_ok=True)  # the folder is ours alone; a kill left it
    if file.is_file() and not (text := file.read_bytes()).endswith(b"\n"):
        file.write_bytes(text[: text.rfind(b"\n") + 1])
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(file))),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
        sampler=_sampler(search, 0),
    )


def _sampler(search: Search, finished: int) -> Any:
    """A sampler whose draw depends on the seed and on how many trials have finished, not on the process's history."""
    import optuna

    seed = seed_for("sweep", search.seed, finished) % 2**32
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)


def _distribution(d: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(d, Choices):
        return CategoricalDistribution(d.values)
    if d.whole:
        return IntDistribution(int(d.low), int(d.high), log=d.log, step=int(d.step or 1))
    return FloatDistribution(d.low, d.high, log=d.log, step=d.step)


def _teach(study: Any, distributions: dict[str, Any], space: Sequence[Dimension], start: Trial) -> None:
    """The starting settings are one more trial to learn from, where they lie inside the ranges."""
    import optuna

    if start.value is None or not contains(space, start.values) or study.get_trials(deepcopy=False):
        return
    steps = dict(enumerate(list(start.looks.values())[:-1]))
    study.add_trial(
        optuna.trial.create_trial(
            params=start.values, distributions=distributions, value=start.value, intermediate_values=steps
        )
    )


def _finished(study: Any) -> list[Trial]:
    """Trials that were told their end; the taught start and those that a kill ended have none of our record."""
    from optuna.trial import TrialState

    rows = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    kept = [row.user_attrs["trial"] for row in rows if "trial" in row.user_attrs]
    return [Trial(**{**trial, "number": number}) for number, trial in enumerate(kept, 1)]  # earlier versions began at 0
