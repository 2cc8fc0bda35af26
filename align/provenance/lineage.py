"""Lineage: from a checkpoint to its pairs, answers and annotators, and back.

`lineage.sqlite` is an index over the valid receipts and their files. It holds nothing of its own: it is rebuilt
whenever it is about other results than the valid ones, and may be deleted at any time.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from align.errors import ConfigError, DataError
from align.ids import content_id, file_id, is_whole, with_check
from align.pipeline.intact import require_readable
from align.pipeline.receipts import RECEIPT, Receipt, current, pointers, read_receipt, stage_folder, where_now
from align.pipeline.run import require_run
from align.stages.plan import model_of, tables_of
from align.store import read_json, read_table, replacing, write_json
from align.types import BinaryLabel, Candidate, Edit, Judgement, Preference, Prompt, Task
from annotation.journal import Journal, read_journal

INDEX, NOTE = "lineage.sqlite", "lineage.json"
SCHEMA = """
CREATE TABLE stages (output TEXT, round INTEGER, stage TEXT, key TEXT, seconds REAL);
CREATE TABLE edges (source TEXT, source_kind TEXT, target TEXT, target_kind TEXT);
CREATE INDEX by_source ON edges (source);
CREATE INDEX by_target ON edges (target);
"""
EDGES: dict[type, tuple[str, dict[str, str]]] = {
    Candidate: ("candidates", {"checkpoint": "checkpoints", "prompt_id": "prompts"}),
    Task: ("tasks", {"candidates": "candidates"}),
    Judgement: ("judgements", {"annotator": "annotators", "task_id": "tasks"}),
    Preference: ("preferences", {"chosen_id": "candidates", "rejected_id": "candidates", "judgements": "judgements"}),
    BinaryLabel: ("binary labels", {"candidate_id": "candidates", "judgements": "judgements"}),
    Edit: ("edits", {"prompt_id": "prompts", "judgement": "judgements"}),
}
"""What rows are called here, and their columns that name what they were made from."""
ORDER = ["annotators", "judgements", "tasks", "prompts", "candidates", "preferences", "binary labels", "edits"]
ORDER += ["reward models", "checkpoints"]


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
        receipt = current(run, ref) if model_of(ref.stage) else None
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
    with replacing(path) as partial, closing(sqlite3.connect(partial)) as index, index:
        index.executescript(SCHEMA)
        for receipt in receipts:
            _index_stage(index, run, receipt, people)
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
    for file, kind in tables_of(receipt.stage).items():
        if kind in EDGES:
            _index_rows(index, folder, file, kind, people)
    if (model := model_of(receipt.stage)) is not None:
        _index_model(index, run, receipt, folder, model)


def _index_rows(index: sqlite3.Connection, folder: Path, file: str, kind: type, people: Journal) -> None:
    name, columns = EDGES[kind]
    for row in _rows(folder, file, ("id", *columns)):
        for column, of in columns.items():
            for source in [row[column]] if isinstance(row[column], str) else row[column]:
                known = people.identity(source) if of == "annotators" else source
                _edge(index, known, of, row["id"], name)


def _index_model(index: sqlite3.Connection, run: Path, receipt: Receipt, folder: Path, kind: str) -> None:
    """A policy or a reward model: its parent, the reward model that judged it, and the rows that it learned from."""
    model, parent = receipt.summary["checkpoint"], receipt.summary.get("parent")
    if parent:
        _edge(index, parent, "checkpoints", model, kind)
    for prompt in _rows_of(receipt.stage, folder, Prompt):  # that an online method drew
        _edge(index, prompt, "prompts", model, kind)
    learned: type = BinaryLabel if receipt.summary.get("binary") is not None else Preference
    for source in receipt.inputs.values():
        ref, key = where_now(run, source)
        made, other = stage_folder(run, ref) / key, model_of(ref.stage)
        judge = read_receipt(made / RECEIPT) if other is not None else None
        if other is not None and judge is not None and judge.summary["checkpoint"] != parent:
            _edge(index, judge.summary["checkpoint"], other, model, kind)
        for row in _rows_of(source["stage"], made, learned):
            _edge(index, row, EDGES[learned][0], model, kind)


def _rows_of(stage: str, folder: Path, kind: type) -> list[str]:
    """Ids of the rows of one kind in a stage's folder."""
    files = [file for file, row in tables_of(stage).items() if row is kind]
    return [row["id"] for file in files for row in _rows(folder, file, ("id",))]


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
