"""`align server`: the embedded Argilla server."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from align.figures import counted

server_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Manage the embedded Argilla server, where people label."
)
users_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Manage the users who can log in.")
server_app.add_typer(users_app, name="users")

Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="The server's folder: database, secrets and log. Default: one per user.", show_default=False
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="The address of an Argilla server, instead of --home; the owner's API key is in ARGILLA_API_KEY.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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
    """Create the server's own Python environment (needed once)."""
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
            help="Loopback port; 0 for any free port. Default: the port of the last start.",
            show_default=False,
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            envvar="ALIGN_SERVER_DATABASE",
            help="A PostgreSQL database, postgresql://user:password@host:5432/name; later starts use it too."
            " Default: a file in the server's folder.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="A host name that a reverse proxy uses for the server; later starts accept it too. Repeat it for more"
            " names. Default: only 127.0.0.1 and localhost are accepted.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait until the server answers.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Start the server in the background, unless it is running."""
    from annotation.server import start as begin

    info = begin(home, port, database=database, hosts=host or None, timeout=timeout)
    if as_json:
        return _print_json(info)
    typer.echo(
        f"Argilla {'is running' if info.started else 'was already running'} at {info.url}"
        f" (process {info.pid}, {info.seconds:.1f} s)"
    )
    _say_how_to_log_in(info.home)


@server_app.command()
def stop(home: Home = None, as_json: AsJson = False) -> None:
    """Stop the server. No data is lost."""
    from annotation.server import stop as end

    stopped = end(home)
    if as_json:
        _print_json({"stopped": stopped})
    else:
        typer.echo("stopped" if stopped else "it was not running")


@server_app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Show whether the server runs, its address and its data sets."""
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
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of lines to print, from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Also print new lines, until interrupted.")] = False,
) -> None:
    """Print the server's log."""
    from align.cli.display import say
    from annotation.server import logs as read

    for line in read(home, lines, follow=follow):
        say(line)


@users_app.command("add")
def add_user(
    username: Annotated[str, typer.Argument(help="The name to log in with.")],
    role: Annotated[str, typer.Option("--role", help="The user's role: annotator, admin or owner.")] = "annotator",
    workspace: Annotated[
        str | None, typer.Option("--workspace", help="Add the user to this workspace.", show_default=False)
    ] = None,
    home: Home = None,
    server: Address = None,
    as_json: AsJson = False,
) -> None:
    """Add a user, and print their password and API key.

    They cannot be shown again later.
    """
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
    """List the users who can log in."""
    from align.cli.display import say
    from annotation.server import list_users as find

    users = find(_place(home, server))
    if as_json:
        return _print_json(users)
    for user in users:
        say(f"{user.role:<10} {user.username}")


@users_app.command("remove")
def remove_user(
    username: Annotated[str, typer.Argument(help="The user's name.")],
    with_answers: Annotated[
        bool, typer.Option("--with-answers", help="Remove the user even if they gave answers; these are deleted too.")
    ] = False,
    home: Home = None,
    server: Address = None,
    as_json: AsJson = False,
) -> None:
    """Remove a user.

    Argilla deletes the answers of the user too. So a user who gave answers is only removed with --with-answers.
    """
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
        what = f"--home is for the embedded server, and --server names the Argilla at {server}"
        raise ConfigError(what, where="--home", hint="leave one of the two out")
    return server or home


def _say_how_to_log_in(home: Path) -> None:
    from annotation.server.server import OWNER, SECRETS_FILE

    typer.echo(f"log in as {OWNER} with the password in {home / SECRETS_FILE}")
