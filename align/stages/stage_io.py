"""What the stages' functions have in common: tables in their inputs' folders and in their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from align.dropped import count_reasons, mostly_dropped
from align.errors import DataError
from align.ids import ADAPTER_CONFIG
from align.pipeline.receipts import RECEIPT, read_receipt, stage_folder, stage_folders
from align.pipeline.run import Run
from align.pipeline.stage import Job, Ref
from align.progress import Progress
from align.sampled import read_tokens
from align.stages.names import LABELS
from align.store import checkpoint_id, read_json, read_table, write_table
from align.train.adapter import ADAPTER, name_base
from align.train.split import outcome
from align.types import BinaryLabel, Dropped, Preference, Prompt, Record, Summary, from_table, to_table

Row = TypeVar("Row")
Label = TypeVar("Label", Preference, BinaryLabel)


def prompts_of(job: Job, split: str) -> list[Prompt]:
    """The run's prompts on one side of the split."""
    return [p for p in from_table(Prompt, read_table(job.inputs["prompts"] / "prompts.parquet")) if p.split == split]


def checkpoint_of(stage: Path) -> str:
    """The id of the checkpoint that a published stage holds."""
    return str(read_json(stage / RECEIPT)["summary"]["checkpoint"])


def ancestors_of(policy: Path) -> list[Path]:
    """The policies that a published one was trained from, the nearest first, as far as their folders are there."""
    found: list[Path] = []
    run = policy.parents[2]
    while (parent := read_json(policy / RECEIPT)["inputs"].get("parent")) is not None:
        policy = stage_folder(run, Ref(parent["round"], parent["stage"])) / parent["key"]
        if not (policy / RECEIPT).is_file():
            break
        found.append(policy)
    return found


def demonstrations_of(job: Job) -> list[Any]:
    """The demonstrations among the job's inputs (`align.data.demonstrations`); none where there is no such input."""
    from align.data.demonstrations import read_demonstrations

    folder = job.inputs.get("demonstrations")
    return read_demonstrations(folder / "demonstrations.parquet") if folder is not None else []


def name_bases(run: Run) -> None:
    """Say in each policy's adapter where its parent lies now: the run may have been moved, or copied, since it was
    trained."""
    for _, folder in stage_folders(run.folder):
        for config in folder.glob(f"*/{ADAPTER}/{ADAPTER_CONFIG}"):
            receipt = read_receipt(config.parents[1] / RECEIPT)
            if receipt is None:
                continue  # it is not published, or damaged, which others say
            parent = receipt.inputs.get("parent")
            if parent is None:
                name_base(config.parent, run.recipe.model.path, run.recipe.model.revision)
            else:
                base = stage_folder(run.folder, Ref(parent["round"], parent["stage"])) / parent["key"]
                name_base(config.parent, str(base))


def labels_of(job: Job, name: str, kind: type[Label], replay: float) -> list[Label]:
    """This round's rows of `<name>.parquet`, and the share `replay` of earlier rounds', drawn by a hash of their
    ids."""
    from align.data.mixture import replayed

    rows = from_table(kind, read_table(job.inputs["preferences"] / f"{name}.parquet"))
    seed = job.settings["seed"]
    for source in sorted(n for n in job.inputs if n.startswith("earlier_")):
        earlier = from_table(kind, read_table(job.inputs[source] / f"{name}.parquet"))
        rows += replayed(earlier, replay, round=job.round, seed=seed)
    return rows


def tokens_of(job: Job) -> pa.Table | None:
    """What the answers of `labels_of` were sampled as (`align.sampled`), where that is known."""
    return read_tokens([job.inputs["preferences"], *(job.inputs[n] for n in job.inputs if n.startswith("earlier_"))])


def note_of(what: str, metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    """For a stage's summary, by a training's metrics: notes where most of its rows were dropped (`rows`, `dropped`),
    and where not the last step is published (`held_out`)."""
    sentence = mostly_dropped(what, metrics["rows"], metrics["dropped"])
    notes = [f"{sentence} (dropped.parquet of the stage names each)"] if sentence else []
    if ended := measured_outcome(metrics):
        notes.append(ended)
    return {"notes": notes} if notes else {}


def measured_outcome(summary: Mapping[str, Any]) -> str | None:
    """Of a training that measured held-out rows while it learned: which model is published, where it is not the
    last."""
    told = summary.get("held_out") or {}
    return outcome(told) if "published_step" in told else None


def note_of_dropped(what: str, kept: int, dropped: list[Dropped]) -> dict[str, list[str]]:
    """Likewise, by what was kept and what was dropped."""
    return note_of(what, {"rows": kept, "dropped": count_reasons(dropped)})


def write_part(job: Job, name: str, kind: type[Record], rows: list[Record]) -> None:
    """Write `<name>.parquet` of the stage's result."""
    write_table(job.out / f"{name}.parquet", to_table(kind, rows))


def some(rows: list[Row], job: Job, what: str) -> list[Row]:
    """`rows`, which the job trains on. Raises DataError where there are none."""
    if not rows:
        raise DataError(
            f"there is not one {what} to train on",
            where=str(Ref(job.round, LABELS)),
            hint="see its dropped.parquet for the reasons",
        )
    return rows


def training_of(job: Job, progress: Progress) -> dict[str, Any]:
    """What every training takes beside parent, rows and config."""
    return {
        "seed": job.settings["seed"],
        "dtype": job.settings["dtype"],
        "report_to": job.runtime["report_to"],
        "threads": job.runtime["threads"],
        "out": job.out,
        "work": job.scratch,
        "progress": progress,
        "mask_thinking": job.settings.get("mask_thinking", False),
    }


def trained(job: Job, metrics: Summary, **counts: int) -> Summary:
    """The summary of a stage that has trained its parent."""
    parent = checkpoint_of(job.inputs["parent"])
    return {"checkpoint": checkpoint_id(job.out), "parent": parent, **counts, **metrics, **note_of("row", metrics)}
