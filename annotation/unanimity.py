"""How far annotators agreed about each compiled pair."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from align.types import LETTERS, Judgement, Preference, Task

Agreement = Literal["one annotator", "all agreed", "they disagreed"]


def unanimity(
    preferences: Sequence[Preference], tasks: Iterable[Task], judgements: Iterable[Judgement]
) -> list[Agreement | None]:
    """For each preference whether those who judged it said the same: which answer is better, or that neither is.

    An annotator's word about a pair is read off a comparison, a ranking, or binary labels and ratings of both answers.
    None where no judgement that the preference names says anything about both answers.
    """
    asked = {task.id: task for task in tasks}
    said = {j.id: j for j in judgements if j.task_id in asked}
    found: list[Agreement | None] = []
    for row in preferences:
        worths: dict[str, dict[str, list[float]]] = {}
        for judgement in (said[name] for name in row.judgements if name in said):
            for candidate, worth in _worths(asked[judgement.task_id], judgement).items():
                worths.setdefault(judgement.annotator, {}).setdefault(candidate, []).append(worth)
        outcomes = [_outcome(mine, row) for mine in worths.values()]
        known = [outcome for outcome in outcomes if outcome is not None]
        if not known:
            found.append(None)
        else:
            found.append("one annotator" if len(known) == 1 else _alike(known))
    return found


def _alike(outcomes: Sequence[int]) -> Agreement:
    return "all agreed" if len(set(outcomes)) == 1 else "they disagreed"


def _worths(task: Task, judgement: Judgement) -> dict[str, float]:
    """What one judgement says of each candidate, higher is better; nothing for a skip."""
    if judgement.ranking is not None:
        return {c: -float(rank) for c, rank in zip(task.candidates, judgement.ranking, strict=True)}
    if judgement.ratings:
        score = sum(rating["score"] for rating in judgement.ratings) / len(judgement.ratings)
        return {task.candidates[0]: score}
    match judgement.outcome:
        case "a" | "b" | "tie" | "both_bad":
            return {c: float(LETTERS[n] == judgement.outcome) for n, c in enumerate(task.candidates)}
        case "good" | "bad":
            return {task.candidates[0]: float(judgement.outcome == "good")}
    return {}


def _outcome(worths: Mapping[str, Sequence[float]], row: Preference) -> int | None:
    """1 for chosen, −1 for rejected, 0 for neither, None where one of the two was not judged."""
    if row.chosen_id not in worths or row.rejected_id not in worths:
        return None
    chosen, rejected = (sum(worths[c]) / len(worths[c]) for c in (row.chosen_id, row.rejected_id))
    return (chosen > rejected) - (chosen < rejected)
