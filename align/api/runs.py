"""Recipes, read and run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.config.load import Loaded
from align.config.recipe import METHODS, Recipe

if TYPE_CHECKING:
    from align.pipeline.runner import Event

_SAYS_WHAT = (*METHODS, "sft", "annotate", "preferences", "binary", "reward")
RecipeLike = str | Path | Mapping[str, Any] | Loaded
"""A recipe's file or folder, its keys and values, or what `load_recipe` gave."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a call of `run` ended. `state` is `finished`; `waiting` for people, where `reason` says how far they are and
    where to label; or `blocked` by `stage`, for `reason`. `ran` are the stages that it did itself, as `1/policy`; `report`
    is the HTML page."""

    folder: Path
    state: Literal["finished", "waiting", "blocked"]
    reason: str
    stage: str
    ran: list[str]
    report: Path


def load_recipe(recipe: RecipeLike, overrides: Sequence[str] = ()) -> Loaded:
    """A recipe, checked, with every default filled in: `.recipe` has a section for each key (docs/recipe.md).

    `overrides` are changes such as `dpo.beta=0.2`, in YAML. Relative paths start at the recipe's folder, those of a mapping
    at the working directory. Raises ConfigError with a line for each problem: the key, the value found and the way out.
    """
    from align.config import load
    from align.config.yaml_text import dump
    from align.errors import ConfigError

    if isinstance(recipe, str | Path):
        return load.load_recipe(Path(recipe), overrides)
    if isinstance(recipe, Loaded):
        if overrides:
            raise ConfigError("this recipe is loaded already", where="overrides", hint="load it with them")
        return recipe
    data = json.loads(json.dumps(recipe, default=str))
    places: load.Places = {(): ("recipe", 0)}
    for override in overrides:
        load.set_value(data, places, override, "override", Recipe)
    found = load.validated(Recipe, data, places, Path.cwd(), True)
    return Loaded(found, dump(data), Path.cwd())


def require_sections(recipe: Recipe, *sections: str, judge: Literal["function", "people"] = "function") -> None:
    """Raises ConfigError unless a recipe has these sections and no other one that says what is done, this kind of judge, and
    one process: for a script that does so much and no more."""
    from align.errors import ConfigError

    there = {name for name in _SAYS_WHAT if getattr(recipe, name) is not None}
    differ = sorted(there ^ set(sections))
    found = recipe.evaluate.judge.type if recipe.evaluate.judge is not None else "nobody"
    if differ or found != judge or recipe.nproc > 1:
        what = f"this does {', '.join(sections)} with a judge of type {judge} in one process"
        had = f"{', '.join(sorted(there))}, the judge {found}, nproc {recipe.nproc}"
        raise ConfigError(f"{what}; the recipe has {had}", hint="`align run` does all")


def run(
    recipe: RecipeLike,
    overrides: Sequence[str] = (),
    *,
    runs: str | Path = "runs",
    wait: bool = False,
    start_from: str | None = None,
    verify: bool = False,
    tell: "Callable[[Event], None] | None" = None,
) -> RunResult:
    """Run a recipe, or go on with it, in the folder `runs/<its name>`: what `align run` does.

    What is done already is found and not repeated. With `wait` it follows the labelling until people have finished, else
    it comes back `waiting`, and the same call goes on later. `start_from` names a stage, as `policy` or `2/policy`, that
    is done again with all after it; `verify` compares published files with their receipts first. `tell` hears of each
    stage. Raises AlignError where a stage fails, ServiceError where another process works on the run.
    """
    from align.pipeline.run import create_run
    from align.report.html import write_report
    from align.stages.rounds import run_rounds

    opened = create_run(load_recipe(recipe, overrides), Path(runs))
    outcome = run_rounds(opened, tell or (lambda event: None), wait=wait, start_from=start_from, verify=verify)
    page = opened.folder / "report.html"
    if outcome.ran or not page.is_file():
        page = write_report(opened.folder)
    return RunResult(
        folder=opened.folder,
        state=outcome.state,
        reason=outcome.blocked if outcome.waiting is None else str(outcome.waiting),
        stage="" if outcome.by is None else str(outcome.by),
        ran=[str(ref) for ref in outcome.ran],
        report=page,
    )
