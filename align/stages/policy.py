"""Policies: round 0's is the recipe's model, given or fine-tuned on demonstrations; each later one is trained from its
parent, on labels or on rewards.

Every function writes a checkpoint folder into `job.out`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.config.rewards import read_function
from align.config.training import BestOfN, Dpo, Grpo, Kto, Online, Ppo, Rloo, Sft
from align.ids import content_id
from align.pipeline.stage import Declaration, Job, Ref, Stage, Step
from align.progress import Progress
from align.stages.names import DEMONSTRATIONS, POLICY, PROMPTS, REWARD
from align.stages.planning import Planning, labels_up_to
from align.stages.stage_io import (
    demonstrations_of,
    labels_of,
    note_of,
    prompts_of,
    some,
    tokens_of,
    trained,
    training_of,
    write_part,
)
from align.store import checkpoint_id
from align.types import BinaryLabel, Candidate, Dropped, Preference, Prompt, Summary
from reward.build import identity
from reward.terms import RewardTerm, scorer_of

REFERENCE = "reference"
"""The folder of a run that keeps reference log-probabilities; removing it costs the time to compute them again."""


def _policy(function: str, tables: dict[str, type]) -> Declaration:
    more = {"dropped.parquet": Dropped, **tables}
    return Declaration(POLICY, f"align.stages.policy:{function}", tables=more, model="checkpoints", subprocess=True)


_FIRST = {"given": _policy("import_policy", {}), "sft": _policy("sft_policy", {})}
_ON_LABELS = {name: _policy(f"{name}_policy", {}) for name in ("dpo", "kto")}
_ON_REWARDS = {name: _policy(f"{name}_policy", {"prompts.parquet": Prompt}) for name in ("ppo", "rloo", "grpo")}
_ON_REWARDS["best_of_n"] = _policy("best_of_n_policy", {"prompts.parquet": Prompt, "candidates.parquet": Candidate})
STAGES = (*_FIRST.values(), *_ON_LABELS.values(), *_ON_REWARDS.values())


def plan(planning: Planning, number: int) -> list[Step]:
    if number == 0:
        return [_first(planning)]
    return [_on_labels(planning, number) if planning.recipe.reward is None else _on_rewards(planning, number)]


def _first(planning: Planning) -> Stage:
    recipe = planning.recipe
    template = recipe.model.chat_template
    template_id = content_id(Path(template).read_text()) if template and Path(template).is_file() else template
    model: dict[str, Any] = recipe.model.model_dump(mode="json", exclude={"hide_thinking"})
    settings: dict[str, Any] = {"dtype": recipe.model.dtype, "chat_template": template_id}
    # keys of later versions are in it where they act, so that runs begun before go on
    settings |= {name: model[name] for name in ("replace_chat_template", "chat_template_kwargs", "date") if model[name]}
    files = {"model": _model_id(planning)}
    if recipe.sft is None:
        runtime = {**model, "threads": recipe.threads}
        return _FIRST["given"].stage(0, settings=settings, files=files, runtime=runtime)
    sft = recipe.sft.model_dump(mode="json", exclude={"demonstrations", "mix"})
    return _FIRST["sft"].stage(
        0,
        inputs={"demonstrations": Ref(0, DEMONSTRATIONS)},
        settings={**settings, "seed": recipe.seed, "sft": sft, **planning.hidden("loss")},
        files=files,
        runtime={**model, **planning.training, "demonstrations": str(recipe.sft.demonstrations)},
    )


def _model_id(planning: Planning) -> str:
    model = planning.recipe.model
    folder = Path(model.path)
    return planning.fingerprints.of(folder) if folder.is_dir() else f"hub:{model.path}@{model.revision or 'main'}"


def _on_labels(planning: Planning, number: int) -> Stage:
    """DPO or KTO."""
    recipe, method = planning.recipe, planning.recipe.method
    return _ON_LABELS[method].stage(
        number,
        inputs={"parent": Ref(number - 1, POLICY), **labels_up_to(number, recipe.replay)},
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            method: recipe.training.model_dump(mode="json"),
            **planning.hidden("loss"),
        },
        runtime=planning.training,
    )


def _on_rewards(planning: Planning, number: int) -> Stage:
    """PPO, RLOO, GRPO or best-of-n: the policy answers while it learns, and the reward says how well."""
    recipe, method, reward = planning.recipe, planning.recipe.method, planning.recipe.reward
    assert reward is not None
    weights = {
        "model": reward.weight,
        "bound": reward.bound,
        "functions": [function.weight for function in reward.functions],
    }
    return _ON_REWARDS[method].stage(
        number,
        inputs={
            "prompts": Ref(0, PROMPTS),
            "parent": Ref(number - 1, POLICY),
            **({"reward": Ref(number, REWARD)} if reward.model is not None else {}),
        },
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            method: recipe.training.model_dump(mode="json"),
            **planning.hidden("loss"),
            "weights": weights,
        },
        files={f"reward_{index}": identity(function) for index, function in enumerate(reward.functions)},
        runtime={**planning.training, "functions": [f.model_dump(mode="json") for f in reward.functions]},
    )


def import_policy(job: Job, progress: Progress) -> Summary:
    """The recipe's model itself is the first policy."""
    from align.train.checkpoint import import_model

    given = job.runtime
    import_model(given["path"], job.out, **_named(given))
    return {"checkpoint": checkpoint_id(job.out), "parent": None}


def sft_policy(job: Job, progress: Progress) -> Summary:
    """Supervised fine-tuning of the recipe's model on its demonstrations."""
    from align.train.adapter import ADAPTER, name_base
    from align.train.checkpoint import import_model
    from align.train.sft import train_sft
    from align.train.world import by_first

    given, base = job.runtime, job.scratch / "base"
    by_first(lambda: import_model(given["path"], base, seed=job.settings["seed"], **_named(given)))
    rows = demonstrations_of(job)
    metrics = train_sft(
        base,
        [(row.messages, row.answer) for row in rows],
        Sft(demonstrations=Path(given["demonstrations"]), **job.settings["sft"]),
        **training_of(job, progress),
    )
    name_base(job.out / ADAPTER, given["path"], given.get("revision"))
    return {"checkpoint": checkpoint_id(job.out), "parent": None, **metrics, **note_of("demonstration", metrics)}


def _named(given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's `model` as `import_model` takes it, without what a run begun by an earlier version does not say."""
    names = ("revision", "dtype", "chat_template", "replace_chat_template", "chat_template_kwargs", "date")
    return {name: given[name] for name in names if name in given}


def dpo_policy(job: Job, progress: Progress) -> Summary:
    """Train the parent policy on this round's preferences and on a share of earlier ones.

    What the parent says of a pair stays in the run's folder: it is not computed again where settings or labels change.
    """
    from align.train.dpo import train_dpo

    config = Dpo(**job.settings["dpo"])
    rows = some(labels_of(job, "preferences", Preference, config.replay), job, "preference")
    kept = job.scratch.parents[2] / REFERENCE
    given = {"reference_cache": kept, "tokens": tokens_of(job), **training_of(job, progress)}
    metrics = train_dpo(job.inputs["parent"], rows, config, **given)
    return trained(job, metrics, pairs=len(rows))


def kto_policy(job: Job, progress: Progress) -> Summary:
    """Train the parent policy on this round's binary labels and on a share of earlier ones."""
    from align.train.kto import train_kto

    config = Kto(**job.settings["kto"])
    rows = some(labels_of(job, "binary", BinaryLabel, config.replay), job, "binary label")
    metrics = train_kto(job.inputs["parent"], rows, config, tokens=tokens_of(job), **training_of(job, progress))
    return trained(job, metrics, binary=len(rows))


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
    from align.stages.best_of_n import train_best_of_n

    return _online(job, progress, BestOfN(**job.settings["best_of_n"]), train_best_of_n)


def _online(
    job: Job, progress: Progress, config: Online | BestOfN, train: Callable[..., Summary], **more: Any
) -> Summary:
    """Draw the round's prompts, put the reward together, and train."""
    from align.data.prompts import prompts_of_round

    drawn = prompts_of_round(prompts_of(job, "train"), round=job.round, count=config.prompts, seed=job.settings["seed"])
    write_part(job, "prompts", Prompt, drawn)
    weights = job.settings["weights"]
    functions = [read_function(dumped) for dumped in job.runtime["functions"]]
    parts = [RewardTerm(*pair) for pair in zip(functions, weights["functions"], strict=True)]
    if "reward" in job.inputs:
        parts.insert(0, RewardTerm(str(job.inputs["reward"]), weights["model"], weights["bound"]))
    given = {"dtype": job.settings["dtype"], "threads": job.runtime["threads"]}
    scorer = scorer_of(parts, **given, keep=isinstance(config, BestOfN))
    metrics = train(job.inputs["parent"], drawn, config, score=scorer.score, **more, **training_of(job, progress))
    return trained(job, {**metrics, **scorer.why_unscored()}, prompts=len(drawn))
