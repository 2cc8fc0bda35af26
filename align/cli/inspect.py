"""Verbs that inspect a run: `status`, `report`, `samples`, `lineage`, `clean`."""

from pathlib import Path
from typing import Any, Literal

import typer

from align.figures import counted, duration


def run_of(path: Path) -> Path:
    """The folder of the run that `path` refers to (`align.pipeline.run.find_run`); else `path` itself, and the verbs
    report that there is no run."""
    from align.pipeline.run import find_run

    return find_run(path) or path


RUN = typer.Argument(
    ...,
    callback=run_of,
    help="The folder of the run, such as runs/support-desk, anything inside it, or the folder of its recipe.",
)
JSON = typer.Option(False, "--json", help="Print the result as JSON.")


def status(folder: Path = RUN, as_json: bool = JSON) -> None:
    """Show which stages are done, and the progress of labelling."""
    from align.cli.display import print_json, print_table, say
    from align.report.data import report_data

    data = report_data(folder)
    if as_json:
        print_json({name: data[name] for name in ("name", "state", "state_text", "rounds_planned", "stages", "notes")})
        return
    say(f"{data['name']}: {data['state_text']}")
    print_table(
        [
            ["stage", "time", "key"],
            *([f"{s['round']}/{s['stage']}", duration(s["seconds"]), s["key"][:12]] for s in data["stages"]),
        ],
        right=(1,),
    )
    for note in data["notes"]:
        say(note)


def report(
    folder: Path = RUN,
    format: Literal["html", "json", "text"] = typer.Option(
        "html", "--format", help="html writes a page; json and text print to the terminal."
    ),
    as_json: bool = typer.Option(False, "--json", help="The same as --format json."),
) -> None:
    """Write the HTML report, or print its numbers."""
    from align.cli.display import print_json, say
    from align.report.data import report_data
    from align.report.html import write_report
    from align.report.table import summary_lines

    if as_json or format == "json":
        print_json(report_data(folder))
    elif format == "text":
        for line in summary_lines(report_data(folder)):
            say(line)
    else:
        typer.echo(f"report: {write_report(folder)}")


def samples(
    folder: Path = RUN,
    round: int = typer.Option(None, "--round", min=1, help="The round. Default: the latest that has answers."),
    search: str = typer.Option(None, "--search", help="Show only prompts and answers that contain this text."),
    limit: int = typer.Option(10, "--limit", min=1, help="Number of prompts to show."),
    as_json: bool = JSON,
) -> None:
    """Show prompts, answers and labels of a round.

    Labels come with the reasons, flags and corrected answers that people gave.
    """
    from align.cli.display import indented, print_json, say
    from align.provenance.browse import browse

    found = browse(folder, round, search)
    if as_json:
        print_json(found[:limit])
        return
    for prompt in found[:limit]:
        typer.echo(f"── round {prompt['round']}, prompt {prompt['prompt_id'][:12]}")
        for message in prompt["messages"]:
            typer.echo(indented(f"{message['role']}: {message['content']}", "  │ "))
        for answer in prompt["answers"]:
            typer.echo(indented(f"  [{answer['id'][:8]}] {answer['text']}", "    │ "))
        for label in prompt["labels"]:
            say(f"  {label['name']}: {label['said']}")
            for flag in label["flags"]:
                say(f"    flagged {flag}")
            for what, text in (("reason", label["reason"]), ("written instead", label["edit"])):
                if text:
                    typer.echo(indented(f"    {what}: {text}", "      │ "))
    if not found:
        typer.echo("nothing found")
    if len(found) > limit:
        typer.echo(f"{limit} of {counted(len(found), 'prompt')}; --limit shows more")


def lineage(
    folder: Path = RUN,
    identity: str = typer.Argument(
        ...,
        help="The id (or its first characters) of a checkpoint, preference, candidate, judgement or task; the name or"
        " id of an annotator; or the stage (1/policy), key or folder of a model.",
    ),
    as_json: bool = JSON,
) -> None:
    """Show what an item was made from, and what was made from it.

    An item is a model, a row of training data, an answer, a task, a judgement or an annotator.
    """
    from align.cli.display import print_json, say
    from align.provenance.lineage import trace

    found = trace(folder, identity)
    if as_json:
        print_json(found)
        return
    say(f"{found['kind']} {found['names'].get(found['id'], found['id'])}")
    for side in ("from", "into"):
        for kind, names in found[side].items():
            shown = ", ".join(found["names"].get(name, name[:12]) for name in names[:8])
            what = counted(len(names), kind.removesuffix("s").replace("_", " "))
            say(f"  {side} {what}: {shown}{' …' if len(names) > 8 else ''}")


def _no_part(path: Path) -> Path:
    """As `run_of`, but a folder inside a run does not mean the run: that is for inspecting, not for deleting."""
    found = run_of(path)
    return path if found.resolve() in path.resolve().parents else found


def clean(
    folder: Path = typer.Argument(
        ..., callback=_no_part, help="The folder of the run, such as runs/support-desk, or of its recipe."
    ),
    yes: bool = typer.Option(
        False, "--yes", help="Remove them. Without --yes the command only lists what it would remove."
    ),
    as_json: bool = JSON,
) -> None:
    """Remove stage folders that the run no longer needs.

    These are superseded, archived and incomplete stage folders, which no pointer refers to. Labels are never removed.
    """
    from align.cli.display import print_json, say
    from align.provenance.clean import remove, unreachable
    from align.report.html import renew_derived

    found = remove(folder) if yes else unreachable(folder)
    if yes:
        renew_derived(folder)
    rows: list[dict[str, Any]] = [{"path": str(path), "bytes": size, "removed": yes} for path, size in found]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        say(f"{'removed' if yes else 'would remove'} {row['path']} ({row['bytes'] / 1e6:.1f} MB)")
    total = sum(row["bytes"] for row in rows) / 1e6
    typer.echo(
        f"{counted(len(rows), 'folder')}, {total:.1f} MB" + ("" if yes or not rows else "; add --yes to remove them")
    )
