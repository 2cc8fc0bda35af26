"""A simulated annotator, as one pure function of (task, utilities, persona, seed)."""

import math
from collections.abc import Sequence

from align.config.recipe import Persona
from align.errors import DataError
from align.ids import unit_for
from align.types import Task
from annotation.backend import Answer


def answer(task: Task, utilities: Sequence[float | None], persona: Persona, seed: int) -> Answer:
    """What `persona` says about a pair task. `utilities` are of the canonical candidates; None cannot be judged.

    In order: it skips a share of tasks (and any that it cannot judge); calls a tie where the utilities differ by less
    than `tie_width`; else prefers the canonical first with probability sigmoid((u_a − u_b) / temperature ± bias),
    plus where that one stands on the left, minus where it stands on the right (temperature 0: the greater utility,
    and only equal ones leave room for the bias); and turns a share of its preferences around by a slip.
    Raises DataError for a utility that is not a finite number.
    """
    a, b = utilities
    if a is None or b is None or _draw(task, persona, seed, "skip") < persona.skip_rate:
        return Answer(task.id, "skipped")
    if not (math.isfinite(a) and math.isfinite(b)):
        raise DataError(
            f"the utility of an answer is {a if not math.isfinite(a) else b}",
            where=f"task {task.id}",
            hint="return a finite number, or None where the answer cannot be judged",
        )
    if abs(a - b) < persona.tie_width:
        return Answer(task.id, "tie")
    bias = persona.position_bias if task.shown[0] == 0 else -persona.position_bias
    prefers_a = _draw(task, persona, seed, "choice") < _sigmoid(_log_odds(a - b, persona.temperature) + bias)
    slips = _draw(task, persona, seed, "slip") < persona.error_rate
    return Answer(task.id, "a" if prefers_a != slips else "b")


def _draw(task: Task, persona: Persona, seed: int, what: str) -> float:
    return unit_for(seed, "persona", persona.name, task.id, what)


def _log_odds(difference: float, temperature: float) -> float:
    if difference == 0:
        return 0.0
    return difference / temperature if temperature > 0 else math.copysign(math.inf, difference)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
