"""`align server`: the embedded Argilla server."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from align.figures import counted

server_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Run the embedded Argilla server, where people label."
)
users_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Look after the people who may log in.")
server_app.add_typer(users_app, name="users")

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder with the server's database, secrets and log. Default: one per user.", show_default=False
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="An Argilla's address instead of a home, with the owner's key in ARGILLA_API_KEY.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _print_json(value: Any) -> None:
    rows = (
        [asdict(v) for v in value]
        if isinstance(value, tuple)
        else asdict(value)
        if is_dataclass(value) and not isinstance(value, type)
        else value
    )
    typer.echo(json.dumps(rows, default=str, indent=2))


@server_app.command()
def install(
    uv: Annotated[bool, typer.Option("--uv", help="Use the uv program instead of venv and pip.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the server's own Python environment, once."""
    from annotation.server import install as make

    folder = make(uv=uv, say=lambda line: typer.echo(line, err=True))
    if as_json:
        _print_json({"environment": folder})
    else:
        typer.echo(f"Argilla's server is installed in {folder}")


@server_app.command()
def start(
    home: Home = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="Loopback port; 0 for any free one. Default: the port it had before.",
            show_default=False,
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="ALIGN_SERVER_DATABASE",
            help="A PostgreSQL database, postgresql://user:password@host:5432/name, kept for later starts."
            " Default: a file in the home.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="A name by which a proxy in front is asked, kept for later starts; may be given several times."
            " Default: it answers to 127.0.0.1 and localhost alone.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait until it answers.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Start the server in the background, unless it runs already."""
    from annotation.server import start as begin

    info = begin(home, port, database=database, hosts=host or None, timeout=timeout)
    if as_json:
        return _print_json(info)
    typer.echo(
        f"Argilla {'answers' if info.started else 'is running already'} at {info.url} (process {info.pid}, {info.seconds:.1f} s)"
    )
    _say_how_to_log_in(info.home)


@server_app.command()
def stop(home: Home = None, as_json: AsJson = False) -> None:
    """Stop the server. Nothing is lost."""
    from annotation.server import stop as end

    stopped = end(home)
    if as_json:
        _print_json({"stopped": stopped})
    else:
        typer.echo("stopped" if stopped else "it was not running")


@server_app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Say whether the server runs, where, and how its datasets stand."""
    from align.cli.display import say
    from annotation.server import status as look
    from annotation.server.server import verb_of

    found = look(home)
    if as_json:
        return _print_json(found)
    if not found.running:
        typer.echo(f"not running (home {found.home}); start it with {verb_of('start', found.home)}")
        return None
    memory = "" if found.memory_bytes is None else f", {found.memory_bytes >> 20} MB"
    say(f"Argilla {found.version} at {found.url} (process {found.pid}{memory}, home {found.home})")
    for dataset in found.datasets:
        say(f"  {dataset.workspace}/{dataset.name}: {dataset.completed} of {dataset.total} records completed")
    _say_how_to_log_in(found.home)


@server_app.command()
def logs(
    home: Home = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until interrupted.")
    ] = False,
) -> None:
    """Print the server's log."""
    from align.cli.display import say
    from annotation.server import logs as read

    for line in read(home, lines, follow=follow):
        say(line)


@users_app.command("add")
def add_user(
    username: Annotated[str, typer.Argument(help="The name to log in with.")],
    role: Annotated[str, typer.Option("--role", help="annotator, admin or owner.")] = "annotator",
    workspace: Annotated[
        str | None, typer.Option("--workspace", help="Make them a member of this workspace.", show_default=False)
    ] = None,
    home: Home = None,
    server: Address = None,
    as_json: AsJson = False,
) -> None:
    """Add a person; prints the password and API key, this once."""
    from align.cli.display import say
    from annotation.server import add_user as add

    made = add(_place(home, server), username, role, workspace=workspace)
    if as_json:
        return _print_json(made)
    say(f"{made.role} {made.username}, shown this once:")
    say(f"  password  {made.password}")
    say(f"  API key   {made.api_key}")


@users_app.command("list")
def list_users(home: Home = None, server: Address = None, as_json: AsJson = False) -> None:
    """List the people who may log in."""
    from align.cli.display import say
    from annotation.server import list_users as find

    users = find(_place(home, server))
    if as_json:
        return _print_json(users)
    for user in users:
        say(f"{user.role:<10} {user.username}")


@users_app.command("remove")
def remove_user(
    username: Annotated[str, typer.Argument(help="Who.")],
    with_answers: Annotated[
        bool, typer.Option("--with-answers", help="Even if their answers are deleted too.")
    ] = False,
    home: Home = None,
    server: Address = None,
    as_json: AsJson = False,
) -> None:
    """Remove a person. Argilla deletes their answers too, so that needs a word of its own."""
    from align.cli.display import say
    from annotation.server import remove_user as remove

    answers = remove(_place(home, server), username, with_answers=with_answers)
    if as_json:
        _print_json({"removed": username, "answers_deleted": answers})
    else:
        say(f"{username} is removed" + (f", with {counted(answers, 'answer')}" if answers else ""))


def _place(home: Path | None, server: str | None) -> Path | str | None:
    from align.errors import ConfigError

    if home is not None and server is not None:
        raise ConfigError(f"the Argilla at {server} has no home here", where="--home", hint="leave one of the two out")
    return server or home


def _say_how_to_log_in(home: Path) -> None:
    from annotation.server.server import OWNER, SECRETS_FILE

    typer.echo(f"log in as {OWNER} with the password in {home / SECRETS_FILE}")
