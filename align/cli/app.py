"""`align`: one verb, one function; heavy imports stay inside the verbs so that `--help` is quick."""

import sys

import typer

from align.cli.annotate import annotate_app
from align.cli.inspect import clean, lineage, report, samples, status
from align.cli.run import init, run
from align.cli.server import server_app
from align.cli.stages import dpo, evaluate, rollout, sft
from align.errors import EXIT_OURS, AlignError

app = typer.Typer(
    name="align",
    help="Alignment with people in the loop: sample, ask, train, prove, and go again.",
    epilog="Add --debug to any command for the whole trace of an error.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)
for verb in (init, run, status, report, samples, lineage, clean, sft, rollout, dpo):
    app.command()(verb)
app.command("eval")(evaluate)
app.add_typer(annotate_app, name="annotate")
app.add_typer(server_app, name="server")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if show:
        from align import __version__

        typer.echo(f"align {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script. Errors are one sentence; exit code 2 is the user's mistake, 1 ours, 75 waiting."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except AlignError as error:
        if debug:
            raise
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)  # the reader of our output, such as `head`, has left
    except Exception as error:
        if debug:
            raise
        _say(
            f"this is a defect of align: {type(error).__name__}: {error} (run it again with --debug for the whole trace)"
        )
        sys.exit(EXIT_OURS)


def _say(text: str) -> None:
    from align.cli.display import plain

    sys.stderr.write(f"align: {plain(text)}\n")
