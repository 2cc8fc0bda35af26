"""Runs that a version before December 2026 made, under the names of today: what they finished counts, and nothing is
asked twice.

A receipt holds all that its key was made of, so keys are computed from receipts and nothing is done again. What is to
be done is written into `migration.json` first and each step may be done twice: after a kill the next command goes on.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align.config.renamed import renamed, renamed_section, renamed_sections
from align.config.yaml_text import dump, parse
from align.errors import DataError
from align.ids import bytes_id, content_id, file_id, with_check
from align.pipeline.left import MADE_FROM
from align.pipeline.receipts import CURRENT, KEY, RECEIPT, Receipt, key_of, pointed_key, read_receipt, stage_folders
from align.pipeline.stage import JOB, PARTIAL, WORK
from align.store import json_text, read_json, replace_file, write_json

PLAN = "migration.json"

STAGES = {"selection": "tasks"}
INPUTS = {"preferences": {"selection": "tasks"}}
"""Stage, by its new name → names of its inputs."""
OUTSIDE = {"thumbs": "binary"}
"""Names of outside files."""
FILES = {"thumbs.parquet": "binary.parquet"}
PULLED = {"thumbs.jsonl": "binary.jsonl"}
COUNTS = {"thumbs": "binary"}
"""Names in a receipt's summary."""
AGREEMENT = "agreement.json"


def migrate(run: Path, resolved: Path | None) -> str | None:
    """Give the run's folders and receipts the names of today; returns what the recipe in `resolved` says with them,
    None where that file was not whole. The caller holds the run's lock."""
    plan = _begun(run / PLAN)
    if plan is None:
        _name_stages(run)
        plan = {"steps": _plan(run), "resolved": _recipe(resolved) if resolved else None}
        write_json(run / PLAN, plan)
    for step in plan["steps"]:
        _do(run, step)
    return plan["resolved"]  # type: ignore[no-any-return]


def _begun(path: Path) -> dict[str, Any] | None:
    """The plan of a migration that was killed; None where there is none, or it cannot be read: it is made again."""
    try:
        found = read_json(path) if path.is_file() else None
    except DataError:
        return None
    return found if isinstance(found, dict) and {"steps", "resolved"} <= found.keys() else None


def finish(run: Path) -> None:
    """Forget the plan, when it is noted that the run has the names of today."""
    (run / PLAN).unlink(missing_ok=True)


def _recipe(resolved: Path) -> str:
    recipe, _ = parse(resolved.read_text(encoding="utf-8"), str(resolved))
    return dump(renamed_sections(recipe))


def rename_pulled(folder: Path) -> None:
    """Give what an earlier version's `align annotate pull` wrote the names of today: it must be found to be
    forgotten."""
    for old, new in PULLED.items():
        if (folder / old).is_file():
            (folder / old).replace(folder / new)


def _name_stages(run: Path) -> None:
    rename_pulled(run)
    for old, new in STAGES.items():
        for ref, folder in stage_folders(run):
            if ref.stage == old and not folder.parent.is_symlink() and not folder.with_name(new).exists():
                folder.rename(folder.with_name(new))
    for stage in _stages(run):
        for folder in sorted(stage.glob("*.retired-*")):
            folder.rename(folder.with_name(folder.name.replace(".retired-", ".archived-")))


def _stages(run: Path) -> list[Path]:
    """The folders of stages that lie in the run itself: what is behind a link is another's."""
    return [path for _, path in stage_folders(run) if not path.is_symlink() and not path.parent.is_symlink()]


def _plan(run: Path) -> list[dict[str, Any]]:
    """For each published or half-made folder that changes: where it lies, its new key and what its receipt is to
    say."""
    folders = {
        path.parent: receipt
        for stage in _stages(run)
        for path in sorted(stage.glob(f"*/{RECEIPT}"))
        if KEY.fullmatch(path.parent.name) and not path.parent.is_symlink()
        if (receipt := read_receipt(path)) is not None
    }
    keys: dict[str, str] = {}
    outputs: dict[str, str] = {}
    steps: list[dict[str, Any]] = []
    waiting = dict(folders)
    while waiting:  # what a stage was made from comes before it
        outside = {receipt.key for receipt in waiting.values()}
        ready = [f for f, r in waiting.items() if not any(source["key"] in outside for source in r.inputs.values())]
        for folder in ready or list(waiting):  # receipts that name each other are damaged; they are taken as they come
            receipt = waiting.pop(folder)
            agreement = _agreement(folder, receipt.files.get(AGREEMENT))
            made = _receipt(folder, receipt, agreement, keys, outputs)
            keys[receipt.key], outputs[receipt.output] = made["key"], made["output"]
            if made != {**asdict(receipt), "check": made["check"]}:
                steps.append({**_at(run, folder, made["key"]), "receipt": made, "agreement": agreement})
    for scratch in sorted(path for stage in _stages(run) for path in stage.glob(f"*{WORK}/{MADE_FROM}")):
        if (key := _key_of_work(scratch, outputs)) is not None:
            folder, marks = scratch.parent.with_suffix(""), _marks(scratch.parent, keys)
            if key != folder.name or marks:
                steps.append({**_at(run, folder, key), "marks": marks})
    return steps


def _at(run: Path, folder: Path, key: str) -> dict[str, str]:
    return {"folder": str(folder.relative_to(run)), "key": key}


def _receipt(
    folder: Path, receipt: Receipt, agreement: str | None, keys: Mapping[str, str], outputs: Mapping[str, str]
) -> dict[str, Any]:
    """What the receipt is to say; `agreement` is what `agreement.json` will hold, where that changes."""
    stage = folder.parent.name
    made = asdict(receipt) | {"stage": stage}
    made["inputs"] = {
        INPUTS.get(stage, {}).get(name, name): {
            **source,
            "stage": STAGES.get(source["stage"], source["stage"]),
            "key": keys.get(source["key"], source["key"]),
            "output": outputs.get(source["output"], source["output"]),
        }
        for name, source in receipt.inputs.items()
    }
    made["settings"] = renamed_sections(receipt.settings)
    made["external"] = renamed(receipt.external, OUTSIDE)
    made["summary"] = renamed(receipt.summary, COUNTS)
    if stage == "preferences":
        made["files"] = dict(sorted(renamed(receipt.files, FILES).items()))
        if agreement is not None:
            made["files"][AGREEMENT] = bytes_id(agreement.encode())
        made["output"] = content_id(made["files"])
    sources = {name: source["output"] for name, source in made["inputs"].items()}
    made["key"] = key_of(stage, receipt.version, sources, made["settings"], made["external"])
    return with_check(made)


def _agreement(folder: Path, identity: str | None) -> str | None:
    """What `agreement.json` is to hold; None where it holds that, or is not the file whose id is `identity`: damage
    stays to be found."""
    path = folder / AGREEMENT
    if not path.is_file() or file_id(path) != identity:
        return None
    found = read_json(path)
    if not isinstance(found, dict) or "sway" not in found:
        return None
    effect = renamed(found["sway"], {"sway": "effect"}) if found["sway"] else None
    return json_text(renamed(found, {"sway": "suggestion_effect"}) | {"suggestion_effect": effect})


def _key_of_work(note: Path, outputs: Mapping[str, str]) -> str | None:
    """The new key of unfinished work, where all that its key was made of is known; None where it is not.

    Work that stays under its old key is not gone on from, and the stage says so.
    """
    try:
        made, job = read_json(note), read_json(note.with_name(JOB))["job"]
        version = made["version"]
        sources = {n.removeprefix("input "): v for n, v in made.items() if n.startswith("input ")}
        outside = {n.removeprefix("file "): v for n, v in made.items() if n.startswith("file ")}
        settings, stage = job["settings"], job["stage"]
    except (DataError, OSError, KeyError, TypeError, AttributeError):
        return None
    if note.parent.stem != key_of(stage, version, sources, settings, outside):
        return None
    stage = STAGES.get(stage, stage)
    sources = {INPUTS.get(stage, {}).get(name, name): outputs.get(id, id) for name, id in sources.items()}
    return key_of(stage, version, sources, renamed_sections(settings), renamed(outside, OUTSIDE))


def _marks(scratch: Path, keys: Mapping[str, str]) -> dict[str, Any]:
    """What the marks of a trainer's whole checkpoints in `scratch` are to hold (`align.train.loop.MARK`), by their
    paths: what the training was made from, its model's folder among it."""
    found = {}
    for path in sorted(scratch.glob("checkpoint-*/complete.json")):
        try:
            mark = read_json(path)
            inputs = mark["inputs"]
            model = Path(inputs["model"])
            settings = renamed_section("dpo", inputs["settings"])
        except (DataError, KeyError, TypeError):
            continue
        renamed = {**inputs, "model": str(model.with_name(keys.get(model.name, model.name))), "settings": settings}
        if renamed != inputs:
            found[str(path.relative_to(scratch))] = {**mark, "inputs": renamed}
    return found


def _do(run: Path, step: dict[str, Any]) -> None:
    old = run / step["folder"]
    new = old.with_name(step["key"])
    if "receipt" in step and old.is_dir():
        for before, now in FILES.items():
            if (old / before).is_file():
                (old / before).rename(old / now)
        if step["agreement"] is not None:
            replace_file(old / AGREEMENT, step["agreement"])
        write_json(old / RECEIPT, step["receipt"])
    if old != new:
        for ending in ("", PARTIAL, WORK):
            if (half := old.with_name(old.name + ending)).is_dir():
                half.rename(new.with_name(new.name + ending))
        if pointed_key(old.parent) == old.name:
            replace_file(old.parent / CURRENT, new.name + "\n")
    for path, mark in step.get("marks", {}).items():
        if (mark_file := new.with_name(new.name + WORK) / path).parent.is_dir():
            write_json(mark_file, mark)
