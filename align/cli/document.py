"""Writes the reference of the command line from the verbs' own help.

    python -m align.cli.document > docs/cli.md

A test runs `markdown()` and compares, so the page cannot drift from the program.
"""

import inspect
import typing
from collections.abc import Iterator
from typing import Any

import typer

from align.cli.app import app
from align.cli.terms import TERMS

HEAD = """\
# The command line

*Made from `align/cli/` by `python -m align.cli.document > docs/cli.md`; do not edit.*

`align VERB --help` shows the same text. Options may come before or after arguments. `--debug` on any verb shows the
full traceback of an error. With `--json`, standard output contains only JSON; progress and errors always go to standard
error. Settings (`key=value`) are keys of the recipe ([recipe.md](recipe.md)), in YAML.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a bug in align, or a stage that failed although its input was valid |
| 2 | an input, an option, a file or a service that you can fix; the message says how |
| 75 | `align run` is waiting for labels; run the same command again when labelling is complete |
| 76 | a stage found that `align run` must not continue; the message says why |
| 130 | stopped by Ctrl-C; run the same command again to continue |

| term | meaning |
|---|---|
"""


def markdown() -> str:
    """The text of docs/cli.md."""
    explained = "".join(f"| {term} | {_cell(meaning)} |\n" for term, meaning in TERMS.items())
    verbs = (_verb(name, command) for name, command in _verbs("align", typer.main.get_command(app)))
    return HEAD + explained + "".join(verbs)


def _verbs(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every verb with its full name, in the order of `--help`."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, found in inner.items():
        yield from _verbs(f"{name} {word}", found)


def _verb(name: str, command: Any) -> str:
    hints = inspect.get_annotations(inspect.unwrap(command.callback))
    given = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and "--help" not in p.opts]
    shown = {p: _argument(p) for p in given} | {p: _flag(p, hints[p.name]) for p in options}
    needed = [shown[p] for p in shown if p.required]
    settings = getattr(command, "settings", None)
    told = f"\nThe settings are {settings}.\n" if settings else ""
    usage = " ".join([name, *needed, "[OPTIONS]", *(shown[p] for p in given if not p.required)])
    rows = "".join(f"| `{_cell(text)}` | {_cell(p.help or '')} | {_default(p)} |\n" for p, text in shown.items())
    return f"\n## `{name}`\n\n{_cell(command.help)}\n\n    {usage}\n\n| | | default |\n|---|---|---|\n{rows}{told}"


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _flag(parameter: Any, hint: Any) -> str:
    if parameter.is_flag:
        return ", ".join(parameter.opts)
    value = (
        "|".join(typing.get_args(hint))
        if typing.get_origin(hint) is typing.Literal
        else parameter.opts[0].lstrip("-").upper()
    )
    return f"{', '.join(parameter.opts)} {value}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "**required**"
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(markdown(), end="")
