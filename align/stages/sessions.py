"""Which of a run's sessions a folder means."""

from pathlib import Path

from align.config.recipe import PeopleJudge
from align.errors import ConfigError
from align.labelling.session import Session, has_session, session_of_folder, session_of_round
from align.pipeline.receipts import Receipt, valid
from align.pipeline.run import RUN, open_run
from align.pipeline.stage import Ref
from align.stages.names import BLIND, TASKS
from annotation.journal import read_journal


def open_session(folder: Path) -> Session:
    """The session of a folder; of a run the one that is open, else the last one. Raises ConfigError where the folder
    has no tasks."""
    if has_session(folder) or not (folder / RUN).is_file():
        return session_of_folder(folder)
    run = open_run(folder)
    recipe = run.recipe
    if recipe.annotate is None:
        raise ConfigError("this run asks nobody: its labels come from a file, or it needs none", where=str(folder))
    asking = [TASKS] if recipe.learns_from is not None else []
    asking += [BLIND] if isinstance(recipe.evaluate.judge, PeopleJudge) else []
    known: dict[Ref, Receipt | None] = {}
    places = [Ref(number, stage) for number in range(1, recipe.rounds + 1) for stage in asking]
    asked = [receipt for ref in places if (receipt := valid(folder, ref, known)) is not None]
    if not asked:
        raise ConfigError(f"the run in {folder} has no tasks yet", hint="`align run` makes them")
    closed = read_journal(run.journal, ()).closed
    return session_of_round(run, next((receipt for receipt in asked if receipt.output not in closed), asked[-1]))
