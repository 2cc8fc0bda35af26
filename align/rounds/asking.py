"""What a round asks of people, all of it: tasks of the recipe's kind, gold tasks, repeats and suggestions."""

from dataclasses import dataclass, replace
from pathlib import Path

from align.config.recipe import Annotate, Gold, Suggest
from align.data.contamination import drop_held_out_preferences
from align.data.preferences import load_preferences
from align.errors import DataError
from align.ids import unit_for
from align.types import Candidate, Dropped, Prompt, Task
from annotation.controls import Suggestion, gold_tasks, repeats, suggest
from annotation.form import form_of
from annotation.tasks import make_tasks


@dataclass(frozen=True, slots=True)
class Asked:
    """`suggestions` are the outcomes that were suggested, and for the other tasks those that would have been."""

    tasks: list[Task]
    dropped: list[Dropped]
    suggestions: list[Suggestion]


def ask(
    prompts: list[Prompt],
    candidates: list[Candidate],
    annotate: Annotate,
    *,
    round: int,
    seed: int,
    held_out: list[Prompt] | None = None,
) -> Asked:
    """The tasks that `annotate` asks about `candidates`. A gold pair whose prompt is among `held_out` is dropped.

    Raises DataError where there is nothing to ask, and where no gold pair is left.
    """
    form, overlap = form_of(annotate), annotate.overlap
    proper, dropped = make_tasks(
        prompts, candidates, round=round, count=annotate.tasks, overlap=overlap, seed=seed, form=form
    )
    if not proper:
        raise DataError(
            "no prompt has two different answers, so there is nothing to compare",
            hint="raise rollouts.temperature or rollouts.samples",
        )
    again = repeats(proper, share=annotate.repeats, seed=seed)
    gold: list[Task] = []
    if annotate.gold is not None:
        gold, left_out = _gold(annotate.gold, annotate, [*proper, *again], held_out or [], round=round, seed=seed)
        dropped = dropped + left_out
    # not in the order of their making: nobody should see from a place on the server what is gold or a repeat
    tasks = sorted([*proper, *again, *gold], key=lambda t: (-t.priority, unit_for(seed, "order", t.id)))
    if annotate.suggest is None:
        return Asked(tasks, dropped, [])
    shown, suggestions = _suggested(tasks, annotate.suggest, seed)
    return Asked(shown, dropped, suggestions)


def _gold(
    gold: Gold, annotate: Annotate, tasks: list[Task], held_out: list[Prompt], *, round: int, seed: int
) -> tuple[list[Task], list[Dropped]]:
    rows, unusable = load_preferences(gold.path)
    kept, contaminated = drop_held_out_preferences(rows, held_out)
    made, alike = gold_tasks(
        kept, tasks, kind=annotate.kind, share=gold.share, round=round, overlap=annotate.overlap, seed=seed
    )
    left_out = [replace(row, what="gold") for row in [*unusable, *contaminated, *alike]]
    if not made:
        reasons = "; ".join(sorted({row.reason for row in left_out})[:3])
        raise DataError(
            f"no gold pair is left: {reasons}", where=str(gold.path), hint="give other pairs, or leave it out"
        )
    return made, left_out


def _suggested(tasks: list[Task], config: Suggest, seed: int) -> tuple[list[Task], list[Suggestion]]:
    from reward.functions import FunctionScorer, load_function

    scorer = FunctionScorer(load_function(config.path, Path()))
    scores = {t.id: scorer.score([t.messages] * len(t.texts), t.texts) for t in tasks}
    return suggest(tasks, scores, share=config.share, seed=seed)
