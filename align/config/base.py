"""The common base of a recipe's sections."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Decoding(Section):
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: sample from the smallest set of tokens with this total probability (Holtzman et al. 2020)."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Maximum length of an answer, in tokens."""


class Sampling(Decoding):
    logprobs: bool = False
    """Store the log-probability of each sampled token under the model at temperature 1, whatever `temperature` is."""

    @classmethod
    def like(cls, given: Decoding, **changes: Any) -> Self:
        """The same values as in another section, except for `changes`."""
        return cls(**{name: getattr(given, name) for name in Decoding.model_fields} | changes)
