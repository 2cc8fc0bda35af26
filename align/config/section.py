"""One section of the recipe alone, for the verbs that do one stage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Section
from align.config.load import Kind, Places, set_value, validated
from align.config.rewards import AnyFunction, RewardFunction
from align.config.rollouts import Mixed
from align.config.yaml_text import parse
from align.errors import ConfigError


class Answers(Mixed):
    """The settings of `align rollout`: those of the recipe's `rollouts`, for every prompt of a file."""

    keep: Literal["all", "best", "accepted"] = "all"
    """With `--reward`: all answers, the best one to each prompt, or those that statistical rejection sampling accepts."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """With `keep: accepted`: the coefficient of the KL divergence, in units of the reward."""

    @model_validator(mode="after")
    def _beta_of_rejection_sampling(self) -> Self:
        if (self.beta is not None) != (self.keep == "accepted"):
            raise ValueError(f"`beta` goes with `keep: accepted` and is needed there; found keep: {self.keep}")
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


class _Function(Section):
    reward: RewardFunction


def load_function_section(text: str, where: str) -> AnyFunction:
    """A scoring function from one entry of the recipe's `reward.functions`, in YAML. Relative paths start at the working
    directory. Raises ConfigError."""
    value, _ = parse(text, where)
    return validated(_Function, {"reward": value}, {(): (where, 0)}, Path.cwd(), True).reward
