"""Best of n, or rejection sampling: learn the best of several answers by fine-tuning (Touvron et al. 2023, §3.2.3)."""

from collections.abc import Sequence

from align.errors import DataError
from align.types import Candidate, Dropped, Message, Prompt

UNSCORED = "it cannot be scored"
CUT = "it was cut at max_tokens, and would teach to stop there"
NONE_LEFT = "none of its answers is whole and has a score"


def best_of(
    candidates: Sequence[Candidate], scores: Sequence[float | None], prompts: Sequence[Prompt]
) -> tuple[list[tuple[list[Message], Candidate]], list[Dropped]]:
    """Each prompt with its answer of the highest score, in the prompts' order, and what was left out.

    `scores[i]` is that of `candidates[i]`. Of equal scores the earliest sample wins. Answers without a score and those
    that the limit cut are never chosen. Raises DataError where scores and candidates differ in number, or an answer
    belongs to none of `prompts`.
    """
    if len(scores) != len(candidates):
        raise DataError(f"there are {len(scores)} scores for {len(candidates)} answers", hint="give one for each")
    best: dict[str, tuple[tuple[float, int, str], Candidate]] = {}
    known = {prompt.id for prompt in prompts}
    dropped: list[Dropped] = []
    for candidate, score in zip(candidates, scores, strict=True):
        if candidate.prompt_id not in known:
            raise DataError(f"the prompt of answer {candidate.id} is not there", where=f"prompt {candidate.prompt_id}")
        if score is None or candidate.finish == "length":
            where = f"prompt {candidate.prompt_id}, sample {candidate.sample}"
            dropped.append(Dropped("answer", where, UNSCORED if score is None else CUT))
            continue
        rank = (score, -candidate.sample, candidate.text)
        if candidate.prompt_id not in best or rank > best[candidate.prompt_id][0]:
            best[candidate.prompt_id] = rank, candidate
    rows = [(prompt.messages, best[prompt.id][1]) for prompt in prompts if prompt.id in best]
    dropped += [Dropped("prompt", prompt.source, NONE_LEFT) for prompt in prompts if prompt.id not in best]
    return rows, dropped
