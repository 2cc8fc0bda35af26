"""`align annotate`: the labelling of a run's round, or of candidates of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from align.cli.annotate_import import import_judgements
from align.cli.push import push
from align.cli.watching import FOLDER, JSON, status, watch
from align.figures import counted

if TYPE_CHECKING:
    from align.labelling.session import Desk

annotate_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Ask people: push tasks, pull judgements, see how they get on, share what they said, close.",
)


annotate_app.command()(push)


@annotate_app.command()
def pull(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Take new judgements into the folder's journal, and write judgements.jsonl and what they are compiled to:
    preferences.jsonl, thumbs.jsonl and demonstrations.jsonl (corrected answers), and dropped.jsonl with the reasons.
    Of a blind comparison, also how often which side won."""
    from align.cli.display import plain, print_json
    from align.cli.watching import winner
    from align.labelling.comparison import win_rate
    from align.labelling.session import (
        dropped_text,
        journal_of,
        judgements_of,
        late_text,
        left_behind,
        left_behind_text,
        open_backend,
        take_in,
    )
    from align.pipeline.lock import run_lock
    from align.provenance.export import pull_files
    from align.types import as_dict

    desk = _desk(folder)
    with run_lock(folder):
        backend = open_backend(desk)
        fresh = take_in(desk, backend)
        dropped, behind = backend.progress().dropped, left_behind(desk, backend)
        counts, notes = pull_files(desk, folder)
    won = win_rate(folder, desk.tasks, judgements_of(desk))
    late = len(journal_of(desk).late([task.id for task in desk.tasks], desk.tasks_id))
    if as_json:
        found = {"new": len(fresh), **counts, "late": late, "superseded": behind, "notes": notes}
        found |= {"dropped": list(map(as_dict, dropped))}
        print_json(found | ({"win_rate": won} if won else {}))
    else:
        made = ", ".join(counted(counts[f"{what}s"], what) for what in ("preference", "thumb", "demonstration"))
        typer.echo(f"{counted(len(fresh), 'new judgement')}, {counts['judgements']} in all; {made} in {folder}")
        told = [late_text(late) if late else "", left_behind_text(behind), dropped_text(dropped), *notes]
        for line in map(plain, told):
            if line:
                typer.echo(line)
        if won:
            typer.echo(winner(won))


@annotate_app.command()
def export(
    folder: Path = FOLDER,
    out: Path = typer.Option(..., "--out", help="The new folder: data/ and README.md, its card."),
    format: Literal["parquet", "jsonl"] = typer.Option("parquet", "--format", help="How the rows are written."),
    names: bool = typer.Option(
        False, "--names", help="Keep annotators' names and times; without it they are annotator-1, annotator-2 …"
    ),
    as_json: bool = JSON,
) -> None:
    """Write all that people said, and what it is compiled to, as a data set in the Hub's layout: `datasets`, TRL and
    our own verbs read it. Of a run, all rounds; what `align annotate pull` has not taken in yet is not there."""
    from align.cli.display import print_json
    from align.provenance.export import export as write

    counts = write(folder, out, names=names, format=format)
    if as_json:
        print_json({**counts, "out": str(out)})
    else:
        typer.echo(
            f"{', '.join(counted(count, part.removesuffix('s')) for part, count in counts.items())} written to {out}"
        )


annotate_app.command("import")(import_judgements)
annotate_app.command()(status)
annotate_app.command()(watch)


@annotate_app.command()
def close(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Take the judgements that are there, and ask for no more; `align run` then goes on."""
    from align.labelling.session import closed, finish, open_backend

    desk = _desk(folder)
    if closed(desk) is None:  # no lock on the run: `align run --wait` may be following
        finish(desk, open_backend(desk), "closed by `align annotate close`")
    _say_state(folder, "closed", as_json)


@annotate_app.command()
def reopen(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Take a closing back, so that more labels can come; `align run` then makes a new snapshot."""
    from align.labelling.session import closed, open_backend
    from align.pipeline.lock import run_lock
    from annotation.journal import reopen as write_reopening

    desk = _desk(folder)
    with run_lock(folder):
        if closed(desk) is not None:
            write_reopening(desk.journal, desk.round, desk.tasks_id)
    open_backend(desk)  # annotators see the data set again
    _say_state(folder, "open", as_json)


def _say_state(folder: Path, state: str, as_json: bool) -> None:
    from align.cli.display import print_json

    if as_json:
        print_json({"folder": str(folder), "state": state})
    else:
        typer.echo(f"the labelling in {folder} is {state}")


def _desk(folder: Path) -> "Desk":
    from align.stages.desks import open_desk

    return open_desk(folder)
