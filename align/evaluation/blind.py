"""How often people prefer the new policy's answer, from blind comparisons."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean
from typing import Any

from align.evaluation.gate import Comparisons
from align.evaluation.winrate import clustered_interval
from align.types import Judgement, Task


def blind_win_rate(
    tasks: Sequence[Task],
    judgements: Iterable[Judgement],
    new: Collection[str],
    same: Collection[str] = (),
    *,
    seed: int,
) -> dict[str, Any]:
    """The win rate of the policy whose candidates have the ids `new`, over prompts, with its 95% interval.

    A prompt's value is the mean over its judgements: 1 for the new answer, 0 for the other, ½ for a tie and for both
    being bad. The prompts in `same`, on which both policies said the same, count as ties that nobody was asked about.
    The interval draws prompts (see `winrate.win_rate`).

    Gives {mean, low, high, n, clusters, wins, ties, losses, unscored, both_bad, same, unanswered, annotators}: `n`
    counts scored judgements and the ties of `same`, `clusters` prompts, `unscored` skips, `unanswered` tasks without a
    scored judgement; `both_bad` and `same` are among the `ties`. With fewer than two prompts {mean: None, reason}.
    """
    asked = {t.id: t for t in tasks}
    values: dict[str, list[float]] = defaultdict(list)
    outcomes: list[str] = []
    people: set[str] = set()
    for judgement in judgements:
        task = asked[judgement.task_id]
        outcomes.append(judgement.outcome)
        if judgement.outcome != "skipped":
            values[task.prompt_id].append(_value(task, judgement, new))
            people.add(judgement.annotator)
    scored = [value for given in values.values() for value in given]
    counts = {
        "n": len(scored) + len(same),
        "clusters": len(values) + len(same),
        "wins": scored.count(1.0),
        "ties": scored.count(0.5) + len(same),
        "losses": scored.count(0.0),
        "unscored": outcomes.count("skipped"),
        "both_bad": outcomes.count("both_bad"),
        "same": len(same),
        "unanswered": sum(t.prompt_id not in values for t in tasks),
        "annotators": len(people),
    }
    if counts["clusters"] < 2:
        found = "one prompt was" if counts["clusters"] else "no prompt was"
        return {"mean": None, "reason": f"{found} judged, and an interval needs two", **counts}
    means = {prompt: fmean(given) for prompt, given in sorted(values.items())} | dict.fromkeys(sorted(same), 0.5)
    mean, low, high = clustered_interval(list(means.values()), list(means), seed=seed)
    return {"mean": mean, "low": low, "high": high, **counts}


def comparisons(
    tasks: Sequence[Task], judgements: Iterable[Judgement], new: Collection[str], *, whole: int = 0
) -> Comparisons:
    """The scored judgements in the order in which they were given, for the gate; a skip says nothing.

    While a labelling is open, `whole` leaves out prompts with fewer judgements than that: what a prompt says counts
    once, when it is complete.
    """
    asked = {task.id: task for task in tasks}
    scored = sorted((j for j in judgements if j.outcome != "skipped"), key=lambda j: (j.time or "", j.id))
    given = Counter(asked[j.task_id].prompt_id for j in scored)
    counted = [j for j in scored if given[asked[j.task_id].prompt_id] >= whole]
    return Comparisons(
        [_value(asked[j.task_id], j, new) for j in counted],
        [asked[j.task_id].prompt_id for j in counted],
        [j.annotator for j in counted],
    )


def _value(task: Task, judgement: Judgement, new: Collection[str]) -> float:
    if judgement.outcome not in ("a", "b"):
        return 0.5
    return float(task.candidates["ab".index(judgement.outcome)] in new)
