"""The last layer at the places that predict an answer's token alone: nobody reads the others.

Its keys and values are those of all places; queries, attention and all that comes after it are not.

Imports torch: import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
"""Names in a layer of what works on each place by itself."""
ANSWERS_ONLY = "align_answers_only"
"""Set on an attention of ours whose output is read at the answers' places alone."""

_places: ContextVar[tuple[Tensor, int] | None] = ContextVar("places", default=None)
"""Places that are read of a row, and how many it has; each thread has its own."""


@contextmanager
def read_at(places: Tensor, tokens: int) -> Iterator[None]:
    """Inside the block a row of `tokens` goes through the models of `skip_unread`, whose output is read at `places`."""
    token = _places.set((places, tokens))
    try:
        yield
    finally:
        _places.reset(token)


def skip_unread(model: Any) -> bool:
    """Let `model` compute its last layer's `PARTS` inside `read_at` where they are read, and give 0 elsewhere.

    Returns whether it has any. Where a backward pass computes the forward again (gradient checkpointing) it must not
    be used: that happens outside the block.
    """
    layers: Any = getattr(model.get_decoder(), "layers", None)
    found = [part for name, part in layers[-1].named_modules() if name in PARTS] if layers else []
    for part in found:
        part.register_forward_pre_hook(_select)
        part.register_forward_hook(_put_back)
    if found and hasattr(layers[-1], "self_attn"):
        setattr(layers[-1].self_attn, ANSWERS_ONLY, True)
    return bool(found)


def _select(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    read = _places.get()
    return None if read is None else (args[0][:, read[0]], *args[1:])


def _put_back(_: Any, args: tuple[Any, ...], output: Any) -> Any:
    read = _places.get()
    if read is None:
        return output
    found, *others = output if isinstance(output, tuple) else (output,)
    whole = found.new_zeros(1, read[1], found.shape[-1]).index_copy(1, read[0], found)
    return (whole, *others) if isinstance(output, tuple) else whole
