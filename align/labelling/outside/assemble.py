"""From what files say to tasks and judgements: ids of content, the canonical order, one word for each person and
task."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from align.data.messages import excerpt
from align.data.preferences import GIVEN
from align.labelling.outside.words import Word, moment
from align.normal import normal
from align.types import LETTERS, Dropped, Judgement, Task, candidate_id, judgement_id, prompt_id, task_id

WHAT = "judgement"
"""What a row of `Dropped` calls these rows."""
NO_DEFECT = ("duplicate", "superseded")
"""Reasons that speak against no file: it says the same twice, or more than the last word."""


class Placed(NamedTuple):
    """A word with the task that it is about; `order` gives, for each canonical place, the answer in the word's
    order."""

    word: Word
    task: Task
    order: list[int]


def assemble(words: Sequence[Word]) -> tuple[list[Task], list[Judgement], list[Dropped]]:
    """Tasks and judgements, each sorted by id, and the words that went no further, in their order.

    A pair that people saw in different orders is a task and repeats of it, so that position bias can be told; where
    nobody knows who stood where, all are one task in canonical order. Of several words of one person about one task the
    latest counts.
    """
    placed, dropped = _placed(words)
    kept, more = judge(placed)
    judgements = [judgement for judgement, _ in kept]
    answered = {judgement.task_id for judgement in judgements}
    tasks = {one.task.id: one.task for one in placed if one.task.id in answered}
    return sorted(tasks.values(), key=lambda t: t.id), judgements, _in_order(dropped + more, words)


def judge(placed: Sequence[Placed]) -> tuple[list[tuple[Judgement, str]], list[Dropped]]:
    """One judgement for each person and task with its `file:line`, sorted by id; and the words that do not count."""
    said: dict[tuple[str, str], list[tuple[Word, Judgement]]] = defaultdict(list)
    for one in placed:
        judgement = _judgement(one)
        said[judgement.task_id, judgement.annotator].append((one.word, judgement))
    kept, dropped = [], []
    for mine in said.values():
        counts, more = _last_word(mine)
        kept += [(judgement, word.where) for word, judgement in counts]
        dropped += more
    return sorted(kept, key=lambda one: one[0].id), dropped


def _placed(words: Sequence[Word]) -> tuple[list[Placed], list[Dropped]]:
    dropped = []
    groups: dict[tuple[Any, ...], list[tuple[Word, list[int], list[str]]]] = defaultdict(list)
    for word in words:
        if (twins := _twins(word.answers)) is not None:
            reason = f"no difference: answers {twins[0] + 1} and {twins[1] + 1} read the same"
            dropped.append(Dropped(WHAT, word.where, reason))
            continue
        prompt = prompt_id(word.messages)
        models = word.models or [GIVEN] * len(word.answers)
        ids = word.candidates or [
            candidate_id(prompt, text, model) for text, model in zip(word.answers, models, strict=True)
        ]
        order = list(range(len(ids))) if word.task else sorted(range(len(ids)), key=ids.__getitem__)
        key = (word.task, word.kind, prompt, *(ids[at] for at in order), word.purpose, word.round, word.repeat)
        groups[key].append((word, order, ids))
    placed: list[Placed] = []
    texts: dict[str, list[str]] = {}
    for (_, _, prompt, *_), group in groups.items():
        shown = [_canonical(word, order) for word, order, _ in group]
        repeats = _repeats(shown) if group[0][0].repeat is None and not group[0][0].task else {}
        for (word, order, ids), sides in zip(group, shown, strict=True):
            task = _task(word, prompt, order, ids, sides, repeats)
            if texts.setdefault(task.id, task.texts) != task.texts:
                dropped.append(
                    Dropped(WHAT, word.where, "other content: an earlier row has other answers for this task")
                )
            else:
                placed.append(Placed(word, task, order))
    return placed, dropped


def _twins(answers: Sequence[str]) -> tuple[int, int] | None:
    """Two answers that nobody can tell apart."""
    first: dict[str, int] = {}
    for place, text in enumerate(map(normal, answers)):
        if text in first:
            return first[text], place
        first[text] = place
    return None


def _canonical(word: Word, order: Sequence[int]) -> tuple[int, ...] | None:
    """`shown` in canonical indices."""
    return None if word.shown is None else tuple(order.index(answer) for answer in word.shown)


def _repeats(shown: Iterable[tuple[int, ...] | None]) -> dict[tuple[int, ...] | None, int]:
    """Known orders first; whoever saw another one was asked a repeat."""
    distinct = set(shown)
    return {sides: n for n, sides in enumerate(sorted(distinct, key=lambda s: (s is None, s or ())))}


def _task(
    word: Word,
    prompt: str,
    order: Sequence[int],
    ids: Sequence[str],
    sides: tuple[int, ...] | None,
    repeats: dict[tuple[int, ...] | None, int],
) -> Task:
    candidates = [ids[at] for at in order]
    repeat = repeats[sides] if repeats else word.repeat or 0
    return Task(
        id=word.task or task_id(word.kind, prompt, candidates, word.purpose, repeat, word.round),
        kind=word.kind,
        round=word.round,
        purpose=word.purpose,
        repeat=repeat,
        prompt_id=prompt,
        messages=word.messages,
        candidates=candidates,
        texts=[word.answers[at] for at in order],
        shown=list(range(len(order))) if sides is None else list(sides),
        wanted=1,
    )


def _judgement(placed: Placed) -> Judgement:
    """The word, its letters and ranks turned into the canonical order."""
    word, task, order = placed

    def turned(letter: str) -> str:
        return LETTERS[order.index(LETTERS.index(letter))]

    chooses = word.kind in ("pair", "blind_ab") and word.outcome in ("a", "b")
    revision = word.revision or 0
    return Judgement(
        id=judgement_id(task.id, word.annotator, revision),
        task_id=task.id,
        kind=task.kind,
        annotator=word.annotator,
        revision=revision,
        outcome=turned(word.outcome) if chooses else word.outcome,
        strength=word.strength if chooses else None,
        flags=sorted(f"{turned(flag[0])}{flag[1:]}" for flag in word.flags) if word.flags else None,
        edit=word.edit,
        reason=word.reason,
        time=word.time,
        seconds=word.seconds,
        ranking=None if word.ranking is None else [word.ranking[at] for at in order],
        ratings=word.ratings,
    )


def _last_word(said: Sequence[tuple[Word, Judgement]]) -> tuple[list[tuple[Word, Judgement]], list[Dropped]]:
    """Which of one person's words about one task counts: the latest revision, else the latest by time. None does where
    nobody can say which was later."""
    first: dict[tuple[object, ...], Word] = {}
    dropped, different = [], []
    for word, judgement in said:
        key = (*_content(judgement), word.time, word.revision)
        if key in first:
            dropped.append(Dropped(WHAT, word.where, f"duplicate: the same word as {first[key].where}"))
        else:
            first[key] = word
            different.append((word, judgement))
    if len(different) == 1:
        return different[:1], dropped
    if len({_content(judgement) for _, judgement in different}) == 1:
        for word, _ in different[1:]:
            dropped.append(Dropped(WHAT, word.where, f"duplicate: the same word as {different[0][0].where}"))
        return different[:1], dropped
    who = excerpt(different[0][0].annotator)
    last = _latest([word for word, _ in different])
    if last is None:
        places = ", ".join(word.where for word, _ in different[:3])
        reason = f"contradiction: {who} says different things of one task in {places}, and no time says which is later"
        return [], dropped + [Dropped(WHAT, word.where, reason) for word, _ in different]
    later = f"superseded: {who} says something else later, in {different[last][0].where}"
    dropped += [Dropped(WHAT, word.where, later) for n, (word, _) in enumerate(different) if n != last]
    return [different[last]], dropped


def _latest(words: Sequence[Word]) -> int | None:
    """The place of the latest word; None where that is not known of all of them."""
    for ranks in ([w.revision for w in words], [w.time and moment(w.time) for w in words]):
        if all(rank is not None for rank in ranks) and len(set(ranks)) == len(ranks):
            return max(range(len(ranks)), key=ranks.__getitem__)  # type: ignore[arg-type]
    return None


def _content(judgement: Judgement) -> tuple[object, ...]:
    ratings = judgement.ratings and tuple(sorted((r["criterion"], r["score"]) for r in judgement.ratings))
    return (
        judgement.outcome,
        judgement.strength,
        tuple(judgement.flags or ()),
        judgement.edit,
        judgement.reason,
        tuple(judgement.ranking or ()),
        ratings,
    )


def _in_order(dropped: list[Dropped], words: Sequence[Word]) -> list[Dropped]:
    place = {word.where: n for n, word in enumerate(words)}
    return sorted(dropped, key=lambda row: place[row.where])
