"""The sync check: does the engine sample from the weights that it should?

At each hand-over the engine answers a few prompts and says how likely it found each token; the checkpoint, loaded by
transformers, says the same of the same tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.config.base import Sampling
from align.errors import StageError
from align.ids import seed_for
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
    must not be nearer to the engine's.
    """
    few = list(requests[:: max(1, len(requests) // PROMPTS)])[:PROMPTS]
    sampling = Sampling(max_tokens=min(max_tokens, TOKENS), logprobs=True)
    answers = [several[0] for several in generator.generate(few, sampling, samples=1, seed=seed_for("sync check"))]
    said = [_said(answer) for answer in answers]
    pairs = [(request.token_ids, answer.token_ids) for request, answer in zip(few, answers, strict=True)]
    own = _logprobs_of(checkpoint, pairs, dtype)
    found = require_agreement(said, own, tolerance=tolerance or TOLERANCE[dtype], where=str(checkpoint))
    for rival in dict.fromkeys([*ancestors[:1], *ancestors[-1:]]):
        require_nearest(said, own, _logprobs_of(rival, pairs, dtype), name=str(rival), where=str(checkpoint))
    return found


def _logprobs_of(checkpoint: Path, pairs: Sequence[tuple[list[int], list[int]]], dtype: str) -> list[list[float]]:
    model = load_reference(checkpoint, dtype)
    return [token_logprobs(model, prompt, answer) for prompt, answer in pairs]


def load_reference(checkpoint: Path, dtype: str) -> Any:
    """The checkpoint in transformers, on CPU: the engine may have taken the GPU."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype), local_files_only=True)
    return model.eval()


def token_logprobs(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """The natural log-probability of each of the answer's tokens after the prompt, at temperature 1."""
    import torch

    with torch.inference_mode():
        ids_1T = torch.tensor([[*prompt, *answer]], device=model.device)
        logits_AV = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        logps_A = logits_AV.log_softmax(-1).gather(1, ids_1T[0, len(prompt) :, None])[:, 0]
    return [float(value) for value in logps_A]


def _said(answer: Completion) -> list[float]:
    if answer.logprobs is None or len(answer.logprobs) != len(answer.token_ids):
        raise StageError("the engine does not say how likely its tokens were, so it cannot be checked")
    return answer.logprobs
