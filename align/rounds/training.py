"""What the stages that train in a round do: a reward model, and the policy by each method.

As in `align.rounds.work`, every function takes a `Job` and a progress callback, writes a checkpoint folder into
`job.out` and returns a summary for the receipt.
"""

from collections.abc import Callable
from typing import Any

from align.config.rewards import read_function
from align.config.training import BestOfN, Dpo, Grpo, Kto, Online, Ppo, RewardModel, Rloo
from align.errors import DataError
from align.rounds.parts import checkpoint_of, labels_of, note_of, prompts_of, tokens_of, write_part
from align.rounds.rewarding import Part, scorer_of
from align.rounds.stage import Job
from align.rounds.worker import Progress
from align.store import checkpoint_id
from align.types import Preference, Prompt, Thumb

Summary = dict[str, Any]
REFERENCE = "reference"
"""The folder of a run that keeps reference log-probabilities; removing it costs the time to compute them again."""


def dpo_policy(job: Job, progress: Progress) -> Summary:
    """Train the parent policy on this round's preferences and on a share of earlier ones.

    What the parent says of a pair stays in the run's folder: it is not computed again where settings or labels change.
    """
    from align.train.dpo import train_dpo

    config = Dpo(**job.settings["dpo"])
    rows = _some(labels_of(job, "preferences", Preference, config.replay), job, "preference")
    kept = job.scratch.parents[2] / REFERENCE
    given = {"reference_cache": kept, "tokens": tokens_of(job), **_common(job, progress)}
    metrics = train_dpo(job.inputs["parent"], rows, config, **given)
    return _trained(job, metrics, pairs=len(rows))


def kto_policy(job: Job, progress: Progress) -> Summary:
    """Train the parent policy on this round's thumbs and on a share of earlier ones."""
    from align.train.kto import train_kto

    config = Kto(**job.settings["kto"])
    rows = _some(labels_of(job, "thumbs", Thumb, config.replay), job, "thumb")
    metrics = train_kto(job.inputs["parent"], rows, config, tokens=tokens_of(job), **_common(job, progress))
    return _trained(job, metrics, thumbs=len(rows))


def reward_model(job: Job, progress: Progress) -> Summary:
    """Train a reward model, the parent policy with a scalar head, on this round's preferences and earlier ones."""
    from reward.train import train_reward

    config = RewardModel(**job.settings["reward"])
    rows = _some(labels_of(job, "preferences", Preference, config.replay), job, "preference")
    metrics = train_reward(job.inputs["parent"], rows, config, tokens=tokens_of(job), **_common(job, progress))
    return _trained(job, metrics, pairs=len(rows))


def ppo_policy(job: Job, progress: Progress) -> Summary:
    """Proximal policy optimisation of the parent; the critic starts from the round's reward model, if there is one."""
    from align.train.ppo import train_ppo

    config = Ppo(**job.settings["ppo"])
    own = "reward" in job.inputs and config.critic == "separate"
    return _online(job, progress, config, train_ppo, critic=job.inputs["reward"] if own else None)


def rloo_policy(job: Job, progress: Progress) -> Summary:
    """REINFORCE leave-one-out from the parent."""
    from align.train.rloo import train_rloo

    return _online(job, progress, Rloo(**job.settings["rloo"]), train_rloo)


def grpo_policy(job: Job, progress: Progress) -> Summary:
    """Group-relative policy optimisation of the parent."""
    from align.train.grpo import train_grpo

    return _online(job, progress, Grpo(**job.settings["grpo"]), train_grpo)


def best_of_n_policy(job: Job, progress: Progress) -> Summary:
    """Supervised fine-tuning of the parent on the best of its answers."""
    from align.rounds.best_of_n import train_best_of_n

    return _online(job, progress, BestOfN(**job.settings["best_of_n"]), train_best_of_n)


def _online(
    job: Job, progress: Progress, config: Online | BestOfN, train: Callable[..., Summary], **more: Any
) -> Summary:
    """Draw the round's prompts, put the reward together, and train."""
    from align.data.prompts import prompts_of_round

    drawn = prompts_of_round(prompts_of(job, "train"), round=job.round, count=config.prompts, seed=job.settings["seed"])
    write_part(job, "prompts", Prompt, drawn)
    weights = job.settings["weights"]
    functions = [read_function(dumped) for dumped in job.tuning["functions"]]
    parts = [Part(*pair) for pair in zip(functions, weights["functions"], strict=True)]
    if "reward" in job.inputs:
        parts.insert(0, Part(str(job.inputs["reward"]), weights["model"], weights["bound"]))
    given = {"dtype": job.settings["dtype"], "threads": job.tuning["threads"]}
    scorer = scorer_of(parts, **given, keep=isinstance(config, BestOfN))
    metrics = train(job.inputs["parent"], drawn, config, score=scorer.score, **more, **_common(job, progress))
    return _trained(job, {**metrics, **scorer.why_unscored()}, prompts=len(drawn))


def _common(job: Job, progress: Progress) -> dict[str, Any]:
    """What every training takes beside parent, rows and config."""
    return {
        "seed": job.settings["seed"],
        "dtype": job.settings["dtype"],
        "report_to": job.tuning["report_to"],
        "threads": job.tuning["threads"],
        "out": job.out,
        "work": job.scratch,
        "progress": progress,
        **({"mask_thinking": True} if job.settings.get("mask_thinking") else {}),
    }


def _trained(job: Job, metrics: Summary, **counts: int) -> Summary:
    parent = checkpoint_of(job.inputs["parent"])
    return {"checkpoint": checkpoint_id(job.out), "parent": parent, **counts, **metrics, **note_of("row", metrics)}


def _some(rows: list[Any], job: Job, what: str) -> list[Any]:
    if not rows:
        raise DataError(
            f"there is not one {what} to train on",
            where=f"{job.round}/preferences",
            hint="see its dropped.parquet for the reasons",
        )
    return rows
