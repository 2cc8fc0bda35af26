"""What the terminal shows: progress bars where there is one, plain lines where there is none. Model output is hostile:
control characters are shown, never sent."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from align.escape import shown

if TYPE_CHECKING:
    from rich.progress import Progress

    from align.rounds.runner import Event, Tell


LONGEST = 20_000
"""Characters of one text that a terminal is given."""


def plain(text: str) -> str:
    r"""`text` of many lines with control and direction characters made visible, so that no answer can steer a terminal.

    >>> plain("a\x1b[31mb\u202e")
    'a\\x1b[31mb\\u202e'
    """
    return shown(text, LONGEST, lambda character: character.encode("unicode_escape").decode())


def one_line(text: object) -> str:
    r"""Likewise, with line ends made visible too: for what stands in a line among others, such as a name.

    >>> one_line("kim\nbob: a is better")
    'kim\\nbob: a is better'
    """
    return plain(str(text)).replace("\n", "\\n").replace("\t", " ")


def indented(text: str, by: str) -> str:
    """Likewise with all lines after the first set in, so that none can be taken for one of ours."""
    return plain(text).replace("\n", f"\n{by}")


def say(line: object = "") -> None:
    """One line of output."""
    typer.echo(one_line(line))


def print_json(value: object) -> None:
    """ASCII only, so that nothing in it can steer a terminal."""
    typer.echo(json.dumps(value, indent=2, default=str))


def say_result(out: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print what a verb found or made."""
    if as_json:
        print_json({**result, "out": str(out)})
        return
    for name, value in result.items():
        typer.echo(f"{name.replace('_', ' ')}: {value_text(value)}")
    typer.echo(f"written to {out}")


def print_table(rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    """Columns as wide as their widest cell; `right` are the indices of right-aligned columns. The first row is the head."""
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
    """A result's value for people.

    >>> value_text(0.123456), value_text({"low": 0.5, "high": 1}), value_text({}), value_text(None)
    ('0.1235', 'low 0.5, high 1', 'none', 'none')
    """
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else one_line(value)


def seconds_text(seconds: float) -> str:
    """
    >>> seconds_text(4.25), seconds_text(75), seconds_text(3700)
    ('4.2 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def telling(quiet: bool = False) -> Iterator["Tell"]:
    """A listener for the runner's events. With `quiet` (for `--json`) everything goes to standard error as lines."""
    if sys.stderr.isatty() and not quiet:
        with _bars() as tell:
            yield tell
    else:
        yield _line


def _line(event: "Event") -> None:
    sentence = _sentence(event)
    if sentence:
        typer.echo(one_line(sentence), err=True)


def _sentence(event: "Event") -> str | None:
    match event.kind:
        case "start":
            return f"{event.ref}: start"
        case "done":
            return f"{event.ref}: done in {seconds_text(event.seconds)}"
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
        bar = progress.add_task("starting", total=None)

        def tell(event: "Event") -> None:
            if event.kind in ("start", "progress", "labelling"):
                total = event.total or None
                progress.update(bar, description=escape(str(event.ref)), completed=event.done, total=total)
            if event.kind != "start" and (sentence := _sentence(event)):
                progress.console.print(escape(one_line(sentence)))
            if event.kind == "start":
                progress.reset(bar, description=escape(str(event.ref)), total=None)

        yield tell


LINE_SECONDS = 5.0
"""Without a terminal, progress is a line every so many seconds and one at the end."""


@contextmanager
def counting(name: str, stream: TextIO, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A listener (done, total) for one piece of long work: a bar on a terminal, else plain lines on `stream`."""
    if stream.isatty() and not quiet:
        with _bar(stream) as progress:
            bar = progress.add_task(name, total=None)
            yield lambda done, total: progress.update(bar, completed=done, total=total)
        return
    said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done == total or now - said >= LINE_SECONDS:
            said = now
            stream.write(f"{name}: {done} of {total}\n")

    yield tell


def _bar(stream: TextIO) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(file=stream, highlight=False), transient=True)
