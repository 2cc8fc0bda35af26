"""Which questions are asked: candidates → tasks of one kind. Pure, and independent of the order of its inputs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from align.dropped import reasons_text
from align.errors import DataError
from align.figures import counted
from align.ids import unit_for
from align.normal import normal
from align.turns import said
from align.types import Candidate, Dropped, Prompt, Purpose, Split, Task, TaskKind, task_id
from annotation.form import Form

Group = tuple[Candidate, ...]
"""The answers to one prompt that stand beside each other in one task."""


def make_tasks(
    prompts: list[Prompt],
    candidates: list[Candidate],
    *,
    round: int,
    count: int,
    overlap: int,
    seed: int,
    form: Form = Form(),
) -> tuple[list[Task], list[Dropped]]:
    """At most `count` tasks of the form's kind, each for `overlap` people, and every answered prompt that gave none
    with the reason. Which answers, which prompts and who stands where depend on `seed` and on content alone.

    A prompt's pairs are all pairs of its different answers; its rankings take up to `form.answers` of them at once.
    Every prompt gets a first one before any gets a second, in priority too, so that a labelling that is closed early
    loses least. Single answers and ratings are asked prompt by prompt, all answers of one: they become pairs only
    together. Raises DataError for a prompt that is not in the train split, and for a candidate of a prompt that is not
    among `prompts`.
    """
    by_id = _known(prompts, candidates, "train")
    answers: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        answers[candidate.prompt_id].append(candidate)
    groups = {
        p: list(islice(_groups(_distinct(given, form.hide_thinking), form, seed), count))
        for p, given in answers.items()
    }
    order = sorted(groups, key=lambda p: (unit_for(seed, "prompt", p), p))
    if form.answers > 1:
        turns = range(max(map(len, groups.values()), default=0))
        asked = [(turn, p, groups[p][turn]) for turn in turns for p in order if turn < len(groups[p])]
    else:
        asked = [(turn, p, group) for turn, p in enumerate(order) for group in groups[p]]
    tasks = [
        _task(by_id[p], group, form.kind, "train", round, overlap, seed, priority=float(-turn))
        for turn, p, group in asked[:count]
    ]
    reached = {task.prompt_id for task in tasks}
    dropped = [Dropped("prompt", p, _reason(answers[p], count, form)) for p in sorted(answers.keys() - reached)]
    return tasks, dropped


def blind_tasks(
    prompts: list[Prompt],
    new: list[Candidate],
    old: list[Candidate],
    *,
    round: int,
    count: int,
    overlap: int,
    seed: int,
    split: Split = "test",
    hide_thinking: bool = False,
) -> tuple[list[Task], list[str]]:
    """Blind comparisons of two policies on at most `count` prompts that both answered, drawn by `seed`; and the ids of
    those drawn prompts on which the two said the same, a tie that nobody needs to be asked about.

    Of several answers of a policy its first sample counts. Raises DataError for a prompt of another split than `split`.
    """
    by_id = _known(prompts, [*new, *old], split)
    ours, theirs = first_samples(new), first_samples(old)
    drawn = sorted(ours.keys() & theirs.keys(), key=lambda p: (unit_for(seed, "blind", p), p))[:count]
    same = [p for p in drawn if _seen(ours[p], hide_thinking) == _seen(theirs[p], hide_thinking)]
    asked = [p for p in drawn if p not in set(same)]
    pairs = [(by_id[p], (ours[p], theirs[p])) for p in asked]
    return [_task(p, pair, "blind_ab", "eval", round, overlap, seed) for p, pair in pairs], sorted(same)


TIED = "both answers are the same, a tie"


def shortfall(
    made: int, count: int, name: str, answered: int, reasons: Mapping[str, int], *, asked: bool = True
) -> str | None:
    """A sentence where fewer tasks, called `name`, were `made` of `answered` prompts than the `count` asked for; with
    the reasons why prompts gave none. None where they are enough, or where all the others are ties that nobody is asked
    about. Where nobody `asked` for so many, since the count is a default, only what became of prompts with answers is
    said.
    """
    if made + reasons.get(TIED, 0) >= count:
        return None
    why = f" ({reasons_text(reasons)})" if sum(reasons.values()) else ""
    if not asked:
        lost = any(count for reason, count in reasons.items() if reason != TIED)
        return f"{made:,} {name} of {counted(answered, 'prompt')} with answers{why}" if lost else None
    return (
        f"{made:,} {name} and not the {count:,} asked for: {counted(answered, 'prompt')} with answers give no more{why}"
    )


def item_of(task: Task) -> str:
    """The id that a task shares with its repeats: that of the one with repeat 0."""
    if task.repeat == 0:
        return task.id
    return task_id(task.kind, task.prompt_id, task.candidates, task.purpose, 0, task.round)


def _known(prompts: list[Prompt], candidates: Iterable[Candidate], split: Split) -> dict[str, Prompt]:
    """The prompts by id, all of `split`; every candidate answers one of them."""
    by_id = {p.id: p for p in prompts}
    for prompt in by_id.values():
        if prompt.split != split:
            forbids = "nobody may label" if split == "train" else "blind comparisons may not use"
            raise DataError(
                f"the prompt is in the {prompt.split} split, which {forbids}",
                where=prompt.source,
                hint=f"give only prompts of the {split} split",
            )
    for candidate in candidates:
        if candidate.prompt_id not in by_id:
            raise DataError(f"candidate {candidate.id} answers the unknown prompt {candidate.prompt_id}")
    return by_id


def _seen(candidate: Candidate, hide_thinking: bool) -> str:
    """What people can tell apart: neither white space around a text nor how a line end is written can be seen, nor
    thoughts where these are hidden."""
    return normal(said(candidate.text) if hide_thinking else candidate.text)


def _distinct(candidates: Iterable[Candidate], hide_thinking: bool) -> list[Candidate]:
    """One candidate for each text that people can tell apart."""
    by_text: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.id):
        by_text.setdefault(_seen(candidate, hide_thinking), candidate)
    return list(by_text.values())


def first_samples(candidates: Iterable[Candidate]) -> dict[str, Candidate]:
    """Each prompt's first sample, by the prompt's id."""
    by_prompt: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (c.sample, c.id)):
        by_prompt.setdefault(candidate.prompt_id, candidate)
    return by_prompt


def _groups(candidates: list[Candidate], form: Form, seed: int) -> Iterator[Group]:
    """Which of a prompt's different answers stand beside each other, the most telling groups first."""
    line = sorted(candidates, key=lambda c: (unit_for(seed, "pair", c.id), c.id))
    match form.kind:
        case "pair":
            return _pairs(line)
        case "rank":
            return _ranks(line, form.answers)
        case "single" | "rating":
            return ((candidate,) for candidate in line)
        case kind:
            raise ValueError(f"tasks of kind {kind} are not made of one policy's answers")


def _pairs(line: Sequence[Candidate]) -> Iterator[Group]:
    """All pairs, disjoint ones first (they say more than pairs that share an answer)."""
    for gap in range(1, len(line)):
        starts = range(len(line) - gap)
        for i in [*starts[::2], *starts[1::2]]:
            yield line[i], line[i + gap]


def _ranks(line: Sequence[Candidate], size: int) -> Iterator[Group]:
    """Groups of up to `size` that hold every answer; the last one is filled up with answers of the one before."""
    if len(line) > 1:
        last = max(len(line) - size, 0)
        for start in range(0, len(line), size):
            yield tuple(line[min(start, last) :][:size])


def _task(
    prompt: Prompt,
    group: Group,
    kind: TaskKind,
    purpose: Purpose,
    round: int,
    overlap: int,
    seed: int,
    *,
    priority: float = 0.0,
) -> Task:
    ordered = sorted(group, key=lambda c: c.id)
    ids = [c.id for c in ordered]
    name = task_id(kind, prompt.id, ids, purpose, 0, round)
    return Task(
        id=name,
        kind=kind,
        round=round,
        purpose=purpose,
        repeat=0,
        prompt_id=prompt.id,
        messages=prompt.messages,
        candidates=ids,
        texts=[c.text for c in ordered],
        shown=order_shown(name, len(ids), seed),
        wanted=overlap,
        priority=priority,
    )


def order_shown(name: str, answers: int, seed: int) -> list[int]:
    """A random order of the canonical indices 0 … `answers` − 1 for the task with the id `name`."""
    if answers == 2:
        return [0, 1] if unit_for(seed, "shown", name) < 0.5 else [1, 0]
    return sorted(range(answers), key=lambda place: unit_for(seed, "shown", name, place))


def _reason(candidates: list[Candidate], count: int, form: Form) -> str:
    if form.answers > 1 and len(_distinct(candidates, form.hide_thinking)) < 2:
        return "all its answers are the same" if len(candidates) > 1 else "it has only one answer"
    return f"the {count} {NAMES[form.kind]} asked for came from other prompts"


NAMES: Mapping[TaskKind, str] = {"pair": "pairs", "rank": "rankings", "single": "answers", "rating": "ratings"}
