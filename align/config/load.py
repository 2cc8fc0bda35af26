"""Reads a recipe from its YAML file, and writes it out with every default."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from align.config.base import Section
from align.config.problems import dotted, problems, shown
from align.config.recipe import Recipe
from align.config.schema import example
from align.config.training import SPELLED_OUT
from align.config.yaml_text import Keys, dump, parse
from align.errors import ConfigError

Kind = TypeVar("Kind", bound=Section)
Places = dict[Keys, tuple[str, int]]
"""The place where each key was set: the file and its line, or an override and 0."""


@dataclass(frozen=True)
class Loaded:
    """A recipe, the text of its file, and the folder where relative paths start."""

    recipe: Recipe
    text: str
    folder: Path


def load_recipe(path: Path, overrides: Sequence[str] = (), *, files: bool = True) -> Loaded:
    """Read `path` (a recipe, or a folder with `recipe.yaml` in it) and apply overrides such as `dpo.beta=0.2`.

    An override's value is YAML; its relative paths also start at the recipe's folder. With `files=False` the files that
    the recipe names need not exist. Raises ConfigError with one line for each problem: file, line, key, the value found
    and how to fix it.
    """
    path = path / "recipe.yaml" if path.is_dir() else path
    text = _read(path, "recipe", "`align init` writes one")
    data, places = _mapping(text, path, "a recipe is a mapping of keys")
    for override in overrides:
        set_value(data, places, override, "override", Recipe)
    folder = path.resolve().parent
    if "name" not in data:
        data["name"], places[("name",)] = _named_after(folder), (str(path), 0)
    return Loaded(validated(Recipe, data, places, folder, files), text, folder)


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe as YAML with every default and absolute paths; loading it gives an equal recipe."""
    return dump(recipe.model_dump(mode="json", by_alias=True, context=SPELLED_OUT))


def _named_after(folder: Path) -> str:
    """A run's name from its recipe's folder, with hyphens for characters that a name cannot have. Empty if nothing is
    left."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.name).strip("-_.")


def read_settings(path: Path) -> tuple[dict[str, Any], Places]:
    """A YAML file of settings as a mapping, and the place of each key. Raises ConfigError."""
    text = _read(path, "file of settings", "check the path; relative ones start at the working directory")
    return _mapping(text, path, "settings are a mapping of keys")


def _mapping(text: str, path: Path, expected: str) -> tuple[dict[str, Any], Places]:
    data, lines = parse(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{expected}, found {'nothing' if data is None else shown(data)}", where=str(path))
    return data, {keys: (str(path), line if keys else 0) for keys, line in lines.items()}


def _read(path: Path, what: str, maker: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} {path}", hint=maker) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the {what} is not UTF-8 ({error.reason} at byte {error.start})", where=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot read the {what} ({error.strerror})", where=str(path)) from None


def set_value(data: dict[str, Any], places: Places, change: str, word: str, kind: type[Section]) -> None:
    """Set the value of `change` (key=value) in `data`, the keys of a `kind`; later problems with it name this place."""
    name, equals, text = change.partition("=")
    where = f"{word} {change}"
    if not equals or not all(name.strip().split(".")):
        raise ConfigError(f"this {word} must read key=value", where=where, hint=f"for example {example(kind, name)}")
    keys = keys_in(name)
    value, _ = parse(text, where)
    holder: Any = data
    for depth, key in enumerate(keys[:-1], 1):
        inner = _item(holder, key, keys[:depth], where)
        if inner is None:
            inner = holder[key] = {}
            places[keys[:depth]] = (where, 0)
        holder = inner
    _item(holder, keys[-1], keys, where)
    holder[keys[-1]] = value
    for stale in [found for found in places if found[: len(keys)] == keys]:
        del places[stale]
    places[keys] = (where, 0)


def keys_in(name: str) -> Keys:
    """`dpo.beta` as a tuple of keys; the keys of lists are numbers."""
    return tuple(int(part) if part.isdigit() else part for part in name.strip().split("."))


def _item(holder: Any, key: str | int, keys: Keys, where: str) -> Any:
    """`holder[key]`, None for a key that does not exist yet; ConfigError if `holder` cannot have such a key."""
    if isinstance(holder, dict) and isinstance(key, str):
        return holder.get(key)
    if isinstance(holder, list) and isinstance(key, int):
        if key < len(holder):
            return holder[key]
        raise ConfigError(f"{dotted(keys[:-1])} has {len(holder)} items, numbered from 0", where=where)
    raise ConfigError(f"there is no {dotted(keys)}: {dotted(keys[:-1])} is {shown(holder)}", where=where)


def validated(kind: type[Kind], data: dict[str, Any], places: Places, folder: Path, files: bool) -> Kind:
    """A section or recipe from `data`, whose keys were set at `places`; ConfigError with a line for each problem."""
    context = {"folder": folder, "files": files}
    try:
        # JSON's strict mode is what is wanted: "3" is no number, but a path may be text and 1 a float
        return kind.model_validate_json(json.dumps(data), strict=True, by_alias=True, by_name=False, context=context)
    except ValidationError as error:
        raise _explained(error, kind, places) from None


def _explained(error: ValidationError, kind: type[Section], places: Places) -> ConfigError:
    """One line for each problem, in the order of the file."""
    lines = []
    for keys, what in problems(error, kind):
        depth = next(n for n in range(len(keys), -1, -1) if keys[:n] in places)
        source, line = places[keys[:depth]]
        where = f"{source}:{line}" if line else source
        lines.append((line, f"{where}: {dotted(keys)}: {what}" if keys else f"{where}: {what}"))
    return ConfigError("\n".join(text for _, text in sorted(lines, key=lambda entry: entry[0])))
