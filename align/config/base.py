"""What the sections of a recipe have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Sampling(Section):
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 takes the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling (Holtzman et al. 2020)."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer."""
