"""`align forget`: judgements out of a run, and what was made of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from align.cli.status import FOLDER
from align.figures import counted

if TYPE_CHECKING:
    from align.errors import AlignError
    from align.labelling.session import Session
    from align.provenance.forget import Wish

ROWS = ("preferences", "binary", "edits")
MODELS = ("checkpoints", "reward_models")
ELSEWHERE = (
    "what left this folder is not known here: exports (`align annotate export`), mirrors, backups, and receivers of webhooks; "
    "erase it there"
)


def forget(
    folder: Path = FOLDER,
    annotator: str = typer.Option(
        None, "--annotator", help="Forget all that this annotator (a name or an id) said, and will say here."
    ),
    prompt: str = typer.Option(
        None, "--prompt", help="Forget all that was said about this prompt (its id or the beginning of it)."
    ),
    yes: bool = typer.Option(False, "--yes", help="Forget; without it the command only says what was made of it."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Take judgements back for good, erase what was said from the journal and the annotation server, compile again without
    them, and list all that was made with them, and where the words remain. Where the labelling is open, others are asked
    instead.

    Checkpoints are not trained again here; `align status` marks them until `align run` has done it.
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
        say(f"the server was not asked who is called what now: {unheard}")
    wanted = wish(folder, annotator=annotator, prompt=prompt, people=people)
    found = used_by(wanted)
    if not yes:
        _report(wanted, found, as_json)
        return
    write_tombstones(wanted)
    erased = erase(session, wanted)
    recompiled = _compile_anew(folder)
    if (folder / RUN).is_file():
        renew_derived(folder)
    held = still_holding(wanted)
    if as_json:
        done = {"recompiled": recompiled, "withdrawn": erased.answers, "drafts": erased.drafts}
        done |= {"erased": erased.judgements, "remains": [*held, *erased.remains]}
        print_json({wanted.kind: wanted.id, "name": wanted.name, "forgotten": yes, **found, **done})
    else:
        _say(wanted.name, found, yes)
        say(f"compiled again: {', '.join(recompiled) or 'nothing had to be'}")
        say(
            f"erased: {counted(erased.judgements, 'judgement')} in the journal, {counted(erased.answers, 'answer')} and "
            f"{counted(erased.drafts, 'draft')} on the server"
        )
        for line in _where_else(held, erased.remains):
            say(line)
    if erased.failed is not None:
        raise erased.failed


def _people(session: "Session") -> "tuple[dict[str, str], AlignError | None]":
    """Whom the server knows, and why it could not be asked."""
    from align.errors import ConfigError, ServiceError
    from align.provenance.forget import people_of

    try:
        return people_of(session), None
    except (ServiceError, ConfigError) as error:  # the journal alone may know the name; a --yes ends with this error
        return {}, error


def _where_else(held: list[str], remains: list[str]) -> list[str]:
    """Where words still are, and how they go."""
    lines = [f"remains: {line}" for line in remains]
    if held:
        lines += [f"remains: {path}" for path in held]
        lines += [
            "`align run` makes those of these folders again that a pointer names, and `align clean --yes` removes the others"
        ]
    return [*lines, ELSEWHERE]


def _report(wanted: "Wish", found: dict[str, Any], as_json: bool) -> None:
    from align.cli.display import print_json

    if as_json:
        done = {"recompiled": [], "withdrawn": 0, "drafts": 0, "erased": 0, "remains": []}
        print_json({wanted.kind: wanted.id, "name": wanted.name, "forgotten": False, **found, **done})
    else:
        _say(wanted.name, found, False)


def _compile_anew(folder: Path) -> list[str]:
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
    from align.provenance.export import ROW

    counts = ", ".join(counted(len(found[what]), ROW.get(what, what.removesuffix("s"))) for what in ROWS)
    verb = "forgotten" if yes else "would forget"
    typer.echo(f"{plain(name)}: {verb} {counted(len(found['judgements']), 'judgement')}; made with them: {counts}")
    for what in MODELS:
        for model in found[what]:
            state = "valid" if model["valid"] else "superseded"
            typer.echo(f"  {what.removesuffix('s').replace('_', ' ')} {model['id'][:12]} of {model['stage']}, {state}")
    if not yes:
        typer.echo("nothing is changed yet; say --yes to forget")
