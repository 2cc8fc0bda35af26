"""Sampling: the parent policy's answers to a round's prompts. Evaluation samples by the same function."""

from typing import Any

from align.config.recipe import Evaluate
from align.config.rollouts import HOW, Rollouts
from align.pipeline.stage import Declaration, Job, Ref, Step
from align.progress import Progress
from align.sampled import TOKENS_FILE
from align.stages.names import POLICY, PROMPTS, ROLLOUTS
from align.stages.planning import Planning
from align.stages.stage_io import ancestors_of, checkpoint_of, note_of_dropped, prompts_of, write_part
from align.types import Candidate, Dropped, Prompt, Summary

CANDIDATES = "candidates.parquet"
_ROLLOUTS = Declaration(
    ROLLOUTS,
    "align.stages.rollouts:rollouts",
    tables={CANDIDATES: Candidate, "dropped.parquet": Dropped},
    subprocess=True,
)
STAGES = (_ROLLOUTS,)


def plan(planning: Planning, number: int) -> list[Step]:
    recipe = planning.recipe
    if number == 0 or not planning.asks:
        return []
    others = {"parent": Ref(max(number - 2, 0), POLICY), "sft": Ref(0, POLICY)}
    mixed = {part.checkpoint for part in recipe.rollouts.mixture}
    return [
        _ROLLOUTS.stage(
            number,
            inputs={
                "prompts": Ref(0, PROMPTS),
                "policy": Ref(number - 1, POLICY),
                **{name: ref for name, ref in others.items() if name in mixed},
            },
            settings={"seed": recipe.seed, "dtype": recipe.model.dtype, "rollouts": _which(recipe.rollouts)},
            runtime={**planning.engine, "how": how(recipe.rollouts)},
        )
    ]


def _which(rollouts: Rollouts) -> dict[str, Any]:
    """What the answers depend on. Keys of later versions are in it where they act, so that runs begun before go on."""
    idle = {name for name in ("logprobs", "max_resamples", "mixture") if not getattr(rollouts, name)}
    return rollouts.model_dump(exclude={*HOW, *idle})


def how(rollouts: Rollouts) -> dict[str, Any]:
    """What of the recipe's `rollouts` no answer depends on."""
    return rollouts.model_dump(mode="json", include=set(HOW))


def rollouts(job: Job, progress: Progress) -> Summary:
    """Sample the parent policy's answers to this round's train prompts."""
    from align.data.prompts import prompts_of_round

    config, seed = Rollouts(**job.settings["rollouts"], **job.runtime["how"]), job.settings["seed"]
    drawn = prompts_of_round(prompts_of(job, "train"), round=job.round, count=config.prompts, seed=seed)
    rows, dropped = sample(job, drawn, config, config, f"rollouts {job.round}", progress)
    write_part(job, "candidates", Candidate, rows)
    write_part(job, "dropped", Dropped, dropped)
    counted = {"prompts": len(drawn), "candidates": len(rows), "dropped": len(dropped), **_lengths(rows)}
    counted |= note_of_dropped("answer", len(rows), dropped)
    return counted | {"redrawn": sum(c.redrawn for c in rows)} if config.max_resamples else counted


def sample(
    job: Job,
    rows: list[Prompt],
    sampling: Rollouts | Evaluate,
    engine: Rollouts,
    purpose: str,
    progress: Progress,
    *,
    keep_all: bool = False,
) -> tuple[list[Candidate], list[Dropped]]:
    """Answers of the job's `policy` (and, in a mixture, of its `parent` and `sft`) to the prompts `rows`, and what was
    left out."""
    from rollouts.mixture import Policy
    from rollouts.sample import sample_answers

    others = {name: job.inputs[name] for name in ("parent", "sft") if name in job.inputs and not keep_all}
    return sample_answers(
        rows,
        job.inputs["policy"],
        sampling,
        engine,
        purpose=purpose,
        seed=job.settings["seed"],
        known_id=checkpoint_of(job.inputs["policy"]),
        policies={name: Policy(folder, checkpoint_of(folder)) for name, folder in others.items()},
        tokens=None if keep_all else job.out / TOKENS_FILE,
        dtype=job.settings["dtype"],
        threads=job.runtime["threads"],
        ancestors=ancestors_of(job.inputs["policy"]),
        keep_all=keep_all,
        out=job.scratch,
        progress=progress,
    )


def _lengths(rows: list[Candidate]) -> Summary:
    if not rows:
        return {}
    return {
        "mean_tokens": sum(c.tokens for c in rows) / len(rows),
        "truncated": sum(c.finish == "length" for c in rows) / len(rows),
    }
