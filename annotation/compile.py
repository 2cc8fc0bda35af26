"""The label compiler: judgements → preferences. Votes only, so far; how far each annotator can be trusted comes later."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from align.errors import DataError
from align.types import PAIR_OUTCOMES, Dropped, Judgement, Preference, Task, preference_id

TRAINABLE = ("train", "control")
"""Purposes whose tasks become training signal; gold tasks test annotators, eval tasks test models."""

UNSCORED = {"both_bad": "both answers are bad, so neither is preferred", "skipped": "the annotator skipped the task"}


@dataclass(frozen=True, slots=True)
class Votes:
    """The scored judgements of one pair of candidates, over all tasks that ask about it.

    `counts` has "a", "b" (the canonical candidates) and "tie".
    """

    task: Task
    counts: Counter[str] = field(default_factory=Counter)
    judgements: list[str] = field(default_factory=list)

    @property
    def contradictory(self) -> bool:
        """Each of the two is preferred by somebody."""
        return self.counts["a"] > 0 and self.counts["b"] > 0


def compile_preferences(tasks: list[Task], judgements: list[Judgement]) -> tuple[list[Preference], list[Dropped]]:
    """One preference for each pair of candidates that has one, sorted by id; the rest is dropped with reasons.

    `target` is the share of votes for the chosen answer, a tie being half a vote for each; a share of exactly one half
    is no preference. `weight` is 1. `margin` is the log-odds ln((v + ½) / (n − v + ½)) of v votes in n: above 0, and
    finite also where all agree. Of each annotator the latest revision counts. Raises DataError for an outcome that no
    pair can have.
    """
    pairs, dropped = tally(tasks, judgements)
    preferences = []
    for pair in pairs:
        a, b, ties = (pair.counts[outcome] for outcome in ("a", "b", "tie"))
        if a + b + ties == 0:
            dropped.append(Dropped("pair", pair.task.id, "it has no scored judgement"))
        elif a == b:
            dropped.append(Dropped("pair", pair.task.id, f"no preference: {a} to {b} and {ties} ties"))
        else:
            preferences.append(_preference(pair))
    return sorted(preferences, key=lambda p: p.id), sorted(dropped, key=lambda d: (d.what, d.where))


def tally(tasks: Iterable[Task], judgements: Iterable[Judgement]) -> tuple[list[Votes], list[Dropped]]:
    """The votes of every pair that is trained on, in a fixed order, and what is no vote with the reason."""
    by_id = {t.id: t for t in sorted(tasks, key=lambda t: t.id)}
    pairs: dict[tuple[str, ...], Votes] = {}
    dropped = []
    for task in by_id.values():
        if task.kind == "pair" and task.purpose in TRAINABLE:
            pairs.setdefault(_pair(task), Votes(task))
        else:
            dropped.append(Dropped("task", task.id, f"{task.purpose} tasks of kind {task.kind} are not trained on"))
    for judgement in latest(judgements):
        asked = by_id.get(judgement.task_id)
        if asked is None:
            dropped.append(Dropped("judgement", judgement.id, "its task is not among the tasks compiled"))
        elif judgement.outcome in UNSCORED:
            dropped.append(Dropped("judgement", judgement.id, UNSCORED[judgement.outcome]))
        elif (votes := pairs.get(_pair(asked))) and asked.purpose in TRAINABLE:
            votes.counts[_known(judgement)] += 1
            votes.judgements.append(judgement.id)
    return [pairs[key] for key in sorted(pairs)], dropped


def latest(judgements: Iterable[Judgement]) -> list[Judgement]:
    """Each annotator's last revision on each task, sorted by id."""
    last: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        key = (judgement.task_id, judgement.annotator)
        if key not in last or judgement.revision > last[key].revision:
            last[key] = judgement
    return sorted(last.values(), key=lambda j: j.id)


def _pair(task: Task) -> tuple[str, ...]:
    return (task.prompt_id, *task.candidates)


def _known(judgement: Judgement) -> str:
    if judgement.outcome not in PAIR_OUTCOMES:
        raise DataError(
            f"a pair cannot have the outcome {judgement.outcome!r}",
            where=f"judgement {judgement.id}",
            hint=f"it is one of {', '.join(PAIR_OUTCOMES)}",
        )
    return judgement.outcome


def _preference(pair: Votes) -> Preference:
    chosen = 0 if pair.counts["a"] > pair.counts["b"] else 1
    rejected = 1 - chosen
    task, n = pair.task, pair.counts.total()
    votes = pair.counts["ab"[chosen]] + 0.5 * pair.counts["tie"]
    return Preference(
        id=preference_id(task.prompt_id, task.candidates[chosen], task.candidates[rejected]),
        prompt_id=task.prompt_id,
        messages=task.messages,
        chosen_id=task.candidates[chosen],
        rejected_id=task.candidates[rejected],
        chosen=task.texts[chosen],
        rejected=task.texts[rejected],
        target=votes / n,
        weight=1.0,
        margin=math.log((votes + 0.5) / (n - votes + 0.5)),
        round=task.round,
        judgements=sorted(pair.judgements),
    )
