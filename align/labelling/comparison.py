"""Two files of candidates, compared blind by people: what is asked, and who wins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from align.config.recipe import Annotate
from align.errors import DataError
from align.evaluation.blind import blind_win_rate
from align.labelling.session import SESSION, has_session
from align.labelling.tasks import AskedTasks
from align.store import read_json
from align.types import Candidate, Dropped, Judgement, Prompt, Task
from annotation.tasks import TIED, blind_tasks, first_samples, shortfall

Answers = tuple[list[Prompt], list[Candidate]]


def ask_blind(
    new: Answers, old: Answers, annotate: Annotate, *, seed: int, hide_thinking: bool = False
) -> tuple[AskedTasks, dict[str, list[str]]]:
    """The comparisons of `new` with `old` answers to the same prompts; and what their result needs: the ids of the
    `new` candidates asked about, and of the prompts on which both say the `same`.

    Of several answers to a prompt the first sample counts. Raises DataError where the two share no prompt, and where
    they say the same on all of them.
    """
    prompts = {p.id: replace(p, split="test") for p in [*new[0], *old[0]]}
    ours, theirs = ({c.prompt_id for c in rows} for _, rows in (new, old))
    if not ours & theirs:
        raise DataError(
            f"the {len(ours)} prompts of --candidates and the {len(theirs)} of --against have none in common"
        )
    tasks, same = blind_tasks(
        list(prompts.values()),
        new[1],
        old[1],
        round=1,
        count=annotate.tasks,
        overlap=annotate.overlap,
        seed=seed,
        hide_thinking=hide_thinking,
    )
    if not tasks:
        raise DataError(f"the two files say the same on all {len(same)} prompts, so there is nothing to compare")
    dropped = [Dropped("prompt", p, "only one of the two files answers it") for p in sorted(ours ^ theirs)]
    dropped += [Dropped("prompt", p, TIED) for p in same]
    left = ours & theirs - {task.prompt_id for task in tasks} - set(same)
    dropped += [Dropped("prompt", p, f"the {annotate.tasks} tasks asked for came from others") for p in sorted(left)]
    firsts = first_samples(new[1])
    fewer = shortfall(
        len(tasks),
        annotate.tasks,
        "blind comparisons",
        len(ours & theirs),
        {TIED: len(same)},
        asked="tasks" in annotate.model_fields_set,
    )
    notes = [f"{fewer}; give more prompts that both files answer, or lower --tasks"] if fewer else []
    return AskedTasks(tasks, dropped, [], notes), {"new": [firsts[task.prompt_id].id for task in tasks], "same": same}


def win_rate(folder: Path, tasks: list[Task], judgements: list[Judgement]) -> dict[str, Any] | None:
    """How often people preferred what `--candidates` had to what `--against` had, as `align.evaluation.blind` says;
    None for a folder that is not about two files."""
    session = read_json(folder / SESSION) if has_session(folder) else {}
    blind = session.get("blind")
    return blind_win_rate(tasks, judgements, blind["new"], blind["same"], seed=session["seed"]) if blind else None
