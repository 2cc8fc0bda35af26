"""Labelling sessions: which tasks a folder asks people about. A run's folder has one for each time that people are
asked; a folder of your own is made from a file of candidates, with no recipe and no run."""

import logging
import secrets
from pathlib import Path

from align.config.recipe import Annotate
from align.data.candidates import load_candidates
from align.errors import ConfigError
from align.ids import content_id, file_id
from align.labelling.comparison import ask_blind
from align.labelling.session import SESSION, has_session
from align.labelling.tasks import AskedTasks, ask, write_suggestions
from align.store import fresh_folder, publish, read_json, write_json, write_rows, write_table
from align.types import Task, as_dict, to_table

_log = logging.getLogger(__name__)


def make_session(
    folder: Path,
    candidates: Path,
    annotate: Annotate,
    *,
    seed: int,
    against: Path | None = None,
    hide_thinking: bool = False,
) -> None:
    """Make `folder` with the tasks that `candidates` gives rise to; nothing is sent yet. With another file of
    candidates to compare them `against`, these are blind comparisons, one for each of at most `annotate.tasks` shared
    prompts.

    The same call again finds it made. Raises ConfigError where the folder is there for another reason, and DataError
    where there is nothing to ask.
    """
    settings = annotate.model_dump(mode="json")
    outside = [path for path in (annotate.gold and annotate.gold.path, against) if path]
    read = load_candidates(candidates)  # first, since a file that is not there is an error with its own words
    hidden = {"hide_thinking": True} if hide_thinking else {}
    made_from = content_id([file_id(candidates), {**settings, **hidden}, seed, *map(file_id, outside)])
    if is_made(folder, made_from, "leave out --candidates to push what it holds, or name another folder"):
        return
    if against is None:
        asked, blind = ask(*read, annotate, round=1, seed=seed, source=candidates, hide_thinking=hide_thinking), None
    else:
        asked, blind = ask_blind(read, load_candidates(against), annotate, seed=seed, hide_thinking=hide_thinking)
    write_session(folder, asked, annotate, seed=seed, made_from=made_from, blind=blind, hide_thinking=hide_thinking)


def is_made(folder: Path, made_from: str, way_out: str) -> bool:
    """Whether `folder` holds the tasks of `made_from`. Raises ConfigError, with the `way_out`, where it is there for
    another reason."""
    if not folder.exists():
        return False
    if has_session(folder) and read_json(folder / SESSION)["made_from"] == made_from:
        return True
    raise ConfigError(
        f"{folder} is there already, and was not made from these candidates with these options", hint=way_out
    )


def write_session(
    folder: Path,
    asked: AskedTasks,
    annotate: Annotate,
    *,
    seed: int,
    made_from: str,
    round: int = 1,
    blind: dict[str, list[str]] | None = None,
    hide_thinking: bool = False,
) -> None:
    """Make `folder` with the tasks `asked`, and say what could not be made."""
    for note in asked.notes:
        _log.warning("%s", note)
    partial = fresh_folder(folder.with_name(folder.name + ".partial"))
    write_table(partial / "tasks.parquet", to_table(Task, asked.tasks))
    write_suggestions(partial, asked.suggestions)
    write_rows(partial / "tasks_dropped.jsonl", map(as_dict, asked.dropped))
    tasks_id = file_id(partial / "tasks.parquet")
    session = {
        "annotate": annotate.model_dump(mode="json"),
        "tasks_id": tasks_id,
        "workspace": f"{folder.resolve().name}-{secrets.token_hex(4)}",
        "dataset": f"comparisons-{tasks_id[:8]}",
        "seed": seed,
        "round": round,
        "made_from": made_from,
        "blind": blind,
        **({"hide_thinking": True} if hide_thinking else {}),
    }
    write_json(partial / SESSION, session)
    publish(partial, folder)
