"""Forgetting: what an annotator said, or what was said about a prompt, and all that was made of it.

Tombstones go into the journal, and from then on nothing there comes out again; then the words are erased, in the
journal and on the annotation server, and an open labelling asks others instead. What is already published stays on disk
as it is until it is done again and `align clean` removes the old folders, so every published folder is looked through:
the snapshots that hold a forgotten judgement, the rows compiled from it, and the checkpoints trained on those, or on a
parent that was.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config.recipe import EmbeddedServer
from align.errors import AlignError, ConfigError, DataError, ServiceError
from align.labelling.session import Session, connect_server, has_session, open_backend
from align.pipeline.lock import run_lock
from align.pipeline.receipts import CURRENT, RECEIPT, Receipt, read_receipt, stage_folder, where_now
from align.pipeline.run import require_run
from align.pipeline.stage import Ref
from align.stages.plan import model_of, tables_of
from align.store import read_rows, read_table
from align.types import BinaryLabel, Edit, Judgement, Preference
from annotation.journal import Tombstones, forget, introduce, read_journal
from annotation.journal import erase as erase_words

if TYPE_CHECKING:
    from annotation.argilla_erase import Erased as OnServer

ROWS = {"preferences": "judgements", "binary": "judgements", "edits": "judgement"}
"""Files of compiled rows, and their column that names judgements."""
PULLED = {"preferences": "preferences", "binary": "binary", "edits": "demonstrations"}
"""What `align annotate pull` calls them."""
MODELS = {"checkpoints": "checkpoints", "reward models": "reward_models"}
"""What lineage calls a model, and this file."""
SAID = {Judgement, Preference, BinaryLabel, Edit}
"""Rows that hold what people said, or are made of it."""
UNASKED = (
    "all that was said on the annotation server, which was not reached, and in the journal the judgements of those whose ids "
    "only the server knows; the same command goes on"
)
NAMED = 8
"""So many names are told where none fits."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Who or what is to be forgotten in `folder`: `kind` is annotator or prompt, `id` which one, `name` what people
    call it, and `tombstones` are what that means."""

    folder: Path
    kind: str
    id: str
    name: str
    tombstones: Tombstones


def wish(
    folder: Path, *, annotator: str | None = None, prompt: str | None = None, people: Mapping[str, str] | None = None
) -> Wish:
    """Find an annotator by id or name, or a prompt by its id or the beginning of it.

    `people` are those whom the server knows, by annotator: names that were changed since the journal was written, and
    who has said nothing that was taken in. Raises ConfigError where nobody has that name, where several have, and where
    no task asks about that prompt.
    """
    if not has_session(folder):
        require_run(folder)
    if (annotator is None) == (prompt is None):
        raise ConfigError("say whom or what to forget", hint="give either --annotator NAME or --prompt ID")
    if annotator is not None:
        return _annotator(folder, annotator, people or {})
    assert prompt is not None
    found, tombstones = _prompt(folder, prompt)
    return Wish(folder, "prompt", found, found, tombstones)


def used_by(wish: Wish) -> dict[str, Any]:
    """What is to be forgotten and what used it, by id and sorted:

    `judgements`; the compiled `preferences`, `binary` and `edits`; `checkpoints` and `reward_models` as
    {id, stage, key, valid}. A checkpoint used what the snapshot of its preferences holds, also where none of its
    pairs names the judgement, because a compiler that learns how far to trust people weighs all pairs together.
    """
    about = wish.tombstones.tasks if wish.kind == "prompt" else None
    journal = read_journal(wish.folder / "journal.jsonl", about).latest.values()
    said = {j.id for j in journal if wish.tombstones.hide(j.id, j.annotator, j.task_id)}
    found: dict[str, set[str]] = {name: set() for name in ("judgements", *ROWS)}
    found["judgements"] |= said
    models: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS.values()}
    touched, published = _touched(wish.folder, wish.tombstones)
    for folder, _ in published:
        found["judgements"] |= _hidden(folder, wish.tombstones)
    for name, column in ROWS.items():
        found[name] |= _citing(wish.folder / f"{PULLED[name]}.jsonl", column, found["judgements"])
        for folder, _ in published:
            found[name] |= _citing(folder / f"{name}.parquet", column, found["judgements"])
    for folder, receipt in published:
        kind = model_of(receipt.stage)
        if _place(receipt) in touched and kind is not None:
            models[MODELS[kind]].append(_model(wish.folder, folder, receipt))
    return {**{name: sorted(ids) for name, ids in found.items()}, **models}


def write_tombstones(wish: Wish) -> None:
    """Forget for good: what the journal holds, and what comes later from this annotator or about these tasks.

    Raises ServiceError while another process works on the folder.
    """
    journal = wish.folder / "journal.jsonl"
    with run_lock(wish.folder):
        forget(journal, "annotator", [wish.id] if wish.kind == "annotator" else [])
        forget(journal, "task", sorted(wish.tombstones.tasks))


@dataclass(frozen=True, slots=True)
class Erased:
    """What left the journal (`judgements`) and the server (`answers`, `drafts`). `failed` says why the server was not
    asked; then the same command goes on where it stopped."""

    judgements: int
    answers: int
    drafts: int
    remains: list[str]
    failed: AlignError | None


def people_of(session: Session) -> dict[str, str]:
    """Whom the session's server knows: annotator → name; nobody where there is none. Raises ServiceError and
    ConfigError."""
    from annotation.argilla_erase import people

    api = connect_server(session)
    return people(api) if api is not None else {}


def erase(session: Session, wish: Wish) -> Erased:
    """Erase the words of what has its tombstones: on the server, where others are asked instead while the labelling is
    open, and in the journal. Doing it again goes on. Raises ServiceError while another process works on the folder."""
    with run_lock(wish.folder):
        found, failed, keep = None, None, set[str]()
        try:
            found = _erase_on_server(session, wish)
        except (ServiceError, ConfigError) as error:
            failed, keep = error, read_journal(session.journal, ()).strangers
        judgements = erase_words(session.journal, keep)
    if found is None:
        return Erased(judgements, 0, 0, [UNASKED] if failed else [], failed)
    remains = [*found.remains, *(_account(session, name) for name in found.accounts)]
    return Erased(judgements, found.answers, found.drafts, remains, None)


def _erase_on_server(session: Session, wish: Wish) -> "OnServer | None":
    """None where there is no server."""
    from annotation.argilla_erase import erase as erase_there

    api = connect_server(session)
    if api is None:
        return None
    if read_journal(session.journal, ()).strangers:  # old lines have names, and the server ids
        backend = open_backend(session)
        introduce(session.journal, backend.collect(), backend.people())
    mine = read_journal(session.journal, ()).naming(wish.id).annotators if wish.kind == "annotator" else frozenset()
    return erase_there(api, session.workspace, mine, wish.tombstones.tasks)


def _account(session: Session, name: str) -> str:
    server = session.annotate.server
    home = f" --home {server.home}" if isinstance(server, EmbeddedServer) and server.home else ""
    place = home if isinstance(server, EmbeddedServer) else f" --server {server.url}"
    removed = f"`align server users remove {name}{place} --with-answers` removes it with all of that"
    return f"the account {name}, and what was said by it in other runs and sessions of this server; {removed}"


def still_holding(wish: Wish) -> list[str]:
    """Published folders that hold forgotten words or were made of them, from the run's folder on, by round."""
    touched, published = _touched(wish.folder, wish.tombstones)
    return [str(folder.relative_to(wish.folder)) for folder, receipt in published if _place(receipt) in touched]


def tainted(run: Path) -> list[dict[str, Any]]:
    """The valid models that descend from forgotten judgements: {id, stage, key, valid: true}, by round."""
    tombstones = read_journal(run / "journal.jsonl", ()).forgotten
    if not tombstones:
        return []
    touched, published = _touched(run, tombstones)
    rows = [_model(run, f, r) for f, r in published if model_of(r.stage) and _place(r) in touched]
    return [row for row in rows if row["valid"]]


def _annotator(folder: Path, text: str, people: Mapping[str, str]) -> Wish:
    """Who has the id or the name `text`. An earlier name counts where nobody has it now."""
    journal = read_journal(folder / "journal.jsonl", ()).rename(people)
    silent = {who: name for who, name in people.items() if who not in journal.everybody()}
    found = journal.find(text)
    if not any(text in (who, journal.called(who), journal.names.get(who)) for who in found):
        found = [who for who, name in silent.items() if text in (who, name)] or found
    match found:
        case [who]:
            return Wish(folder, "annotator", who, silent.get(who) or journal.called(who), journal.naming(who))
        case []:
            hint = _known_names([*journal.everybody().values(), *silent.values()], text)
            raise ConfigError(f"{text!r} has said nothing here", where=str(folder), hint=hint)
        case several:
            raise ConfigError(
                f"{len(several)} annotators are or were called {text!r}",
                where=str(folder),
                hint=f"give the id of one: {', '.join(several)}",
            )


def _known_names(names: list[str], text: str) -> str:
    close = difflib.get_close_matches(text, names, n=1)
    known = sorted(set(names))
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known[:NAMED]) or 'nobody'}{more}"


def _prompt(folder: Path, identity: str) -> tuple[str, Tombstones]:
    tasks: dict[str, str] = {}
    for path in [folder / "tasks.parquet", *sorted(folder.glob("round_*/*/*/tasks.parquet"))]:
        if path.is_file():
            table = read_table(path, columns=["id", "prompt_id"])
            tasks |= zip(table["id"].to_pylist(), table["prompt_id"].to_pylist(), strict=True)
    found = {prompt for prompt in tasks.values() if prompt.startswith(identity)} if identity else set()
    if len(found) != 1:
        what = f"{len(found)} prompts begin with {identity!r}" if found else f"no task asks about a prompt {identity!r}"
        hint = "give more of its id" if found else "`align samples` shows the ids of prompts"
        raise ConfigError(what, where=str(folder), hint=hint)
    (prompt,) = found
    return prompt, Tombstones(tasks=frozenset(task for task, about in tasks.items() if about == prompt))


Place = tuple[int, str, str]
"""Round, stage and key of a published folder."""


def _touched(run: Path, tombstones: Tombstones) -> tuple[set[Place], list[tuple[Path, Receipt]]]:
    """Of all published folders of a run, those that hold a forgotten judgement or were made from one that does.

    Where labels that something was made from have been cleaned away, nobody can tell any more, and it counts too.
    """
    published = sorted(_published(run), key=lambda row: (row[1].round, row[1].started, row[1].ended))
    places = {_place(receipt) for _, receipt in published}
    makes: dict[Place, list[Place]] = {}
    waiting = [_place(receipt) for folder, receipt in published if _hidden(folder, tombstones)]
    for _, receipt in published:
        for source in receipt.inputs.values():
            ref, key = where_now(run, source)
            if (origin := (ref.round, ref.stage, key)) in places:
                makes.setdefault(origin, []).append(_place(receipt))
            elif not SAID.isdisjoint(tables_of(source["stage"]).values()):
                waiting.append(_place(receipt))
    touched: set[Place] = set()
    while waiting:
        if (place := waiting.pop()) not in touched:
            touched.add(place)
            waiting += makes.get(place, [])
    return touched, published


def _published(run: Path) -> Iterator[tuple[Path, Receipt]]:
    """Every published folder, superseded ones and those put aside too."""
    for path in run.glob(f"round_*/*/*/{RECEIPT}"):
        if path.parent.name.endswith(".partial") or path.parent.is_symlink():
            continue
        receipt = read_receipt(path)
        if receipt is None:
            raise DataError(
                "this receipt is damaged, so it is not known what came of the labels",
                where=str(path),
                hint="put it back from a copy, or remove the folder that it lies in; `align run` does the stage again",
            )
        yield path.parent, receipt


def _place(receipt: Receipt) -> Place:
    return receipt.round, receipt.stage, receipt.key


def _hidden(folder: Path, tombstones: Tombstones) -> set[str]:
    """Ids of the forgotten judgements in a snapshot; none in other folders."""
    path = folder / "judgements.parquet"
    if not path.is_file():
        return set()
    columns = read_table(path, columns=["id", "annotator", "task_id"]).to_pydict()
    rows = zip(columns["id"], columns["annotator"], columns["task_id"], strict=True)
    return {identity for identity, annotator, task in rows if tombstones.hide(identity, annotator, task)}


def _citing(path: Path, column: str, judgements: set[str]) -> set[str]:
    """Ids of the rows whose `column` names one of `judgements`; none where there is no such file."""
    if not path.is_file():
        return set()
    if path.suffix == ".parquet":
        rows = read_table(path, columns=["id", column]).to_pylist()
    else:
        rows = [row for _, row in read_rows(path)]
    cited = ((row["id"], row[column]) for row in rows)
    return {row for row, names in cited if not judgements.isdisjoint([names] if isinstance(names, str) else names)}


def _model(run: Path, folder: Path, receipt: Receipt) -> dict[str, Any]:
    pointer = stage_folder(run, receipt.ref) / CURRENT
    valid = pointer.is_file() and pointer.read_text().strip() == folder.name
    identity = receipt.summary.get("checkpoint")
    return {"id": identity, "stage": str(Ref(receipt.round, receipt.stage)), "key": receipt.key, "valid": valid}
