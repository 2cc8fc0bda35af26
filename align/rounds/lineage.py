"""Lineage: from a checkpoint to its pairs, answers and annotators, and back.

`lineage.sqlite` is an index over the receipts in force and their files. It holds nothing of its own: it is rebuilt
whenever it is about other results than those in force, and may be deleted at any time.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from align.errors import ConfigError, DataError
from align.ids import content_id, file_id, is_whole, with_check
from align.rounds.intact import require_readable
from align.rounds.journal import Journal, read_journal
from align.rounds.run import require_run
from align.rounds.stage import RECEIPT, Receipt, Ref, current, pointers, stage_folder
from align.store import disk_errors, read_json, read_table, write_json

INDEX, NOTE = "lineage.sqlite", "lineage.json"
SCHEMA = """
CREATE TABLE stages (output TEXT, round INTEGER, stage TEXT, key TEXT, seconds REAL);
CREATE TABLE edges (source TEXT, source_kind TEXT, target TEXT, target_kind TEXT);
CREATE INDEX by_source ON edges (source);
CREATE INDEX by_target ON edges (target);
"""
ORDER = ["annotators", "judgements", "tasks", "prompts", "candidates", "preferences", "thumbs", "edits"]
ORDER += ["reward models", "checkpoints"]
KINDS = {"policy": "checkpoints", "reward": "reward models"}
"""Stages that publish a model, and what the model is called."""


def trace(run: Path, identity: str) -> dict[str, Any]:
    """All that `identity` (or its beginning) came from and went into: `{id, kind, from: {kind: ids}, into: {…}}`.

    An annotator is found by name too, and `names` has what annotators are called. A model may be named by its stage
    (`1/policy`), its stage's key (or the beginning of it) or its folder too. Raises ConfigError for an id that is not
    there or a beginning that several share.
    """
    people = read_journal(run / "journal.jsonl", ())
    identity = _model_of(run, identity) or identity
    if len(named := people.find(identity)) == 1:
        identity = named[0]
    with closing(sqlite3.connect(build_index(run))) as index:
        found = _found(index, identity)
        exact = [row for row in found if row[0] == identity]
        match exact or found:
            case []:
                raise ConfigError(
                    f"nothing in this run has the id {identity!r}",
                    where=str(run),
                    hint="`align samples` and `align report --format json` show ids",
                )
            case [(name, kind)]:
                reached = {side: _reach(index, name, back=side == "from") for side in ("from", "into")}
                concerned = {who for kinds in reached.values() for who in kinds.get("annotators", ())}
                concerned |= {name} if kind == "annotators" else set()
                names = {who: people.called(who) for who in sorted(concerned)}
                return {"id": name, "kind": kind.removesuffix("s"), **reached, "names": names}
            case many:
                raise ConfigError(f"{len(many)} ids begin with {identity!r}", where=str(run), hint="give more of it")


def _model_of(run: Path, name: str) -> str | None:
    """The id of the model that a stage, a key or a folder names; None where `name` is none of these."""
    require_run(run)
    wanted = Path(name).resolve().name if Path(name).is_dir() else name
    for ref, _ in pointers(run):
        receipt = current(run, ref) if ref.stage in KINDS else None
        named = receipt is not None and (str(ref) == wanted or (len(wanted) >= 6 and receipt.key.startswith(wanted)))
        if receipt is not None and named:
            return str(receipt.summary["checkpoint"])
    return None


def _found(index: sqlite3.Connection, identity: str) -> list[tuple[str, str]]:
    return index.execute(
        "SELECT source, source_kind FROM edges WHERE source = ?1 OR source LIKE ?2 UNION SELECT target, target_kind FROM edges WHERE target = ?1 OR target LIKE ?2",
        (identity, _beginning(identity)),
    ).fetchall()


def build_index(run: Path) -> Path:
    """Make `lineage.sqlite` if it is missing, damaged or about other results than the run holds; returns its path."""
    require_run(run)
    path = run / INDEX
    require_readable(run)
    receipts = [receipt for ref, _ in pointers(run) if (receipt := current(run, ref)) is not None]
    if not receipts:
        raise ConfigError(f"there is no finished stage in {run}", hint="see `align status`")
    people = read_journal(run / "journal.jsonl", ())
    # no times: clocks are put back
    made_from = content_id(
        [[[r.round, r.stage, r.key, r.output] for r in receipts], sorted(people.everybody().items())]
    )
    if _made_from(run) == made_from:
        return path
    partial = path.with_name(f".{INDEX}.partial")
    partial.unlink(missing_ok=True)
    with disk_errors(path):
        with closing(sqlite3.connect(partial)) as index, index:
            index.executescript(SCHEMA)
            for receipt in receipts:
                _index_stage(index, run, receipt, people)
        partial.replace(path)
    write_json(run / NOTE, with_check({"made_from": made_from, "file": file_id(path)}))
    return path


def drop_index(run: Path) -> None:
    """Remove the index, which is made again when it is asked for: it holds annotators' names."""
    for name in (INDEX, NOTE):
        (run / name).unlink(missing_ok=True)


def _made_from(run: Path) -> str | None:
    """What a whole index was made from; None for one that is missing or damaged, which is made again."""
    try:
        noted = read_json(run / NOTE)
        whole = is_whole(noted) and file_id(run / INDEX) == noted["file"]
        return str(noted["made_from"]) if whole else None
    except (DataError, OSError, KeyError, TypeError, AttributeError, ValueError):
        return None


def _index_stage(index: sqlite3.Connection, run: Path, receipt: Receipt, people: Journal) -> None:
    row = (receipt.output, receipt.round, receipt.stage, receipt.key, receipt.seconds)
    index.execute("INSERT INTO stages VALUES (?, ?, ?, ?, ?)", row)
    folder = stage_folder(run, receipt.ref) / receipt.key
    for name in ("candidates", "samples"):  # of rollouts, and of evaluations
        for c in _rows(folder, f"{name}.parquet", ("id", "prompt_id", "checkpoint")):
            _edge(index, c["checkpoint"], "checkpoints", c["id"], "candidates")
            _edge(index, c["prompt_id"], "prompts", c["id"], "candidates")
    for t in _rows(folder, "tasks.parquet", ("id", "candidates")):
        for candidate in t["candidates"]:
            _edge(index, candidate, "candidates", t["id"], "tasks")
    for j in _rows(folder, "judgements.parquet", ("id", "task_id", "annotator")):
        _edge(index, people.identity(j["annotator"]), "annotators", j["id"], "judgements")
        _edge(index, j["task_id"], "tasks", j["id"], "judgements")
    _index_compiled(index, folder)
    if receipt.stage in KINDS:
        _index_model(index, run, receipt, folder)


def _index_compiled(index: sqlite3.Connection, folder: Path) -> None:
    for p in _rows(folder, "preferences.parquet", ("id", "chosen_id", "rejected_id", "judgements")):
        for candidate in (p["chosen_id"], p["rejected_id"]):
            _edge(index, candidate, "candidates", p["id"], "preferences")
        for judgement in p["judgements"]:
            _edge(index, judgement, "judgements", p["id"], "preferences")
    for row in _rows(folder, "thumbs.parquet", ("id", "candidate_id", "judgements")):
        _edge(index, row["candidate_id"], "candidates", row["id"], "thumbs")
        for judgement in row["judgements"]:
            _edge(index, judgement, "judgements", row["id"], "thumbs")
    for row in _rows(folder, "edits.parquet", ("id", "prompt_id", "judgement")):
        _edge(index, row["prompt_id"], "prompts", row["id"], "edits")
        _edge(index, row["judgement"], "judgements", row["id"], "edits")


def _index_model(index: sqlite3.Connection, run: Path, receipt: Receipt, folder: Path) -> None:
    """A policy or a reward model: its parent, the reward model that judged it, and the rows that it learned from."""
    model, kind = receipt.summary["checkpoint"], KINDS[receipt.stage]
    if receipt.summary.get("parent"):
        _edge(index, receipt.summary["parent"], "checkpoints", model, kind)
    for prompt in _rows(folder, "prompts.parquet", ("id",)):  # that an online method drew
        _edge(index, prompt["id"], "prompts", model, kind)
    for source in receipt.inputs.values():
        made = stage_folder(run, Ref(source["round"], source["stage"])) / source["key"]
        if source["stage"] == "reward":
            _edge(index, read_json(made / RECEIPT)["summary"]["checkpoint"], "reward models", model, kind)
        if source["stage"] == "preferences":
            name = "thumbs" if receipt.summary.get("thumbs") is not None else "preferences"
            for row in _rows(made, f"{name}.parquet", ("id",)):
                _edge(index, row["id"], name, model, kind)


def _rows(folder: Path, name: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a file that not every stage has; a superseded folder may have been cleaned away, too."""
    path = folder / name
    return list(read_table(path, columns=list(columns)).to_pylist()) if path.is_file() else []


def _edge(index: sqlite3.Connection, source: str, source_kind: str, target: str, target_kind: str) -> None:
    index.execute("INSERT INTO edges VALUES (?, ?, ?, ?)", (source, source_kind, target, target_kind))


def _reach(index: sqlite3.Connection, name: str, *, back: bool) -> dict[str, list[str]]:
    near, far = ("target", "source") if back else ("source", "target")
    rows = index.execute(
        f"WITH RECURSIVE reached(id, kind) AS (SELECT {far}, {far}_kind FROM edges WHERE {near} = ?1"
        f" UNION SELECT {far}, {far}_kind FROM edges JOIN reached ON {near} = id) SELECT kind, id FROM reached ORDER BY kind, id",
        (name,),
    ).fetchall()
    return {kind: [i for k, i in rows if k == kind] for kind in ORDER if any(k == kind for k, _ in rows)}


def _beginning(identity: str) -> str:
    """A LIKE pattern only for what looks like the beginning of a content id; names must be exact."""
    is_hex = len(identity) >= 6 and all(c in "0123456789abcdef" for c in identity)
    return f"{identity}%" if is_hex else ""
