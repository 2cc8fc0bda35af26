"""`align reward`: train a reward model on pairs, score answers with it, and see how often it is right."""

from pathlib import Path
from typing import Any

import typer

from align.cli.train import DTYPE, JSON, REWARD_MODEL, SEED, THREADS, Dtype, keep_unreadable, say_result, verb_on_rows

FOLDER = typer.Option(..., "--model", help="A reward model's folder, such as `align reward train` makes.")

reward_app = typer.Typer(help="Reward models: train, score, evaluate.", no_args_is_help=True, rich_markup_mode=None)
reward_app.command("train")(verb_on_rows(REWARD_MODEL))


@reward_app.command("score")
def score(
    model: Path = FOLDER,
    candidates: Path = typer.Option(..., "--candidates", help="candidates.jsonl, or rows of prompt and text."),
    out: Path = typer.Option(..., "--out", help="Folder for scores.jsonl."),
    dtype: Dtype = DTYPE,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Score answers with a reward model; an answer that it cannot read has the reason in place of a score."""
    from align.cli.workplace import workplace
    from align.data.candidates import load_candidates
    from align.store import write_rows
    from align.types import as_dict
    from reward.model import ModelScorer

    prompts, answers = load_candidates(candidates)
    messages = {prompt.id: prompt.messages for prompt in prompts}
    with workplace(out, threads) as place:
        scorer = ModelScorer(model, dtype=dtype, threads=threads)
        found = scorer.explain([messages[row.prompt_id] for row in answers], [row.text for row in answers])
        rows = [
            {**as_dict(row), "messages": messages[row.prompt_id], "reward_model": scorer.id,
             **({"score": value} if isinstance(value, float) else {"score": None, "reason": value})}
            for row, value in zip(answers, found, strict=True)
        ]  # fmt: skip
        write_rows(place.out / "scores.jsonl", rows)
    scores = [value for value in found if isinstance(value, float)]
    mean = {"mean_score": sum(scores) / len(scores)} if scores else {}
    say_result(out, {"answers": len(found), "unscored": len(found) - len(scores), **mean}, as_json)


@reward_app.command("eval")
def evaluate(
    model: Path = FOLDER,
    preferences: list[Path] = typer.Option(
        ..., "--preferences", help="Pairs: prompt, chosen, rejected, as HH or RewardBench have them; repeatable."
    ),
    out: Path = typer.Option(..., "--out", help="Folder for result.json and unreadable.jsonl."),
    dtype: Dtype = DTYPE,
    seed: int = SEED,
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """How often a reward model puts the better answer first: by file, or by the rows' `subset`, with intervals."""
    from align.cli.display import print_table
    from align.cli.workplace import workplace
    from align.data.preferences import load_subsets
    from align.evaluate.pairs import pair_accuracy
    from align.store import checkpoint_id, write_json
    from reward.model import load_scorer

    read = [(path, *load_subsets(path)) for path in preferences]
    unreadable = [row for _, _, dropped in read for row in dropped]
    rows = [(pair, subset or path.name.partition(".")[0]) for path, pairs, _ in read for pair, subset in pairs]
    with workplace(out, threads) as place:
        keep_unreadable(place.out, unreadable)
        scorer = load_scorer(model, dtype=dtype, threads=threads)
        result = pair_accuracy([pair for pair, _ in rows], scorer.score, seed=seed, groups=[name for _, name in rows])
        result |= {"reward_model": checkpoint_id(model), "unreadable": len(unreadable)}
        write_json(place.out / "result.json", result)
    if as_json:
        say_result(out, result, as_json)
        return
    parts = {**result["subsets"], "all": result}
    head = ["subset", "pairs", "accuracy", "95% interval", "log loss", "ties", "unscored"]
    print_table([head, *(_line(name, part) for name, part in parts.items())], right=(1, 2, 4, 5, 6))
    say_result(out, {"unreadable": len(unreadable)}, as_json)


def _line(name: str, part: dict[str, Any]) -> list[str]:
    """A row of the table; one prompt alone has no interval, and shows nothing."""
    accuracy, loss = part["accuracy"], part["log_loss"]
    shown = ["–", "–", "–"]
    if accuracy:
        shown = [f"{accuracy['mean']:.3f}", f"{accuracy['low']:.3f} to {accuracy['high']:.3f}", f"{loss['mean']:.3f}"]
    return [name, str(part["pairs"]), *shown, str(part["ties"]), str(part["unscored"])]
