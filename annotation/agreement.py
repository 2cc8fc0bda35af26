"""How far annotators agree with each other, each one's habits, and how much suggestions swayed them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from align.intervals import wilson
from align.types import FLAGS, LETTERS, OUTCOMES, STRENGTHS, Judgement, Task
from annotation.compile import latest
from annotation.crowd.reading import KINDS, TRAINABLE
from annotation.kappa import Level, Sums, Values, alpha, cohen, estimate, fleiss, percent, resample, sums

Answers = list[tuple[str, str, str, str]]
"""(unit, prompt, annotator, value), one for each thing that somebody said."""
MOST_COUPLES = 100
"""Couples of annotators with a kappa of their own: those who share most tasks."""
SAME = "all answers are the same, so chance agreement is complete"

__all__ = ["krippendorff_alpha", "suggestion_effect", "summary"]


def summary(tasks: list[Task], judgements: list[Judgement]) -> dict[str, Any]:
    """Agreement and habits over the tasks of the data set's kind (pairs where there are any), as JSON-able values.

    `percent_agreement` is, averaged over tasks with two answers or more, the share of pairs of annotators who gave the
    same one; `alpha` is Krippendorff's, nominal, over a, b, tie and both_bad (a skip is a missing value); of rankings
    and ratings it is ordinal, over each answer's rank or score. `fleiss` is Fleiss' kappa. All come as {value, low,
    high, tasks, prompts}, with a 95% interval from resampling prompts, or as {value: null, reason}. `left` is the share
    of choices that fell on the left answer {value, low, high, n} with Wilson's 95% interval; with random sides an
    unbiased annotator has 0.5.

    `questions` has the same for each thing that was asked: the outcome of each kind, strength, each flag, each
    criterion and ranks, with its `level`. `slices` has the main question's alpha and percent agreement by purpose,
    round, repeat and how much the answers differ in length. `cohen` lists Cohen's kappa for couples of annotators,
    those with the most tasks in common first.
    """
    kind = next((k for k in KINDS if any(t.kind == k for t in tasks)), "pair")
    mine = {t.id: t for t in tasks if t.kind == kind}
    all_given = [j for j in latest(judgements) if j.outcome != "skipped"]
    given = [j for j in latest(judgements) if j.task_id in mine]
    names = sorted({j.annotator for j in given})
    by_name = {name: [j for j in given if j.annotator == name] for name in names}
    questions = _questions({t.id: t for t in tasks}, all_given)
    level, answers = questions.get(MAIN[kind], _main_of_ratings(questions))
    return {
        "tasks": len(mine),
        **_habits(given, mine),
        **_agreement(level, answers, CATEGORIES[kind] if level == "nominal" else None),
        "contradictory_pairs": _contradictory(given, mine),
        "annotators": {name: _habits(said, mine) for name, said in by_name.items()},
        "questions": {q: {"level": lv, **_agreement(lv, rows)} for q, (lv, rows) in questions.items()},
        "slices": _slices(mine, level, answers),
        "cohen": _couples(answers),
    }


MAIN = {"pair": "outcome (pair)", "rank": "rank", "single": "outcome (single)", "rating": ""}
CATEGORIES = {kind: OUTCOMES[kind][:-1] for kind in KINDS}


def _main_of_ratings(questions: dict[str, tuple[Level, Answers]]) -> tuple[Level, Answers]:
    """Of ratings the scores by all criteria, each answer and criterion being a unit."""
    found = [a for name, (_, rows) in sorted(questions.items()) if name.startswith("rating (") for a in rows]
    return ("ordinal", found) if found else ("nominal", [])


def _questions(tasks: dict[str, Task], given: list[Judgement]) -> dict[str, tuple[Level, Answers]]:
    """Everything that was said, by what was asked; units are tasks, or the answers of a task."""
    found: dict[str, tuple[Level, Answers]] = {}

    def add(question: str, level: Level, judgement: Judgement, unit: str, value: object) -> None:
        prompt = tasks[judgement.task_id].prompt_id
        row = (f"{judgement.task_id} {unit}", prompt, judgement.annotator, str(value))
        found.setdefault(question, (level, []))[1].append(row)

    for j in given:
        if j.task_id not in tasks:
            continue
        if j.ranking is not None:
            for letter, rank in zip(LETTERS, j.ranking, strict=False):
                add("rank", "ordinal", j, letter, rank)
        elif j.ratings is not None:
            for rating in j.ratings:
                add(f"rating ({rating['criterion']})", "ordinal", j, rating["criterion"], rating["score"])
        else:
            add(f"outcome ({j.kind})", "nominal", j, "", j.outcome)
        if j.strength in STRENGTHS:
            add("strength", "ordinal", j, "", j.strength)
    _add_flags(tasks, given, add)
    return {question: found[question] for question in sorted(found)}


def _add_flags(tasks: dict[str, Task], given: list[Judgement], add: Callable[..., None]) -> None:
    """Whether each answer was flagged, for each flag that somebody raised; units are answers."""
    raised = {flag.split(":")[-1] for j in given for flag in j.flags or []}
    for name in (f for f in FLAGS if f in raised):
        for j in given:
            if j.task_id in tasks:
                for letter in LETTERS[: len(tasks[j.task_id].candidates)]:
                    add(f"flag ({name})", "nominal", j, letter, f"{letter}:{name}" in (j.flags or []))


def _values(answers: Answers, categories: Sequence[str] | None = None) -> Values:
    """Answers as numbers; categories are sorted (digits as numbers) where they are not given."""
    known = list(categories or ()) or sorted({a[3] for a in answers}, key=lambda v: (len(v), v))
    place = {name: n for n, name in enumerate(known)}
    units = {name: n for n, name in enumerate(sorted({a[0] for a in answers}))}
    prompts = {name: n for n, name in enumerate(sorted({a[1] for a in answers}))}
    return Values(
        np.array([units[a[0]] for a in answers], np.int64),
        np.array([prompts[a[1]] for a in answers], np.int64),
        np.array([place[a[3]] for a in answers], np.int64),
        len(known),
    )


def _agreement(level: Level, answers: Answers, categories: Sequence[str] | None = None) -> dict[str, Any]:
    """Percent agreement, alpha and Fleiss' kappa with intervals, or the reason why there are none."""
    found = sums(_values(answers, categories)) if answers else None
    prompts = len(found.units) if found else 0
    if found is None or prompts < 2:  # of one prompt there is nothing to resample
        count = "only one prompt" if prompts else "no task"
        nothing = {"value": None, "reason": f"{count} has answers of two annotators"}
        return {name: dict(nothing) for name in ("percent_agreement", "alpha", "fleiss")}
    sizes = {"tasks": int(found.units.sum()), "prompts": prompts}
    statistics = {"percent_agreement": percent, "alpha": alpha(level), "fleiss": fleiss}
    return {name: estimate(found, of, undefined=SAME) | sizes for name, of in statistics.items()}


def krippendorff_alpha(units: Sequence[Sequence[str]], level: Level = "nominal") -> float | None:
    """Alpha of `units`, the values that each got; units of fewer than two values do not count. Ordinal values are
    sorted as numbers where they are digits.

    None where it is undefined: nothing to compare, or one category only.
    """
    answers = [(str(n), "", "", value) for n, unit in enumerate(units) if len(unit) > 1 for value in unit]
    if not answers:
        return None
    found = sums(_values(answers))
    value = float(alpha(level)(found.units.sum(), found.agreeing.sum(), found.coincidences.sum(0)))
    return None if math.isnan(value) else value


def _slices(tasks: dict[str, Task], level: Level, answers: Answers) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, of in SLICES.items():
        parts: dict[str, Answers] = {}
        for answer in answers:
            parts.setdefault(of(tasks[answer[0].split(" ")[0]]), []).append(answer)
        found[name] = {}
        for part, rows in sorted(parts.items()):
            agreement = _agreement(level, rows)
            found[name][part] = {key: agreement[key] for key in ("percent_agreement", "alpha")}
    return found


def _length(task: Task) -> str:
    """How much longer the longest answer is than the shortest."""
    sizes = [len(text) for text in task.texts]
    ratio = max(sizes) / max(1, min(sizes))
    return "one length" if ratio < 1.2 else "up to twice as long" if ratio <= 2 else "more than twice as long"


SLICES: dict[str, Callable[[Task], str]] = {
    "purpose": lambda task: task.purpose,
    "round": lambda task: str(task.round),
    "repeat": lambda task: str(task.repeat),
    "length": _length,
}


def _couples(answers: Answers) -> list[dict[str, Any]]:
    """Cohen's kappa of the couples that share most units, two at least; {annotators, tasks, value, low, high}."""
    units: dict[str, list[tuple[str, str, str]]] = {}
    for unit, prompt, who, value in answers:
        units.setdefault(unit, []).append((who, value, prompt))
    shared: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for said in units.values():
        for (one, x, prompt), (other, y, _) in combinations(sorted(said), 2):
            shared.setdefault((one, other), []).append((x, y, prompt))
    most = sorted(shared.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_COUPLES]
    return [{"annotators": list(couple), "tasks": len(rows), **_cohen(rows)} for couple, rows in most if len(rows) > 1]


def _cohen(rows: list[tuple[str, str, str]]) -> dict[str, Any]:
    categories = sorted({value for x, y, _ in rows for value in (x, y)})
    prompts = sorted({prompt for _, _, prompt in rows})
    if len(prompts) < 2:
        return {"value": None, "reason": "only one prompt has answers of both"}
    table = np.zeros((len(prompts), len(categories), len(categories)))
    place, cluster = ({name: n for n, name in enumerate(names)} for names in (categories, prompts))
    for x, y, prompt in rows:
        table[cluster[prompt], place[x], place[y]] += 1
    count = table.sum((1, 2))
    return estimate(Sums(count, count, table), cohen, undefined=SAME)


def suggestion_effect(tasks: list[Task], judgements: list[Judgement], proposed: Mapping[str, str]) -> dict[str, Any]:
    """How much suggestions swayed people.

    `proposed` maps the ids of control tasks, which showed no suggestion, to the outcome that would have been suggested.
    `shown` and `not_shown` are the shares of answers (no skips) that equal the suggestion {value, low, high, answers};
    `effect` is the one minus the other, in [−1, 1]: 0 where a suggestion changes nothing. Intervals are 95%, from
    resampling prompts; what cannot be computed is {value: None, reason}.
    """
    by_id = {t.id: t for t in tasks}
    rows: dict[str, list[float]] = {}
    for judgement in latest(judgements):
        task = by_id.get(judgement.task_id)
        if task is None or judgement.outcome == "skipped":
            continue
        suggestion = task.suggested if task.suggested is not None else proposed.get(task.id)
        if suggestion is not None:
            row = rows.setdefault(task.prompt_id, [0.0] * 4)
            at = 0 if task.suggested is not None else 2
            row[at] += 1
            row[at + 1] += judgement.outcome == suggestion
    table = np.array([rows[prompt] for prompt in sorted(rows)]).reshape(-1, 4)
    return {
        "shown": _rate(table, _shown, int(table[:, 0].sum()), "no answer to a task with a suggestion"),
        "not_shown": _rate(table, _not_shown, int(table[:, 2].sum()), "no answer to a task without its suggestion"),
        "effect": _rate(table, lambda t: _shown(t) - _not_shown(t), int(table[:, [0, 2]].sum()), "one side is missing"),
    }


def _shown(table: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return table[..., 1] / table[..., 0]


def _not_shown(table: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return table[..., 3] / table[..., 2]


def _rate(table: np.ndarray, of: Callable[[np.ndarray], np.ndarray], answers: int, reason: str) -> dict[str, Any]:
    value = float(of(table.sum(0)))
    if math.isnan(value):
        return {"value": None, "reason": reason, "answers": answers}
    if len(table) < 2:
        return {"value": None, "reason": "only one prompt, so nothing can be resampled", "answers": answers}
    draws = of(resample([table])[0])
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975]).tolist()
    return {"value": value, "low": low, "high": high, "answers": answers}


def _habits(judgements: list[Judgement], tasks: dict[str, Task]) -> dict[str, Any]:
    counts = Counter(j.outcome for j in judgements)
    left = _lefts(judgements, tasks)
    return {
        "judgements": len(judgements),
        "outcomes": dict(sorted(counts.items())),
        "skip_share": counts["skipped"] / len(judgements) if judgements else None,
        "left": _share(sum(left), len(left)) if left else {"value": None, "reason": "no choice between left and right"},
    }


def _lefts(judgements: Iterable[Judgement], tasks: dict[str, Task]) -> list[bool]:
    """For each preference whether it fell on the left answer."""
    pairs = ((j, tasks[j.task_id]) for j in judgements if j.outcome in ("a", "b"))
    return [task.shown[0] == "ab".index(j.outcome) for j, task in pairs]


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
