"""`align`: one function for each verb. Heavy imports stay inside the verbs so that `--help` is fast."""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from align.cli.annotate import annotate_app
from align.cli.chat import chat
from align.cli.forget import forget
from align.cli.gate import gate
from align.cli.inspect import clean, lineage, report, samples, status
from align.cli.interrupt import interruptible, leave, was_interrupted
from align.cli.reward import reward_app
from align.cli.run import init, run
from align.cli.server import server_app
from align.cli.settings import MODEL_OPTIONS, with_options, with_settings
from align.cli.stages import ROLLOUT_NO_USE, evaluate, rollout
from align.cli.sweep import sweep
from align.cli.terms import TERMS, terms
from align.cli.train import ON_ROWS, ONLINE, online_verb, settings_of, verb_on_rows
from align.errors import EXIT_USER, AlignError, StageError

_UsageError: Any = typer.BadParameter.__mro__[1]  # wrong options of every kind; typer does not export the class


def _recipe() -> Any:
    from align.config.recipe import Recipe

    return Recipe


def _answers() -> Any:
    from align.config.section import Answers

    return Answers


app = typer.Typer(
    name="align",
    help="Align a language model with human feedback: sample answers, collect labels, train, evaluate, repeat.",
    epilog=f"Add --debug to any command to see the full traceback of an error.\n\n{terms(*TERMS)}",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)
VERBS: list[tuple[Callable[..., None], type[TyperCommand] | None]] = [
    (init, None),
    (run, with_settings(_recipe, options={})),
    *((verb, None) for verb in (status, report, samples, lineage, gate)),
    (chat, with_options({**MODEL_OPTIONS, "model.path": "MODEL"})),
    *((verb, None) for verb in (forget, clean)),
    (rollout, with_settings(_answers, keys=("rollouts",), left_out=ROLLOUT_NO_USE)),
]
for verb, kind in VERBS:
    app.command(cls=kind)(verb)
app.command("eval")(evaluate)
app.command()(sweep)
for method, says, option in ON_ROWS:
    app.command(method.name, cls=settings_of(method))(verb_on_rows(method, says, option))
for method, says in ONLINE:
    app.command(method.name, cls=settings_of(method))(online_verb(method, says))
app.add_typer(reward_app, name="reward")
app.add_typer(annotate_app, name="annotate")
app.add_typer(server_app, name="server")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if show:
        from align import __version__

        typer.echo(f"align {__version__}")
        raise typer.Exit


def main() -> None:
    """The console script. An error is one sentence. Exit code 2: the user's mistake; 1: a bug in align; 75: waiting."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not where a test has put its own
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    with interruptible():
        try:
            sys.exit(_run(arguments))
        except KeyboardInterrupt:
            leave()
        except Exception as error:
            if was_interrupted():  # and somebody made an error of it
                leave()
            _answer(error, debug)


def _answer(error: Exception, debug: bool) -> NoReturn:
    """Print what is wrong and exit with its code; with `debug`, show the full traceback."""
    if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    if debug:
        raise error
    _fail(error if isinstance(error, AlignError) else _refusal(error) or _defect(error))


def _run(arguments: list[str]) -> int:
    """Do what the arguments say. Not `app()`: it would handle interrupts and closed pipes in its own way."""
    try:
        command, name, arguments = _help_alone(typer.main.get_command(app), arguments)
        with command.make_context(name, arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:
        return done.exit_code
    except _UsageError as error:
        error.show()
        return EXIT_USER
    return 0


def _help_alone(root: Any, arguments: list[str]) -> tuple[Any, str, list[str]]:
    """The command to call, its name and arguments: the root with all of them, or the verb itself for its `--help`.

    Going through a verb's parents, typer would load pydantic (0.1 s) for their options, which were not given.
    """
    command, words = root, list(arguments)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if "--help" not in (words[:1] if hasattr(command, "commands") else words):
        return root, "align", arguments
    return command, " ".join(["align", *arguments[: len(arguments) - len(words)]]), ["--help"]


def _fail(error: AlignError) -> NoReturn:
    _say(str(error))
    sys.exit(error.exit_code)


def _refusal(error: Exception) -> AlignError | None:
    from align.store import disk_refusal

    return disk_refusal(error)


def _defect(error: Exception) -> AlignError:
    what = f"this is a bug in align: {type(error).__name__}: {error}"
    return StageError(what, hint="run it again with --debug for the full traceback")


def _say(text: str) -> None:
    from align.cli.display import plain

    sys.stderr.write(f"align: {plain(text)}\n")
