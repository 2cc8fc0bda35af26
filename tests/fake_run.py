"""A run in a second: the real recipe, plan, runner, stages and statistics, with `tests.fake_parts` in place of what takes
torch, a server or people. It asserts that torch is not loaded.

A run is made once in a session and copied: whoever damages one damages a copy.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from align.config.load import load_recipe
from align.config.yaml_text import dump
from align.labelling.session import Session
from align.pipeline.run import create_run
from align.pipeline.runner import Event
from align.stages.rounds import run_rounds
from tests import fake_world
from tests.fake_parts import PEOPLE, SPOKEN, Annotators, Speech, in_place, write_model
from tests.loop import write_jsonl

__all__ = ["SPOKEN", "make_run", "rewrite"]

PROMPTS, HELD_OUT, ASKED = 264, 120, 96
LONG = f"Number 5 is {'very ' * 600}late."
"""Too long for a prompt; it is for training, and the first round's."""
_MADE = tempfile.TemporaryDirectory(prefix="align-fake-runs-")
_numbers = count()


@dataclass(frozen=True)
class FakeRun:
    """Options of `make_run`. `stop_before` names the first stage that is not there ("2/snapshot": half of the labels
    are), `controls` has gold tasks, repeats and suggestions, `people_judge` blind comparisons in place of a function,
    on which a `gate` may stand; without any judge the annotators are people, else personas. `method` is dpo or ppo, the latter with a reward model
    or, without `labels`, with a function as reward. A policy answers by `answer`, else right the more often the more
    rounds it `learns`; `forgets` is how much of what it knows the reward model still knows of the next round's answers;
    where an annotator `speaks`, some labels have all of `SPOKEN`."""

    rounds: int = 3
    seed: int = 0
    judge: bool = True
    people_judge: bool = False
    gate: bool = False
    controls: bool = False
    sft: bool = True
    learns: float = 0.17
    forgets: float = -0.3
    stop_before: str | None = None
    answer: Speech | None = None
    max_tokens: int = 64
    method: str = "dpo"
    labels: bool = True
    speaks: bool = False
    name: str = "support-desk"
    title: str = "The same support desk, three times better"


class StopError(Exception):
    """The run ends here."""


def make_run(runs: Path, **options: Any) -> Path:
    """Make a run below `runs` and return its folder; `options` are those of `FakeRun`."""
    made = _made(FakeRun(**options))
    return Path(shutil.copytree(made, runs / made.name))


@cache
def _made(fake: FakeRun) -> Path:
    """The run's folder, to be copied; beside it is the recipe's. A run of several rounds goes on from one of fewer."""
    place = Path(_MADE.name) / str(next(_numbers))
    if fake.rounds > 1 and fake.stop_before is None:
        shutil.copytree(_made(replace(fake, rounds=fake.rounds - 1)).parents[1], place)
    recipe = _write_recipe(place / "recipe", fake)

    def backend(session: Session) -> Annotators:
        part = "blind_snapshot" if session.tasks[0].kind == "blind_ab" else "snapshot"
        half = fake.stop_before == f"{session.round}/{part}"
        return Annotators(speaks=fake.speaks, half=half, unasked=not (fake.judge or fake.people_judge))

    def tell(event: Event) -> None:
        if event.kind == "start" and str(event.ref) == fake.stop_before:
            raise StopError

    run, before = create_run(load_recipe(recipe), place / "runs"), "torch" in sys.modules
    with (
        in_place(fake.answer or _answer(fake.learns, fake.seed), backend, day=fake.rounds, forgets=fake.forgets),
        suppress(StopError),
    ):
        state = run_rounds(run, tell).state
        ends = ("finished", "blocked") if fake.gate else ("finished",)
        assert state in (ends if fake.stop_before is None else ("waiting",)), state
    assert before or "torch" not in sys.modules, "a part of the run has loaded torch"
    return run.folder


def _write_recipe(folder: Path, fake: FakeRun) -> Path:
    """The recipe beside the files that it names."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(fake_world.__file__, folder / "world.py")
    (folder / "model").mkdir(exist_ok=True)
    write_model(folder / "model", round=0)
    asked = fake_world.questions(fake.seed, PROMPTS)
    asked += [LONG, *[asked[11]] * 3]
    write_jsonl(folder / "prompts.jsonl", [{"prompt": text} for text in asked])
    shown = [{"prompt": text, "completion": fake_world.answer(0.9, text)} for text in fake_world.questions(1, 60)]
    write_jsonl(folder / "demonstrations.jsonl", shown)
    write_jsonl(folder / "gold.jsonl", list(fake_world.known_pairs(40)))
    (folder / "recipe.yaml").write_text(f"# {fake.title}\n" + dump(_recipe(fake)))
    return folder


def _recipe(fake: FakeRun) -> dict[str, Any]:
    people = fake.labels and not (fake.judge or fake.people_judge)
    personas: dict[str, Any] = {
        "type": "personas",
        "utility": "world.py:utility",
        "personas": [p.model_dump() for p in PEOPLE],
    }
    sampling = {"max_tokens": fake.max_tokens}
    recipe: dict[str, Any] = {"name": fake.name, "seed": fake.seed, "rounds": fake.rounds}
    recipe["model"] = {"path": "./model", "date": "2026-11-01"}
    recipe["prompts"] = {"path": "prompts.jsonl", "test_share": 0.5}
    if fake.sft:
        recipe["sft"] = {"demonstrations": "demonstrations.jsonl", "learning_rate": 1e-3}
    recipe["rollouts"] = {"type": "transformers", "prompts": ASKED, "samples": 2, **sampling}
    if fake.labels:
        by = {"type": "people"} if people else personas
        recipe["annotate"] = {"tasks": ASKED, "overlap": 2, "compiler": "bradley_terry", "by": by}
    if fake.controls:
        shares = {"gold": {"path": "gold.jsonl", "share": 0.15}, "suggest": {"path": "world.py:guess", "share": 0.5}}
        recipe["annotate"] |= {"repeats": 0.2, **shares}
    recipe[fake.method] = {"beta": 0.1, "learning_rate": 3e-4}
    if fake.method == "ppo":
        functions = {"functions": [{"path": "world.py:utility"}]}
        recipe["reward"] = {"model": {"held_out": 0.5}} if fake.labels else functions
    judge = {"type": "function", "path": "world.py:utility", "tie_width": 0.05} if fake.judge else None
    if fake.people_judge:
        judge = {"type": "people", "tasks": HELD_OUT if fake.gate else 60, "overlap": 1}
    if fake.gate:
        short = {"name": "short", "score": {"type": "length", "high": 60, "margin": 60}, "margin": 0.2}
        recipe["gate"] = {"checks": [short]}
    recipe["evaluate"] = {"judge": judge, "prompts": HELD_OUT, **sampling}
    return recipe


def _answer(learns: float, seed: int) -> Speech:
    return lambda number, asked, sample: fake_world.answer(0.45 + learns * number, asked, seed, number, sample)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
