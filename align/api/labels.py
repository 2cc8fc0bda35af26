"""Labels: ask people about answers, and compile their judgements to training rows."""

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
    """Ask people about answers, wait until labelling is complete, and return their judgements. Labelling is complete
    when every task has enough answers, or when somebody closes it (`align annotate close FOLDER`).

    `candidates` answer those of `prompts` that have the split `train`; pairs of `config.gold` about other prompts are
    dropped. `config.by` may be simulated annotators. People label on `config.server`, the embedded Argilla by default,
    or in your own `backend`. `tell` is called with the number of answers and the address whenever they change; by
    default it prints them. `round`, from 1, is part of the tasks' ids.

    Unlike in other workspaces, the folder `out` may exist: the same call continues with the same tasks, and asks
    nothing twice. Its `journal.jsonl` (the append-only file of all judgements) gets each judgement as soon as it is
    known; verbs such as `align annotate status FOLDER` read it. Raises DataError if there is nothing to ask,
    ConfigError for a folder with other tasks, ServiceError if the server cannot be reached.
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
    """Measure in blind comparisons how often people prefer our answers to held-out prompts. `judge.overlap` people
    answer each of `judge.tasks` comparisons. They label as in `ask`; the folder can be continued in the same way, and
    gets a `result.json`.

    If a prompt has several answers, the first one is used. Two identical answers are a tie, and nobody is asked about
    them. `win_rate` is None if fewer than two prompts were judged. Raises DataError if the two share no prompt.
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
    """The tasks, and what the result needs to know about them (`align.labelling.comparison`)."""
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
    """Wait until labelling is complete."""
    from align.labelling.session import follow, session_of_folder
    from annotation.backend import SimulationBackend

    session = session_of_folder(folder)
    if backend is not None and isinstance(session.annotate.by, Personas) and not isinstance(backend, SimulationBackend):
        what = "nobody can be simulated in this backend: it has no ensure_annotator and no answer"
        raise ConfigError(what, where="backend", hint="set config.by to people, or label on a server")
    said = follow(session, tell, backend=backend, progress=workspace.progress)
    return Labelled(session.tasks, said, sides_drawn=True)


def compile_labels(labelled: "Labelled | Imported", *, model: str = "auto") -> Labels:
    """Compile judgements, of any number of annotators, to training rows: soft targets, and weights by how certain the
    votes make the label (docs/label-compiler.md).

    `model` is `bradley_terry`, `dawid_skene` or `majority`; `auto` is `bradley_terry`, unless another model predicts
    held-out labels better. The `target` of a preference is in [0.5, 1], that of a binary label in [0, 1], a `weight` in
    [0, 1]. Judgements that give no row are in `dropped`, with the reason. Raises ConfigError for another model,
    DataError for a judgement that does not fit the kind of its task.
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
