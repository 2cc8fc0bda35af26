"""The search space of a sweep: a range or a list of choices for each key, as text.

`1e-5..1e-1:log` is a range on a logarithmic scale, `0..0.5` one on a linear scale, `8..64:8` one in steps of 8, and
`8,16,32` are choices. A range between whole numbers contains only whole numbers.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config.yaml_text import parse
from align.errors import ConfigError

_FORMS = "write it as 1e-5..1e-1:log, 0..0.5, 8..64:8 or 8,16,32"
_NUMBER = r"[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::(\S+))?")

Value = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers if both are whole. `step` cannot be used with
    `log`."""

    key: str
    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True, slots=True)
class Choices:
    """One of `values`, which are unordered."""

    key: str
    values: tuple[Value, ...]


Dimension = Range | Choices


def split_settings(settings: Sequence[str]) -> tuple[list[str], list[Dimension]]:
    """Split `key=value` settings into those that set a value and those that give a range or choices. Raises
    ConfigError."""
    fixed: list[str] = []
    space: list[Dimension] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if equals and (found := dimension(key.strip(), text.strip(), f"setting {setting}")) is not None:
            space.append(found)
        else:
            fixed.append(setting)
    return fixed, space


def read_space(path: Path) -> list[Dimension]:
    """The ranges of a YAML file: a mapping of keys to ranges (text) or lists of choices, at the top level or under
    `sweep:`.

    Raises ConfigError for a file that cannot be read, is not such a mapping, or contains an invalid range.
    """
    try:
        data, lines = parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the ranges ({error.strerror})", where=str(path)) from None
    under: tuple[str, ...] = ()
    if isinstance(data, dict) and list(data) == ["sweep"]:
        data, under = data["sweep"], ("sweep",)
    if not isinstance(data, dict) or not data:
        raise ConfigError(f"ranges are a mapping of keys, found {data!r}", where=str(path), hint=_FORMS)
    space: list[Dimension] = []
    for key, value in data.items():
        where = f"{path}:{lines[(*under, key)]}"
        text = ",".join(map(json.dumps, value)) if isinstance(value, list) else str(value)
        found = dimension(key, text, where)
        if found is None:
            raise ConfigError(f"{key} has no range, found {value!r}", where=where, hint=_FORMS)
        space.append(found)
    return space


def require_distinct(space: Sequence[Dimension]) -> None:
    """Raise ConfigError if there is nothing to search, or if a key has two ranges."""
    if not space:
        raise ConfigError("there is nothing to search", where="align sweep", hint=f"give a key a range: {_FORMS}")
    keys = [d.key for d in space]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} has two ranges", where="align sweep", hint="keep one")


def dimension(key: str, text: str, where: str) -> Dimension | None:
    """The range or choices in `text`; None for a plain value. Raises ConfigError for an incomplete range."""
    if (match := _RANGE.fullmatch(text)) is not None:
        return _range(key, match, where)
    if ".." in text and re.match(_NUMBER, text):
        raise ConfigError(f"{text!r} is no range", where=where, hint=_FORMS)
    if "," not in text or text[:1] in "[{\"'":
        return None
    values = tuple(parse(part.strip(), where)[0] for part in text.split(","))
    if len(set(map(repr, values))) < len(values) or any(isinstance(v, list | dict) for v in values):
        raise ConfigError(f"choices are different plain values, found {text!r}", where=where, hint=_FORMS)
    return Choices(key, values)


def _range(key: str, match: re.Match[str], where: str) -> Range:
    low, high = (parse(match[group], where)[0] for group in (1, 2))
    scale = match[3]
    log = scale == "log"
    step = None if log or scale is None else parse(scale, where)[0]
    if not low < high:
        raise ConfigError(f"a range goes up, found {low} to {high}", where=where, hint=_FORMS)
    if log and low <= 0:
        raise ConfigError(f"a logarithmic range starts above 0, found {low}", where=where, hint=_FORMS)
    if step is not None and (not isinstance(step, int | float) or isinstance(step, bool) or step <= 0):
        raise ConfigError(f"behind a range stands log or a step, found {scale!r}", where=where, hint=_FORMS)
    if isinstance(step, float) and isinstance(low, int) and isinstance(high, int):
        low, high = float(low), float(high)
    return Range(key, low, high, log, step)


def contains(space: Sequence[Dimension], values: dict[str, Any]) -> bool:
    """Whether `values` is a point of `space`."""

    def one(d: Dimension) -> bool:
        value = values.get(d.key)
        if isinstance(d, Choices):
            return any(repr(value) == repr(choice) for choice in d.values)
        return isinstance(value, int | float) and not isinstance(value, bool) and d.low <= value <= d.high

    return all(one(d) for d in space)
