"""A recipe's rounds: its plan, with its people, through the runner."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from align.labelling.session import late_text, session_of_round, waits
from align.pipeline import runner
from align.pipeline.fingerprint import PRINTS, Fingerprints
from align.pipeline.fork_server import fork_server
from align.pipeline.hub import with_commit
from align.pipeline.lock import run_lock
from align.pipeline.receipts import Receipt
from align.pipeline.run import Run
from align.pipeline.runner import Event, Outcome, Tell
from align.pipeline.stage import Ref, Step, Waiting
from align.progress import Progress
from align.stages.methods import HEAVY
from align.stages.plan import make_plan
from align.stages.stage_io import name_bases
from align.train.launch import require_no_launcher
from annotation.crowd.advice import name_people
from annotation.journal import read_journal
from rollouts.server_process import kept_server


def run_rounds(
    run: Run, tell: Tell, *, wait: bool = False, start_from: str | None = None, verify: bool = False
) -> Outcome:
    """Do what the recipe asks and is not done yet; `wait` and `verify` are those of `align.pipeline.runner.go`.

    With `start_from` that stage and all after it are done again (labels are kept). Raises AlignError.
    """
    require_no_launcher()
    with run_lock(run.folder), _server(run), fork_server(*HEAVY):
        run = with_commit(run)
        name_bases(run)
        prints = Fingerprints(run.folder / PRINTS)
        steps = make_plan(run.recipe, prints)
        prints.save()
        if start_from is not None:
            runner.archive(run.folder, steps[runner.find_stage(steps, start_from) :])
        return runner.go(run.folder, steps, _People(run), _naming(run, tell), wait=wait, verify=verify)


def recompile(run: Run, tell: Tell) -> list[Ref]:
    """Do those snapshots again about which the journal says something else now, and the light stages made from them.

    Nothing is sampled or trained; rounds that have no snapshot yet are left alone. Raises AlignError.
    """
    with run_lock(run.folder):
        run = with_commit(run, look=False)
        steps = make_plan(run.recipe, Fingerprints(run.folder / PRINTS))
        return runner.refresh(run.folder, steps, _naming(run, tell))


def plan_states(run: Run) -> list[tuple[Step, str]]:
    """Each step with `done`, `to run`, or `waiting for labels`, without doing anything (for `--dry-run`)."""
    run = with_commit(run, look=False)
    return runner.states(run.folder, make_plan(run.recipe, Fingerprints(run.folder / PRINTS)), _People(run))


@dataclass(frozen=True, slots=True)
class _People:
    """The run's annotators, as the runner asks about them."""

    run: Run

    def closed(self, tasks: Receipt) -> str | None:
        closings = read_journal(self.run.journal, ()).closed
        if tasks.output not in closings:
            return None
        session = session_of_round(self.run, tasks)
        asked = [task.id for task in session.tasks]
        late = len(read_journal(self.run.journal, asked).late(asked, tasks.output))
        return closings[tasks.output] + (f"; {late_text(late)}" if late else "")

    def waits(self, tasks: Receipt, progress: Progress) -> Iterator[Waiting]:
        return waits(session_of_round(self.run, tasks), progress)


def _naming(run: Run, tell: Tell) -> Tell:
    """Tell notes with people's present names in them."""

    def told(event: Event) -> None:
        if event.kind == "note":
            (text,) = name_people([event.text], read_journal(run.journal, ()).everybody())
            event = replace(event, text=text)
        tell(event)

    return told


def _server(run: Run) -> AbstractContextManager[None]:
    """Where rollouts come from a server of ours, it stays from stage to stage; it begins when it is first needed."""
    rollouts = run.recipe.rollouts
    own = rollouts.type == "server" and (rollouts.server is None or rollouts.server.url is None)
    return kept_server() if own else nullcontext()
