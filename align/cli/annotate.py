"""`align annotate`: the labelling of a run's round, or of candidates of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from align.cli.watching import FOLDER, JSON, status, watch

if TYPE_CHECKING:
    from align.config.recipe import Annotate
    from align.rounds.labelling import Desk

annotate_app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Ask people: push tasks, pull judgements, see how they get on, share what they said, close.",
)


@annotate_app.command()
def push(
    folder: Path = FOLDER,
    candidates: Path = typer.Option(
        None, "--candidates", help="Make the folder from candidates.jsonl (`align rollout` writes one)."
    ),
    tasks: int = typer.Option(256, "--tasks", min=1, help="With --candidates: how many tasks."),
    overlap: int = typer.Option(1, "--overlap", min=1, help="With --candidates: answers wanted for each."),
    server: str = typer.Option(
        "embedded", "--server", help="With --candidates: embedded, or an Argilla's address (key in ARGILLA_API_KEY)."
    ),
    home: Path = typer.Option(
        None,
        "--home",
        help="With --candidates: the embedded server's folder. Default: one per user.",
        show_default=False,
    ),
    guidelines: Path = typer.Option(None, "--guidelines", help="With --candidates: a markdown file for annotators."),
    seed: int = typer.Option(0, "--seed", min=0, help="With --candidates: it decides who stands left."),
    as_json: bool = JSON,
) -> None:
    """Put the tasks on the annotation server; what is there already is left alone."""
    from align.cli.display import print_json
    from align.rounds.desk import make_desk
    from align.rounds.labelling import offer

    if candidates is not None:
        make_desk(folder, candidates, _settings(tasks, overlap, server, home, guidelines), seed=seed)
    backend, done = offer(_desk(folder))
    if as_json:
        print_json({"added": done.added, "present": done.present, "url": backend.url})
    else:
        typer.echo(f"{done.added} tasks added, {done.present} were there already; label at {backend.url}")


def _settings(tasks: int, overlap: int, server: str, home: Path | None, guidelines: Path | None) -> "Annotate":
    from align.config.recipe import Annotate
    from align.config.section import load_section
    from align.errors import ConfigError

    if home is not None and server != "embedded":
        raise ConfigError(f"the Argilla at {server} has no home here", where="--home", hint="leave one of the two out")
    where: dict[str, str] = {"url": server} if server != "embedded" else {"type": "embedded"}
    if home is not None:
        where["home"] = str(home)
    given: dict[str, Any] = {"tasks": tasks, "overlap": overlap, "server": where}
    if guidelines is not None:
        given["guidelines"] = str(guidelines)
    return load_section(Annotate, [], **given)


@annotate_app.command()
def pull(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Take new judgements into the folder's journal, and write judgements.jsonl and what they are compiled to:
    preferences.jsonl, thumbs.jsonl and demonstrations.jsonl (corrected answers), and dropped.jsonl with the reasons."""
    from align.cli.display import print_json
    from align.rounds.export import pull_files
    from align.rounds.journal import record
    from align.rounds.labelling import open_backend
    from align.rounds.lock import run_lock

    desk = _desk(folder)
    with run_lock(folder):
        fresh = record(desk.journal, open_backend(desk).collect())
        counts = pull_files(desk, folder)
    if as_json:
        print_json({"new": len(fresh), **counts})
    else:
        made = ", ".join(f"{counts[what]} {what}" for what in ("preferences", "thumbs", "demonstrations"))
        typer.echo(f"{len(fresh)} new judgements, {counts['judgements']} in all; {made} in {folder}")


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
    from align.rounds.export import export as write

    counts = write(folder, out, names=names, format=format)
    if as_json:
        print_json({**counts, "out": str(out)})
    else:
        typer.echo(f"{', '.join(f'{count} {part}' for part, count in counts.items())} written to {out}")


annotate_app.command()(status)
annotate_app.command()(watch)


@annotate_app.command()
def close(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Take the judgements that are there, and ask for no more; `align run` then goes on."""
    from align.rounds.journal import close as write_closing
    from align.rounds.journal import record
    from align.rounds.labelling import closed, open_backend

    desk = _desk(folder)
    if closed(desk) is None:  # no lock on the run: `align run --wait` may be following
        record(desk.journal, open_backend(desk).collect())
        write_closing(desk.journal, desk.round, desk.tasks_id, "closed by `align annotate close`")
    _say_state(folder, "closed", as_json)


@annotate_app.command()
def reopen(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Take a closing back, so that more labels can come; `align run` then makes a new snapshot."""
    from align.rounds.journal import reopen as write_reopening
    from align.rounds.labelling import closed
    from align.rounds.lock import run_lock

    desk = _desk(folder)
    with run_lock(folder):
        if closed(desk) is not None:
            write_reopening(desk.journal, desk.round, desk.tasks_id)
    _say_state(folder, "open", as_json)


def _say_state(folder: Path, state: str, as_json: bool) -> None:
    from align.cli.display import print_json

    if as_json:
        print_json({"folder": str(folder), "state": state})
    else:
        typer.echo(f"the labelling in {folder} is {state}")


def _desk(folder: Path) -> "Desk":
    from align.rounds.desk import open_desk

    return open_desk(folder)
