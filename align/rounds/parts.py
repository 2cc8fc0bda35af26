"""What the stages' functions have in common: tables in their inputs' folders and in their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from align.dropped import mostly_dropped
from align.ids import unit_for
from align.rounds.stage import RECEIPT, Job, Ref, stage_folder
from align.store import read_json, read_table, write_table
from align.train.split import outcome
from align.types import Prompt, Record, from_table, to_table

Row = TypeVar("Row")


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


def labels_of(job: Job, name: str, kind: type[Row], replay: float) -> list[Row]:
    """This round's rows of `<name>.parquet`, and the share `replay` of earlier rounds', drawn by a hash of their ids."""
    rows = from_table(kind, read_table(job.inputs["preferences"] / f"{name}.parquet"))
    seed = job.settings["seed"]
    for source in sorted(n for n in job.inputs if n.startswith("earlier_")):
        earlier = from_table(kind, read_table(job.inputs[source] / f"{name}.parquet"))
        rows += [row for row in earlier if unit_for("replay", seed, job.round, row.id) < replay]  # type: ignore[attr-defined]
    return rows


def note_of(what: str, metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    """For a stage's summary, by a training's metrics: notes where most of its rows were dropped (`rows`, `dropped`), and
    where not the last step is published (`held_out`)."""
    sentence = mostly_dropped(what, metrics["rows"], metrics["dropped"])
    notes = [f"{sentence} (dropped.parquet of the stage names each)"] if sentence else []
    if ended := measured_outcome(metrics):
        notes.append(ended)
    return {"notes": notes} if notes else {}


def measured_outcome(summary: Mapping[str, Any]) -> str | None:
    """Of a training that measured held-out rows while it learned: which model is published, where it is not the last."""
    told = summary.get("held_out") or {}
    return outcome(told) if "published_step" in told else None


def write_part(job: Job, name: str, kind: type[Record], rows: list[Record]) -> None:
    """Write `<name>.parquet` of the stage's result."""
    write_table(job.out / f"{name}.parquet", to_table(kind, rows))
