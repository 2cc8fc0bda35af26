"""How answers are sampled: the recipe's `rollouts`. Each field is documented once, beneath itself."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from align.config.base import Sampling, Section

EngineType = Literal["auto", "vllm", "transformers", "server", "ray"]
OF_ENGINES = ("server", "ray")
"""Sub-sections that belong to the engine of their name."""


class Engine(Section):
    """What samples, for `rollouts` and for the verbs that sample alone."""

    type: EngineType = "auto"
    """The engine: vLLM in a process on this machine, or transformers; `auto` is vLLM where it is installed."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Longer prompts are dropped, counted and kept with the reason."""
    shard: Annotated[int, Field(ge=1)] = 128
    """Prompts per shard; a killed run continues with the missing shards."""

    @model_validator(mode="after")
    def _options_of_the_engine(self) -> Self:
        for name in OF_ENGINES:
            if getattr(self, name, None) is not None and self.type != name:
                raise ValueError(f"`{name}` belongs to `type: {name}`, found type: {self.type}; remove one of them")
        return self


class Rollouts(Engine, Sampling):
    prompts: Annotated[int, Field(ge=1)] = 256
    """Train prompts drawn for each round."""
    samples: Annotated[int, Field(ge=2)] = 2
    """Answers sampled for each prompt."""

    @model_validator(mode="after")
    def _different_samples(self) -> Self:
        if self.temperature == 0:
            raise ValueError("`temperature` 0 gives the same answer every time, so there is no pair to compare")
        return self
