"""A run's folder: what was asked (`recipe.yaml`), what was meant (`resolved.yaml`), on what (`env.json`)."""

import logging
import os
import platform
import re
import secrets
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from align.config.load import Loaded, resolved_yaml
from align.config.recipe import Recipe
from align.errors import ConfigError, DataError
from align.ids import file_id, is_whole, with_check
from align.pipeline import migration
from align.pipeline.lock import run_lock
from align.pipeline.receipts import versions
from align.store import disk_errors, read_json, replace_file, write_json

RUN, RESOLVED = "run.json", "resolved.yaml"
LAYOUT = 2
"""Of a run's folder: which names its stages, files and settings have. Runs of layout 1 do not note it."""
_ID = re.compile("[0-9a-z]+")
_log = logging.getLogger(__name__)


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

    Raises ServiceError where another process works on the run, ConfigError where it is another recipe's: then nothing
    is changed.
    """
    folder = run_folder(loaded, runs)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder):
        run_folder(loaded, runs)  # again, for another command may have made it in the meantime
        return _brought_up_to_date(folder, loaded)


def _brought_up_to_date(folder: Path, loaded: Loaded) -> Run:
    """Write what is missing or has changed."""
    identity, at = folder / RUN, os.path.relpath(loaded.folder, folder.resolve())
    if not identity.is_file():
        began = date.today().isoformat()
        new = {"id": secrets.token_hex(4), "recipe": at, "began": began}
        # a run that lost its id may be an old one
        write_json(identity, with_check(new if any(folder.glob("round_*")) else {**new, "layout": LAYOUT}))
    known = _identity(folder)
    _name_as_today(folder)
    if noted(folder).get("recipe") != at:  # the recipe's folder was moved
        noting(folder, recipe=at)
    recipe = _dated(loaded.recipe, folder)
    environment = {**versions(), "platform": platform.platform(), "cores": os.cpu_count()}
    texts = {"recipe.yaml": loaded.text, RESOLVED: resolved_yaml(recipe)}
    for name, text in texts.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode():
            replace_file(folder / name, text)
    if not _holds(folder / "env.json", environment):
        write_json(folder / "env.json", environment)
    ids = {name: file_id(folder / name) for name in (*texts, "env.json")}
    if noted(folder).get("texts") != ids:
        noting(folder, texts=ids)
    return Run(folder, known, recipe)


def _holds(file: Path, value: object) -> bool:
    try:
        return file.is_file() and bool(read_json(file) == value)
    except DataError:
        return False


def require_texts(folder: Path) -> None:
    """Raises DataError where what `align run` noted about a run is not what it wrote."""
    texts = noted(folder).get("texts", {})
    for name, identity in texts.items():
        if not (folder / name).is_file() or file_id(folder / name) != identity:
            raise DataError(
                f"{name} is not what `align run` wrote",
                where=str(folder / name),
                hint="`align run RECIPE` writes it again",
            )


def noted(folder: Path) -> dict[str, Any]:
    """What `run.json` holds: the run's `id`, the folder of its `recipe` (from the run's on), the `commits` of its Hub
    models, ids of its `texts`. Empty where there is none."""
    if not (folder / RUN).is_file():
        return {}
    _identity(folder)
    return dict(read_json(folder / RUN))


def noting(folder: Path, **changes: object) -> None:
    """Note more in `run.json`."""
    write_json(folder / RUN, with_check({**noted(folder), **changes}))


def _identity(folder: Path) -> str:
    """The run's id. DataError where `run.json` does not hold one."""
    try:
        found = read_json(folder / RUN)
        if _ID.fullmatch(found["id"]) and is_whole(found):
            return str(found["id"])
    except (DataError, TypeError, KeyError, AttributeError, ValueError):
        pass
    hint = (
        "put it back from a copy, or remove it: the run gets a new name on the annotation server, where it asks again"
    )
    raise DataError("this file does not hold the run's id", where=str(folder / RUN), hint=hint)


def _dated(recipe: Recipe, folder: Path) -> Recipe:
    """With the day on which the run began as its date, where the recipe names none; a run of an earlier version, whose
    day is not known, has none."""
    began = noted(folder).get("began") if (folder / RUN).is_file() else date.today().isoformat()
    if recipe.model.date is not None or began is None:
        return recipe
    model = recipe.model.model_copy(update={"date": began})
    return recipe.model_copy(update={"model": model})


def planned_run(loaded: Loaded, runs: Path) -> Run:
    """The run that `create_run` would open; nothing is written, but that a run of an earlier version gets today's
    names."""
    folder = run_folder(loaded, runs)
    if (folder / RUN).is_file():
        require_run(folder)
    return Run(folder, "", _dated(loaded.recipe, folder))


def run_folder(loaded: Loaded, runs: Path) -> Path:
    """`runs/<name>`. ConfigError where it is another recipe folder's run, or something else altogether."""
    folder = runs / loaded.recipe.name
    if (folder / RUN).is_file():
        owner = (
            folder.resolve() / noted(folder).get("recipe", loaded.folder)
        ).resolve()  # copied together, they stay so
        if owner != loaded.folder and (owner / "recipe.yaml").is_file():
            raise ConfigError(
                f"{folder} is the run of another recipe, {owner / 'recipe.yaml'}",
                hint="give this one another name (`name: …` in the recipe, or name=… behind it), or another --runs",
            )
    elif folder.exists() and not _begun(folder):
        hint = "give the recipe another name (`name: …` in it, or name=… behind it), or another --runs"
        raise ConfigError(f"{folder} is there already, and is no run", hint=hint)
    return folder


def _begun(folder: Path) -> bool:
    """Whether a folder without a run's id was made by us all the same: by a run that was killed at once, or lost it."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"a file"}
    return names <= {"lock"} or "journal.jsonl" in names or any(name.startswith("round_") for name in names)


def open_run(folder: Path) -> Run:
    """Open an existing run by its folder, from its resolved recipe. Raises ConfigError where there is none."""
    from align.config.load import load_recipe

    require_run(folder)
    require_texts(folder)
    return Run(folder, _identity(folder), load_recipe(folder / RESOLVED, files=False).recipe)


def find_run(path: Path, runs: Path = Path("runs")) -> Path | None:
    """The run that a person means by `path`: its folder, anything inside it, or the recipe (its folder or file) that
    `align run` makes it of, below `runs`; there need be no run of a recipe yet. None where it is nothing of these.

    Raises ConfigError where the recipe cannot be read.
    """
    from align.config.load import load_recipe

    if not path.exists():
        return None
    folder = path.parent if path.name == "recipe.yaml" else path
    if (folder / "recipe.yaml").is_file() and not _is_run(folder):
        return runs / load_recipe(folder, files=False).recipe.name
    around = (path, *path.parents, *path.absolute().parents)  # as it was written, where that will do
    return next((folder for folder in around if _is_run(folder)), None)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RUN, RESOLVED))


def require_run(folder: Path) -> None:
    """Raises ConfigError where `folder` holds no run, or one of a later version. One of an earlier version gets the
    names of today, once; ServiceError where another process works on it."""
    if not (folder / RUN).is_file():
        raise ConfigError(
            f"there is no run in {folder}", hint="name a folder under runs/, or start one with `align run RECIPE`"
        )
    if _layout(folder) != LAYOUT or (folder / migration.PLAN).is_file():
        with run_lock(folder):
            _name_as_today(folder)


def _layout(folder: Path) -> int:
    """The layout that a run notes; of one whose note cannot be read, today's."""
    try:
        return int(noted(folder).get("layout", 1))
    except DataError:
        return LAYOUT


def _name_as_today(folder: Path) -> None:
    """Bring a run to the layout of today. The caller holds its lock. Raises ConfigError for one of a later version."""
    layout = _layout(folder)
    if layout == LAYOUT and (folder / migration.PLAN).is_file():
        migration.finish(folder)  # a kill came before
    if layout > LAYOUT:
        raise ConfigError(
            f"a later version of align made this run (layout {layout})", where=str(folder), hint="use that version"
        )
    if layout < LAYOUT:
        resolved, texts = folder / RESOLVED, dict(noted(folder).get("texts", {}))
        whole = resolved.is_file() and texts.get(RESOLVED) in (None, file_id(resolved))
        # what is damaged stays so, and is told of
        with disk_errors(folder):
            text = migration.migrate(folder, resolved if whole else None)
            if text is not None:
                replace_file(resolved, text)
        if text is not None and RESOLVED in texts:
            texts[RESOLVED] = file_id(resolved)
        noting(folder, layout=LAYOUT, **({"texts": texts} if texts else {}))
        migration.finish(folder)
        _log.warning("%s was made by an earlier version: its stages and settings have the names of today now", folder)
