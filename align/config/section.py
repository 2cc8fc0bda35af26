"""One section of the recipe alone, for the verbs that do one stage."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Section
from align.config.load import Kind, Places, read_settings, set_value, validated
from align.config.recipe import Recipe
from align.config.rewards import AnyFunction, RewardFunction
from align.config.rollouts import SamplingConfig
from align.config.schema import keys_of, sections_in
from align.config.yaml_text import parse
from align.errors import ConfigError

_log = logging.getLogger(__name__)


class Answers(SamplingConfig):
    """The settings of `align rollout`: those of the recipe's `rollouts`, for every prompt of a file."""

    keep: Literal["all", "best", "rejection"] = "all"
    """The answers to keep. `all`: all answers. With `--reward` also `best`: the best answer to each prompt;
    `rejection`: the answers that statistical rejection sampling accepts."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """With `keep: rejection`: the coefficient of the KL divergence, in units of the reward."""

    @model_validator(mode="after")
    def _beta_of_rejection_sampling(self) -> Self:
        if (self.beta is not None) != (self.keep == "rejection"):
            raise ValueError(f"`beta` goes with `keep: rejection` and is needed there; found keep: {self.keep}")
        return self


def load_section(
    kind: type[Kind],
    settings: Sequence[str],
    /,
    *,
    file: Path | None = None,
    keys: tuple[str, ...] = (),
    no_use: Mapping[str, str] | None = None,
    **given: Any,
) -> Kind:
    """A section from `key=value` settings (YAML values), which override those of `file`; `given` are fields that have
    their own options.

    `file` is YAML: the section's keys, or a recipe, which has the section at `keys`. A setting may start with `keys`,
    as in a recipe (`dpo.beta=0.2`). `no_use` are keys that have no effect here, with the reason. Relative paths start
    at the working directory, those in `file` at its folder. Raises ConfigError for keys in `no_use`, for an unknown key
    (with the most similar key) and for a value out of range.
    """
    data: dict[str, Any] = {}
    places: Places = {(): (kind.__name__.lower(), 0)}
    if file is not None:
        data, places = _from_file(kind, file, keys, {*(no_use or {}), *given})
    data |= given
    for setting in settings:
        alone = setting.removeprefix(f"{'.'.join(keys)}.") if keys else setting
        key = alone.partition("=")[0].strip()
        if no_use and key in no_use:
            raise ConfigError(f"{key} has no use here", where=f"setting {setting}", hint=no_use[key])
        set_value(data, places, alone, "setting", kind)
    if no_use and (useless := next((key for key in data if key in no_use and key not in given), None)):
        source, line = places[useless,]
        raise ConfigError(f"{useless} has no use here", where=f"{source}:{line}", hint=no_use[useless])
    return validated(kind, data, places, Path.cwd(), True)


def _from_file(
    kind: type[Section], file: Path, keys: tuple[str, ...], aside: set[str]
) -> tuple[dict[str, Any], Places]:
    """The settings in `file` and their places, with absolute paths. The keys `aside` of a recipe's section, and other
    sections, are not read; a warning says so."""
    data, places = read_settings(file)
    known = keys_of(kind)
    if not keys or any(key in known for key in data) or not all(key in keys_of(Recipe) for key in data):
        return _placed(kind, data, file.parent), places
    section: Any = data
    for depth, key in enumerate(keys, 1):
        if not isinstance(section, dict) or not isinstance(section.get(key), dict):
            hint = f"it holds {', '.join(data)}; a file for this command has the keys of {'.'.join(keys)}"
            raise ConfigError(f"there is no section {'.'.join(keys[:depth])}", where=str(file), hint=hint)
        section = section[key]
    unread = [*(key for key in data if key != keys[0]), *(".".join([*keys, key]) for key in section if key in aside)]
    if unread:
        _log.warning("%s: of this recipe %s is taken, but not %s", file, ".".join(keys), ", ".join(unread))
    inner = {found[len(keys) :]: spot for found, spot in places.items() if found[: len(keys)] == keys}
    return _placed(kind, {key: value for key, value in section.items() if key not in aside}, file.parent), inner


def _placed(kind: type[Section], data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`data` with the relative paths in it made absolute from `folder` on."""
    placed = dict(data)
    for key, field in keys_of(kind).items():
        value = data.get(key)
        if field.annotation is Path and isinstance(value, str):
            placed[key] = str(folder.absolute() / Path(value).expanduser())
        elif isinstance(value, list) and (inner := sections_in(field.annotation)):
            placed[key] = [_placed(inner[0], item, folder) if isinstance(item, dict) else item for item in value]
    return placed


class _Function(Section):
    reward: RewardFunction


def load_function_section(text: str, where: str) -> AnyFunction:
    """A scoring function from one entry of the recipe's `reward.functions`, in YAML. Relative paths start at the
    working directory. Raises ConfigError."""
    value, _ = parse(text, where)
    return validated(_Function, {"reward": value}, {(): (where, 0)}, Path.cwd(), True).reward
