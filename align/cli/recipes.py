"""The shipped recipes: where they are and how to copy one."""

import shutil
from pathlib import Path

from align.errors import ConfigError
from align.store import disk_errors, fresh_folder, publish

PACKAGED = Path(__file__).parents[1] / "recipes"
CHECKOUT = Path(__file__).parents[2] / "recipes"


def shipped() -> dict[str, Path]:
    """Name → folder. In an installed wheel they are inside the package, in a checkout beside it."""
    root = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    return {p.parent.name: p.parent for p in sorted(root.glob("*/recipe.yaml"))}


def copy_recipe(name: str, target: Path) -> Path:
    """Copy a shipped recipe, without data it may have made. Raises ConfigError for an unknown name or an existing
    folder."""
    found = shipped()
    if name not in found:
        raise ConfigError(f"there is no recipe {name!r}", hint=f"the recipes are {', '.join(found)}")
    if target.exists():
        raise ConfigError(f"{target} already exists", hint="name another folder: `align init RECIPE FOLDER`")
    partial = target.with_name(target.name + ".partial")
    fresh_folder(partial)
    with disk_errors(target):
        ignored = shutil.ignore_patterns("data", "runs", "__pycache__")
        shutil.copytree(found[name], partial, ignore=ignored, dirs_exist_ok=True)
    publish(partial, target)
    return target
