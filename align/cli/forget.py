"""`align forget`: deletes judgements from a run, and lists what was made from them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from align.cli.status import FOLDER
from align.figures import counted

if TYPE_CHECKING:
    from align.errors import AlignError
    from align.labelling.session import Session
    from align.provenance.forget import Wish

ROWS = {"preferences": "preference", "binary": "binary label", "edits": "edit"}
MODELS = ("checkpoints", "reward_models")
ELSEWHERE = (
    "copies outside this folder are unknown here: exports (`align annotate export`), mirrors, backups and receivers of "
    "webhooks; erase them there"
)


def forget(
    folder: Path = FOLDER,
    annotator: str = typer.Option(
        None, "--annotator", help="Forget all judgements of this annotator (a name or an id), also future ones here."
    ),
    prompt: str = typer.Option(
        None, "--prompt", help="Forget all judgements about this prompt (its id or the first characters of it)."
    ),
    yes: bool = typer.Option(
        False, "--yes", help="Forget them. Without --yes the command only lists what was made with them."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Delete judgements for good, and list what was made with them.

    Erases the judgements from the journal (the file of all judgements) and from the annotation server, compiles the
    labels again without them, and lists everything that was made with them and where their text remains. While
    labelling is open, other annotators are asked instead.

    This does not train checkpoints again: `align status` marks them until `align run` has done it.
    """
    from align.cli.display import print_json, say
    from align.labelling.session import has_session
    from align.pipeline.run import RUN, require_run
    from align.provenance.forget import erase, still_holding, used_by, wish, write_tombstones
    from align.report.html import renew_derived
    from align.stages.sessions import open_session

    if not has_session(folder):
        require_run(folder)
    session = open_session(folder)
    people, unheard = _people(session) if annotator is not None else ({}, None)
    if unheard is not None and not as_json:
        say(f"could not ask the server for current user names: {unheard}")
    wanted = wish(folder, annotator=annotator, prompt=prompt, people=people)
    found = used_by(wanted)
    if not yes:
        _report(wanted, found, as_json)
        return
    write_tombstones(wanted)
    erased = erase(session, wanted)
    recompiled = _compile_again(folder)
    if (folder / RUN).is_file():
        renew_derived(folder)
    held = still_holding(wanted)
    if as_json:
        done = {"recompiled": recompiled, "withdrawn": erased.answers, "drafts": erased.drafts}
        done |= {"erased": erased.judgements, "remains": [*held, *erased.remains]}
        print_json({wanted.kind: wanted.id, "name": wanted.name, "forgotten": yes, **found, **done})
    else:
        _say(wanted.name, found, yes)
        say(f"compiled again: {', '.join(recompiled) or 'nothing'}")
        say(
            f"erased: {counted(erased.judgements, 'judgement')} in the journal, {counted(erased.answers, 'answer')} "
            f"and {counted(erased.drafts, 'draft')} on the server"
        )
        for line in _where_else(held, erased.remains):
            say(line)
    if erased.failed is not None:
        raise erased.failed


def _people(session: "Session") -> "tuple[dict[str, str], AlignError | None]":
    """The users that the server knows, or why it could not be asked."""
    from align.errors import ConfigError, ServiceError
    from align.provenance.forget import people_of

    try:
        return people_of(session), None
    except (ServiceError, ConfigError) as error:  # the journal alone may know the name; a --yes ends with this error
        return {}, error


def _where_else(held: list[str], remains: list[str]) -> list[str]:
    """Where the text remains, and how to delete it."""
    lines = [f"remains: {line}" for line in remains]
    if held:
        lines += [f"remains: {path}" for path in held]
        lines += [
            "`align run` makes the folders that the run still uses again, and `align clean --yes` deletes the others"
        ]
    return [*lines, ELSEWHERE]


def _report(wanted: "Wish", found: dict[str, Any], as_json: bool) -> None:
    from align.cli.display import print_json

    if as_json:
        done = {"recompiled": [], "withdrawn": 0, "drafts": 0, "erased": 0, "remains": []}
        print_json({wanted.kind: wanted.id, "name": wanted.name, "forgotten": False, **found, **done})
    else:
        _say(wanted.name, found, False)


def _compile_again(folder: Path) -> list[str]:
    """Snapshots and preferences of a run, and the files that `align annotate pull` wrote."""
    from align.labelling.session import has_session
    from align.pipeline.run import open_run
    from align.provenance.export import pull_files
    from align.stages.rounds import recompile
    from align.stages.sessions import open_session

    done = []
    if not has_session(folder):
        done += [str(ref) for ref in recompile(open_run(folder), lambda event: None)]
    if (folder / "preferences.jsonl").is_file():
        counts, _ = pull_files(open_session(folder), folder)
        done += [f"{name}.jsonl" for name in counts]
    return done


def _say(name: str, found: dict[str, Any], yes: bool) -> None:
    from align.cli.display import plain

    counts = ", ".join(counted(len(found[what]), row) for what, row in ROWS.items())
    verb = "forgotten" if yes else "would forget"
    typer.echo(f"{plain(name)}: {verb} {counted(len(found['judgements']), 'judgement')}; made from them: {counts}")
    for what in MODELS:
        for model in found[what]:
            state = "valid" if model["valid"] else "superseded"
            typer.echo(f"  {what.removesuffix('s').replace('_', ' ')} {model['id'][:12]} of {model['stage']}, {state}")
    if not yes:
        typer.echo("nothing has changed yet; add --yes to forget")
