"""`align annotate status` and `align annotate watch`: how far people are."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from align.cli.inspect import run_of
from align.figures import NONE, counted, duration, interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from align.labelling.survey import Survey


def session_or_run(path: Path) -> Path:
    """The folder that asks people: one that `align annotate push --candidates` made, or the run that `path` means."""
    from align.labelling.session import has_session

    return path if has_session(path) else run_of(path)


FOLDER = typer.Argument(
    ...,
    callback=session_or_run,
    help="A run's folder or its recipe's, or a folder that `align annotate push --candidates` made.",
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
HEAD = ["annotator", "done", "skipped", "drafts", "an hour", "agrees", "control items", "left", "consistent"]


NUMBERS = (1, 2, 3, 4)
"""Columns that stand to the right."""


def status(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """How far the labelling is, how each annotator gets on, and how long the rest will take.

    Beside what is done, skipped and kept as a draft: tasks an hour (pauses over five minutes aside); how often the others said the same; how many
    control items with a known answer were answered so; how often the answer on the left was said to be better; and how
    many repeated tasks were answered alike. Shares come with their 95% intervals.
    """
    from align.cli.display import print_json, print_table, say
    from align.labelling.comparison import win_rate
    from align.labelling.session import open_backend
    from align.labelling.survey import survey
    from align.stages.sessions import open_session

    session = open_session(folder)
    found = survey(session, open_backend(session))
    won = win_rate(folder, session.tasks, found.judgements)
    if as_json:
        print_json(found.as_dict() | ({"win_rate": won} if won else {}))
        return
    for line in [*_lines(found), *([winner(won)] if won else []), *found.notes]:
        say(line)
    if found.people:
        print_table([HEAD, *_rows(found)], right=NUMBERS)


def watch(
    folder: Path = FOLDER,
    every: float = typer.Option(
        3.0, "--every", min=0.2, help="Seconds between two looks; more where a look takes long."
    ),
) -> None:
    """Follow the labelling until nothing more is asked, or until Ctrl-C. Only looks: `align run --wait` goes on too.

    Without a terminal it prints a line whenever something changed.
    """
    from rich.console import Console
    from rich.live import Live

    from align.cli.display import say

    seen = None
    if not sys.stdout.isatty():
        for seen in _looks(folder, every):
            say(_lines(seen)[0])
    else:
        with Live(console=Console(highlight=False), auto_refresh=False) as live:
            for seen in _looks(folder, every):
                live.update(_page(seen), refresh=True)
    if seen is not None:
        then = (
            "`align run` goes on"
            if (folder / "run.json").is_file()
            else f"`align annotate pull {folder}` takes them in"
        )
        say(f"closed: {seen.closed}" if seen.closed else f"nothing is open any more; {then}")


def winner(won: dict[str, Any]) -> str:
    """How a blind comparison stands, in a sentence."""
    if won["mean"] is None:
        return f"win rate of --candidates over --against: not known, for {won['reason']}"
    ties = f"{counted(won['ties'], 'tie')} ({won['same']} without asking, {won['both_bad']} both bad)"
    return (
        f"win rate of --candidates over --against: {interval(won)}, 95% interval over {counted(won['clusters'], 'prompt')}; "
        f"{counted(won['wins'], 'win')}, {ties}, {counted(won['losses'], 'loss', 'losses')}"
    )


def _looks(folder: Path, every: float) -> Iterator["Survey"]:
    """A survey whenever something has changed; the last one finds nothing open. At most a quarter of the time is spent
    on looking, for at fifty thousand tasks a look is work for the server too."""
    from align.labelling.session import open_backend
    from align.labelling.survey import survey
    from align.stages.sessions import open_session
    from annotation.journal import read_journal

    session = open_session(folder)
    backend, journal = open_backend(session), read_journal(session.journal, ())
    before: tuple[Any, ...] = ()
    while True:
        journal.read_on()
        began = time.monotonic()
        now = (backend.version(), journal.closed.get(session.tasks_id), journal.forgotten)
        if now != before:
            before, found = now, survey(session, backend)
            yield found
            if found.closed is not None or found.progress.open == 0:
                return
        time.sleep(max(every, 3 * (time.monotonic() - began)))


def _lines(found: "Survey") -> list[str]:
    from align.labelling.session import dropped_text, late_text, left_behind_text, short_text

    state = found.progress
    done = f"{state.completed} of {state.tasks} tasks are complete; {state.answers} of {state.wanted} answers are in"
    if short := short_text(state.exhausted):
        done += f"; {short}"
    besides = [_drafts(state.drafts), dropped_text(state.dropped), left_behind_text(found.superseded)]
    if found.closed is not None:
        said = [done, f"closed: {found.closed}", late_text(found.late) if found.late else "", *besides]
    else:
        said = [f"{done}; {_time_left(found.left)}", f"open; label at {found.url}", *besides]
    return [line for line in said if line]


def _drafts(count: int) -> str:
    return (
        f"{counted(count, 'draft')} {'is' if count == 1 else 'are'} not submitted, and no answer yet" if count else ""
    )


def _time_left(left: dict[str, Any]) -> str:
    nobody = left["nobody"]
    new = f"{counted(nobody, 'answer')} {'waits' if nobody == 1 else 'wait'} for somebody new" if nobody else ""
    if left["answers"] == 0:
        return new or "none is missing"
    if left["hours"] is None:
        time_left = f"unknown ({left['reason']})"
    else:
        together = " together" if left["people"] > 1 else ""
        time_left = f"{duration(3600 * left['hours'])} for {counted(left['people'], 'person', 'people')}{together}"
    return f"time left: {time_left}" + (f"; {new}" if new else "")


def _rows(found: "Survey") -> list[list[str]]:
    return [
        [person["name"], str(person["submitted"]), str(person["skipped"]), str(person["drafts"]), _pace(person)]
        + [interval(person[what]) for what in ("agreement", "gold", "left", "consistency")]
        for person in found.people.values()
    ]


def _pace(person: dict[str, Any]) -> str:
    pace = person["pace"]["tasks_per_hour"]
    return NONE if pace is None else f"{pace:.0f}"


def _page(found: "Survey") -> "RenderableType":
    """What `status` prints, for a terminal that is written over."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from align.cli.display import one_line

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="right" if number in NUMBERS else "left")
    for row in _rows(found):
        table.add_row(*(escape(one_line(cell)) for cell in row))
    return Group(*(escape(one_line(line)) for line in _lines(found)), table)
