"""The world of recipes/support-desk for benchmarks: its SFT policy, its prompts and what its simulated annotators say.

Everything happens in this process, without a server, and what takes long stays in the folder that is given.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from align.config.base import Sampling
from align.config.load import load_recipe
from align.config.recipe import Persona, Recipe
from align.data.demonstrations import load_demonstrations
from align.data.prompts import load_prompts
from align.types import Judgement, Message, Preference, Prompt, Split, Task, judgement_id
from annotation.compile import compile_preferences
from annotation.simulate import plan
from annotation.tasks import make_tasks
from reward.functions import FunctionScorer, load_function
from rollouts.sample import sample_candidates

RECIPE = Path(__file__).resolve().parents[1] / "recipes/support-desk/recipe.yaml"
WORLD = RECIPE.with_name("world.py")


@lru_cache
def recipe() -> Recipe:
    """The recipe, whose data is made where it is not there yet."""
    if not (RECIPE.parent / "data/prompts.jsonl").is_file():
        subprocess.run([sys.executable, WORLD], check=True, stdout=subprocess.DEVNULL)
    return load_recipe(RECIPE, []).recipe


@lru_cache
def scorer() -> FunctionScorer:
    return FunctionScorer(load_function(f"{WORLD}:utility", WORLD.parent))


def utility(messages: list[Message], answer: str) -> float:
    """The hidden taste, which nothing is trained on."""
    (value,) = scorer().score([messages], [answer])
    assert value is not None
    return value


@lru_cache
def prompts(split: Split) -> list[Prompt]:
    """The recipe's prompts of one split, in their file's order."""
    return [prompt for prompt in load_prompts(recipe().prompts)[0] if prompt.split == split]


def sft_policy(folder: Path) -> Path:
    """The recipe's policy before the first round, trained into `folder` (about a minute on two cores) or found
    there."""
    if not (folder / "model.safetensors").is_file():
        from align.train.checkpoint import import_model
        from align.train.sft import train_sft

        sft, model = recipe().sft, recipe().model
        assert sft is not None
        base, work, out = (folder.with_name(f".{folder.name}.{part}") for part in ("base", "work", "out"))
        import_model(out=base, **model.model_dump(exclude={"hide_thinking"}))
        rows = [(row.messages, row.answer) for row in load_demonstrations(sft.demonstrations)[0]]
        train_sft(base, rows, sft, seed=0, dtype="float32", report_to=[], threads=None, out=out, work=work)
        out.rename(folder)
        for left in (base, work):
            shutil.rmtree(left)
    return folder


def each_seed(
    folder: Path, kind: str, seeds: Iterable[int], one_seed: Callable[[int, Path], Any], told: Callable[[Any], str]
) -> dict[int, Any]:
    """What `one_seed(seed, work)` finds for each of `seeds`, kept in `folder` so that the whole may be done in parts;
    returned are all seeds of this `kind` that lie there."""
    for seed in seeds:
        if not (kept := folder / f"{kind}.{seed}.json").is_file():
            began, work = time.monotonic(), folder / f"{kind}.{seed}.work"
            shutil.rmtree(work, ignore_errors=True)  # of a call that was cut short
            found = one_seed(seed, work)
            kept.write_text(json.dumps(found))
            shutil.rmtree(work)
            print(f"seed {seed}: {time.monotonic() - began:.0f} s, {told(found)}", flush=True)
    names = {
        path: re.fullmatch(rf"{re.escape(kind)}\.(\d+)\.json", path.name) for path in sorted(folder.glob("*.json"))
    }
    return {int(name[1]): json.loads(path.read_text()) for path, name in names.items() if name}


def personas() -> list[Persona]:
    """The recipe's annotators."""
    annotate = recipe().annotate
    assert annotate is not None and annotate.by.type == "personas"
    return annotate.by.personas


def tasks(policy: Path, count: int, *, seed: int, folder: Path, overlap: int = 2) -> list[Task]:
    """`count` pairs of the policy's answers to train prompts, two answers to each prompt."""
    asked = prompts("train")
    start = seed * count % len(asked)
    drawn = [asked[(start + i) % len(asked)] for i in range(count)]
    found, _ = sample_candidates(
        drawn, policy, policy.name, sampling=Sampling(max_tokens=64), samples=2, engine="transformers",
        dtype="float32", max_prompt_tokens=96, shard=256, seed=seed, threads=None, out=folder,
    )  # fmt: skip
    return make_tasks(drawn, found, round=1, count=count, overlap=overlap, seed=seed)[0]


def judgements(asked: Sequence[Task], people: Sequence[Persona], seed: int) -> list[Judgement]:
    """What `people` say about each task; skipped ones too."""
    given = plan(asked, people, scorer().score, seed)
    kinds = {task.id: task.kind for task in asked}
    return [
        Judgement(judgement_id(a.task_id, name, 0), a.task_id, kinds[a.task_id], name, 0, a.outcome, a.strength)
        for name, answers in given.items()
        for a in answers
    ]


def pairs(
    policy: Path, count: int, *, seed: int, folder: Path, people: Sequence[Persona] | None = None, overlap: int = 2
) -> list[Preference]:
    """What the label compiler makes of `count` pairs of the policy's answers, judged by `people` (the recipe's)."""
    asked = tasks(policy, count, seed=seed, folder=folder, overlap=overlap)
    return compile_preferences(asked, judgements(asked, people or personas(), seed))[0]
