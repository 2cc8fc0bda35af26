"""How good a model's answers are while it trains: sampled from memory, scored, with an interval over prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from align.config.base import Sampling
from align.errors import DataError
from align.evaluation.statistics import clustered_bootstrap
from align.evaluation.winrate import win_rate
from align.types import Prompt, Score
from rollouts.engine import Request

Metric = Literal["mean_score", "win_rate"]
DRAWS = 1000
"""Of the bootstrap, for an interval that only guides."""


@dataclass(frozen=True, slots=True)
class Answering:
    """Prompts as token ids, and all that it takes to have them answered and scored. The same seed draws the same."""

    prompts: list[Prompt]
    requests: list[Request]
    tokenizer: Any
    stops: list[int]
    sampling: Sampling
    score: Score
    seed: int

    @classmethod
    def to(
        cls,
        prompts: Sequence[Prompt],
        checkpoint: Path,
        sampling: Sampling,
        score: Score,
        *,
        max_prompt_tokens: int,
        seed: int,
    ) -> Self:
        """Of `prompts` those of at most `max_prompt_tokens`, by the tokenizer of `checkpoint`. Raises DataError for
        fewer than two."""
        from align.text import encode_prompt, load_tokenizer, stop_token_ids

        tokenizer = load_tokenizer(checkpoint)
        asked = [(p, encode_prompt(tokenizer, p.messages)) for p in prompts]
        asked = [(p, ids) for p, ids in asked if len(ids) <= max_prompt_tokens]
        if len(asked) < 2:
            what = f"{len(asked)} of {len(prompts)} prompts have at most {max_prompt_tokens} tokens; two are needed"
            raise DataError(what, where="max_prompt_tokens", hint="raise it")
        requests = [Request(p.id, ids) for p, ids in asked]
        stops = stop_token_ids(tokenizer, checkpoint)
        return cls([p for p, _ in asked], requests, tokenizer, stops, sampling, score, seed)

    def scores(self, model: Any) -> list[list[float | None]]:
        """For each prompt the score of the one answer that the model gives. The model comes back as it was, and the
        global random generators too."""
        from align.sampled_calls import read_answer
        from rollouts.transformers_engine import TransformersGenerator

        with _ready_to_answer(model):
            generator = TransformersGenerator.of_model(model, self.stops)
            made = generator.generate(self.requests, self.sampling, samples=1, seed=self.seed)
        ends = [(c.token_ids[:-1] if c.finish == "stop" else c.token_ids) for (c,) in made]
        texts = [read_answer(self.tokenizer, p.messages, ids) for p, ids in zip(self.prompts, ends, strict=True)]
        return [[score] for score in self.score([p.messages for p in self.prompts], texts)]

    def scores_of(self, checkpoint: Path, dtype: str) -> list[list[float | None]]:
        """The same of a checkpoint's model."""
        import torch

        from align.train.checkpoint import load_model

        return self.scores(load_model(checkpoint, dtype).to("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]


def measured(
    answering: Answering,
    model: Any,
    against: Sequence[Sequence[float | None]] | None,
    *,
    tie_width: float,
    seed: int,
) -> tuple[float, float, float]:
    """The mean score of the model's answers, or their win rate over those scored `against`: (mean, low, high).

    Raises DataError where fewer than two answers can be scored.
    """
    scores, names = answering.scores(model), [p.id for p in answering.prompts]
    if against is not None:
        won = win_rate(scores, against, names, tie_width=tie_width, seed=seed)
        return won.mean, won.low, won.high
    known = [(s, name) for (s,), name in zip(scores, names, strict=True) if s is not None]
    if len(known) < 2:
        raise DataError(f"{len(scores) - len(known)} of {len(scores)} answers cannot be scored", where="the judge")
    found = clustered_bootstrap([s for s, _ in known], [n for _, n in known], seed=seed, draws=DRAWS)
    return found.mean, found.low, found.high


@contextmanager
def _ready_to_answer(model: Any) -> Iterator[None]:
    """In evaluation mode with a cache, no default of the model's own mixing with our sampling; afterwards as it was."""
    from transformers import GenerationConfig

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    training, config, cache = model.training, inner.generation_config, inner.config.use_cache
    model.eval()
    inner.generation_config, inner.config.use_cache = GenerationConfig(), True
    try:
        yield
    finally:
        inner.generation_config, inner.config.use_cache = config, cache
        model.train(training)
