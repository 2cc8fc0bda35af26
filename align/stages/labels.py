"""From answers to labels: what people are asked, what they said, and what it compiles to; or labels from a file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from align.config.recipe import Annotate, Recipe
from align.ids import content_id
from align.pipeline.receipts import Receipt, stage_folder
from align.pipeline.stage import Declaration, Job, Ref, Stage, Step, Wait
from align.progress import Progress
from align.sampled import pass_tokens_on
from align.stages.names import LABELLING, LABELS, PROMPTS, ROLLOUTS, SNAPSHOT, TASKS
from align.stages.planning import Planning
from align.stages.rollouts import CANDIDATES
from align.stages.stage_io import note_of_dropped, prompts_of, write_part
from align.store import read_table, write_json, write_table
from align.types import BinaryLabel, Candidate, Dropped, Edit, Judgement, Preference, Summary, Task, from_table
from annotation.journal import read_journal, said
from reward.functions import function_id

TASK_TABLE, JUDGEMENT_TABLE, AGREEMENT = "tasks.parquet", "judgements.parquet", "agreement.json"
_COMPILED = {
    "preferences.parquet": Preference,
    "binary.parquet": BinaryLabel,
    "edits.parquet": Edit,
    "dropped.parquet": Dropped,
}
_TASKS = Declaration(
    TASKS, "align.stages.labels:tasks", version=2, tables={TASK_TABLE: Task, "dropped.parquet": Dropped}
)
_SNAPSHOT = Declaration(
    SNAPSHOT, "align.stages.labels:snapshot", tables={JUDGEMENT_TABLE: Judgement}, freeze="align.stages.labels:frozen"
)
_LABELS = Declaration(LABELS, "align.stages.labels:preferences", version=3, tables=_COMPILED)
_PREFERENCES_FILE = Declaration(LABELS, "align.stages.labels:given_preferences", tables=_COMPILED)
_BINARY_FILE = Declaration(LABELS, "align.stages.labels:given_binary", tables=_COMPILED)
STAGES = (_TASKS, _SNAPSHOT, _LABELS, _PREFERENCES_FILE, _BINARY_FILE)


def plan(planning: Planning, number: int) -> list[Step]:
    recipe = planning.recipe
    if number == 0 or recipe.learns_from is None:
        return []
    if recipe.annotate is None:
        return [_from_file(recipe, planning)] if number == 1 else []
    tasks, frozen_labels = Ref(number, TASKS), Ref(number, SNAPSHOT)
    return [
        _asked(recipe.annotate, number, planning),
        Wait(Ref(number, LABELLING), tasks=tasks),
        _SNAPSHOT.stage(number, inputs={"tasks": tasks}),
        _LABELS.stage(
            number,
            inputs={"tasks": tasks, "snapshot": frozen_labels},
            settings={"compiler": recipe.annotate.compiler},
        ),
    ]


def _asked(annotate: Annotate, number: int, planning: Planning) -> Stage:
    asked = annotate.model_dump(include={"kind", "tasks", "overlap", "rank_of", "criteria", "repeats"})
    extra = {name: given for name, given in (("gold", annotate.gold), ("suggest", annotate.suggest)) if given}
    files = {}
    if annotate.gold is not None:
        files["gold"] = planning.file(annotate.gold.path, "annotate.gold.path")
    if annotate.suggest is not None:
        files["suggest"] = function_id(annotate.suggest.path, Path())
    return _TASKS.stage(
        number,
        inputs={"prompts": Ref(0, PROMPTS), "rollouts": Ref(number, ROLLOUTS)},
        settings={
            "seed": planning.recipe.seed,
            "asked": asked,
            "shares": {name: given.share for name, given in extra.items()},
            **planning.hidden("annotators"),
        },
        files=files,
        runtime={name: str(given.path) for name, given in extra.items()},
    )


def _from_file(recipe: Recipe, planning: Planning) -> Stage:
    """Preferences, or binary labels, from the recipe's file; the stage has the name of the labels' place in either
    case."""
    binary = recipe.binary is not None
    kind, source = ("binary", recipe.binary) if binary else ("preferences", recipe.preferences)
    assert source is not None
    return (_BINARY_FILE if binary else _PREFERENCES_FILE).stage(
        1,
        inputs={"prompts": Ref(0, PROMPTS)},
        files={kind: planning.file(source.path, f"{kind}.from")},
        runtime={"path": str(source.path)},
    )


def tasks(job: Job, progress: Progress) -> Summary:
    """Choose what people are asked about."""
    from align.labelling.tasks import ask, write_suggestions

    candidates = from_table(Candidate, read_table(job.inputs["rollouts"] / CANDIDATES))
    extra = {name: {"path": job.runtime[name], "share": share} for name, share in job.settings["shares"].items()}
    annotate = Annotate.model_validate(job.settings["asked"] | extra)
    prompts = [*prompts_of(job, "train"), *prompts_of(job, "test")]
    hide = job.settings.get("hide_thinking", False)
    asked = ask(prompts, candidates, annotate, round=job.round, seed=job.settings["seed"], hide_thinking=hide)
    write_part(job, "tasks", Task, asked.tasks)
    write_part(job, "dropped", Dropped, asked.dropped)
    about = pa.array([candidate for task in asked.tasks for candidate in task.candidates], pa.string())
    pass_tokens_on(job.inputs["rollouts"], job.out, [about])
    write_suggestions(job.out, asked.suggestions)
    # other criteria are other questions, so they must make another output
    hidden = {"hide_thinking": True} if hide else {}
    write_json(job.out / "form.json", {"kind": annotate.kind, "criteria": annotate.criteria, **hidden})
    return {
        "tasks": len(asked.tasks),
        "gold": sum(t.purpose == "gold" for t in asked.tasks),
        "repeats": sum(t.repeat > 0 for t in asked.tasks),
        "suggested": sum(t.suggested is not None for t in asked.tasks),
        "dropped": len(asked.dropped),
        **({"notes": asked.notes} if asked.notes else {}),
    }


def frozen(run: Path, stage: Stage, inputs: dict[str, Receipt]) -> Stage:
    """A snapshot's key depends on what counts now: what the journal said when the labelling was closed, without what is
    forgotten since."""
    asked, path = inputs["tasks"], run / "journal.jsonl"
    tasks = read_table(stage_folder(run, asked.ref) / asked.key / TASK_TABLE).column("id").to_pylist()
    journal = read_journal(path, tasks)
    judgements = journal.judgements(tasks, asked.output)
    # what is read here is what the stage reads: people write on meanwhile
    runtime = {"journal": str(path), "labelling": asked.output, "until": journal.length}
    return replace(stage, files={"judgements": content_id([said(j) for j in judgements])}, runtime=runtime)


def snapshot(job: Job, progress: Progress) -> Summary:
    """Freeze what counts about these tasks, of the part of the journal that the key was made of."""
    tasks = read_table(job.inputs["tasks"] / TASK_TABLE).column("id").to_pylist()
    journal = read_journal(Path(job.runtime["journal"]), tasks, until=job.runtime["until"])
    judgements = journal.judgements(tasks, job.runtime["labelling"])
    write_part(job, "judgements", Judgement, judgements)
    skipped = sum(j.outcome == "skipped" for j in judgements)
    return {
        "labels": len(judgements) - skipped,
        "skipped": skipped,
        "annotators": len({j.annotator for j in judgements}),
    }


def preferences(job: Job, progress: Progress) -> Summary:
    """Compile judgements into preferences, binary labels and edits, and say how far people agreed and can be
    trusted."""
    from align.labelling.tasks import read_suggestions
    from annotation.agreement import suggestion_effect, summary
    from annotation.compile import compile_labels

    asked = read_table(job.inputs["tasks"] / TASK_TABLE)
    said = read_table(job.inputs["snapshot"] / JUDGEMENT_TABLE)
    compiled = compile_labels(asked, said, model=job.settings["compiler"], sides_drawn=True)
    tables = {name: getattr(compiled, name) for name in ("preferences", "binary", "edits", "dropped")}
    for name, table in tables.items():
        write_table(job.out / f"{name}.parquet", table)
    learned = [compiled.preferences["chosen_id"], compiled.preferences["rejected_id"], compiled.binary["candidate_id"]]
    pass_tokens_on(job.inputs["tasks"], job.out, learned)
    tasks, judgements = from_table(Task, asked), from_table(Judgement, said)
    proposed = {s.task_id: s.outcome for s in read_suggestions(job.inputs["tasks"])}
    agreement = {
        **summary(tasks, judgements),
        "compiled": {
            "model": compiled.model,
            "choice": compiled.choice,
            "notes": compiled.notes,
            "annotators": compiled.annotators,
        },
        "conflicts": compiled.conflicts,
        "suggestion_effect": suggestion_effect(tasks, judgements, proposed) if proposed else None,
    }
    write_json(job.out / AGREEMENT, agreement)
    return {
        **{name: table.num_rows for name, table in tables.items()},
        "compiler": compiled.choice or {"model": compiled.model},
        "notes": compiled.notes,
    }


def given_binary(job: Job, progress: Progress) -> Summary:
    """Load binary labels from the recipe's file, without those whose prompt is held out for evaluation."""
    from align.data.binary import load_binary
    from align.data.contamination import drop_held_out_binary

    return _given(job, "binary label", "binary", BinaryLabel, load_binary, drop_held_out_binary)


def given_preferences(job: Job, progress: Progress) -> Summary:
    """Load preferences from the recipe's file, without those whose prompt is held out for evaluation."""
    from align.data.contamination import drop_held_out_preferences
    from align.data.preferences import load_preferences

    return _given(job, "preference", "preferences", Preference, load_preferences, drop_held_out_preferences)


def _given(
    job: Job, what: str, part: str, kind: type[Any], load: Callable[[Path], Any], keep: Callable[..., Any]
) -> Summary:
    rows, dropped = load(Path(job.runtime["path"]))
    kept, held_out = keep(rows, prompts_of(job, "test"))
    write_part(job, part, kind, kept)
    write_part(job, "dropped", Dropped, dropped + held_out)
    counts = {part: len(kept), "dropped": len(dropped) + len(held_out)}
    return {**counts, **note_of_dropped(what, len(kept), dropped + held_out)}
