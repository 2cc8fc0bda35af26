"""`align annotate`: the labelling of a run's round, or of your own candidates."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from align.cli.annotate_import import import_judgements
from align.cli.push import push
from align.cli.status import FOLDER, JSON, status, watch
from align.cli.terms import OF_LABELLING, terms
from align.figures import counted

if TYPE_CHECKING:
    from align.labelling.session import Session

annotate_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Collect labels from people: push tasks, pull judgements, export.",
    epilog=terms(*OF_LABELLING),
)


annotate_app.command()(push)


@annotate_app.command()
def pull(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Fetch new judgements and compile them to training data.

    Adds the new judgements to the journal (the append-only file of all judgements). Writes judgements.jsonl and what
    they are compiled to: preferences.jsonl, binary.jsonl (good or bad for one answer) and demonstrations.jsonl
    (corrected answers), and dropped.jsonl with the reasons. For a blind comparison it also prints how often each side
    won.
    """
    from align.cli.display import plain, print_json
    from align.cli.status import winner
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
    from align.provenance.export import ROW, pull_files
    from align.types import as_dict

    session = _session(folder)
    with run_lock(folder):
        backend = open_backend(session)
        fresh = take_in(session, backend)
        dropped, behind = backend.progress().dropped, left_behind(session, backend)
        counts, notes = pull_files(session, folder)
    won = win_rate(folder, session.tasks, judgements_of(session))
    late = len(journal_of(session).late([task.id for task in session.tasks], session.tasks_id))
    if as_json:
        found = {"new": len(fresh), **counts, "late": late, "superseded": behind, "notes": notes}
        found |= {"dropped": list(map(as_dict, dropped))}
        print_json(found | ({"win_rate": won} if won else {}))
    else:
        made = ", ".join(counted(counts[part], what) for part, what in ROW.items() if part != "judgements")
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
    out: Path = typer.Option(..., "--out", help="The new folder. It gets data/ and README.md, the data card."),
    format: Literal["parquet", "jsonl"] = typer.Option("parquet", "--format", help="The file format of the rows."),
    names: bool = typer.Option(
        False,
        "--names",
        help="Keep annotators' names and times. Without it the names are annotator-1, annotator-2 …",
    ),
    as_json: bool = JSON,
) -> None:
    """Export judgements and compiled labels as a data set.

    The data set has the layout of the Hugging Face Hub: `datasets`, TRL and the verbs of align can read it. For a run,
    all rounds are exported. Judgements that `align annotate pull` has not fetched yet are not included.
    """
    from align.cli.display import print_json
    from align.provenance.export import ROW
    from align.provenance.export import export as write

    counts = write(folder, out, names=names, format=format)
    if as_json:
        print_json({**counts, "out": str(out)})
    else:
        typer.echo(f"{', '.join(counted(count, ROW[part]) for part, count in counts.items())} written to {out}")


annotate_app.command("import")(import_judgements)
annotate_app.command()(status)
annotate_app.command()(watch)


@annotate_app.command()
def close(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Close labelling with the judgements given so far.

    No more are asked for. `align run` then continues: it freezes the judgements in a snapshot and trains on it.
    """
    from align.labelling.session import closed, finish, open_backend

    session = _session(folder)
    if closed(session) is None:  # no lock on the run: `align run --wait` may be following
        finish(session, open_backend(session), "closed by `align annotate close`")
    _say_state(folder, "closed", as_json)


@annotate_app.command()
def reopen(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Open labelling again, so that more labels can come in.

    `align run` then makes a new snapshot: the judgements frozen when labelling closes.
    """
    from align.labelling.session import closed, open_backend
    from align.pipeline.lock import run_lock
    from annotation.journal import reopen as write_reopening

    session = _session(folder)
    with run_lock(folder):
        if closed(session) is not None:
            write_reopening(session.journal, session.round, session.tasks_id)
    open_backend(session)  # annotators see the data set again
    _say_state(folder, "open", as_json)


def _say_state(folder: Path, state: str, as_json: bool) -> None:
    from align.cli.display import print_json

    if as_json:
        print_json({"folder": str(folder), "state": state})
    else:
        typer.echo(f"labelling in {folder} is {state}")


def _session(folder: Path) -> "Session":
    from align.stages.sessions import open_session

    return open_session(folder)
