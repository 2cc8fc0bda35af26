"""What the sections of a recipe have in common."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Decoding(Section):
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 takes the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling (Holtzman et al. 2020)."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer."""


class Sampling(Decoding):
    logprobs: bool = False
    """Keep the log-probability of each sampled token under the model at temperature 1, whatever it was drawn with."""

    @classmethod
    def like(cls, given: Decoding, **changes: Any) -> Self:
        """The same numbers as in another section, but for `changes`."""
        return cls(**{name: getattr(given, name) for name in Decoding.model_fields} | changes)
