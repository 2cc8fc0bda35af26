"""What a round asks of people, all of it: tasks of the recipe's kind, gold tasks, repeats and suggestions."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from align.config.recipe import Annotate, Gold, Suggest
from align.data.contamination import drop_held_out_preferences
from align.data.preferences import load_preferences
from align.dropped import count_reasons
from align.errors import DataError
from align.ids import unit_for
from align.store import read_table, write_table
from align.types import Candidate, Dropped, Prompt, Task
from annotation.controls import Suggestion, gold_tasks, gold_wanted, repeats, suggest
from annotation.form import form_of
from annotation.tasks import NAMES, make_tasks, shortfall

MORE_ROWS = "give more prompts or more different answers to each, or lower --tasks"
MORE_GOLD = "give more pairs, or lower annotate.gold.share (--gold-share)"
MORE_ANSWERS = "raise rollouts.prompts, rollouts.samples or rollouts.temperature, or lower annotate.tasks"


@dataclass(frozen=True, slots=True)
class AskedTasks:
    """`suggestions` are the outcomes that were suggested, and for the other tasks those that would have been. `notes`
    are sentences for people: what was asked for and could not be made."""

    tasks: list[Task]
    dropped: list[Dropped]
    suggestions: list[Suggestion]
    notes: list[str] = field(default_factory=list)


def ask(
    prompts: list[Prompt],
    candidates: list[Candidate],
    annotate: Annotate,
    *,
    round: int,
    seed: int,
    source: Path | None = None,
    hide_thinking: bool = False,
) -> AskedTasks:
    """The tasks that `annotate` asks about `candidates`, which answer train prompts. A gold pair whose prompt is in the
    test split of `prompts` is dropped.

    `source` is the file that the candidates came from, if any; with `hide_thinking` nobody sees thoughts. Raises
    DataError where there is nothing to ask, and where no gold pair is left.
    """
    form, overlap = form_of(annotate, hide_thinking), annotate.overlap
    train, held_out = ([p for p in prompts if p.split == split] for split in ("train", "test"))
    proper, dropped = make_tasks(
        train, candidates, round=round, count=annotate.tasks, overlap=overlap, seed=seed, form=form
    )
    if not proper:
        raise DataError(
            "no prompt has two different answers, so there is nothing to compare"
            if form.answers > 1
            else "there is no answer to ask about",
            where=str(source) if source else None,
            hint=None if source else "raise rollouts.temperature or rollouts.samples",
        )
    answered = len({c.prompt_id for c in candidates})
    meant = "tasks" in annotate.model_fields_set
    fewer = shortfall(len(proper), annotate.tasks, NAMES[form.kind], answered, count_reasons(dropped), asked=meant)
    more = (f"; {MORE_ROWS}" if source else f"; {MORE_ANSWERS}") if meant else ""
    notes = [f"{f'{source}: ' if source else ''}{fewer}{more}"] if fewer else []
    again = repeats(proper, share=annotate.repeats, seed=seed)
    gold: list[Task] = []
    if annotate.gold is not None:
        gold, left_out = _gold(annotate.gold, annotate, [*proper, *again], held_out, round=round, seed=seed)
        dropped = dropped + left_out
        wanted = gold_wanted(annotate.gold.share, len(proper) + len(again))
        if len(gold) < wanted and "share" in annotate.gold.model_fields_set:
            notes += [
                f"{annotate.gold.path}: {len(gold):,} control items and not the {wanted:,} asked for; {MORE_GOLD}"
            ]
    # not in the order of their making: nobody should see from a place on the server what is gold or a repeat
    tasks = sorted([*proper, *again, *gold], key=lambda t: (-t.priority, unit_for(seed, "order", t.id)))
    if annotate.suggest is None:
        return AskedTasks(tasks, dropped, [], notes)
    shown, suggestions = _suggested(tasks, annotate.suggest, seed)
    return AskedTasks(shown, dropped, suggestions, notes)


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


SUGGESTIONS = "suggestions.parquet"


def write_suggestions(folder: Path, suggestions: list[Suggestion]) -> None:
    """Shown and unshown ones, without which nobody could say how far people were swayed."""
    schema = pa.schema([("task_id", pa.string()), ("outcome", pa.string()), ("shown", pa.bool_())])
    write_table(folder / SUGGESTIONS, pa.Table.from_pylist([asdict(row) for row in suggestions], schema=schema))


def read_suggestions(folder: Path) -> list[Suggestion]:
    return [Suggestion(**row) for row in read_table(folder / SUGGESTIONS).to_pylist()]
