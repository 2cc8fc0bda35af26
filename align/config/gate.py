"""The gate of a recipe: what a new policy must show before the run goes on. The docstring after each field documents it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from align.config.base import Section
from align.config.rewards import RewardFunction


class Check(Section):
    """One thing that must not get worse."""

    name: Annotated[str, Field(min_length=1)]
    """The name of the check in messages and in the report."""
    score: RewardFunction
    """A scoring function, as an entry of `reward.functions`, whose scores are from 0 to 1."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How much lower the new policy's mean score may be."""


class Gate(Section):
    """After each round the run goes on only if people prefer the new policy to the first one, and no check got worse."""

    effect: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """The smallest improvement of the win rate above one half that matters. If there is evidence that it is smaller,
    the gate says stop."""
    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.05
    """The probability of a false go, however often the gate is asked."""
    checks: list[Check] = []
    """What must not get worse. Each compares the answers of the new policy to the held-out prompts with those of the
    first policy."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [check.name for check in self.checks]
        if len(set(names)) < len(names):
            raise ValueError(f"`checks` must have different names, found {names}")
        return self
