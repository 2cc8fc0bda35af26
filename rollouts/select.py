"""Which of a prompt's answers are kept by their reward: the best, or a sample of the policy that the reward implies."""

import math
from collections.abc import Sequence

from align.errors import DataError
from align.ids import unit_for
from align.types import Candidate, Dropped

UNSCORED = "it cannot be scored"


def best_of_n(candidates: Sequence[Candidate], scores: Sequence[float | None]) -> tuple[list[int], list[Dropped]]:
    """Places of the answer with the highest score to each prompt (of equal scores the earliest sample), in order, and
    why the others were left out. An answer without a score is never chosen."""
    best = _best(candidates, scores)
    samples = {prompt: candidates[place].sample for prompt, place in best.items()}
    chosen = sorted(best.values())
    reasons = [f"sample {samples.get(c.prompt_id)} has a higher score, or came first" for c in candidates]
    return chosen, _left_out(candidates, scores, chosen, reasons)


def rejection_sample(
    candidates: Sequence[Candidate], scores: Sequence[float | None], *, beta: float, seed: int
) -> tuple[list[int], list[Dropped]]:
    """Places of the answers that statistical rejection sampling accepts (Liu et al. 2023, "Statistical Rejection
    Sampling Improves Preference Optimization", algorithm 1), and why the others were left out.

    An answer with the score r is kept with probability exp((r − m) / beta), m being the highest score of the prompt's
    answers: what stays is a sample of the policy times exp(r / beta), the optimum of reward minus `beta` times the KL
    divergence (in nats), up to m being that of a few answers. `beta` > 0 is in units of the score; the smaller, the
    nearer to the best of n. The draw depends on seed and answer alone.
    """
    best = _best(candidates, scores)

    def accepts(i: int, score: float) -> bool:
        highest = scores[best[candidates[i].prompt_id]]
        assert highest is not None
        return unit_for("rejection", seed, candidates[i].id) < math.exp((score - highest) / beta)

    chosen = [i for i, score in enumerate(scores) if score is not None and accepts(i, score)]
    return chosen, _left_out(candidates, scores, chosen, [f"rejected at beta {beta:g}"] * len(candidates))


def _best(candidates: Sequence[Candidate], scores: Sequence[float | None]) -> dict[str, int]:
    """Prompt → place of its best answer."""
    if len(scores) != len(candidates):
        raise DataError(f"there are {len(scores)} scores for {len(candidates)} answers", hint="give one for each")
    best: dict[str, tuple[float, int, int]] = {}
    for place, (candidate, score) in enumerate(zip(candidates, scores, strict=True)):
        if score is not None:
            rank = (score, -candidate.sample, place)
            best[candidate.prompt_id] = max(rank, best.get(candidate.prompt_id, rank))
    return {prompt: place for prompt, (_, _, place) in best.items()}


def _left_out(
    candidates: Sequence[Candidate], scores: Sequence[float | None], chosen: Sequence[int], reasons: Sequence[str]
) -> list[Dropped]:
    kept = set(chosen)
    return [
        Dropped("answer", f"prompt {c.prompt_id}, sample {c.sample}", UNSCORED if score is None else reason)
        for place, (c, score, reason) in enumerate(zip(candidates, scores, reasons, strict=True))
        if place not in kept
    ]
