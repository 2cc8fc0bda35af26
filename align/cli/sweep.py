"""`align sweep`: searches for the training settings that give the best answers."""

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from align.cli.options import DTYPE, JSON, SEED, THREADS, Dtype
from align.stages.methods import METHODS, ONLINE, REWARD, Method

if TYPE_CHECKING:
    from align.cli.command_output import CommandOutput
    from align.sweep.sweep import Subject

FILES = ("model", "data", "prompts", "judge")


def sweep(
    target: str = typer.Argument(..., help="A recipe, or a method: sft, dpo, kto, ppo, rloo, grpo, best-of-n."),
    settings: list[str] = typer.Argument(
        None,
        help="Ranges and starting values as key=value: learning_rate=1e-5..1e-1:log batch_size=8,16,32 beta=0.2."
        " With a recipe, write the section first: dpo.learning_rate=….",
    ),
    out: Path = typer.Option(
        ..., "--out", help="Output folder: result.json, sweep.svg, best.yaml and the best policy."
    ),
    space: Path = typer.Option(None, "--space", help="A YAML file of ranges, one `key: range` a line."),
    trials: int = typer.Option(
        20, "--trials", min=1, help="Number of trials, after the one with the starting settings."
    ),
    minutes: float = typer.Option(
        None, "--minutes", min=0, help="Time limit: start no trial after this many minutes of trials."
    ),
    sampler: Literal["tpe", "random"] = typer.Option(
        "tpe",
        "--sampler",
        help="How Optuna chooses settings: tpe (tree-structured Parzen estimator), or random as a baseline.",
    ),
    metric: Literal["mean_score", "win_rate"] = typer.Option(
        "mean_score",
        "--metric",
        help="The metric to maximise: the mean score of the answers, or their win rate over the parent (the model that"
        " training starts from).",
    ),
    share: float = typer.Option(
        0.2, "--share", min=0.01, max=0.45, help="Share of prompts held out from training, to score trials on."
    ),
    runs: Path = typer.Option(Path("runs"), "--runs", help="The folder that contains the recipe's run."),
    model: str = typer.Option(None, "--model", help="With a method: the model that each trial starts from."),
    data: Path = typer.Option(None, "--data", help="With sft, dpo, kto: demonstrations, preferences or binary labels."),
    prompts: Path = typer.Option(None, "--prompts", help="With a method: prompts to score trials on."),
    judge: str = typer.Option(
        None, "--judge", help="With a method: file.py:function that scores (messages, answer), or '{type: …}'."
    ),
    reward: list[str] = typer.Option(None, "--reward", help="With ppo, rloo, grpo, best-of-n: the reward to maximise."),
    temperature: float = typer.Option(
        0.7, "--temperature", min=0, help="With a method: sampling temperature of the scored answers."
    ),
    max_tokens: int = typer.Option(
        256, "--max-tokens", min=1, help="With a method: maximum length of a scored answer, in tokens."
    ),
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Search for better training settings with Optuna.

    The budget is a number of trials, and minutes if you set them. At the end the best settings are compared with the
    starting settings on unseen prompts. To continue a sweep that was stopped, run the same command again.
    """
    from align.cli.command_output import command_output
    from align.config.space import read_space, require_distinct, split_settings
    from align.errors import ConfigError
    from align.sweep.sweep import sweep as run_sweep
    from align.sweep.trials import Budget, Search

    fixed, ranges = split_settings(settings or [])
    ranges += read_space(space) if space is not None else []
    require_distinct(ranges)
    method = METHODS.get(target) if target != REWARD.name else None
    given = {"model": model, "data": data, "prompts": prompts, "judge": judge}
    if method is None and (stray := next((n for n, v in {**given, "reward": reward}.items() if v), None)):
        raise ConfigError(
            f"--{stray} goes with a method; with a recipe, the recipe sets it", where=f"align sweep {target}"
        )
    with command_output(out, threads) as place:
        if method is None:
            section, ranges, seed = _section(target, ranges, fixed)
            search = Search(ranges, sampler, metric, seed=seed)
            subject, text = _of_recipe(place, Path(target), fixed, runs, section, share)
        else:
            search = Search(ranges, sampler, metric, seed=seed)
            _require(method, given, reward)
            sampling = {"temperature": temperature, "max_tokens": max_tokens}
            subject, text = _of_method(
                place, method, fixed, given, reward or [], sampling, share, (dtype, seed, threads)
            )

        def tell(line: str) -> None:
            place.terminal.write(line + "\n")

        result = run_sweep(subject, search, Budget(trials, minutes), work=place.work, tell=tell)
        _write(place.out, result, text(result["best"], out.resolve()))
    _say(out, result, as_json)


def _section(target: str, ranges: Sequence[Any], fixed: Sequence[str]) -> tuple[str, list[Any], int]:
    """The one section of a recipe that the ranges belong to, the ranges without its name, and the recipe's seed."""
    from dataclasses import replace

    from align.config.load import load_recipe
    from align.errors import ConfigError

    sections = {d.key.partition(".")[0] for d in ranges}
    if len(sections) > 1 or any("." not in d.key for d in ranges):
        found = ", ".join(d.key for d in ranges)
        hint = "write dpo.learning_rate=1e-5..1e-1:log"
        raise ConfigError(f"ranges are about one section of the recipe, found {found}", where=target, hint=hint)
    seed = load_recipe(Path(target), list(fixed)).recipe.seed
    return sections.pop(), [replace(d, key=d.key.partition(".")[2]) for d in ranges], seed


def _of_recipe(
    place: "CommandOutput", path: Path, fixed: list[str], runs: Path, section: str, share: float
) -> tuple["Subject", Any]:
    from align.config.load import load_recipe
    from align.pipeline.run import RUN, require_run, run_folder
    from align.sweep.swept import best_recipe, subject_of_recipe

    loaded = load_recipe(path, fixed)
    recipe = loaded.recipe
    model = place.checkpoint(
        recipe.model.path,
        revision=recipe.model.revision,
        chat_template=recipe.model.chat_template,
        replace_chat_template=recipe.model.replace_chat_template,
        chat_template_kwargs=recipe.model.chat_template_kwargs,
        date=recipe.model.date,
        dtype=recipe.model.dtype,
        seed=recipe.seed if section == "sft" else None,
    )
    run = run_folder(loaded, runs)
    if (run / RUN).is_file():
        require_run(run)
    subject = subject_of_recipe(loaded, run, section, model=model, share=share)
    return subject, lambda best, out: best_recipe(loaded, section, best, out, fixed)


def _require(method: Method, given: dict[str, Any], reward: list[str] | None) -> None:
    """ConfigError for files that the method needs, and for those that it cannot use."""
    from align.errors import ConfigError

    online = method.name in ONLINE
    for name in FILES:
        unneeded = online and name in ("data", "judge")
        if given[name] is None and not unneeded:
            raise ConfigError(f"align sweep {method.name} needs --{name}", where="align sweep")
        if given[name] is not None and online and name == "data":
            raise ConfigError(
                f"--data has no effect with {method.name}, which learns from --prompts", where="align sweep"
            )
    if online != bool(reward):
        what = "needs --reward" if online else "does not use --reward; --judge scores the trials"
        raise ConfigError(f"align sweep {method.name} {what}", where="align sweep")


def _of_method(
    place: "CommandOutput",
    method: Method,
    fixed: list[str],
    given: dict[str, Any],
    reward: list[str],
    sampling: dict[str, Any],
    share: float,
    how: tuple[str, int, int | None],
) -> tuple["Subject", Any]:
    """A method on files: trials and the final comparison each take `share` of the prompts."""
    from align.config.base import Sampling
    from align.config.load import keys_in, set_value
    from align.config.recipe import Recipe
    from align.config.section import load_section
    from align.config.yaml_text import dump
    from align.data.prompts import read_prompts
    from align.sweep.sweep import Subject, tuning_and_final
    from align.sweep.swept import bound, rows_id, rows_left
    from reward.terms import judged_by, parse_reward, scorer_of

    dtype, seed, threads = how
    load, train = method.parts()
    named: dict[str, Any] = {"demonstrations": str(given["data"])} if method.name == "sft" else {}
    start: Any = load_section(method.settings, fixed, no_use=method.no_use, **named)
    asked, _ = read_prompts(given["prompts"])
    tuning, final = tuning_and_final(asked, share, seed)
    more: dict[str, Any] = {}
    if reward:
        parsed = [parse_reward(text) for text in reward]
        more["score"] = scorer_of(parsed, dtype=dtype, threads=threads).score
        models = [part.folder for part in parsed if part.is_model]
        more |= {"critic": models[0]} if method.name == "ppo" and models and start.critic == "separate" else {}
    rows = rows_left(load(given["data"])[0] if given["data"] else asked, [*tuning, *final])
    judge = given["judge"]
    scratch = seed if method.name == "sft" else None
    parent = place.checkpoint(given["model"], revision=None, chat_template=None, dtype=dtype, seed=scratch)
    subject = Subject(
        start=start,
        train=bound(train, parent, rows, dtype=dtype, threads=threads, **more),
        parent=parent,
        tuning=tuning,
        final=final,
        score=judged_by(judge).score if judge else more["score"],
        sampling=Sampling(**sampling),
        dtype=dtype,
        data_id=rows_id(rows),
    )

    def text(best: dict[str, Any], out: Path) -> str:
        named, whole = method.keys[0], start.model_dump(mode="json", by_alias=True)
        data: dict[str, Any] = {}
        for setting in fixed:  # as they were read: with absolute paths
            keys = setting.partition("=")[0].strip()
            value = reduce(lambda inner, key: inner[key], keys_in(keys), whole)
            set_value(data, {}, f"{named}.{keys}={json.dumps(value)}", "setting", Recipe)
        for key, value in best.items():
            set_value(data, {}, f"{named}.{key}={json.dumps(value)}", "setting", Recipe)
        return dump(data)

    return subject, text


def _write(out: Path, result: dict[str, Any], best: str) -> None:
    from align.report.sweep import sweep_svg
    from align.store import replace_file, write_json, write_rows

    policy = result.pop("policy")
    if policy is not None:
        Path(policy).rename(out / "policy")
    write_rows(out / "trials.jsonl", result["trials"])
    write_json(out / "result.json", result)
    replace_file(out / "sweep.svg", sweep_svg(result))
    replace_file(out / "best.yaml", best)


def _say(out: Path, result: dict[str, Any], as_json: bool) -> None:
    from align.cli.display import plain, print_json, value_text
    from align.figures import counted, interval, significant

    if as_json:
        print_json({**{name: value for name, value in result.items() if name != "trials"}, "out": str(out)})
        return
    typer.echo(f"start: {value_text(result['start'])}")
    typer.echo(f"best: {value_text(result['best'])} (trial {result['best_trial']} of {len(result['trials'])})")
    compared = result["comparison"]
    if (won := compared.get("win_rate")) is None:
        typer.echo(plain(compared["note"]))
    else:
        gain = compared["difference"]
        typer.echo(f"win rate over the start on {counted(won['clusters'], 'unseen prompt')}: {interval(won)}")
        typer.echo(
            f"mean score: {interval(gain, significant)} above that of the start,"
            f" {significant(compared['mean_score_start'])}"
        )
    typer.echo(f"written to {out}: best.yaml, sweep.svg, trials.jsonl, policy/")
