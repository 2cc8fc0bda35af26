"""`align reward`: train a reward model on pairs, score answers with it, and measure how often it is right."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import typer

from align.cli.options import DTYPE, JSON, SEED, THREADS, Dtype
from align.cli.train import PAIRS, settings_of, verb_on_rows
from align.figures import NONE, counted, interval, number
from align.stages.methods import REWARD

ScoringEngine = Literal["auto", "vllm", "transformers"]
ENGINE = typer.Option(
    "auto",
    "--engine",
    help="The inference engine. auto: vLLM, if it is installed, for many answers on a CPU; otherwise transformers.",
)
CACHE = typer.Option(None, "--cache", help="The folder for cached scores. Default: ~/.cache/align/scores.")
FOLDER = typer.Option(..., "--model", help="The folder of a reward model (`align reward train` makes one).")

TIE = "the label says that neither answer is better"

reward_app = typer.Typer(help="Train, use and evaluate reward models.", no_args_is_help=True, rich_markup_mode=None)
TRAIN = (
    "Train a reward model on preference pairs.\n\nIt is the model with a scalar head; a higher score means a better"
    " answer."
)
reward_app.command("train", cls=settings_of(REWARD))(verb_on_rows(REWARD, TRAIN, PAIRS))


@reward_app.command("score")
def score(
    model: Path = FOLDER,
    candidates: Path = typer.Option(
        ..., "--candidates", help="candidates.jsonl, or another file of rows with prompt and text."
    ),
    out: Path = typer.Option(..., "--out", help="Output folder: scores.jsonl."),
    engine: ScoringEngine = ENGINE,
    cache: Path = CACHE,
    shard: int = typer.Option(
        1024, "--shard", min=1, help="Answers scored together; a killed command loses at most one shard."
    ),
    dtype: Dtype = DTYPE,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Score answers with a reward model.

    If the model cannot read an answer, its row has the reason instead of a score. For an ensemble the score is the mean
    of the members' scores, which are in the row too.
    """
    from align.cli.command_output import command_output
    from align.cli.display import counting, say_result
    from align.data.candidates import load_candidates
    from align.store import write_rows
    from align.tool_calls import beside
    from align.types import as_dict
    from reward.scoring import KeptScorer

    prompts, answers = load_candidates(candidates)
    messages = {prompt.id: prompt.messages for prompt in prompts}
    with command_output(out, threads) as place, counting("score", place.terminal, as_json) as progress:
        scorer = KeptScorer(
            model, engine=engine, dtype=dtype, threads=threads, cache=cache, shard=shard, progress=progress
        )
        found = scorer.outputs([messages[row.prompt_id] for row in answers], [row.text for row in answers])
        write_rows(
            place.out / "scores.jsonl",
            ({**as_dict(row), **beside(messages[row.prompt_id]), "reward_model": scorer.model_id, **_told(numbers)}
             for row, numbers in zip(answers, found, strict=True)),
        )  # fmt: skip
    scores = [_told(numbers)["score"] for numbers in found if not isinstance(numbers, str)]
    mean = {"mean_score": sum(scores) / len(scores)} if scores else {}
    say_result(out, {"answers": len(found), "unscored": len(found) - len(scores), **mean}, as_json)


def _told(numbers: list[float] | str) -> dict[str, Any]:
    """The fields of an answer in the file."""
    if isinstance(numbers, str):
        return {"score": None, "reason": numbers}
    if len(numbers) == 1:
        return {"score": numbers[0]}
    from reward.ensemble import spread

    mean, deviation = spread(numbers)
    return {"score": mean, "deviation": deviation, "members": numbers}


@reward_app.command("clean")
def clean(
    unused: int = typer.Option(
        30, "--unused", min=0, help="Remove the scores of models that were not used for this many days."
    ),
    yes: bool = typer.Option(
        False, "--yes", help="Remove them. Without --yes the command only lists what it would remove."
    ),
    cache: Path = CACHE,
    as_json: bool = JSON,
) -> None:
    """Remove cached scores that were not used recently.

    If they are needed later, the answers are scored again.
    """
    from align.cli.display import print_json
    from reward.scoring import kept_models, remove_kept

    found = kept_models(cache, unused_days=unused)
    if yes:
        remove_kept([model.folder for model in found])
    if as_json:
        print_json([{"path": str(m.folder), "bytes": m.bytes, "days": m.days, "removed": yes} for m in found])
        return
    for m in found:
        shown = f"{m.folder} ({m.bytes / 1e6:.1f} MB, not used for {counted(round(m.days), 'day')})"
        typer.echo(f"{'removed' if yes else 'would remove'} {shown}")
    total = sum(m.bytes for m in found) / 1e6
    typer.echo(
        f"{counted(len(found), 'reward model')}, {total:.1f} MB"
        + ("" if yes or not found else "; add --yes to remove them")
    )


@reward_app.command("eval")
def evaluate(
    model: Path = FOLDER,
    preferences: list[Path] = typer.Option(
        ...,
        "--preferences",
        help="Pairs of prompt, chosen, rejected, also in the format of HH or RewardBench. Repeat it for more files.",
    ),
    out: Path = typer.Option(
        ..., "--out", help="Output folder: result.json, pairs.jsonl, reliability.svg and dropped.jsonl."
    ),
    engine: ScoringEngine = ENGINE,
    cache: Path = CACHE,
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Measure the accuracy and calibration of a reward model.

    Accuracy is how often the model scores the better answer higher: for each file or `subset` of rows, and for other
    slices. Calibration is how far its probabilities can be trusted, with and without a temperature.
    """
    from align.cli.command_output import command_output, keep_dropped
    from align.cli.display import counting, say_result
    from align.data.preferences import load_subsets
    from align.dropped import count_reasons
    from align.report.reliability import reliability_svg
    from align.store import write_json, write_rows
    from reward.measure import measure, score_pairs, slices_of
    from reward.scoring import KeptScorer

    read = [(path, *load_subsets(path)) for path in preferences]
    dropped = [row for _, _, lost in read for row in lost]
    pairs = [pair for _, found, _ in read for pair, _ in found]
    names = [subset or path.name.partition(".")[0] for path, found, _ in read for _, subset in found]
    with command_output(out, threads) as place, counting("score", place.terminal, as_json) as progress:
        keep_dropped(place.out, dropped)
        scorer = KeptScorer(model, engine=engine, dtype=dtype, threads=threads, cache=cache, progress=progress)
        differences, reasons, doubt = score_pairs(pairs, scorer)
        slices = {"subset": names, **slices_of(pairs), **doubt}
        result = measure(pairs, differences, seed=seed, slices=slices, reasons=reasons)
        result |= {
            "reward_model": scorer.model_id,
            "dropped": count_reasons(dropped),
        }
        write_json(place.out / "result.json", result)
        write_rows(
            place.out / "pairs.jsonl",
            ({"id": pair.id, "prompt_id": pair.prompt_id, "subset": name, "difference": difference,
              **({"reason": reason} if reason is not None else {"reason": TIE} if pair.target == 0.5 else {})}
             for pair, name, difference, reason in zip(pairs, names, differences, reasons, strict=True)),
        )  # fmt: skip
        if result["calibration"] is not None:
            picture = reliability_svg(result["calibration"], f"Reliability on {result['pairs']} pairs")
            (place.out / "reliability.svg").write_text(picture, encoding="utf-8")
    if as_json:
        say_result(out, result, as_json)
        return
    _print(result, names[0] if names else "all")
    for what, reasons in (("unscored", result["unscored_reasons"]), ("dropped", result["dropped"])):
        for reason, count in reasons.items():
            typer.echo(f"{what}: {count} × {reason}")
    if result["ties"]:
        typer.echo(f"ties: {result['ties']} × {TIE}")
    say_result(out, {"dropped": len(dropped)}, as_json)


def _print(result: dict[str, Any], only: str) -> None:
    """Print the tables of a measurement, and its calibration; `only` is the subset's name if there is one."""
    from align.cli.display import print_table

    head = ["pairs", "accuracy [95%]", "log loss", "ties", "unscored"]
    right = (1, 3, 4, 5)
    subsets = result["slices"].get("subset", {only: result})
    print_table([["subset", *head], *(_line(*part) for part in subsets.items()), _line("all", result)], right)
    others = {name: parts for name, parts in result["slices"].items() if name != "subset"}
    if others:
        rows = [_line(f"{slice}: {name}", part) for slice, parts in others.items() for name, part in parts.items()]
        typer.echo()
        print_table([["slice", *head], *rows], right)
    typer.echo()
    for sentence in _calibrated(result["calibration"]):
        typer.echo(sentence)


def _calibrated(found: dict[str, Any] | None) -> list[str]:
    """The calibration of a measurement, in sentences."""
    if found is None:
        from reward.calibrate import PROMPTS

        return [f"calibration: not measured, because it needs pairs of at least {PROMPTS} prompts"]
    (before, first), (after, second) = ((found[name]["log_loss"], found[name]["ece"]) for name in ("before", "after"))
    why = {
        None: f"it raises the log loss of pairs that it was not fitted on by {number(found['change']['mean'], 4)}",
        "high": "the scores order these pairs no better than chance",
        "low": "the scores order all pairs correctly, so it has no lower bound",
    }[found["limit"]]
    offered = found["temperature"] is not None
    return [
        f"temperature: {found['temperature']:.4g}" if offered else f"temperature: none, because {why}",
        f"log loss: {number(before['mean'], 4)} without a temperature, {number(after['mean'], 4)} with it, "
        f"a change of {interval(found['change'], partial(number, digits=4, signed=True))}",
        *(
            f"expected calibration error {name}: {interval(error, _three)}; "
            f"chance alone gives {_three(error['chance'])}"
            for name, error in (("without a temperature", first), ("with the temperature", second))
        ),
    ]


def _three(value: float) -> str:
    return number(value, 3)


def _line(name: str, part: dict[str, Any]) -> list[str]:
    """A row of the table. A single prompt has no interval, and shows nothing."""
    accuracy, loss = part["accuracy"], part["log_loss"]
    shown = [interval(accuracy, _three), number(loss["mean"], 3) if accuracy else NONE]
    return [name, str(part["pairs"]), *shown, str(part["ties"]), str(part["unscored"])]
