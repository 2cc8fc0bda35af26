"""Prompts, answers and labels of a round, side by side, for people to read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.errors import ConfigError
from align.evaluation.compare import SAMPLES
from align.pipeline.intact import require_readable
from align.pipeline.receipts import current, pointers, stage_folder
from align.pipeline.run import require_run
from align.pipeline.stage import Ref
from align.stages.names import EVALUATION, POLICY, PROMPTS, ROLLOUTS, TASKS
from align.stages.rollouts import CANDIDATES
from align.store import read_table
from align.types import LETTERS, STRENGTHS, Judgement, Task, from_table
from annotation.journal import read_journal
from annotation.questions import STRENGTH_WORDS

ANSWERS = [(ROLLOUTS, CANDIDATES), (POLICY, CANDIDATES), (EVALUATION, SAMPLES)]
"""Where a round's answers stand, the first of these that is there."""


def browse(run: Path, round: int | None, search: str | None) -> list[dict[str, Any]]:
    """One entry a prompt of the round (the latest that has answers): messages, answers, labels about them, each with
    what the person `said`, the `flags` raised, the `reason` given and the answer written instead (`edit`).

    Of a round that asks nobody the answers are those that best of n chose from, or else those to held-out prompts.
    Raises ConfigError where there is no run or it has no answers yet.
    """
    require_run(run)
    require_readable(run)
    number = round if round is not None else _latest(run)
    stage, name = next((place for place in ANSWERS if _has(run, number, *place)), ANSWERS[0])
    answers = _rows(run, number, stage, name)
    messages = {p["id"]: p["messages"] for p in _rows(run, 0, PROMPTS, "prompts.parquet")}
    entries: dict[str, dict[str, Any]] = {}
    for answer in answers:
        prompt = answer["prompt_id"]
        entry = {
            "round": number,
            "prompt_id": prompt,
            "messages": messages.get(prompt, []),
            "answers": [],
            "labels": [],
        }
        entries.setdefault(prompt, entry)["answers"].append({"id": answer["id"], "text": answer["text"]})
    for label in _labels(run, number):
        if label["prompt_id"] in entries:
            entries[label["prompt_id"]]["labels"].append(label)
    return [entry for entry in entries.values() if search is None or search.casefold() in _text(entry).casefold()]


def _latest(run: Path) -> int:
    """The last round with answers that people are asked about or, in a run that asks nobody, with any."""
    for place in ANSWERS:
        rounds = [ref.round for ref, _ in pointers(run) if ref.stage == place[0]]
        if found := [number for number in rounds if _has(run, number, *place)]:
            return max(found)
    raise ConfigError(f"the run in {run} has no answers yet", hint="see `align status`")


def _has(run: Path, round: int, stage: str, name: str) -> bool:
    receipt = current(run, Ref(round, stage))
    return receipt is not None and (stage_folder(run, receipt.ref) / receipt.key / name).is_file()


def _rows(run: Path, round: int, stage: str, name: str) -> list[dict[str, Any]]:
    receipt = current(run, Ref(round, stage))
    if receipt is None:
        raise ConfigError(f"the stage {round}/{stage} has not run in {run}", hint="see `align status`")
    return list(read_table(stage_folder(run, receipt.ref) / receipt.key / name).to_pylist())


def _labels(run: Path, round: int) -> list[dict[str, Any]]:
    """What people said about the round's answers (gold tasks are about others)."""
    receipt = current(run, Ref(round, TASKS))
    if receipt is None:
        return []
    tasks = {
        t.id: t for t in from_table(Task, read_table(stage_folder(run, receipt.ref) / receipt.key / "tasks.parquet"))
    }
    journal = read_journal(run / "journal.jsonl", tasks)
    return [
        {
            "prompt_id": tasks[j.task_id].prompt_id,
            "annotator": j.annotator,
            "name": journal.called(j.annotator),
            "outcome": j.outcome,
            "said": choice_text(j, (names := _names(tasks[j.task_id]))),
            "flags": flags_text(j, names),
            "reason": j.reason,
            "edit": j.edit,
        }
        for j in journal.judgements(tasks, receipt.output)
    ]


def _names(task: Task) -> list[str]:
    return [f"[{candidate[:8]}]" for candidate in task.candidates]


def flags_text(judgement: Judgement, names: Sequence[str]) -> list[str]:
    """What each answer was flagged for; `names` are those of the canonical candidates."""
    raised = [flag.partition(":") for flag in judgement.flags or []]
    return [
        f"{name}: {flag}"
        for letter, name in zip(LETTERS, names, strict=False)
        for of, _, flag in raised
        if of == letter
    ]


def choice_text(judgement: Judgement, names: Sequence[str]) -> str:
    """What was chosen, in words; `names` are those of the canonical candidates."""
    match judgement.outcome:
        case "a" | "b":
            better = "ab".index(judgement.outcome)
            how = f"{STRENGTH_WORDS[judgement.strength - 1]} " if judgement.strength in STRENGTHS else ""
            return f"{names[better]} is {how}better than {names[1 - better]}"
        case "tie":
            return f"{names[0]} and {names[1]} are equally good"
        case "both_bad":
            return f"{names[0]} and {names[1]} are both bad"
        case "good" | "bad":
            return f"{names[0]} is {judgement.outcome}"
        case "ranked":
            places: dict[int, list[str]] = {}
            for name, rank in zip(names, judgement.ranking or [], strict=True):
                places.setdefault(rank, []).append(name)
            return "best first: " + ", ".join(" = ".join(places[rank]) for rank in sorted(places))
        case "rated":
            return f"{names[0]}: " + ", ".join(f"{r['criterion']} {r['score']} of 5" for r in judgement.ratings or [])
        case _:
            return "skipped"


def _text(entry: dict[str, Any]) -> str:
    return "\n".join([m["content"] for m in entry["messages"]] + [a["text"] for a in entry["answers"]])
