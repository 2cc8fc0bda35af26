"""A run's folder: what was asked (`recipe.yaml`), what was meant (`resolved.yaml`), on what (`env.json`)."""

import os
import platform
import secrets
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from align.config.load import Loaded, resolved_yaml
from align.config.recipe import Recipe
from align.errors import ConfigError
from align.rounds.lock import run_lock
from align.rounds.stage import versions
from align.store import disk_errors, read_json, replace_file, write_json


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run. `id` tells runs of one name apart on an annotation server; it enters no content id."""

    folder: Path
    id: str
    recipe: Recipe

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"


def create_run(loaded: Loaded, runs: Path) -> Run:
    """Open `runs/<name>`, making it where it is not there; the recipe's texts are brought up to date.

    Raises ServiceError where another process works on the run: then nothing is changed.
    """
    folder = runs / loaded.recipe.name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder):
        return _brought_up_to_date(folder, loaded)


def _brought_up_to_date(folder: Path, loaded: Loaded) -> Run:
    """Write what is missing or has changed."""
    identity = folder / "run.json"
    if not identity.is_file():
        write_json(identity, {"id": secrets.token_hex(4), "began": date.today().isoformat()})
    recipe = _dated(loaded.recipe, identity)
    environment = {**versions(), "platform": platform.platform(), "cores": os.cpu_count()}
    texts = {"recipe.yaml": loaded.text, "resolved.yaml": resolved_yaml(recipe)}
    for name, text in texts.items():
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text:
            replace_file(folder / name, text)
    if not (folder / "env.json").is_file() or read_json(folder / "env.json") != environment:
        write_json(folder / "env.json", environment)
    return Run(folder, str(read_json(identity)["id"]), recipe)


def _dated(recipe: Recipe, identity: Path) -> Recipe:
    """With the day on which the run began as its date, where the recipe names none; a run of an earlier version, whose
    day is not known, has none."""
    began = read_json(identity).get("began") if identity.is_file() else date.today().isoformat()
    if recipe.model.date is not None or began is None:
        return recipe
    model = recipe.model.model_copy(update={"date": began})
    return recipe.model_copy(update={"model": model})


def planned_run(loaded: Loaded, runs: Path) -> Run:
    """The run that `create_run` would open; nothing is written."""
    folder = runs / loaded.recipe.name
    return Run(folder, "", _dated(loaded.recipe, folder / "run.json"))


def open_run(folder: Path) -> Run:
    """Open an existing run by its folder, from its resolved recipe. Raises ConfigError where there is none."""
    from align.config.load import load_recipe

    require_run(folder)
    return Run(folder, read_json(folder / "run.json")["id"], load_recipe(folder / "resolved.yaml", files=False).recipe)


def require_run(folder: Path) -> None:
    """Raises ConfigError where `folder` holds no run."""
    if not (folder / "run.json").is_file():
        raise ConfigError(
            f"there is no run in {folder}", hint="name a folder under runs/, or start one with `align run RECIPE`"
        )
