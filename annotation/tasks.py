"""Which comparisons are asked: candidates → pair tasks. Pure, and independent of the order of its inputs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from align.errors import DataError
from align.ids import unit_for
from align.types import Candidate, Dropped, Prompt, Task, task_id


def make_tasks(
    prompts: list[Prompt], candidates: list[Candidate], *, round: int, count: int, overlap: int, seed: int
) -> tuple[list[Task], list[Dropped]]:
    """At most `count` comparisons, each for `overlap` people, and every answered prompt that gave none with the reason.

    Every prompt gets a first pair before any gets a second; which pairs, which prompts and which answer stands on the
    left depend on `seed` and on content alone. Raises DataError for a prompt that is not in the train split, and for
    a candidate of a prompt that is not among `prompts`.
    """
    by_id = {p.id: p for p in prompts}
    _check(by_id, candidates)
    answers: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        answers[candidate.prompt_id].append(candidate)
    queues = {p: _pairs(_distinct(given), seed) for p, given in answers.items()}
    turns = sorted(queues, key=lambda p: (unit_for(seed, "prompt", p), p))
    chosen: list[tuple[str, tuple[Candidate, Candidate]]] = []
    while turns and len(chosen) < count:
        found = [(p, pair) for p in turns if (pair := next(queues[p], None)) is not None]
        chosen += found[: count - len(chosen)]
        turns = [p for p, _ in found]
    tasks = [_task(by_id[p], pair, round, overlap, seed) for p, pair in chosen]
    asked = {task.prompt_id for task in tasks}
    dropped = [Dropped("prompt", p, _reason(answers[p], count)) for p in sorted(answers.keys() - asked)]
    return tasks, dropped


def _check(prompts: dict[str, Prompt], candidates: list[Candidate]) -> None:
    for prompt in prompts.values():
        if prompt.split != "train":
            raise DataError(
                f"the prompt is in the {prompt.split} split, which nobody may label",
                where=prompt.source,
                hint="give only prompts of the train split",
            )
    for candidate in candidates:
        if candidate.prompt_id not in prompts:
            raise DataError(f"candidate {candidate.id} answers the unknown prompt {candidate.prompt_id}")


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One candidate for each text that people can tell apart (white space around it cannot be seen)."""
    by_text: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.id):
        by_text.setdefault(candidate.text.strip(), candidate)
    return list(by_text.values())


def _pairs(candidates: list[Candidate], seed: int) -> Iterator[tuple[Candidate, Candidate]]:
    """All pairs of `candidates`, disjoint ones first (they say more than pairs that share an answer)."""
    line = sorted(candidates, key=lambda c: (unit_for(seed, "pair", c.id), c.id))
    for gap in range(1, len(line)):
        starts = range(len(line) - gap)
        for i in [*starts[::2], *starts[1::2]]:
            yield line[i], line[i + gap]


def _task(prompt: Prompt, pair: tuple[Candidate, Candidate], round: int, overlap: int, seed: int) -> Task:
    first, second = sorted(pair, key=lambda c: c.id)
    ids = [first.id, second.id]
    name = task_id("pair", prompt.id, ids, "train", 0, round)
    return Task(
        id=name,
        kind="pair",
        round=round,
        purpose="train",
        repeat=0,
        prompt_id=prompt.id,
        messages=prompt.messages,
        candidates=ids,
        texts=[first.text, second.text],
        shown=[0, 1] if unit_for(seed, "shown", name) < 0.5 else [1, 0],
        wanted=overlap,
    )


def _reason(candidates: list[Candidate], count: int) -> str:
    if len(_distinct(candidates)) < 2:
        return "all its answers are the same" if len(candidates) > 1 else "it has only one answer"
    return f"the {count} pairs asked for came from other prompts"
