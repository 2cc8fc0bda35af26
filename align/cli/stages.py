"""Each stage alone, on files of one's own (docs/files.md): `sft`, `rollout`, `dpo`, `eval`.

Settings are the recipe's fields of that section, as key=value: `align dpo … beta=0.2 epochs=3`.
"""

from pathlib import Path
from typing import Any, Literal

import typer

MODEL = typer.Option(..., "--model", help="A local folder or a Hub id of a causal language model.")
REVISION = typer.Option(None, "--revision", help="The Hub revision; the default branch where none is named.")
TEMPLATE = typer.Option(None, "--chat-template", help="plain, chatml or a Jinja file, where the tokenizer has none.")
DTYPE = typer.Option("float32", "--dtype", help="Weights' type; use bfloat16 on a GPU.")
SEED = typer.Option(0, "--seed", min=0, max=2**32 - 1, help="Every random choice depends on it and on content.")
THREADS = typer.Option(None, "--threads", min=1, help="CPU threads; all cores where not given.", show_default=False)
SETTINGS = typer.Argument(None, help="Settings of the recipe's section of that name, as key=value.")
CHECKPOINT = typer.Option(..., "--out", help="The new checkpoint's folder.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")

Dtype = Literal["float32", "bfloat16"]


def sft(
    settings: list[str] = SETTINGS,
    model: str = MODEL,
    demonstrations: Path = typer.Option(..., "--demonstrations", help="JSONL or Parquet of demonstrations."),
    out: Path = CHECKPOINT,
    revision: str = REVISION,
    chat_template: str = TEMPLATE,
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Supervised fine-tuning of a model on demonstrations."""
    from align.cli.display import counting
    from align.cli.workplace import workplace
    from align.config.section import load_section
    from align.config.training import Sft
    from align.data.demonstrations import load_demonstrations
    from align.train.sft import train_sft

    no_use = {"demonstrations": "name the file with --demonstrations"}
    config = load_section(Sft, settings or [], no_use=no_use, demonstrations=str(demonstrations))
    rows, unreadable = load_demonstrations(demonstrations)
    with workplace(out, threads) as place, counting("sft", place.terminal, as_json) as progress:
        _keep(place.out, unreadable)
        metrics = train_sft(
            place.checkpoint(model, revision=revision, chat_template=chat_template, dtype=dtype),
            [(row.messages, row.answer) for row in rows],
            config,
            seed=seed,
            dtype=dtype,
            report_to=[],
            threads=threads,
            out=place.out,
            work=place.work,
            progress=progress,
        )
    _say(out, {**metrics, "unreadable": len(unreadable)}, as_json)


def dpo(
    settings: list[str] = SETTINGS,
    model: str = MODEL,
    preferences: Path = typer.Option(..., "--preferences", help="JSONL or Parquet of prompt, chosen, rejected."),
    out: Path = CHECKPOINT,
    revision: str = REVISION,
    chat_template: str = TEMPLATE,
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Direct preference optimisation of a model on pairs; the model itself is the reference."""
    from align.cli.display import counting
    from align.cli.workplace import workplace
    from align.config.section import load_section
    from align.config.training import Dpo
    from align.data.preferences import load_preferences
    from align.train.dpo import train_dpo

    config = load_section(
        Dpo, settings or [], no_use={"replay": "there are no earlier rounds; put all pairs in one file"}
    )
    rows, unreadable = load_preferences(preferences)
    with workplace(out, threads) as place, counting("dpo", place.terminal, as_json) as progress:
        _keep(place.out, unreadable)
        metrics = train_dpo(
            place.checkpoint(model, revision=revision, chat_template=chat_template, dtype=dtype),
            rows,
            config,
            seed=seed,
            dtype=dtype,
            report_to=[],
            threads=threads,
            out=place.out,
            work=place.work,
            progress=progress,
        )
    _say(out, {**metrics, "unreadable": len(unreadable)}, as_json)


def rollout(
    settings: list[str] = SETTINGS,
    model: str = MODEL,
    prompts: Path = typer.Option(..., "--prompts", help="JSONL or Parquet of prompts."),
    out: Path = typer.Option(..., "--out", help="Folder for candidates.jsonl and dropped.jsonl."),
    keep_all: bool = typer.Option(
        False, "--keep-all", help="Keep empty and repeated answers too, as a fair `align eval` needs."
    ),
    revision: str = REVISION,
    chat_template: str = TEMPLATE,
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Sample answers of a model to every prompt of a file."""
    from align.cli.display import counting
    from align.cli.workplace import workplace
    from align.config.section import Answers, load_section
    from align.data.prompts import read_prompts
    from align.store import checkpoint_id, write_rows
    from align.types import as_dict
    from rollouts.sample import sample_candidates

    config = load_section(
        Answers, settings or [], no_use={"prompts": "every prompt of the file is asked; shorten the file"}
    )
    asked, unreadable = read_prompts(prompts)
    with workplace(out, threads) as place, counting("rollout", place.terminal, as_json) as progress:
        base = place.checkpoint(model, revision=revision, chat_template=chat_template, dtype=dtype)
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
            threads=threads,
            keep_all=keep_all,
            out=place.work,
            progress=progress,
        )
        messages = {p.id: p.messages for p in asked}
        write_rows(place.out / "candidates.jsonl", ({**as_dict(c), "messages": messages[c.prompt_id]} for c in rows))
        write_rows(place.out / "dropped.jsonl", map(as_dict, unreadable + dropped))
    _say(out, {"prompts": len(asked), "candidates": len(rows), "dropped": len(unreadable) + len(dropped)}, as_json)


def evaluate(
    candidates: Path = typer.Option(
        ..., "--candidates", help="candidates.jsonl of the model in question (`align rollout --keep-all`)."
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
    from align.cli.workplace import workplace
    from align.data.candidates import load_candidates
    from align.evaluate.compare import RESULT, evaluate_policy
    from align.store import write_json
    from reward.functions import FunctionScorer, load_function

    ours = load_candidates(candidates)
    theirs = load_candidates(against) if against is not None else None
    with workplace(out, None) as place:
        score = FunctionScorer(load_function(judge, Path())).score
        first = None
        if theirs is not None:
            first = place.work / "against"
            first.mkdir(exist_ok=True)
            evaluate_policy(*theirs, score=score, tie_width=tie_width, seed=seed, out=first)
        result = evaluate_policy(*ours, score=score, tie_width=tie_width, seed=seed, out=place.out, first=first)
        # there is no SFT and no parent here, only the other file
        shown = {name.removesuffix("_vs_sft"): value for name, value in result.items() if value is not None}
        write_json(place.out / RESULT, shown)
    _say(out, shown, as_json)


def _keep(folder: Path, unreadable: list[Any]) -> None:
    from align.store import write_rows
    from align.types import as_dict

    write_rows(folder / "unreadable.jsonl", map(as_dict, unreadable))


def _say(out: Path, result: dict[str, Any], as_json: bool) -> None:
    from align.cli.display import print_json, value_text

    if as_json:
        print_json({**result, "out": str(out)})
        return
    for name, value in result.items():
        typer.echo(f"{name.replace('_', ' ')}: {value_text(value)}")
    typer.echo(f"written to {out}")
