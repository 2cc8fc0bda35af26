"""Judgements from outside as files: what was said, what it compiles to, and a report of what was understood."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from align.dropped import count_reasons
from align.errors import ConfigError, DataError
from align.figures import interval, share
from align.labelling.outside.assemble import assemble
from align.labelling.outside.load import read_files, require_most, sides_drawn, understood
from align.labelling.outside.match import about_tasks, new_to
from align.labelling.outside.words import Reading, Word
from align.labelling.session import Session, journal_of
from align.provenance.export import parts_of
from align.store import fresh_folder, publish, write_json, write_rows
from align.types import Dropped, Judgement, Task, as_dict, from_table
from annotation.agreement import summary
from annotation.crowd.advice import name_people
from annotation.journal import append, record
from annotation.tasks import item_of

REPORT = "report.json"


def import_files(paths: Sequence[Path], out: Path, reading: Reading, model: str) -> dict[str, Any]:
    """Make `out`: judgements.jsonl, what they compile to by `model` (preferences, binary labels, demonstrations),
    dropped.jsonl and report.json, which is returned.

    Raises ConfigError where `out` is there already or a file can be read in two ways, DataError where most rows cannot
    be used.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already", where="--out", hint="name another folder, or remove this one")
    said = read_files(paths, reading)
    tasks, judgements, more = assemble(said.words)
    dropped = said.dropped + more
    require_most(said, len(judgements), dropped)
    names = _names(said.words, judgements)
    parts, compiled = parts_of(tasks, judgements, names, model, sides_drawn=sides_drawn(said))
    report = understood(said, tasks, judgements, dropped) | {
        "agreement": _agreement(tasks, judgements),
        "compiled": {name: len(rows) for name, rows in parts.items() if name != "judgements"},
        "model": compiled.model,
        "choice": compiled.choice,
        "notes": name_people(compiled.notes, names),
    }
    parts["dropped"] = list(map(as_dict, dropped + from_table(Dropped, compiled.dropped)))
    partial = fresh_folder(out.with_name(out.name + ".partial"))
    for name, rows in parts.items():
        write_rows(partial / f"{name}.jsonl", rows)
    write_json(partial / REPORT, report)
    publish(partial, out)
    return report


def import_into(paths: Sequence[Path], session: Session, folder: Path, reading: Reading) -> dict[str, Any]:
    """Take what the files say about the tasks of `session` into its journal, and write `imported_dropped.jsonl` beside
    it.

    Whoever is named in a file is that person alone: nobody on the server is taken for them because of a name. Only who
    is in the journal under the same id is the same person: these are counted in `known_annotators`. What the journal
    has is not written again, and what it has of a later time stays.
    """
    said = read_files(paths, reading)
    found, more = about_tasks(said.words, session.tasks)
    judgements = [judgement for judgement, _ in found]
    dropped = said.dropped + more
    require_most(said, len(judgements), dropped)
    journal = journal_of(session)
    hidden, everybody = journal.forgotten, journal.everybody()
    new, known = new_to(journal, [(j, where) for j, where in found if not hidden.hide(j.id, j.annotator, j.task_id)])
    forgotten = len(judgements) - len(new) - len(known)
    names = _names(said.words, judgements)
    strangers = {j.annotator for j in new} - journal.names.keys() - everybody.keys()
    append(session.journal, [{"type": "person", "id": who, "name": names.get(who, who)} for who in sorted(strangers)])
    same = Counter(j.annotator for j in judgements if j.annotator in everybody)
    fresh = record(session.journal, new)
    write_rows(folder / "imported_dropped.jsonl", map(as_dict, dropped + known))
    answered = {j.task_id for j in judgements}
    asked = [task for task in session.tasks if task.id in answered]
    late = len(journal_of(session).late([task.id for task in session.tasks], session.tasks_id))
    report = understood(said, asked, judgements, dropped) | {"agreement": _agreement(asked, judgements)}
    taken = {"new": len(fresh), "forgotten": forgotten, "late": late, "dropped": count_reasons(dropped + known)}
    return report | taken | {"known_annotators": {journal.called(who): count for who, count in same.items()}}


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people, a line a fact."""
    formats = ", ".join(f"{name} ({format})" for name, format in report["formats"].items())
    kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in report["kinds"].items())
    lines = [
        f"read: {formats}; {report['rows']:,} rows",
        f"understood: {report['judgements']:,} judgements ({kinds or 'none'}) by {report['annotators']:,} annotators "
        f"on {report['tasks']:,} tasks, {report['prompts']:,} prompts; {report['ties']:,} ties, {report['skips']:,} skips",
        _sides_text(report),
    ]
    if report["ignored"]:
        lines.append(f"ignored fields: {', '.join(f'{name} ({n:,})' for name, n in report['ignored'].items())}")
    if report["left_out"]:
        lines.append(f"to know: {', '.join(f'{n:,} {what}' for what, n in report['left_out'].items())}")
    if report["dropped"]:
        lines.append(f"dropped: {', '.join(f'{n:,} × {why}' for why, n in report['dropped'].items())}")
    if report["mostly_dropped"]:
        lines.append(report["mostly_dropped"])
    lines.append(_agreement_text(report["agreement"]))
    return lines


def _sides_text(report: Mapping[str, Any]) -> str:
    known, all_of = report["sides_known"], report["judgements"]
    if known:
        return f"sides: known of {known:,} judgements, so a habit of choosing one side can be seen"
    return f"sides: not known of any of {all_of:,} judgements, so nothing is said of a habit of choosing one side"


def _agreement_text(agreement: Mapping[str, Any]) -> str:
    if agreement["alpha"]["value"] is None:
        return f"agreement: not known ({agreement['alpha']['reason']})"
    alpha, percent = agreement["alpha"], agreement["percent_agreement"]
    return (
        f"agreement: alpha {interval(alpha)}, two say the same "
        f"{share(percent['value'])} of the time, on {alpha['tasks']:,} tasks"
    )


def _agreement(tasks: list[Task], judgements: list[Judgement]) -> dict[str, Any]:
    """Of those who saw a pair in either order together."""
    items = {task.id: item_of(task) for task in tasks}
    merged = [replace(judgement, task_id=items[judgement.task_id]) for judgement in judgements]
    found = summary([replace(task, id=items[task.id]) for task in tasks], merged)
    return {name: found[name] for name in ("percent_agreement", "alpha", "fleiss")}


def _names(words: Sequence[Word], judgements: Sequence[Judgement]) -> dict[str, str]:
    """What annotators are called, where a file says it. DataError where it says two things of one."""
    counted = {judgement.annotator for judgement in judgements}
    names: dict[str, str] = {}
    for word in words:
        if word.name is None or word.annotator not in counted:
            continue
        if names.setdefault(word.annotator, word.name) != word.name:
            raise DataError(
                f"the annotator {word.annotator!r} is called {names[word.annotator]!r} and {word.name!r}",
                where=word.where,
                hint="give one `name` for each `annotator`, or leave names out",
            )
    return names
