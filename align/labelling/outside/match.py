"""What files say about the tasks of a labelling session: found by their ids, else by prompt and answers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from align.labelling.outside.assemble import WHAT, Placed, judge
from align.labelling.outside.words import Word, moment
from align.normal import normal
from align.types import Dropped, Judgement, Task, prompt_id
from annotation.journal import Journal, differs

KIND = {"pair": "pair", "blind_ab": "pair"}
"""Kinds that ask the same of people are one here: a file seldom says whether a comparison was a blind one."""


def about_tasks(words: Sequence[Word], tasks: Sequence[Task]) -> tuple[list[tuple[Judgement, str]], list[Dropped]]:
    """Judgements of these tasks with their `file:line`, and the words that are about none of them, or about more than
    one."""
    by_id = {task.id: task for task in tasks}
    by_content: dict[tuple[object, ...], list[Task]] = defaultdict(list)
    for task in tasks:
        by_content[_content(task.kind, task.prompt_id, task.texts)].append(task)
    placed: list[Placed] = []
    dropped = []
    for word in words:
        key = _content(word.kind, prompt_id(word.messages), word.answers)
        found = [by_id[word.task]] if word.task in by_id else by_content.get(key, [])
        fits = [(task, order) for task in found if (order := _order(word, task)) is not None]
        if len(fits) > 1 and word.shown is not None:
            fits = [(task, order) for task, order in fits if [order[place] for place in task.shown] == word.shown]
        if len(fits) == 1:
            task, order = fits[0]
            placed.append(Placed(replace(word, kind=task.kind), task, order))
        elif fits:
            reason = f"several tasks: {len(fits)} tasks ask this, in different orders; `task_id` or `shown` says which"
            dropped.append(Dropped(WHAT, word.where, reason))
        else:
            dropped.append(Dropped(WHAT, word.where, "unknown task: the labelling asks nothing about these answers"))
    judgements, more = judge(placed)
    return judgements, dropped + more


def new_to(journal: Journal, said: Sequence[tuple[Judgement, str]]) -> tuple[list[Judgement], list[Dropped]]:
    """Those that the journal does not have, or that are later than what it has; and those that are not."""
    latest = journal.latest
    new, dropped = [], []
    for judgement, where in said:
        before = latest.get((judgement.task_id, journal.identity(judgement.annotator)))
        if before is None:
            new.append(judgement)
        elif not differs(before, replace(judgement, annotator=before.annotator)):
            dropped.append(Dropped(WHAT, where, "duplicate: the journal has it"))
        elif judgement.time and before.time and moment(judgement.time) > moment(before.time):
            new.append(judgement)
        elif judgement.time and before.time:
            dropped.append(Dropped(WHAT, where, "superseded: the journal has a later word of this person"))
        else:
            reason = "contradiction: the journal has another word of this person, and no time says which is later"
            dropped.append(Dropped(WHAT, where, reason))
    return new, dropped


def _content(kind: str, prompt: str, texts: Sequence[str]) -> tuple[object, ...]:
    return KIND.get(kind, kind), prompt, tuple(sorted(map(normal, texts)))


def _order(word: Word, task: Task) -> list[int] | None:
    """Which of the word's answers each canonical one of the task is; None where they are others."""
    said = [normal(text) for text in word.answers]
    wanted = [normal(text) for text in task.texts]
    if KIND.get(word.kind, word.kind) != KIND.get(task.kind, task.kind) or sorted(said) != sorted(wanted):
        return None
    return [said.index(text) for text in wanted]
