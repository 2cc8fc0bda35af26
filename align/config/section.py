"""One section of the recipe alone, for the verbs that do one stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from align.config.base import Sampling
from align.config.load import Kind, Places, set_value, validated
from align.config.rollouts import Engine
from align.errors import ConfigError


class Answers(Engine, Sampling):
    """The settings of `align rollout`: those of the recipe's `rollouts`, for every prompt of a file."""

    samples: Annotated[int, Field(ge=1)] = 2

    @model_validator(mode="after")
    def _different_samples(self) -> Self:
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"`temperature` 0 gives the same answer {self.samples} times; set samples=1")
        return self


def load_section(
    kind: type[Kind], settings: Sequence[str], /, *, no_use: Mapping[str, str] | None = None, **given: Any
) -> Kind:
    """A section from `key=value` settings (YAML values); `given` are fields that options of their own set.

    `no_use` are keys that cannot act here, with the reason. Relative paths start at the working directory. Raises
    ConfigError for these, for an unknown key, with the nearest right one, or a value out of range.
    """
    data: dict[str, Any] = dict(given)
    places: Places = {(): (kind.__name__.lower(), 0)}
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if no_use and key in no_use:
            raise ConfigError(f"{key} has no use here", where=f"setting {setting}", hint=no_use[key])
        set_value(data, places, setting, "setting")
    return validated(kind, data, places, Path.cwd(), True)
