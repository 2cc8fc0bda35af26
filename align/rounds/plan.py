"""The plan of a run: which stages there are, what each reads, and what its key depends on.

round 0      prompts → demonstrations → policy (SFT, or the given model) → evaluation
round 1…     rollouts → selection → (people) → snapshot → preferences → policy → evaluation
or, with preferences or thumbs from a file:     preferences → policy → evaluation
with a reward model:                            preferences → reward → policy → evaluation
                                     and beside it            reward → reward_check
where scoring functions alone say what is good:                        policy → evaluation
and where people judge, behind each evaluation: blind → (people) → blind_snapshot → blind_result
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.config.recipe import Annotate, FunctionJudge, PeopleJudge, Personas, Recipe
from align.config.rollouts import HOW, Rollouts
from align.config.training import RewardModel
from align.errors import ConfigError
from align.ids import content_id
from align.rounds.fingerprint import Fingerprints
from align.rounds.stage import Ref, Stage
from reward.build import identity
from reward.functions import function_id


@dataclass(frozen=True, slots=True)
class Labelling:
    """The step that is no stage: people write into the journal until the round's tasks are answered."""

    ref: Ref
    tasks: Ref


Step = Stage | Labelling
SELECTION, BLIND = "selection", "blind"
"""The stages whose tasks people are asked about."""


def make_plan(recipe: Recipe, fingerprints: Fingerprints) -> list[Step]:
    """All steps in the order in which they run. Raises ConfigError where an outside file is missing."""
    engine = {"threads": recipe.threads, "dtype": recipe.model.dtype}
    outside = _outside(recipe, fingerprints)
    steps: list[Step] = [*_round_zero(recipe, outside, engine)]
    for number in range(1, recipe.rounds + 1):
        if asks(recipe):
            steps += _asked(recipe, number, outside, engine)
        elif recipe.learns_from is not None:
            steps.append(_from_file(recipe, outside))
        if recipe.reward is not None and recipe.reward.model is not None:
            steps.append(_reward(recipe, recipe.reward.model, number, engine))
            steps += _reward_check(recipe, recipe.reward.model, number, engine)
        on_rows = recipe.reward is None
        steps.append(_policy_on_rows(recipe, number, engine) if on_rows else _online(recipe, number, outside, engine))
        steps.append(_evaluation(recipe, number, outside, engine))
        if isinstance(recipe.evaluate.judge, PeopleJudge):
            steps += _judged(recipe, number, recipe.evaluate.judge)
    return steps


def asks(recipe: Recipe) -> bool:
    """Whether each round asks annotators about answers to train on."""
    return recipe.annotate is not None and recipe.learns_from is not None


def labellings(recipe: Recipe) -> list[Labelling]:
    """The steps in which people have the word, in order."""
    steps = []
    for number in range(1, recipe.rounds + 1):
        if asks(recipe):
            steps.append(_labelling(number))
        if isinstance(recipe.evaluate.judge, PeopleJudge):
            steps.append(_blind_labelling(number))
    return steps


def _labelling(number: int) -> Labelling:
    return Labelling(Ref(number, "labelling"), tasks=Ref(number, SELECTION))


def _blind_labelling(number: int) -> Labelling:
    return Labelling(Ref(number, "blind_labelling"), tasks=Ref(number, BLIND))


def find_stage(steps: list[Step], text: str) -> int:
    """The index of the step that `text` names: `policy` (its first) or `2/policy`. Raises ConfigError."""
    for index, step in enumerate(steps):
        if text in (str(step.ref), step.ref.stage):
            return index
    names = ", ".join(str(step.ref) for step in steps)
    raise ConfigError(f"there is no stage {text!r}", where="--from", hint=f"this recipe's stages are {names}")


def judge_of(recipe: Recipe) -> FunctionJudge | None:
    """The scoring function that the recipe names; with simulated annotators and none named, their own hidden utility."""
    judge = recipe.evaluate.judge
    if judge is None and recipe.annotate is not None and isinstance(recipe.annotate.by, Personas):
        return FunctionJudge(path=recipe.annotate.by.utility)
    return judge if isinstance(judge, FunctionJudge) else None


def _outside(recipe: Recipe, fingerprints: Fingerprints) -> dict[str, str]:
    """Ids of what the recipe reads from outside the run."""
    found = {"prompts": _file(recipe.prompts.path, "prompts.path", fingerprints), "model": _model(recipe, fingerprints)}
    if recipe.sft is not None:
        found["demonstrations"] = _file(recipe.sft.demonstrations, "sft.demonstrations", fingerprints)
        for number, part in enumerate(recipe.sft.mix):
            found[f"mix_{number}"] = _file(part.path, f"sft.mix.{number}.path", fingerprints)
    if recipe.preferences is not None:
        found["preferences"] = _file(recipe.preferences.path, "preferences.from", fingerprints)
    if recipe.thumbs is not None:
        found["thumbs"] = _file(recipe.thumbs.path, "thumbs.from", fingerprints)
    for number, function in enumerate(recipe.reward.functions if recipe.reward is not None else []):
        found[f"reward_{number}"] = identity(function)
    if recipe.annotate is not None and recipe.annotate.gold is not None:
        found["gold"] = _file(recipe.annotate.gold.path, "annotate.gold.path", fingerprints)
    if recipe.annotate is not None and recipe.annotate.suggest is not None:
        found["suggest"] = function_id(recipe.annotate.suggest.path, Path())
    if (judge := judge_of(recipe)) is not None:
        found["judge"] = function_id(judge.path, Path())
    return found


def _file(path: Path, where: str, fingerprints: Fingerprints) -> str:
    if not path.is_file():
        maker = next((p for p in (path.parent.parent / "world.py", path.parent / "world.py") if p.is_file()), None)
        way_out = (
            f"make it with `python {maker}`" if maker else "check the path; relative ones start at the recipe's folder"
        )
        raise ConfigError(f"there is no file {path}", where=where, hint=way_out)
    return fingerprints.of(path)


def _model(recipe: Recipe, fingerprints: Fingerprints) -> str:
    folder = Path(recipe.model.path)
    if folder.is_dir():
        return fingerprints.of(folder)
    return f"hub:{recipe.model.path}@{recipe.model.revision or 'main'}"


def _round_zero(recipe: Recipe, outside: dict[str, str], engine: dict[str, Any]) -> list[Stage]:
    chat_template = recipe.model.chat_template
    template_id = (
        content_id(Path(chat_template).read_text())
        if chat_template and Path(chat_template).is_file()
        else chat_template
    )
    settings: dict[str, Any] = {"dtype": recipe.model.dtype, "chat_template": template_id}
    model: dict[str, Any] = recipe.model.model_dump(mode="json", exclude={"hide_thinking"})
    # keys of later versions are in it where they act, so that runs begun before go on
    settings |= {name: model[name] for name in ("replace_chat_template", "chat_template_kwargs", "date") if model[name]}
    prompts = Stage(
        Ref(0, "prompts"),
        work="prompts",
        version=1,
        settings=recipe.prompts.model_dump(exclude={"path"}),
        files={"prompts": outside["prompts"]},
        tuning={"path": str(recipe.prompts.path)},
    )
    if recipe.sft is None:
        policy = Stage(
            Ref(0, "policy"),
            work="given_policy",
            version=1,
            settings=settings,
            files={"model": outside["model"]},
            tuning={**model, "threads": recipe.threads},
            heavy=True,
        )
        return [prompts, policy, _evaluation(recipe, 0, outside, engine)]
    demonstrations = Stage(
        Ref(0, "demonstrations"),
        work="demonstrations",
        version=1,
        inputs={"prompts": prompts.ref},
        settings={"seed": recipe.seed, "mix": [part.share for part in recipe.sft.mix]} if recipe.sft.mix else {},
        files={name: outside[name] for name in outside if name == "demonstrations" or name.startswith("mix_")},
        tuning={"path": str(recipe.sft.demonstrations), "mix": [str(part.path) for part in recipe.sft.mix]},
    )
    policy = Stage(
        Ref(0, "policy"),
        work="sft_policy",
        version=1,
        inputs={"demonstrations": demonstrations.ref},
        settings={
            **settings,
            "seed": recipe.seed,
            "sft": recipe.sft.model_dump(mode="json", exclude={"demonstrations", "mix"}),
            **_hidden(recipe, "loss"),
        },
        files={"model": outside["model"]},
        tuning={**model, **_training(recipe, engine), "demonstrations": str(recipe.sft.demonstrations)},
        heavy=True,
    )
    return [prompts, demonstrations, policy, _evaluation(recipe, 0, outside, engine)]


def _asked(recipe: Recipe, number: int, outside: dict[str, str], engine: dict[str, Any]) -> list[Step]:
    """From the parent's answers to compiled preferences, with people in between."""
    assert recipe.annotate is not None
    rollouts, selection, snapshot = Ref(number, "rollouts"), Ref(number, SELECTION), Ref(number, "snapshot")
    others = {"parent": Ref(max(number - 2, 0), "policy"), "sft": Ref(0, "policy")}
    mixed = {part.checkpoint for part in recipe.rollouts.mixture}
    return [
        Stage(
            rollouts,
            work="rollouts",
            version=1,
            inputs={
                "prompts": Ref(0, "prompts"),
                "policy": Ref(number - 1, "policy"),
                **{name: ref for name, ref in others.items() if name in mixed},
            },
            settings={"seed": recipe.seed, "dtype": recipe.model.dtype, "rollouts": _which(recipe.rollouts)},
            tuning={**engine, "how": _how(recipe.rollouts)},
            heavy=True,
        ),
        _selection(recipe, recipe.annotate, selection, outside, rollouts),
        _labelling(number),
        Stage(snapshot, work="snapshot", version=1, inputs={"tasks": selection}),
        Stage(
            Ref(number, "preferences"),
            work="preferences",
            version=3,
            inputs={"selection": selection, "snapshot": snapshot},
            settings={"compiler": recipe.annotate.compiler},
        ),
    ]


def _which(rollouts: Rollouts) -> dict[str, Any]:
    """What the answers depend on. Keys of later versions are in it where they act, so that runs begun before go on."""
    idle = {name for name in ("logprobs", "resample", "mixture") if not getattr(rollouts, name)}
    return rollouts.model_dump(exclude={*HOW, *idle})


def _how(rollouts: Rollouts) -> dict[str, Any]:
    return rollouts.model_dump(mode="json", include=set(HOW))


def _hidden(recipe: Recipe, what: str) -> dict[str, bool]:
    """Whether thoughts are hidden from the `loss` or from `annotators`, as a setting that is there where they are."""
    name = {"loss": "mask_thinking", "annotators": "hide_thinking"}[what]
    return {name: True} if what in recipe.model.hide_thinking else {}


def _selection(recipe: Recipe, annotate: Annotate, ref: Ref, outside: dict[str, str], rollouts: Ref) -> Stage:
    asked = annotate.model_dump(include={"kind", "tasks", "overlap", "rank_of", "criteria", "repeats"})
    extra = {name: given for name, given in (("gold", annotate.gold), ("suggest", annotate.suggest)) if given}
    return Stage(
        ref,
        work="selection",
        version=2,
        inputs={"prompts": Ref(0, "prompts"), "rollouts": rollouts},
        settings={
            "seed": recipe.seed,
            "asked": asked,
            "shares": {name: given.share for name, given in extra.items()},
            **_hidden(recipe, "annotators"),
        },
        files={name: outside[name] for name in extra},
        tuning={name: str(given.path) for name, given in extra.items()},
    )


def _from_file(recipe: Recipe, outside: dict[str, str]) -> Stage:
    """Preferences, or thumbs, from the recipe's file; the stage has the name of the labels' place in either case."""
    kind, source = ("thumbs", recipe.thumbs) if recipe.thumbs is not None else ("preferences", recipe.preferences)
    assert source is not None
    return Stage(
        Ref(1, "preferences"),
        work=f"given_{kind}",
        version=1,
        inputs={"prompts": Ref(0, "prompts")},
        files={kind: outside[kind]},
        tuning={"path": str(source.path)},
    )


def _training(recipe: Recipe, engine: dict[str, Any]) -> dict[str, Any]:
    """What every training takes and its result does not depend on."""
    return {**engine, "report_to": recipe.report_to, "nproc": recipe.nproc, "accelerate": recipe.accelerate}


def _labels(number: int, replay: float) -> dict[str, Ref]:
    """What was compiled in this round and, where some of them are trained on again, in earlier ones."""
    earlier = range(1, number) if replay > 0 else ()
    return {"preferences": Ref(number, "preferences")} | {f"earlier_{n:03d}": Ref(n, "preferences") for n in earlier}


def _policy_on_rows(recipe: Recipe, number: int, engine: dict[str, Any]) -> Stage:
    """DPO or KTO."""
    method = recipe.method
    return Stage(
        Ref(number, "policy"),
        work=f"{method}_policy",
        version=1,
        inputs={"parent": Ref(number - 1, "policy"), **_labels(number, recipe.replay)},
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            method: recipe.training.model_dump(mode="json"),
            **_hidden(recipe, "loss"),
        },
        tuning=_training(recipe, engine),
        heavy=True,
    )


def _reward(recipe: Recipe, model: RewardModel, number: int, engine: dict[str, Any]) -> Stage:
    """The reward model, from the round's parent."""
    return Stage(
        Ref(number, "reward"),
        work="reward_model",
        version=1,
        inputs={"parent": Ref(number - 1, "policy"), **_labels(number, model.replay)},
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            "reward": model.model_dump(mode="json"),
            **_hidden(recipe, "loss"),
        },
        tuning=_training(recipe, engine),
        heavy=True,
    )


def _reward_check(recipe: Recipe, model: RewardModel, number: int, engine: dict[str, Any]) -> list[Stage]:
    """What the reward model is worth, where there are pairs that it, or the one before it, did not learn from."""
    if number == 1 and model.held_out == 0:
        return []
    known = range(1, number + 1) if asks(recipe) else ()
    inputs = {
        "reward": Ref(number, "reward"),
        **_labels(number, 1.0),
        **{f"asked_{n:03d}": Ref(n, SELECTION) for n in known},
        **{f"said_{n:03d}": Ref(n, "snapshot") for n in known},
    }
    if number > 1:
        inputs["before"] = Ref(number - 1, "reward")
    if number > 2 or (number > 1 and model.held_out > 0):
        inputs["checked"] = Ref(number - 1, "reward_check")
    return [
        Stage(
            Ref(number, "reward_check"),
            work="reward_check",
            version=1,
            inputs=inputs,
            settings={
                "seed": recipe.seed,
                "dtype": recipe.model.dtype,
                **model.model_dump(include={"held_out", "replay"}),
            },
            tuning=engine,
            heavy=True,
        )
    ]


def _online(recipe: Recipe, number: int, outside: dict[str, str], engine: dict[str, Any]) -> Stage:
    """PPO, RLOO, GRPO or best-of-n: the policy answers while it learns, and the reward says how well."""
    assert recipe.reward is not None
    method, reward = recipe.method, recipe.reward
    names = [f"reward_{index}" for index in range(len(reward.functions))]
    return Stage(
        Ref(number, "policy"),
        work=f"{method}_policy",
        version=1,
        inputs={
            "prompts": Ref(0, "prompts"),
            "parent": Ref(number - 1, "policy"),
            **({"reward": Ref(number, "reward")} if reward.model is not None else {}),
        },
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            method: recipe.training.model_dump(mode="json"),
            **_hidden(recipe, "loss"),
            "weights": {
                "model": reward.weight,
                "bound": reward.bound,
                "functions": [function.weight for function in reward.functions],
            },
        },
        files={name: outside[name] for name in names},
        tuning={**_training(recipe, engine), "functions": [f.model_dump(mode="json") for f in reward.functions]},
        heavy=True,
    )


def _judged(recipe: Recipe, number: int, judge: PeopleJudge) -> list[Step]:
    """People compare the new policy with the first one, blind."""
    blind, snapshot = Ref(number, BLIND), Ref(number, "blind_snapshot")
    answers = {"new": Ref(number, "evaluation"), "first": Ref(0, "evaluation")}
    return [
        Stage(
            blind,
            work="blind",
            version=1,
            inputs={"prompts": Ref(0, "prompts"), **answers},
            settings={
                "seed": recipe.seed,
                "count": judge.tasks,
                "overlap": judge.overlap,
                **_hidden(recipe, "annotators"),
            },
        ),
        _blind_labelling(number),
        Stage(snapshot, work="snapshot", version=1, inputs={"tasks": blind}),
        Stage(
            Ref(number, "blind_result"),
            work="blind_result",
            version=1,
            inputs={"blind": blind, "snapshot": snapshot, "new": answers["new"]},
            settings={"seed": recipe.seed},
        ),
    ]


def _evaluation(recipe: Recipe, number: int, outside: dict[str, str], engine: dict[str, Any]) -> Stage:
    inputs = {"prompts": Ref(0, "prompts"), "policy": Ref(number, "policy")}
    if number == 0 and recipe.sft is not None:
        inputs["demonstrations"] = Ref(0, "demonstrations")
    if number > 0:
        inputs |= {"first": Ref(0, "evaluation"), "parent": Ref(number - 1, "evaluation")}
    judge = judge_of(recipe)
    return Stage(
        Ref(number, "evaluation"),
        work="evaluation",
        version=1,
        inputs=inputs,
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            "evaluate": recipe.evaluate.model_dump(exclude={"judge"}),
            "engine": recipe.rollouts.model_dump(include={"type", "shard", "max_prompt_tokens"}),
            "tie_width": judge.tie_width if judge else None,
        },
        files={"judge": outside["judge"]} if judge else {},
        tuning={**engine, "how": _how(recipe.rollouts), "judge": judge.path if judge else None},
        heavy=True,
    )
