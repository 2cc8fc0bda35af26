"""Load and run recipes."""

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
"""A recipe's file or folder, its keys and values, or a result of `load_recipe`."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of `run`. `state` is `finished`; `waiting` for labels, and `reason` gives the progress and where to
    label; or `blocked` by `stage`, and `reason` says why. `ran` lists the stages that this call ran, such as
    `1/policy`; `report` is the HTML page."""

    folder: Path
    state: Literal["finished", "waiting", "blocked"]
    reason: str
    stage: str
    ran: list[str]
    report: Path


def load_recipe(recipe: RecipeLike, overrides: Sequence[str] = ()) -> Loaded:
    """Load and check a recipe, with every default filled in. `.recipe` has a section for each key (docs/recipe.md).

    `overrides` are changes such as `dpo.beta=0.2`, in YAML. Relative paths start at the recipe's folder, or for a
    mapping at the working directory. Raises ConfigError with a line for each problem: the key, the value found and how
    to fix it.
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
    """Raise ConfigError unless a recipe has exactly these sections (of a method, `sft`, `annotate`, `preferences`,
    `binary` and `reward`), this kind of judge and one process. For a script that supports nothing else."""
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
    """Run a recipe, or continue its run, in the folder `runs/<its name>`, as `align run` does.

    Stages that are done are not repeated. With `wait` it waits until labelling is complete; otherwise it returns the
    state `waiting`, and the same call continues later. `start_from` names a stage, such as `policy` or `2/policy`, to
    run again with all later stages. `verify` first compares the published files with their receipts. `tell` is called
    with the events of each stage. Raises AlignError if a stage fails, ServiceError if another process works on the run.
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
