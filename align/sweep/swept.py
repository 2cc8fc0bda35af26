"""What `align sweep` sweeps: a method on your own files, or the method of a recipe on what its run has."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from align.config.base import Sampling
from align.config.load import Loaded
from align.config.recipe import METHODS, SCORED, Recipe
from align.config.training import Online, Training
from align.config.yaml_text import Keys, edited, parse
from align.data.prompts import held_out_prompts
from align.errors import ConfigError
from align.ids import content_id
from align.pipeline.receipts import current, pointers, stage_folder
from align.pipeline.stage import Ref
from align.sampled import read_tokens
from align.stages.evaluation import judge_of
from align.stages.names import LABELS, POLICY, REWARD
from align.store import read_table
from align.sweep.sweep import Subject, tuning_and_final
from align.types import BinaryLabel, Preference, Prompt, Score, as_dict, from_table, prompt_id
from reward.terms import RewardTerm, judged_by, scorer_of


def rows_left(rows: Sequence[Any], held_out: Sequence[Prompt]) -> list[Any]:
    """The rows about other prompts than those held out, as they read. A row is a preference, a binary label, a prompt,
    or (messages, answer)."""
    ids = {prompt_id(p.messages) for p in held_out}
    return [row for row in rows if prompt_id(row[0] if isinstance(row, tuple) else row.messages) not in ids]


def rows_id(rows: Sequence[Any]) -> str:
    """Content id of rows, whatever their kind."""
    return content_id([list(row) if isinstance(row, tuple) else as_dict(row) for row in rows])


def bound(train: Callable[..., dict[str, Any]], parent: Path, rows: Sequence[Any], **given: Any) -> Any:
    """A training of `align.train` as a sweep calls it: (config, seed, out, work)."""
    return partial(_train, train, parent, rows, given)


def _train(
    train: Callable[..., dict[str, Any]],
    parent: Path,
    rows: Sequence[Any],
    given: dict[str, Any],
    config: Training,
    **trial: Any,
) -> dict[str, Any]:
    return train(parent, rows, config, report_to=[], **given, **trial)


def subject_of_recipe(loaded: Loaded, run: Path, section: str, *, model: Path, share: float) -> Subject:
    """The training `section` of a recipe as a sweep's subject.

    `sft` starts from the recipe's model, here imported as `model`. A method starts from the parent of the run's latest
    round that has what it learns from, and learns that; without a run, from `model` and the recipe's file. Trials are
    scored on a `share` of the train prompts, which is not learned from; the final comparison is on test prompts.
    Raises ConfigError for a section or rows that are not there, and for a recipe without a scoring function as judge.
    """
    recipe = loaded.recipe
    if section not in ("sft", *METHODS) or (start := getattr(recipe, section)) is None:
        there = ["sft"] * (recipe.sft is not None) + [recipe.method]
        raise ConfigError(f"the recipe trains by {' and '.join(there)}, found {section}", where="align sweep")
    if recipe.nproc > 1:
        what = f"a sweep trains in one process, and the recipe's `nproc` is {recipe.nproc}"
        raise ConfigError(what, where="align sweep", hint="add nproc=1")
    judge = judge_of(recipe)
    if judge is None:
        what = "a sweep needs a scoring function as `evaluate.judge`; people cannot score every trial"
        raise ConfigError(what, where="evaluate.judge", hint="give `evaluate.judge: {path: file.py:function}`")
    prompts = _prompts(recipe)
    train_side = [p for p in prompts if p.split == "train"]
    tuning, _ = tuning_and_final(train_side, share, recipe.seed)
    tuning = tuning[: recipe.evaluate.prompts]
    parent, rows, more = _lesson(recipe, run, section, model, train_side)
    rows = rows_left(rows, tuning)
    hidden = {"mask_thinking": True} if "loss" in recipe.model.hide_thinking else {}
    given = {"dtype": recipe.model.dtype, "threads": recipe.threads, **hidden, **more}
    limit = start.max_prompt_tokens if isinstance(start, Online) else recipe.rollouts.max_prompt_tokens
    return Subject(
        start=start,
        train=bound(trainer_of(section), parent, rows, **given),
        parent=parent,
        tuning=tuning,
        final=held_out_prompts(prompts, recipe.evaluate.prompts),
        score=judged_by(judge.path).score,
        sampling=Sampling.like(recipe.evaluate),
        tie_width=judge.tie_width,
        max_prompt_tokens=limit,
        dtype=recipe.model.dtype,
        data_id=rows_id(rows),
    )


def trainer_of(section: str) -> Callable[..., dict[str, Any]]:
    """The function that trains as a section says."""
    import importlib

    package = "align.stages" if section == "best_of_n" else "align.train"
    found: Callable[..., dict[str, Any]] = getattr(importlib.import_module(f"{package}.{section}"), f"train_{section}")
    return found


def _prompts(recipe: Recipe) -> list[Prompt]:
    from align.data.prompts import load_prompts

    return load_prompts(recipe.prompts)[0]


def _lesson(
    recipe: Recipe, run: Path, section: str, model: Path, prompts: list[Prompt]
) -> tuple[Path, list[Any], dict[str, Any]]:
    """Parent, rows and what else a training takes."""
    if section == "sft":
        from align.data.contamination import drop_held_out_demonstrations
        from align.data.demonstrations import load_demonstrations, mixed

        assert recipe.sft is not None
        test = [p for p in _prompts(recipe) if p.split == "test"]
        paths = [recipe.sft.demonstrations, *(part.path for part in recipe.sft.mix)]
        first, *others = [drop_held_out_demonstrations(load_demonstrations(path)[0], test)[0] for path in paths]
        shares = [part.share for part in recipe.sft.mix]
        kept = mixed(first, list(zip(others, shares, strict=True)), recipe.seed)
        return model, [(row.messages, row.answer) for row in kept], {}
    if section in SCORED:
        number, reward = _latest(run, REWARD), recipe.reward
        assert reward is not None
        parts = [RewardTerm(f, f.weight) for f in reward.functions]
        if reward.model is not None:
            parts.insert(0, RewardTerm(str(_stage(run, number, REWARD)), reward.weight, reward.bound))
        parent = _parent(recipe, run, number, model)
        score: Score = scorer_of(parts, dtype=recipe.model.dtype, threads=recipe.threads).score
        own = recipe.ppo is not None and recipe.ppo.critic == "separate" and parts[0].is_model
        critic = {"critic": parts[0].folder} if own else {}
        return parent, prompts, {"score": score, **critic}
    return _from_labels(recipe, run, model)


def _from_labels(recipe: Recipe, run: Path, model: Path) -> tuple[Path, list[Any], dict[str, Any]]:
    """The latest round's labels with that round's parent, or those of the recipe's file."""
    name, kind = ("binary", BinaryLabel) if recipe.learns_from == "binary" else ("preferences", Preference)
    number = _latest(run, LABELS)
    if number:
        labels = _stage(run, number, LABELS)
        rows: list[Any] = from_table(kind, read_table(labels / f"{name}.parquet"))
        return _parent(recipe, run, number, model), rows, {"tokens": read_tokens([labels])}
    if recipe.annotate is not None:
        what = f"there are no {name} in {run} to train on"
        raise ConfigError(what, where="align sweep", hint="run the recipe until a round is labelled: `align run`")
    rows = list(_loader(name)(getattr(recipe, name).path)[0])
    test = [p for p in _prompts(recipe) if p.split == "test"]
    return _parent(recipe, run, 1, model), rows_left(rows, test), {}


def _loader(name: str) -> Callable[[Path], tuple[list[Any], list[Any]]]:
    if name == "binary":
        from align.data.binary import load_binary

        return load_binary
    from align.data.preferences import load_preferences

    return load_preferences


def _parent(recipe: Recipe, run: Path, number: int, model: Path) -> Path:
    """The policy that round `number` starts from."""
    if current(run, Ref(max(number, 1) - 1, POLICY)) is not None:
        return _stage(run, max(number, 1) - 1, POLICY)
    if recipe.sft is not None:
        hint = "run the recipe first: `align run`"
        raise ConfigError(f"there is no SFT policy in {run} to start from", where="align sweep", hint=hint)
    return model


def _latest(run: Path, stage: str) -> int:
    """The latest round whose `stage` is done; 0 where there is none."""
    return max((ref.round for ref, _ in pointers(run) if ref.stage == stage), default=0)


def _stage(run: Path, number: int, stage: str) -> Path:
    receipt = current(run, Ref(number, stage))
    if receipt is None:
        what = f"the stage {number}/{stage} has not run in {run}"
        raise ConfigError(what, where="align sweep", hint="run the recipe first: `align run`")
    return stage_folder(run, receipt.ref) / receipt.key


def best_recipe(loaded: Loaded, section: str, best: dict[str, Any], out: Path, overrides: Sequence[str]) -> str:
    """The recipe's text with the best values, comments kept, its relative paths leading from `out` to the same
    files."""
    raw = parse(loaded.text, "the recipe")[0]
    resolved = loaded.recipe.model_dump(mode="json", by_alias=True)
    changes: dict[Keys, Any] = dict(_moved(raw, resolved, (), out.resolve()))
    for override in overrides:
        key, _, text = override.partition("=")
        changes[tuple(key.strip().split("."))] = parse(text, override)[0]
    changes |= {(section, *key.split(".")): value for key, value in best.items()}
    return edited(loaded.text, changes, "the recipe")


def _moved(raw: Any, resolved: Any, keys: Keys, out: Path) -> list[tuple[Keys, str]]:
    """Each relative path in a recipe's data with what it reads as from the folder `out`."""
    if isinstance(raw, dict) and isinstance(resolved, dict):
        pairs = [(key, raw[key], resolved.get(key)) for key in raw]
    elif isinstance(raw, list) and isinstance(resolved, list):
        pairs = [(n, *both) for n, both in enumerate(zip(raw, resolved, strict=False))]
    elif isinstance(raw, str) and isinstance(resolved, str) and resolved.startswith("/") and raw != resolved:
        path = os.path.relpath(resolved, out)
        return [(keys, path if path.startswith(".") else f"./{path}")]
    else:
        return []
    return [found for key, a, b in pairs for found in _moved(a, b, (*keys, key), out)]
