"""Small tasks and judgements for tests of annotation."""

from pathlib import Path

from align.config.recipe import Annotate
from align.ids import content_id
from align.labelling.session import Session, title_of
from align.types import Candidate, Judgement, Message, Prompt, Task, candidate_id, judgement_id, prompt_id
from annotation.tasks import make_tasks


def make_prompt(text: str, split: str = "train") -> Prompt:
    messages: list[Message] = [{"role": "user", "content": text}]
    return Prompt(prompt_id(messages), messages, split, f"prompts.jsonl:{len(text)}")  # type: ignore[arg-type]


def make_candidate(prompt: Prompt, text: str, sample: int = 0) -> Candidate:
    return Candidate(candidate_id(prompt.id, text, "ck"), prompt.id, text, "ck", sample, 3, "stop")


def world(prompts: int, answers: int = 2) -> tuple[list[Prompt], list[Candidate]]:
    """`prompts` train prompts with `answers` different answers each."""
    made = [make_prompt(f"question {n}") for n in range(prompts)]
    return made, [
        make_candidate(p, f"answer {k} to {p.messages[0]['content']}", k) for p in made for k in range(answers)
    ]


def pair_tasks(n: int, overlap: int = 1, seed: int = 0) -> list[Task]:
    return make_tasks(*world(n), round=1, count=n, overlap=overlap, seed=seed)[0]


def make_task(
    name: str,
    *,
    prompt: str = "p",
    shown: tuple[int, int] = (0, 1),
    candidates: tuple[str, str] = ("c0", "c1"),
    texts: tuple[str, str] = ("one", "two"),
    purpose: str = "train",
    repeat: int = 0,
) -> Task:
    """A task with ids one can read."""
    return Task(
        name,
        "pair",
        1,
        purpose,
        repeat,
        prompt,
        [{"role": "user", "content": "?"}],
        list(candidates),
        list(texts),
        list(shown),
        1,
    )  # type: ignore[arg-type]


def judge(task: str, annotator: str, outcome: str, revision: int = 0) -> Judgement:
    return Judgement(judgement_id(task, annotator, revision), task, "pair", annotator, revision, outcome)


def session_of_tasks(tasks: list[Task], folder: Path, annotate: Annotate, *, round: int, seed: int) -> Session:
    """A session for tasks that are in memory; its journal is in `folder`, whose name is the workspace's."""
    identity = content_id([task.id for task in tasks])
    dataset = f"round-{round}-{identity[:8]}"
    title = f"{title_of(folder.name, tasks)} (round {round})"
    return Session(folder / "journal.jsonl", round, tasks, identity, folder.name, dataset, annotate, seed, title=title)
