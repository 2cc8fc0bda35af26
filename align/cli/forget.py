"""`align forget`: judgements out of a run, and what was made of them."""

from pathlib import Path
from typing import Any

import typer

from align.cli.watching import FOLDER
from align.figures import counted

ROWS = ("preferences", "thumbs", "edits")
MODELS = ("checkpoints", "reward_models")


def forget(
    folder: Path = FOLDER,
    annotator: str = typer.Option(
        None, "--annotator", help="Forget all that this annotator (a name or an id) said, and will say here."
    ),
    prompt: str = typer.Option(
        None, "--prompt", help="Forget all that was said about this prompt (its id or the beginning of it)."
    ),
    yes: bool = typer.Option(False, "--yes", help="Forget; without it the command only says what was made of it."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Take judgements back for good, compile anew without them, and list all that was made with them. Where the
    labelling is open, the answers go off the server too, and others are asked instead.

    Checkpoints are not trained anew here; `align status` marks them until `align run` has done it.
    """
    from align.cli.display import print_json
    from align.report.html import renew_derived
    from align.rounds.desk import open_desk
    from align.rounds.forget import used_by, wish, withdraw, write_tombstones
    from align.rounds.run import RUN

    wanted = wish(folder, annotator=annotator, prompt=prompt)
    found = used_by(wanted)
    recompiled: list[str] = []
    withdrawn = 0
    if yes:
        write_tombstones(wanted)
        recompiled = _compile_anew(folder)
        if (folder / RUN).is_file():
            renew_derived(folder)
        withdrawn = withdraw(open_desk(folder), wanted)
    if as_json:
        done = {"recompiled": recompiled, "withdrawn": withdrawn}
        print_json({wanted.kind: wanted.id, "name": wanted.name, "forgotten": yes, **found, **done})
        return
    _say(wanted.name, found, yes)
    if yes:
        typer.echo(f"compiled anew: {', '.join(recompiled) or 'nothing had to be'}")
        typer.echo(
            f"{counted(withdrawn, 'answer')} taken off the server" if withdrawn else "nothing open is on the server"
        )


def _compile_anew(folder: Path) -> list[str]:
    """Snapshots and preferences of a run; the files that `align annotate pull` wrote into a folder of one's own."""
    from align.rounds.desk import open_desk
    from align.rounds.export import pull_files
    from align.rounds.labelling import DESK
    from align.rounds.run import open_run
    from align.rounds.runner import recompile

    if not (folder / DESK).is_file():
        return [str(ref) for ref in recompile(open_run(folder), lambda event: None)]
    if not (folder / "preferences.jsonl").is_file():
        return []
    return [f"{name}.jsonl" for name in pull_files(open_desk(folder), folder)]


def _say(name: str, found: dict[str, Any], yes: bool) -> None:
    from align.cli.display import plain

    counts = ", ".join(counted(len(found[what]), what.removesuffix("s")) for what in ROWS)
    verb = "forgotten" if yes else "would forget"
    typer.echo(f"{plain(name)}: {verb} {counted(len(found['judgements']), 'judgement')}; made with them: {counts}")
    for what in MODELS:
        for model in found[what]:
            state = "in force" if model["in_force"] else "superseded"
            typer.echo(f"  {what.removesuffix('s').replace('_', ' ')} {model['id'][:12]} of {model['stage']}, {state}")
    if not yes:
        typer.echo("nothing is changed yet; say --yes to forget")
        return
    if any(model["in_force"] for what in MODELS for model in found[what]):
        typer.echo("`align run` trains anew what descends from it; `align clean --yes` then removes the old folders")
