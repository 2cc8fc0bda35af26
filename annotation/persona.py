"""A simulated annotator, as pure functions of (task, utilities, persona, seed)."""

import math
from collections.abc import Sequence

from align.config.recipe import Persona
from align.errors import DataError
from align.ids import unit_for
from align.types import Rating, Task
from annotation.backend import Answer
from annotation.form import Form

TOP = 5
"""The best score of a rating; 1 is the worst."""
PAIR = Form(ask=("strength",))


def answer(task: Task, utilities: Sequence[float | None], persona: Persona, seed: int, form: Form = PAIR) -> Answer:
    """What `persona` says about a task. `utilities` are of the canonical candidates; None cannot be judged.

    In every kind it skips a share of tasks, and any that it cannot judge; follows a share of the suggestions that it is
    shown; and turns a share of its judgements around by a slip. The rest is below, kind by kind. `form` says whether a
    strength is asked and which criteria are rated. Raises DataError for a utility that is not a finite number.
    """
    known = [u for u in utilities if u is not None]
    if len(known) < len(utilities) or _draw(task, persona, seed, "skip") < persona.skip_rate:
        return Answer(task.id, "skipped")
    if (wrong := next((u for u in known if not math.isfinite(u)), None)) is not None:
        raise DataError(
            f"the utility of an answer is {wrong}",
            where=f"task {task.id}",
            hint="return a finite number, or None where the answer cannot be judged",
        )
    if task.suggested is not None and _draw(task, persona, seed, "suggestion") < persona.suggestible:
        return Answer(task.id, task.suggested)
    slips = _draw(task, persona, seed, "slip") < persona.error_rate
    match task.kind:
        case "pair" | "blind_ab":
            return _compare(task, known, persona, seed, slips, strength="strength" in form.ask)
        case "rank":
            return _rank(task, known, persona, seed, slips)
        case "single":
            return _binary_label(task, known[0], persona, seed, slips)
        case "rating":
            return _rate(task, known[0], persona, seed, slips, form.criteria)


def coin(task: Task, persona: Persona, seed: int, form: Form = PAIR) -> Answer:
    """An answer that knows nothing of the candidates, each possible one as likely as any other."""

    def draw(what: object = "") -> float:
        return unit_for(seed, "coin", persona.name, task.id, *([what] if what != "" else []))

    match task.kind:
        case "pair" | "blind_ab":
            return Answer(task.id, "a" if draw() < 0.5 else "b")
        case "rank":
            order = sorted(range(len(task.candidates)), key=draw)
            return Answer(task.id, "ranked", ranking=[order.index(i) + 1 for i in range(len(order))])
        case "single":
            return Answer(task.id, "good" if draw() < 0.5 else "bad")
        case "rating":
            scores: list[Rating] = [{"criterion": c, "score": 1 + int(TOP * draw(c))} for c in form.criteria]
            return Answer(task.id, "rated", ratings=scores)


def _compare(
    task: Task, utilities: Sequence[float], persona: Persona, seed: int, slips: bool, *, strength: bool
) -> Answer:
    """A tie where the utilities differ by less than `tie_width`; else the canonical first with probability
    sigmoid((u_a − u_b) / temperature ± bias), plus where that one stands on the left, minus where it stands on the
    right (temperature 0: the greater utility, and only equal ones leave room for the bias).

    The strength is the size of the difference as it was perceived: the true one with the noise, in `step`s.
    """
    a, b = utilities
    if abs(a - b) < persona.tie_width:
        return Answer(task.id, "tie")
    bias = persona.position_bias if task.shown[0] == 0 else -persona.position_bias
    draw = _draw(task, persona, seed, "choice")
    prefers_a = draw < _sigmoid(_log_odds(a - b, persona.temperature) + bias)
    perceived = abs(a - b + persona.temperature * (bias - _logit(draw)))
    return Answer(
        task.id, "a" if prefers_a != slips else "b", strength=1 + _steps(perceived, persona, 2) if strength else None
    )


def _rank(task: Task, utilities: Sequence[float], persona: Persona, seed: int, slips: bool) -> Answer:
    """Best first by utility / temperature + Gumbel noise (Plackett–Luce: Yellott 1977), the bias being added for the
    answer shown first; neighbours whose utilities differ by less than `tie_width` share a rank. A slip reverses it."""
    keys = []
    for i, utility in enumerate(utilities):
        noise = _gumbel(_draw(task, persona, seed, f"choice {i}")) + persona.position_bias * (task.shown[0] == i)
        keys.append((_divide(utility, persona.temperature) + (noise if persona.temperature > 0 else 0), utility, noise))
    best = sorted(range(len(keys)), key=lambda i: keys[i], reverse=not slips)
    ranking = [0] * len(best)
    for place, i in enumerate(best):
        ties = place > 0 and abs(utilities[i] - utilities[best[place - 1]]) < persona.tie_width
        ranking[i] = ranking[best[place - 1]] if ties else place + 1
    return Answer(task.id, "ranked", ranking=ranking)


def _binary_label(task: Task, utility: float, persona: Persona, seed: int, slips: bool) -> Answer:
    """Good with probability sigmoid((u − standard) / temperature)."""
    odds = _log_odds(utility - persona.standard, persona.temperature)
    good = _draw(task, persona, seed, "choice") < _sigmoid(odds)
    return Answer(task.id, "good" if good != slips else "bad")


def _rate(task: Task, utility: float, persona: Persona, seed: int, slips: bool, criteria: Sequence[str]) -> Answer:
    """3 at the standard and one more or less for each `step`, with noise of its own for each criterion; a slip turns
    the scale around."""
    ratings: list[Rating] = []
    for criterion in criteria:
        noise = persona.temperature * -_logit(_draw(task, persona, seed, f"choice {criterion}"))
        above = utility - persona.standard + noise
        size = _steps(abs(above) + persona.step / 2, persona, TOP // 2)
        score = (TOP + 1) // 2 + (size if above > 0 else -size)
        ratings.append({"criterion": criterion, "score": TOP + 1 - score if slips else score})
    return Answer(task.id, "rated", ratings=ratings)


def _draw(task: Task, persona: Persona, seed: int, what: str) -> float:
    return unit_for(seed, "persona", persona.name, task.id, what)


def _steps(size: float, persona: Persona, most: int) -> int:
    """Whole steps in `size` ≥ 0, at most `most`."""
    return most if size >= most * persona.step else int(size / persona.step)


def _log_odds(difference: float, temperature: float) -> float:
    if difference == 0:
        return 0.0
    return _divide(difference, temperature) if temperature > 0 else math.copysign(math.inf, difference)


def _divide(utility: float, temperature: float) -> float:
    return utility / temperature if temperature > 0 else utility


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _logit(probability: float) -> float:
    """Of a draw in [0, 1); the ends are kept off by the draw's own resolution."""
    p = min(max(probability, 2**-53), 1 - 2**-53)
    return math.log(p / (1 - p))


def _gumbel(probability: float) -> float:
    """The standard Gumbel quantile of a draw in [0, 1)."""
    return -math.log(-math.log(min(max(probability, 2**-53), 1 - 2**-53)))
