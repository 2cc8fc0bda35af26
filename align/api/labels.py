"""Labels: asking people about answers, and making training rows of what they say."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.api.given import Compute, Evaluation, Labelled, Labels, Samples, Workspace, estimate
from align.config.recipe import Annotate, PeopleJudge, Personas
from align.errors import ConfigError, DataError
from align.types import BinaryLabel, Candidate, Dropped, Edit, Judgement, Preference, Prompt, Task

if TYPE_CHECKING:
    from align.labelling.outside.load import Imported
    from align.labelling.tasks import AskedTasks
    from align.pipeline.stage import Waiting
    from annotation.backend import AnnotationBackend

_DEFAULT = Compute()
_ANOTHER = "give the same answers and settings to go on, or name another folder"
_SAY: "Callable[[Waiting], None]" = partial(print, flush=True)


def ask(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    config: Annotate | None = None,
    *,
    round: int = 1,
    backend: "AnnotationBackend | None" = None,
    tell: "Callable[[Waiting], None]" = _SAY,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Labelled:
    """Ask people about answers, wait until every task has what it wants or somebody closes the labelling
    (`align annotate close FOLDER`), and give what they said.

    `candidates` answer those of `prompts` that are of the split `train`; pairs of `config.gold` about the others are
    dropped. `config.by` may be simulated annotators. Where people label is `config.server`, the embedded Argilla by
    default, or a `backend` of your own. `tell` hears how many answers are in and where to label, whenever that changes;
    it prints that where not given. `round`, from 1, is part of the tasks' ids.

    Unlike other workspaces `out` may be there: the same call goes on with the same tasks, and asks nothing twice. Its
    `journal.jsonl` has every judgement as soon as it is known; `align annotate status FOLDER` and its like read it.
    Raises DataError where there is nothing to ask, ConfigError for a folder of other tasks, ServiceError where the
    server cannot be reached.
    """
    from align.ids import content_id, file_id
    from align.labelling.folder import is_made, write_session
    from align.labelling.tasks import ask

    config, folder = config or Annotate(), _folder(workspace)
    outside = [file_id(config.gold.path)] if config.gold is not None else []
    ids = [[prompt.id for prompt in prompts], [candidate.id for candidate in candidates]]
    hide = _hidden(compute)
    made_from = content_id([*ids, config.model_dump(mode="json"), compute.seed, round, outside, *hide])
    if not is_made(folder, made_from, _ANOTHER):
        asked = ask(list(prompts), list(candidates), config, round=round, seed=compute.seed, **hide)
        write_session(folder, asked, config, seed=compute.seed, made_from=made_from, round=round, **hide)
    return _followed(folder, backend, tell, workspace)


def compare_blind(
    ours: Samples,
    theirs: Samples,
    config: Annotate | None = None,
    *,
    judge: PeopleJudge | None = None,
    round: int = 1,
    tell: "Callable[[Waiting], None]" = _SAY,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Evaluation:
    """How often people prefer our answers to held-out prompts, not knowing which are whose: `judge.tasks` comparisons,
    each by `judge.overlap` people, who label as in `ask`; the folder goes on as there, and gets a `result.json`.

    Of several answers to a prompt the first counts; where both say the same it is a tie that nobody is asked about.
    `win_rate` is None where fewer than two prompts were judged. Raises DataError where the two share no prompt.
    """
    from align.ids import content_id
    from align.labelling.comparison import win_rate
    from align.labelling.folder import is_made, write_session
    from align.store import write_json

    config, judge, folder = config or Annotate(), judge or PeopleJudge(), _folder(workspace)
    ids = [[candidate.id for candidate in side.candidates] for side in (ours, theirs)]
    settings = [config.model_dump(mode="json"), judge.model_dump(mode="json")]
    hide = _hidden(compute)
    made_from = content_id([*ids, *settings, compute.seed, round, *hide])
    if not is_made(folder, made_from, _ANOTHER):
        asked, blind = _blind(ours, theirs, judge, round, compute.seed, **hide)
        write_session(folder, asked, config, seed=compute.seed, made_from=made_from, round=round, blind=blind, **hide)
    said = _followed(folder, None, tell, workspace)
    found = win_rate(folder, said.tasks, said.judgements)
    write_json(folder / "result.json", {"win_rate": found})
    return Evaluation(folder, ours, estimate(found), None, {"win_rate": found})


def _blind(
    ours: Samples, theirs: Samples, judge: PeopleJudge, round: int, seed: int, hide_thinking: bool = False
) -> "tuple[AskedTasks, dict[str, list[str]]]":
    """What is asked, and what the result needs to know of it (`align.labelling.comparison`)."""
    from align.labelling.tasks import AskedTasks
    from annotation.tasks import TIED, blind_tasks, first_samples

    prompts = {prompt.id: replace(prompt, split="test") for prompt in [*ours.prompts, *theirs.prompts]}
    tasks, same = blind_tasks(
        list(prompts.values()), ours.candidates, theirs.candidates,
        round=round, count=judge.tasks, overlap=judge.overlap, seed=seed, hide_thinking=hide_thinking,
    )  # fmt: skip
    if not tasks and not same:
        hint = "sample both on the same prompts"
        raise DataError("the two share no prompt, so there is nothing to compare", hint=hint)
    firsts = first_samples(ours.candidates)
    blind = {"new": [firsts[task.prompt_id].id for task in tasks], "same": same}
    return AskedTasks(tasks, [Dropped("prompt", prompt, TIED) for prompt in same], []), blind


def _hidden(compute: Compute) -> dict[str, Any]:
    return {"hide_thinking": True} if "annotators" in compute.hide_thinking else {}


def _folder(workspace: Workspace) -> Path:
    if workspace.work is not None:
        what = "a labelling goes on in its own folder, and has no scratch"
        raise ConfigError(what, where="workspace.work", hint="leave it out")
    return Path(workspace.out)


def _followed(
    folder: Path, backend: "AnnotationBackend | None", tell: "Callable[[Waiting], None]", workspace: Workspace
) -> Labelled:
    """Wait until nothing is missing."""
    from align.labelling.session import follow, session_of_folder
    from annotation.backend import SimulationBackend

    session = session_of_folder(folder)
    if backend is not None and isinstance(session.annotate.by, Personas) and not isinstance(backend, SimulationBackend):
        what = "nobody can be simulated in this backend: it has no ensure_annotator and no answer"
        raise ConfigError(what, where="backend", hint="set config.by to people, or label on a server")
    said = follow(session, tell, backend=backend, progress=workspace.progress)
    return Labelled(session.tasks, said, sides_drawn=True)


def compile_labels(labelled: "Labelled | Imported", *, model: str = "auto") -> Labels:
    """Training rows from what people said, whatever their number: soft targets, and weights by how far the votes remove
    the doubt (docs/label-compiler.md).

    `model` is `bradley_terry`, `dawid_skene` or `majority`; `auto` takes the first unless another one predicts held-out
    labels better. A preference's `target` is in [0.5, 1], a binary label's in [0, 1], a `weight` in [0, 1]. Whatever
    becomes no row is in `dropped`, with the reason. Raises ConfigError for another model, DataError for a judgement that
    its kind of task cannot have.
    """
    from align.types import from_table, to_table
    from annotation.compile import compile_labels

    tasks, said = to_table(Task, labelled.tasks), to_table(Judgement, labelled.judgements)
    done = compile_labels(tasks, said, model=model, sides_drawn=labelled.sides_drawn)
    return Labels(
        preferences=from_table(Preference, done.preferences),
        binary=from_table(BinaryLabel, done.binary),
        edits=from_table(Edit, done.edits),
        dropped=from_table(Dropped, done.dropped),
        annotators=done.annotators,
        notes=done.notes,
    )
