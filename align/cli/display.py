"""What the terminal shows: progress bars on a terminal, plain lines elsewhere. Model output is untrusted: control
characters are shown, never sent."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from align.escape import shown
from align.figures import duration, interval, significant
from align.progress import Progress, TimeLeft, besides, line

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from align.pipeline.runner import Event, Tell


LONGEST = 20_000
"""The most characters of one text that are printed."""


def plain(text: str) -> str:
    r"""`text`, of one or more lines, with control and direction characters made visible, so that no answer can control
    the terminal.

    >>> plain("a\x1b[31mb\u202e")
    'a\\x1b[31mb\\u202e'
    """
    return shown(text, LONGEST, lambda character: character.encode("unicode_escape").decode())


def one_line(text: object) -> str:
    r"""As `plain`, with line ends made visible too: for a text inside a line, such as a name.

    >>> one_line("kim\nbob: a is better")
    'kim\\nbob: a is better'
    """
    return plain(str(text)).replace("\n", "\\n").replace("\t", " ")


def indented(text: str, by: str) -> str:
    """As `plain`, with all lines after the first indented, so that none looks like one of align's own lines."""
    return plain(text).replace("\n", f"\n{by}")


def say(line: object = "", *, err: bool = False) -> None:
    """One line on standard output, or on standard error with `err`."""
    typer.echo(one_line(line), err=err)


def print_json(value: object) -> None:
    """ASCII only, so that nothing in it can control the terminal."""
    typer.echo(json.dumps(value, indent=2, default=str))


def say_result(out: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print the result of a verb."""
    if as_json:
        print_json({**result, "out": str(out)})
        return
    for name, value in result.items():
        say(f"{name.replace('_', ' ')}: {value_text(value)}")
    typer.echo(f"written to {out}")


def print_table(rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    """Columns as wide as their widest cell; `right` are the indices of right-aligned columns. The first row is the
    header."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for number, row in enumerate(cells):
        typer.echo(
            "  ".join(
                c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )
        if number == 0:
            typer.echo("  ".join("─" * w for w in widths))


def value_text(value: Any) -> str:
    r"""A result's value as readable text.

    >>> value_text(0.123456), value_text({"low": 0.5, "high": 1}), value_text({}), value_text(None)
    ('0.1235', 'low 0.5, high 1', 'none', 'none')
    >>> value_text({"\x1b[31mred": 1})
    '\\x1b[31mred 1'
    >>> value_text({"mean": 0.78, "low": 0.74, "high": 0.82, "n": 40})
    '0.78 [0.74, 0.82], n 40'
    """
    if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys() and value["mean"] is not None:
        rest = {name: entry for name, entry in value.items() if name not in ("mean", "low", "high")}
        return ", ".join([interval(value, significant), *([value_text(rest)] if rest else [])])
    if isinstance(value, dict):
        return ", ".join(f"{one_line(name)} {value_text(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, float):
        return significant(value)
    return "none" if value is None else one_line(value)


@contextmanager
def telling(quiet: bool = False) -> Iterator["Tell"]:
    """A listener for the runner's events. With `quiet` (for `--json`), everything goes to standard error as lines."""
    if sys.stderr.isatty() and not quiet:
        with _bars() as tell:
            yield tell
    else:
        yield _lines()


def _lines() -> "Tell":
    """Every event as a line; progress every RUN_SECONDS, because such lines may stay in a log."""
    left, said_at = TimeLeft(), time.monotonic()

    def tell(event: "Event") -> None:
        nonlocal left, said_at
        sentence = _sentence(event)
        if event.kind == "start":
            left, said_at = TimeLeft(), time.monotonic()
        if event.kind == "progress":
            seconds = left.seconds(event.done, event.total)
            if time.monotonic() - said_at >= RUN_SECONDS:
                said_at = time.monotonic()
                sentence = line(str(event.ref), event.done, event.total, event.text, seconds)
        if sentence:
            typer.echo(one_line(sentence), err=True)

    return tell


def _sentence(event: "Event") -> str | None:
    match event.kind:
        case "start":
            return f"{event.ref}: start"
        case "done":
            return f"{event.ref}: done in {duration(event.seconds)}"
        case "closed":
            return f"{event.ref}: closed, {event.text}"
        case "note":
            return f"{event.ref}: {plain(event.text)}"
        case "labelling" if event.text:
            return f"{event.ref}: {event.done} of {event.total} answers; label at {event.text}"
        case _:
            return None


@contextmanager
def _bars() -> Iterator[Callable[["Event"], None]]:
    from rich.markup import escape

    with _bar(sys.stderr) as progress:
        bar = progress.add_task("starting", total=None, besides="")
        left = TimeLeft()

        def tell(event: "Event") -> None:
            nonlocal left
            if event.kind == "start":
                left = TimeLeft()
            if event.kind in ("start", "progress", "labelling"):
                total, told = event.total or None, ""
                if event.kind == "progress":
                    told = escape(one_line(besides(event.text, left.seconds(event.done, event.total))))
                name = escape(str(event.ref))
                progress.update(bar, description=name, completed=event.done, total=total, besides=told)
            if event.kind != "start" and (sentence := _sentence(event)):
                progress.console.print(escape(one_line(sentence)))
            if event.kind == "start":
                progress.reset(bar, description=escape(str(event.ref)), total=None, besides="")

        yield tell


LINE_SECONDS, RUN_SECONDS = 5.0, 30.0
"""Seconds between progress lines without a terminal: of a verb (which prints a last one at the end), and of a run."""


@contextmanager
def counting(name: str, stream: TextIO, quiet: bool = False) -> Iterator[Progress]:
    """A listener for one long piece of work: a bar on a terminal, else plain lines on `stream`."""
    left = TimeLeft()
    if stream.isatty() and not quiet:
        from rich.markup import escape

        with _bar(stream) as progress:
            bar = progress.add_task(name, total=None, besides="")

            def show(done: int, total: int, said: str = "") -> None:
                told = escape(one_line(besides(said, left.seconds(done, total))))
                progress.update(bar, completed=done, total=total, besides=told)

            yield show
        return
    said_at = time.monotonic()

    def tell(done: int, total: int, said: str = "") -> None:
        nonlocal said_at
        now, seconds = time.monotonic(), left.seconds(done, total)
        if done == total or now - said_at >= LINE_SECONDS:
            said_at = now
            stream.write(one_line(line(name, done, total, said, seconds)) + "\n")

    yield tell


def _bar(stream: TextIO) -> "Bar":
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[besides]}"),
    )
    return rich.Progress(*columns, console=Console(file=stream, highlight=False), transient=True)
