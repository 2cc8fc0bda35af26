"""`align annotate import`: judgements that were made elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from align.cli.status import JSON
from align.figures import counted

if TYPE_CHECKING:
    from align.labelling.outside.words import Reading

Format = Literal["rows", "argilla", "label-studio"]
Model = Literal["auto", "bradley_terry", "dawid_skene", "majority"]


def import_judgements(
    files: list[Path] = typer.Argument(..., help="Files of judgements: .jsonl, .jsonl.gz, .parquet, .json or .csv."),
    out: Path = typer.Option(
        None, "--out", help="Write to this new folder: the judgements, the compiled labels and the report."
    ),
    into: Path = typer.Option(
        None,
        "--into",
        help="Or add to this folder: a run, or a labelling session of `align annotate push`, whose tasks the judgements"
        " are about.",
    ),
    format: Format = typer.Option(
        None, "--format", help="The format of the files. Default: detected from their content."
    ),
    annotator: str = typer.Option(
        None, "--annotator", help="The annotator for judgements that name no annotator. Without it these are dropped."
    ),
    prompt: str = typer.Option(None, "--prompt", help="The field with the prompt."),
    answers: str = typer.Option(None, "--answers", help="The fields with the answers, from left to right: one,two."),
    question: str = typer.Option(None, "--question", help="The question, or field, with the annotators' judgement."),
    scale: str = typer.Option(
        None, "--scale", help="The lowest and the highest rating, for example 1:10. Default: 1:5."
    ),
    outcome: list[str] = typer.Option(
        None,
        "--outcome",
        help="What a label means, for example 'Option 1=a'. Repeat it for each label. The meanings are a, b, tie,"
        " both_bad, good, bad, skipped.",
    ),
    compiler: Model = typer.Option(None, "--compiler", help="The label compiler's model. Default: auto."),
    as_json: bool = JSON,
) -> None:
    """Import judgements that were made elsewhere.

    Reads your own rows, the output of `align annotate export`, and exports of Argilla and Label Studio (docs/files.md
    describes the formats), and reports how it understood them. With --out, it compiles them like align's own
    judgements, to files that `align dpo`, `align kto` and recipes read. With --into, it adds them to the journal of a
    labelling session (the append-only file of all judgements), without duplicates.
    """
    from align.cli.display import print_json, say
    from align.errors import ConfigError
    from align.provenance.export import ROW
    from align.provenance.imported import import_files, report_lines

    if (out is None) == (into is None):
        raise ConfigError("say where the judgements go", hint="give either --out FOLDER or --into FOLDER")
    reading = _reading(format, annotator, prompt, answers, question, scale, outcome or [])
    if out is not None:
        report = import_files(files, out, reading, compiler or "auto")
        made = ", ".join(counted(count, ROW[part]) for part, count in report["compiled"].items())
        why = f" ({report['choice']['reason']})" if report["choice"] else ""
        last = [f"compiled by {report['model']}{why}: {made} in {out}", *report["notes"]]
    else:
        if compiler is not None:
            raise ConfigError("nothing is compiled here", where="--compiler", hint="leave it out, or give --out")
        report, last = _into(files, into, reading)
    if as_json:
        print_json(report)
        return
    for line in [*report_lines(report), *last]:
        say(line)


def _into(files: list[Path], folder: Path, reading: "Reading") -> tuple[dict[str, object], list[str]]:
    from align.labelling.session import late_text
    from align.pipeline.lock import run_lock
    from align.provenance.imported import import_into
    from align.stages.sessions import open_session

    session = open_session(folder)
    with run_lock(folder):
        report = import_into(files, session, folder, reading)
    lines = [
        f"{report['new']} new judgements in {folder}, as if people had seen the answers in this session's positions"
    ]
    if report["known_annotators"]:
        same = ", ".join(f"{name} ({count})" for name, count in report["known_annotators"].items())
        lines.append(f"annotators assumed to be the same people as in the journal: {same}")
    if report["forgotten"]:
        lines.append(
            f"{report['forgotten']} were not imported: their annotators or tasks were forgotten (`align forget`)"
        )
    return report, lines + ([late_text(report["late"])] if report["late"] else [])


def _reading(
    format: Format | None,
    annotator: str | None,
    prompt: str | None,
    answers: str | None,
    question: str | None,
    scale: str | None,
    outcome: list[str],
) -> "Reading":
    from align.errors import ConfigError
    from align.labelling.outside.words import Reading

    meanings: dict[str, str] = {}
    for given in outcome:
        label, equals, meaning = given.rpartition("=")
        if not equals or not label or meaning not in ("a", "b", "tie", "both_bad", "good", "bad", "skipped"):
            raise ConfigError(f"{given!r} does not say what a label means", where="--outcome", hint="as 'Option 1=a'")
        meanings[label] = meaning
    if annotator is not None and not annotator.strip():
        raise ConfigError("the name is empty", where="--annotator", hint="give a name, or leave it out")
    names = tuple(name.strip() for name in answers.split(",")) if answers else ()
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"{answers!r} does not name each field once", where="--answers", hint="as left,right")
    return Reading(format, annotator, prompt, names, question, _scale(scale), meanings)


def _scale(text: str | None) -> tuple[float, float] | None:
    from math import isfinite

    from align.errors import ConfigError

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigError(f"{text!r} is not a scale", where="--scale", hint="lowest:highest, as 1:10")
    return low, high
