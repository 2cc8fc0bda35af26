"""Sampling and comparing outside a run, on your own files (docs/files.md): `rollout`, `eval`.

Settings are the keys of the recipe's section, as key=value: `align rollout … samples=4`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from align.cli.options import (
    CONFIG,
    DATE,
    DTYPE,
    JSON,
    KWARGS,
    MODEL,
    REPLACE,
    REVISION,
    SEED,
    SETTINGS,
    TEMPLATE,
    THREADS,
    Dtype,
    chat_of,
)
from align.errors import ConfigError

if TYPE_CHECKING:
    from align.config.section import Answers
    from align.types import Candidate, Dropped


ROLLOUT_NO_USE = {"prompts": "every prompt of the file is used; shorten the file"}


def rollout(
    settings: list[str] = SETTINGS,
    model: str = MODEL,
    prompts: Path = typer.Option(..., "--prompts", help="JSONL or Parquet file of prompts."),
    out: Path = typer.Option(
        ..., "--out", help="Output folder: candidates.jsonl, tokens.parquet (the sampled tokens) and dropped.jsonl."
    ),
    keep_all: bool = typer.Option(
        False, "--keep-all", help="Also keep empty and repeated answers; a fair `align eval` needs them."
    ),
    rewards: list[str] = typer.Option(
        [],
        "--reward",
        help="The reward that scores the answers, for `keep=best` and `keep=rejection beta=…`: a reward model's folder"
        " or file.py:function, as for `align best-of-n`.",
    ),
    config_file: Path = CONFIG,
    parent: str = typer.Option(None, "--parent", help="The model for `checkpoint: parent` in a `mixture`."),
    sft: str = typer.Option(None, "--sft", help="The model for `checkpoint: sft` in a `mixture`."),
    revision: str = REVISION,
    chat_template: str = TEMPLATE,
    replace_chat_template: bool = REPLACE,
    chat_template_kwargs: str = KWARGS,
    date: str = DATE,
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Sample answers to every prompt of a file.

    The answers come from one model, or from the components of a `mixture` (several models or temperatures).
    """
    from align.api.answers import draw
    from align.api.given import Compute
    from align.cli.command_output import command_output
    from align.cli.display import counting, say_result
    from align.config.section import Answers, load_section
    from align.data.prompts import read_prompts
    from align.store import write_rows
    from align.tool_calls import beside
    from align.train.online import checked_scores
    from align.types import as_dict
    from reward.terms import parse_reward, scorer_of
    from rollouts.mixture import require_named

    config = load_section(Answers, settings or [], file=config_file, keys=("rollouts",), no_use=ROLLOUT_NO_USE)
    named = {"current": model, "parent": parent, "sft": sft}
    require_named(config, {name for name, path in named.items() if path is not None})
    if keep_all and config.max_resamples:
        what = "max_resamples has no effect with --keep-all, which keeps every answer as it was sampled"
        raise ConfigError(what, where="--keep-all", hint="leave one of them out")
    chat = chat_of(chat_template, replace_chat_template, chat_template_kwargs, date)
    parts = [parse_reward(text) for text in rewards]
    if config.keep != "all" and not parts:
        raise ConfigError(f"keep={config.keep} needs a reward", where="keep", hint="name it with --reward")
    asked, unusable = read_prompts(prompts)
    with command_output(out, threads) as place, counting("rollout", place.terminal, as_json) as progress:
        revisions = {"current": revision}  # of the others the default branch
        folders = {
            name: place.checkpoint(path, revision=revisions.get(name), dtype=dtype, **chat)
            for name, path in named.items()
            if path is not None
        }
        compute = Compute(seed, dtype, threads)
        found = draw(place, folders, asked, config, config, compute=compute, keep_all=keep_all, progress=progress)
        rows, dropped = found.candidates, found.dropped
        messages = {p.id: p.messages for p in asked}
        told: list[dict[str, Any]] = [{**as_dict(c), **beside(messages[c.prompt_id])} for c in rows]
        if parts:
            score = scorer_of(parts, dtype=dtype, threads=threads).score
            scores = checked_scores(score, [messages[c.prompt_id] for c in rows], [c.text for c in rows])
            chosen, rejected = _chosen(config, rows, scores, seed)
            told = [{**told[kept], "score": scores[kept]} for kept in chosen]
            dropped = dropped + rejected
        write_rows(place.out / "candidates.jsonl", told)
        write_rows(place.out / "dropped.jsonl", map(as_dict, unusable + dropped))
    counted = {"prompts": len(asked), "candidates": len(told), "dropped": len(unusable) + len(dropped)}
    say_result(out, counted | ({"redrawn": sum(c.redrawn for c in rows)} if config.max_resamples else {}), as_json)


def _chosen(
    config: "Answers", rows: "list[Candidate]", scores: list[float | None], seed: int
) -> "tuple[list[int], list[Dropped]]":
    """Indices of the answers that are kept by their scores, and the other answers with the reason."""
    from rollouts.select import best_of_n, rejection_sample

    if config.keep == "best":
        return best_of_n(rows, scores)
    if config.beta is not None:
        return rejection_sample(rows, scores, beta=config.beta, seed=seed)
    return list(range(len(rows))), []


def evaluate(
    candidates: Path = typer.Option(
        ..., "--candidates", help="candidates.jsonl of the model to evaluate (`align rollout --keep-all`)."
    ),
    against: Path = typer.Option(None, "--against", help="candidates.jsonl of another model, for the same prompts."),
    judge: str = typer.Option(
        ...,
        "--judge",
        help="The scorer, higher is better: file.py:function, an entry of reward.functions as '{type: …}', or a reward"
        " model's folder.",
    ),
    tie_width: float = typer.Option(0.0, "--tie-width", min=0, help="Scores that differ by less than this are a tie."),
    out: Path = typer.Option(..., "--out", help="Output folder: result.json and samples.parquet."),
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Score a model's answers, and compare them with another model's.

    With --against it also gives the win rate on the same prompts, with its 95% interval, and the win rate that answers
    of equal length would have (as AlpacaEval 2 computes it).
    """
    from align.api.answers import compare_answers
    from align.api.files import load_candidates
    from align.cli.command_output import command_output
    from align.cli.display import say_result
    from reward.terms import judged_by

    read = [load_candidates(path) for path in (candidates, against) if path is not None]
    with command_output(out, None) as place:
        shown = compare_answers(place, read, judged_by(judge), tie_width=tie_width, seed=seed)
    say_result(out, shown, as_json)
