"""A trained model is published, read again and compared with what is in memory: by layers, so that no second one is
there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import StageError
from align.layerwise import Filled, PromptAndAnswer, checkpoint_logprobs, token_logprobs
from align.train import rounding
from align.train.publishing import publish_model, whole_model
from align.train.world import agreed, rank

if TYPE_CHECKING:
    from torch import Tensor

RELOAD_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest difference of an answer's mean token log-probability, in nats, between memory and the published folder."""


def sequence_logps(model: Any, sequences: Sequence[PromptAndAnswer]) -> Tensor:
    """Mean log-probability of each answer's tokens after its prompt, `(prompt_ids, answer_ids)`; shape [sequences]."""
    return _means(token_logprobs(model, sequences))


def _means(logprobs: Sequence[Sequence[float]]) -> Tensor:
    import torch

    return torch.stack([torch.tensor(several).mean() for several in logprobs])


def publish_and_verify(
    model: Any,
    source: Path,
    sequences: Sequence[PromptAndAnswer],
    *,
    out: Path,
    dtype: str,
    chat_template: str | None = None,
    pairs: Sequence[tuple[PromptAndAnswer, PromptAndAnswer]] = (),
) -> dict[str, float]:
    """`publish_model`, then `verify_published` on `sequences`. Returns `reload_logp_difference`, the largest difference
    of log-probabilities, and in bfloat16 which share of the trained change is in what is published: `published_weights`
    of that of the weights, and for models that are small enough `published_logps` of that of the answers'
    log-probabilities, or with `pairs` (better answer, worse answer) of that of their margins.

    Of several processes the first one does it, and the others wait.
    """
    model = whole_model(model, source)
    found: dict[str, float] = {}
    if rank() == 0:
        device = model.device
        expected = sequence_logps(model, sequences)
        asked = [one for pair in pairs for one in pair] or list(sequences)
        draw = None
        if dtype == "bfloat16":
            under = Filled(source, "float32", device)

            def logps(filled: Any) -> Tensor:
                return compared(token_logprobs(filled, asked), margins=bool(pairs))

            draw = rounding.best_draw(model, source, lambda fill: under(fill, logps))
        number = draw.number if draw is not None else 0
        arrived = publish_model(model, source, out, dtype=dtype, chat_template=chat_template, draw=number)
        if draw is None:
            found["reload_logp_difference"] = verify_published(out, expected, sequences, dtype=dtype, device=device)
        else:
            again = compared(checkpoint_logprobs(out, asked, dtype="float32", device=device), margins=bool(pairs))
            tokens = max(len(answer) for _, answer in asked) if pairs else 1  # margins are sums
            allowed = RELOAD_TOLERANCE["float32"] * tokens
            found["reload_logp_difference"] = _require_same(again, draw.told, allowed, out)
        if dtype == "bfloat16":
            found["published_weights"] = arrived.share
        if draw is not None:
            found["published_logps"] = draw.share
            _warn_of_loss(draw.share)
    return agreed(found)


def compared(logprobs: Sequence[Sequence[float]], *, margins: bool) -> Tensor:
    """What is compared before and after publishing: each answer's mean log-probability, or the `margins` of answers
    that come two by two, the better one first."""
    import torch

    if not margins:
        return _means(logprobs)
    sums = torch.tensor([sum(several) for several in logprobs])
    return sums[::2] - sums[1::2]


def _warn_of_loss(share: float) -> None:
    if share < rounding.LEAST:
        print(
            f"only {share:.0%} of the trained change of log-probabilities is in the published checkpoint: of a model this "
            "small, or a training this short, rounding to bfloat16 is louder than the change; raise the learning rate, or "
            "set model.dtype: float32",
            file=sys.stderr,
        )


def verify_published(
    out: Path, expected: Tensor, sequences: Sequence[PromptAndAnswer], *, dtype: str, device: Any
) -> float:
    """Read the published folder again, one layer at a time, and compare `sequence_logps` with those of the model in
    memory.

    Returns the largest difference; StageError where it is over `RELOAD_TOLERANCE`.
    """
    again = _means(checkpoint_logprobs(out, sequences, dtype=dtype, device=device))
    return _require_same(again, expected, RELOAD_TOLERANCE[dtype], out)


def _require_same(again: Tensor, expected: Tensor, tolerance: float, out: Path) -> float:
    difference = float((again - expected).abs().max())
    if not difference <= tolerance:
        raise StageError(
            f"the published checkpoint differs from the trained model: log-probabilities by {difference:.2g}, "
            f"allowed is {tolerance:g}",
            where=str(out),
        )
    return difference
