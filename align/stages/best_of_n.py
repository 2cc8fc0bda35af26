"""Best of n as a training like the others: sample, score, keep the best answer to each prompt, and learn it.

It samples with `rollouts` and trains with `align.train`, so it stands above both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from align.config.rollouts import Rollouts
from align.config.training import BestOfN, Sft, Training
from align.errors import DataError
from align.ids import seed_for
from align.sampled import TOKENS_FILE, read_tokens
from align.store import checkpoint_id, read_table, write_table
from align.train import arguments
from align.train.best_of_n import best_of
from align.train.online import checked_scores
from align.train.world import alone
from align.types import Candidate, Dropped, Prompt, Score, from_table, to_table


def train_best_of_n(
    parent: Path,
    prompts: Sequence[Prompt],
    config: BestOfN,
    *,
    score: Score,
    **given: Unpack[arguments.Given],
) -> dict[str, Any]:
    """Fine-tune the checkpoint `parent` on the best of `config.samples` answers that it gives to each prompt.

    `score` is that of `align.train.online`. The sampled answers with their ids go to `out/candidates.parquet`, the
    tokens that they were sampled as, and are learned as, to `out/tokens.parquet`; all that was left out, answers
    without a score too, to `out/dropped.parquet`. After a kill sampling goes on with the missing shards in `work`, and
    training with its last checkpoint.

    Returns what `train_sft` does, and `mean_score_all` and `mean_score_best` of the answers sampled and chosen, how
    many were `sampled`, and how many had no score (`unscored`). Raises DataError where not one prompt has an answer
    that is whole and has a score.
    """
    from align.train.sft import train_sft
    from rollouts.sample import sample_candidates

    alone("best of n")
    seed, out = given["seed"], given["out"]
    out.mkdir(parents=True, exist_ok=True)
    answers, left_out = sample_candidates(
        prompts,
        parent,
        checkpoint_id(parent),
        sampling=config,
        samples=config.samples,
        engine=config.type,
        dtype=given["dtype"],
        max_prompt_tokens=config.max_prompt_tokens,
        shard=Rollouts().shard,
        seed=seed_for(f"{seed} best of n") % 2**31,
        threads=given["threads"],
        tokens=out / TOKENS_FILE,
        out=given["work"],
        progress=given.get("progress"),
    )
    scores = _scores(score, prompts, answers)
    asked = {answer.prompt_id for answer in answers}
    best, unfit = best_of(answers, scores, [prompt for prompt in prompts if prompt.id in asked])
    write_table(out / "candidates.parquet", to_table(Candidate, answers))
    if not best:
        what = f"of {len(answers)} answers to {len(prompts)} prompts not one is whole and has a score"
        raise DataError(what, where="reward", hint="raise best_of_n.max_tokens, or see what the reward gives None for")
    sft = Sft(
        demonstrations=out / "candidates.parquet",
        turns="last",
        max_tokens=max(config.max_prompt_tokens + config.max_tokens, 8),
        **{name: getattr(config, name) for name in Training.model_fields},
    )
    rows = [(messages, answer.text) for messages, answer in best]
    chosen = [answer.id for _, answer in best]
    metrics = train_sft(parent, rows, sft, candidates=chosen, tokens=read_tokens([out]), **given)
    too_long = from_table(Dropped, read_table(out / "dropped.parquet"))
    write_table(out / "dropped.parquet", to_table(Dropped, [*left_out, *unfit, *too_long]))
    return metrics | _means(answers, scores) | {"sampled": len(answers), "unscored": scores.count(None)}


def _scores(score: Score, prompts: Sequence[Prompt], answers: Sequence[Candidate]) -> list[float | None]:
    messages = {prompt.id: prompt.messages for prompt in prompts}
    return checked_scores(score, [messages[answer.prompt_id] for answer in answers], [a.text for a in answers])


def _means(answers: Sequence[Candidate], scores: Sequence[float | None]) -> dict[str, float]:
    """The mean score of all whole answers, and of the best to each prompt."""
    best: dict[str, float] = {}
    whole = [(a.prompt_id, s) for a, s in zip(answers, scores, strict=True) if s is not None and a.finish == "stop"]
    for prompt, value in whole:
        best[prompt] = max(value, best.get(prompt, value))
    return {
        "mean_score_all": sum(value for _, value in whole) / len(whole),
        "mean_score_best": sum(best.values()) / len(best),
    }
