"""`align annotate`: the labelling of a run's round, or of candidates of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from align.config.recipe import Annotate
    from align.rounds.labelling import Desk

annotate_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Ask people: push tasks, pull judgements, see progress, close."
)

FOLDER = typer.Argument(..., help="A run's folder, or one that `align annotate push --candidates` made.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


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
    """Take new judgements into the folder's journal, and write judgements.jsonl and preferences.jsonl."""
    from align.cli.display import print_json
    from align.rounds.desk import export
    from align.rounds.journal import record
    from align.rounds.labelling import open_backend
    from align.rounds.lock import run_lock

    desk = _desk(folder)
    with run_lock(folder):
        fresh = record(desk.journal, open_backend(desk).collect())
        counts = export(desk, folder)
    if as_json:
        print_json({"new": len(fresh), **counts})
    else:
        typer.echo(
            f"{len(fresh)} new judgements, {counts['judgements']} in all; {counts['preferences']} preferences in {folder / 'preferences.jsonl'}"
        )


@annotate_app.command()
def status(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """How far the labelling is, and what each annotator has done."""
    from align.cli.display import print_json, print_table
    from align.rounds.labelling import closed, open_backend

    desk = _desk(folder)
    backend = open_backend(desk)
    state = backend.progress()
    why = closed(desk)
    if as_json:
        people = {name: {"submitted": c.submitted, "skipped": c.skipped} for name, c in state.annotators.items()}
        print_json(
            {
                "wanted": state.wanted,
                "answers": state.answers,
                "tasks": state.tasks,
                "completed": state.completed,
                "closed": why,
                "url": backend.url,
                "annotators": people,
            }
        )
        return
    typer.echo(
        f"{state.completed} of {state.tasks} tasks are complete; {state.answers} of {state.wanted} answers are in"
    )
    typer.echo(f"closed: {why}" if why else f"open; label at {backend.url}")
    if state.annotators:
        print_table(
            [
                ["annotator", "answered", "skipped"],
                *([n, str(c.submitted), str(c.skipped)] for n, c in state.annotators.items()),
            ],
            right=(1, 2),
        )


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
