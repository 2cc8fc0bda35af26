"""`align annotate status` and `align annotate watch`: the progress of labelling."""

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
    """The folder with the labelling session: one that `align annotate push --candidates` made, or the run of `path`."""
    from align.labelling.session import has_session

    return path if has_session(path) else run_of(path)


FOLDER = typer.Argument(
    ...,
    callback=session_or_run,
    help="The folder of a run or of its recipe, or a folder that `align annotate push --candidates` made.",
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
HEAD = ["annotator", "done", "skipped", "drafts", "an hour", "agrees", "control items", "left", "consistent"]


NUMBERS = (1, 2, 3, 4)
"""Right-aligned columns."""


def status(folder: Path = FOLDER, as_json: bool = JSON) -> None:
    """Show the progress of labelling, each annotator and the time left.

    For each annotator: tasks done, skipped and saved as drafts; tasks per hour (without pauses over five minutes);
    agreement with the other annotators; the share of control items answered correctly (their right answer is known);
    how often the answer on the left was preferred; and the share of repeated tasks answered the same way. Shares come
    with their 95% intervals.
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
    every: float = typer.Option(3.0, "--every", min=0.2, help="Seconds between updates; more if an update takes long."),
) -> None:
    """Follow labelling until it is complete, or until Ctrl-C.

    This only shows progress; `align run --wait` also continues the run. Without a terminal it prints a line whenever
    something changed.
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
            "`align run` continues"
            if (folder / "run.json").is_file()
            else f"`align annotate pull {folder}` fetches the judgements"
        )
        say(f"closed: {seen.closed}" if seen.closed else f"no task is open; {then}")


def winner(won: dict[str, Any]) -> str:
    """The result of a blind comparison so far, in a sentence."""
    if won["mean"] is None:
        return f"win rate of --candidates over --against: unknown, because {won['reason']}"
    ties = f"{counted(won['ties'], 'tie')} ({won['same']} without asking, {won['both_bad']} both bad)"
    return (
        f"win rate of --candidates over --against: {interval(won)}, 95% interval over "
        f"{counted(won['clusters'], 'prompt')}; {counted(won['wins'], 'win')}, {ties}, "
        f"{counted(won['losses'], 'loss', 'losses')}"
    )


def _looks(folder: Path, every: float) -> Iterator["Survey"]:
    """A survey whenever something has changed; the last one finds no open task. At most a quarter of the time goes into
    surveys, because with fifty thousand tasks a survey loads the server too."""
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
        f"{counted(count, 'draft')} {'is' if count == 1 else 'are'} not submitted yet, and not counted" if count else ""
    )


def _time_left(left: dict[str, Any]) -> str:
    nobody = left["nobody"]
    new = f"{counted(nobody, 'answer')} {'needs' if nobody == 1 else 'need'} a new annotator" if nobody else ""
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
    """What `status` prints, for a terminal that is redrawn."""
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
