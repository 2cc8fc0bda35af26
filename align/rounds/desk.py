"""Desks: which tasks a folder asks people about. A run's folder has the desk of its latest round with tasks; a folder
of one's own is made from a file of candidates, with no recipe and no run."""

import secrets
from pathlib import Path

from align.config.recipe import Annotate
from align.data.candidates import load_candidates
from align.errors import ConfigError, DataError
from align.ids import file_id
from align.rounds.journal import read_journal
from align.rounds.labelling import DESK, Desk, desk_of_folder, desk_of_round
from align.rounds.run import open_run
from align.rounds.stage import Ref, current
from align.store import disk_errors, write_json, write_rows, write_table
from align.types import Task, as_dict, to_table
from annotation.compile import compile_preferences
from annotation.tasks import make_tasks


def open_desk(folder: Path) -> Desk:
    """Raises ConfigError where the folder has no tasks."""
    if (folder / DESK).is_file() or not (folder / "run.json").is_file():
        return desk_of_folder(folder)
    run = open_run(folder)
    for number in range(run.recipe.rounds, 0, -1):
        if (receipt := current(folder, Ref(number, "selection"))) is not None:
            return desk_of_round(run, receipt)
    raise ConfigError(f"the run in {folder} has no tasks yet", hint="`align run` makes them")


def make_desk(
    folder: Path, candidates: Path, *, pairs: int, overlap: int, server: str, guidelines: Path | None, seed: int
) -> None:
    """Make `folder` with the comparisons that `candidates` gives rise to; nothing is sent yet."""
    if folder.exists():
        raise ConfigError(
            f"{folder} is there already", hint="leave out --candidates to push what it holds, or name another folder"
        )
    asked = {"server": "embedded" if server == "embedded" else {"url": server}, "overlap": overlap, "pairs": pairs}
    if guidelines is not None:
        asked["guidelines"] = str(guidelines.resolve())
    annotate = Annotate.model_validate(asked)
    prompts, rows = load_candidates(candidates)
    tasks, dropped = make_tasks(prompts, rows, round=1, pairs=pairs, overlap=overlap, seed=seed)
    if not tasks:
        raise DataError("no prompt has two different answers, so there is nothing to compare", where=str(candidates))
    with disk_errors(folder):
        folder.mkdir(parents=True)
    write_table(folder / "tasks.parquet", to_table(Task, tasks))
    write_rows(folder / "dropped.jsonl", map(as_dict, dropped))
    name = f"{folder.resolve().name}-{secrets.token_hex(4)}"
    tasks_id = file_id(folder / "tasks.parquet")
    desk = {
        "annotate": annotate.model_dump(mode="json"),
        "tasks_id": tasks_id,
        "workspace": name,
        "dataset": f"comparisons-{tasks_id[:8]}",
        "seed": seed,
    }
    write_json(folder / DESK, desk)


def export(desk: Desk, folder: Path) -> dict[str, int]:
    """Write the judgements in force, what they compile to and what was dropped as JSONL; returns the counts."""
    judgements = read_journal(desk.journal).judgements(t.id for t in desk.tasks)
    preferences, dropped = compile_preferences(desk.tasks, judgements)
    for name, rows in (("judgements", judgements), ("preferences", preferences), ("dropped", dropped)):
        write_rows(folder / f"{name}.jsonl", map(as_dict, rows))
    return {"judgements": len(judgements), "preferences": len(preferences), "dropped": len(dropped)}
