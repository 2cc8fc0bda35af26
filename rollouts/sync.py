"""The sync check: does the engine sample from the weights that it should?

At each hand-over the engine answers a few prompts and says how likely it found each token; the checkpoint, read by
transformers one layer at a time, says the same of the same tokens. It computes on CPU: the engine may have taken the
GPU.
"""

from collections.abc import Sequence
from pathlib import Path

from align.config.base import Sampling
from align.errors import StageError
from align.ids import seed_for
from align.layerwise import PromptAndAnswer, checkpoint_logprobs
from align.sync import TOLERANCE, Agreement, require_agreement, require_nearest
from rollouts.engine import Completion, Generator, Request

PROMPTS, TOKENS = 8, 32
"""How many prompts are answered for the check, and the most tokens of each answer."""


def check_sync(
    generator: Generator,
    checkpoint: Path,
    requests: Sequence[Request],
    *,
    dtype: str,
    tolerance: float | None = None,
    ancestors: Sequence[Path] = (),
    max_tokens: int = TOKENS,
) -> Agreement:
    """Compare `generator` with `checkpoint` on a few of `requests`, with answers of `max_tokens` and of TOKENS at most.

    Raises StageError where they differ by more than `tolerance` (that of `dtype` in `align.sync` where not given), and
    where the engine does not say how likely its tokens were. A round may change less than an engine rounds; so the
    numbers of the nearest of `ancestors` and of the last one, which an engine may have kept, are looked at too: they
    must not be nearer to the engine's. Of each checkpoint one layer is in memory at a time (`align.layerwise`).
    """
    few = list(requests[:: max(1, len(requests) // PROMPTS)])[:PROMPTS]
    sampling = Sampling(max_tokens=min(max_tokens, TOKENS), logprobs=True)
    answers = [several[0] for several in generator.generate(few, sampling, samples=1, seed=seed_for("sync check"))]
    said = [_said(answer) for answer in answers]
    pairs = [(request.token_ids, answer.token_ids) for request, answer in zip(few, answers, strict=True)]
    allowed = tolerance or TOLERANCE[dtype]
    own, found = _own(checkpoint, said, pairs, dtype, allowed)
    for rival in dict.fromkeys([*ancestors[:1], *ancestors[-1:]]):
        require_nearest(
            said, own, checkpoint_logprobs(rival, pairs, dtype=dtype), name=str(rival), where=str(checkpoint)
        )
    return found


def _own(
    checkpoint: Path, said: Sequence[Sequence[float]], pairs: Sequence[PromptAndAnswer], dtype: str, allowed: float
) -> tuple[list[list[float]], Agreement]:
    """The checkpoint's numbers and how far the engine agrees. Before they are said to differ, they are computed without
    padding, which some architectures do not ignore."""
    own = checkpoint_logprobs(checkpoint, pairs, dtype=dtype)
    try:
        return own, require_agreement(said, own, tolerance=allowed, where=str(checkpoint))
    except StageError:
        own = checkpoint_logprobs(checkpoint, pairs, dtype=dtype, padded=False)
        return own, require_agreement(said, own, tolerance=allowed, where=str(checkpoint))


def _said(answer: Completion) -> list[float]:
    if answer.logprobs is None or len(answer.logprobs) != len(answer.token_ids):
        raise StageError("the engine does not say how likely its tokens were, so it cannot be checked")
    return answer.logprobs
