"""Each stage alone, on files of one's own (docs/files.md): `sft`, `rollout`, `dpo`, `eval`.

Settings are the recipe's fields of that section, as key=value: `align dpo … beta=0.2 epochs=3`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

MODEL = typer.Option(..., "--model", help="A local folder or a Hub id of a causal language model.")
TEMPLATE = typer.Option(None, "--chat-template", help="plain, chatml or a Jinja file, where the tokenizer has none.")
DTYPE = typer.Option("float32", "--dtype", help="float32 or bfloat16.")
SEED = typer.Option(0, "--seed", min=0)
SETTINGS = typer.Argument(None, help="Settings of the recipe's section, as key=value.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


def sft(
    model: str = MODEL,
    demonstrations: Path = typer.Option(..., "--demonstrations", help="JSONL or Parquet of demonstrations."),
    out: Path = typer.Option(..., "--out", help="The new checkpoint's folder."),
    settings: list[str] = SETTINGS,
    chat_template: str = TEMPLATE,
    dtype: str = DTYPE,
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Supervised fine-tuning of a model on demonstrations."""
    from align.config.recipe import Sft
    from align.config.section import load_section
    from align.data.demonstrations import load_demonstrations
    from align.train.sft import train_sft

    config = load_section(Sft, settings or [], demonstrations=str(demonstrations.resolve()))
    with _result(out) as (partial, work):
        base = _import(model, chat_template, dtype, work)
        rows, dropped = load_demonstrations(demonstrations)
        _keep(partial, dropped)
        pairs = [(row.messages, row.answer) for row in rows]
        metrics = train_sft(
            base,
            pairs,
            config,
            seed=seed,
            dtype=dtype,
            chat_template=None,
            report_to=[],
            threads=None,
            out=partial,
            work=work,
        )
    _say(out, {**metrics, "unreadable": len(dropped)}, as_json)


def dpo(
    model: str = MODEL,
    preferences: Path = typer.Option(..., "--preferences", help="JSONL or Parquet of prompt, chosen, rejected."),
    out: Path = typer.Option(..., "--out", help="The new checkpoint's folder."),
    settings: list[str] = SETTINGS,
    chat_template: str = TEMPLATE,
    dtype: str = DTYPE,
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Direct preference optimisation of a model on pairs; the model itself is the reference."""
    from align.config.recipe import Dpo
    from align.config.section import load_section
    from align.data.preferences import load_preferences
    from align.train.dpo import train_dpo

    config = load_section(Dpo, settings or [])
    with _result(out) as (partial, work):
        base = _import(model, chat_template, dtype, work)
        rows, dropped = load_preferences(preferences)
        _keep(partial, dropped)
        metrics = train_dpo(
            base, rows, config, seed=seed, dtype=dtype, report_to=[], threads=None, out=partial, work=work
        )
    _say(out, {**metrics, "unreadable": len(dropped)}, as_json)


def rollout(
    model: str = MODEL,
    prompts: Path = typer.Option(..., "--prompts", help="JSONL or Parquet of prompts."),
    out: Path = typer.Option(..., "--out", help="Folder for candidates.jsonl and dropped.jsonl."),
    settings: list[str] = SETTINGS,
    chat_template: str = TEMPLATE,
    dtype: str = DTYPE,
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Sample answers of a model to every prompt of a file."""
    from align.config.recipe import Rollouts
    from align.config.section import load_section
    from align.data.prompts import read_prompts
    from align.store import checkpoint_id, write_rows
    from align.types import as_dict
    from rollouts.sample import sample_candidates

    config = load_section(Rollouts, settings or [])
    with _result(out) as (partial, work):
        base = _import(model, chat_template, dtype, work)
        asked, unreadable = read_prompts(prompts)
        rows, dropped = sample_candidates(
            asked,
            base,
            checkpoint_id(base),
            sampling=config,
            samples=config.samples,
            engine=config.type,
            dtype=dtype,
            max_prompt_tokens=config.max_prompt_tokens,
            shard=config.shard,
            seed=seed,
            threads=None,
            out=work,
            progress=_progress,
        )
        messages = {p.id: p.messages for p in asked}
        write_rows(partial / "candidates.jsonl", ({**as_dict(c), "messages": messages[c.prompt_id]} for c in rows))
        write_rows(partial / "dropped.jsonl", map(as_dict, unreadable + dropped))
    _say(out, {"prompts": len(asked), "candidates": len(rows), "dropped": len(unreadable) + len(dropped)}, as_json)


def evaluate(
    candidates: Path = typer.Option(
        ..., "--candidates", help="candidates.jsonl of the model in question (`align rollout`)."
    ),
    against: Path = typer.Option(None, "--against", help="candidates.jsonl of another model, on the same prompts."),
    judge: str = typer.Option(
        ..., "--judge", help="file.py:function that scores (messages, answer), higher is better."
    ),
    tie_width: float = typer.Option(0.0, "--tie-width", min=0, help="Scores closer than this are a tie."),
    out: Path = typer.Option(..., "--out", help="Folder for result.json and samples.parquet."),
    seed: int = SEED,
    as_json: bool = JSON,
) -> None:
    """Score a model's answers, and say how often they beat another model's on the same prompts, with an interval."""
    from align.data.candidates import load_candidates
    from align.evaluate.compare import evaluate_policy
    from reward.functions import FunctionScorer, load_function

    score = FunctionScorer(load_function(judge, Path())).score
    with _result(out) as (partial, work):
        first = None
        if against is not None:
            first = work / "against"
            first.mkdir(parents=True)
            evaluate_policy(*load_candidates(against), score=score, tie_width=tie_width, seed=seed, out=first)
        result = evaluate_policy(
            *load_candidates(candidates), score=score, tie_width=tie_width, seed=seed, out=partial, first=first
        )
    shown = {
        ("win_rate" if name == "win_rate_vs_sft" else name): value
        for name, value in result.items()
        if value is not None
    }
    _say(out, shown, as_json)


@contextmanager
def _result(out: Path) -> Iterator[tuple[Path, Path]]:
    """A working folder beside `out` (kept after an error, so that the same command goes on), published at the end."""
    from align.errors import ConfigError
    from align.store import disk_errors, publish, remove_folder

    if out.exists():
        raise ConfigError(f"{out} is there already", where="--out", hint="name another folder, or remove this one")
    partial = out.with_name(out.name + ".partial")
    work = partial / "work"
    with disk_errors(partial):
        work.mkdir(parents=True, exist_ok=True)
    yield partial, work
    remove_folder(work)
    publish(partial, out)


def _import(model: str, chat_template: str | None, dtype: str, work: Path) -> Path:
    from align.train.checkpoint import import_model

    base = work / "base"
    import_model(model, base, revision=None, chat_template=chat_template, dtype=dtype)
    return base


def _keep(partial: Path, dropped: list[Any]) -> None:
    from align.store import write_rows
    from align.types import as_dict

    write_rows(partial / "unreadable.jsonl", map(as_dict, dropped))


def _progress(done: int, total: int) -> None:
    typer.echo(f"{done} of {total}", err=True)


def _say(out: Path, result: dict[str, Any], as_json: bool) -> None:
    from align.cli.display import print_json

    if as_json:
        print_json({**result, "out": str(out)})
        return
    for name, value in result.items():
        typer.echo(f"{name}: {value}")
    typer.echo(f"written to {out}")
