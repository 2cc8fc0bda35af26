"""Runs that a version before December 2026 made, under the names of today: what they finished counts, and nothing is asked
twice.

A receipt holds all that its key was made of, so keys are computed from receipts and nothing is done again. What is to be
done is written into `migration.json` first and each step may be done twice: after a kill the next command goes on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.config.yaml_text import dump, parse
from align.errors import DataError
from align.ids import content_id, file_id, with_check
from align.pipeline.receipts import CURRENT, KEY, RECEIPT, Receipt, read_receipt, stage_folders
from align.pipeline.stage import PARTIAL, WORK
from align.store import read_json, remove_folder, replace_file, write_json

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
SECTIONS: dict[str, dict[str, str]] = {
    "dpo": {"noise": "label_noise", "length_alpha": "ld_alpha"},
    "rollouts": {"resample": "max_resamples"},
}
RECIPE = {"thumbs": "binary"}
VALUES: dict[str, dict[str, dict[str, str]]] = {"dpo": {"length": {"desensitised": "ld"}}}
"""Section → key, by its new name → what its values were called."""


def migrate(run: Path, resolved: Path | None) -> bool:
    """Give the run's folders and receipts the names of today, and the recipe in its file `resolved`, where that is whole;
    returns whether the recipe has them. The caller holds the run's lock."""
    plan = _begun(run / PLAN)
    if plan is None:
        _name_stages(run)
        plan = {"steps": _plan(run), "resolved": _recipe(resolved) if resolved else None}
        write_json(run / PLAN, plan)
    for step in plan["steps"]:
        _do(run, step)
    if plan["resolved"] is None:
        return False
    replace_file(run / "resolved.yaml", plan["resolved"])
    return True


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
    return dump(renamed_recipe(recipe))


def renamed_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the keys and values of today."""
    return {RECIPE.get(name, name): _section(name, value) for name, value in recipe.items()}


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings, of which some are sections of the recipe, with the keys and values of today."""
    return {name: _section(name, value) for name, value in settings.items()}


def _section(name: str, value: Any) -> Any:
    if not isinstance(value, dict) or name not in SECTIONS:
        return value
    found = _renamed(value, SECTIONS[name])
    for key, values in VALUES.get(name, {}).items():
        if isinstance(found.get(key), str):
            found[key] = values.get(found[key], found[key])
    return found


def _renamed(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in given.items()}


def rename_pulled(folder: Path) -> None:
    """Give what an earlier version's `align annotate pull` wrote the names of today: it must be found to be forgotten."""
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
    """For each published or half-made folder that changes: where it lies, its new key and what its receipt is to say."""
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
            made = _receipt(folder, receipt, keys, outputs)
            keys[receipt.key], outputs[receipt.output] = made["key"], made["output"]
            if made != {**_fields(receipt), "check": made["check"]}:
                was = receipt.files.get(AGREEMENT)
                steps.append({**_at(run, folder, made["key"]), "receipt": made, "agreement": was})
    for scratch in sorted(path for stage in _stages(run) for path in stage.glob(f"*{WORK}/made_from.json")):
        if (key := _key_of_work(scratch, outputs)) is not None:
            folder, marks = scratch.parent.with_suffix(""), _marks(scratch.parent, keys)
            if key != folder.name or marks:
                steps.append({**_at(run, folder, key), "receipt": None, "agreement": None, "marks": marks})
    return steps


def _at(run: Path, folder: Path, key: str) -> dict[str, str]:
    return {"folder": str(folder.relative_to(run)), "key": key}


def _fields(receipt: Receipt) -> dict[str, Any]:
    return {name: getattr(receipt, name) for name in Receipt.__dataclass_fields__}


def _receipt(folder: Path, receipt: Receipt, keys: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    stage = folder.parent.name
    made = _fields(receipt) | {"stage": stage}
    made["inputs"] = {
        INPUTS.get(stage, {}).get(name, name): {
            **source,
            "stage": STAGES.get(source["stage"], source["stage"]),
            "key": keys.get(source["key"], source["key"]),
            "output": outputs.get(source["output"], source["output"]),
        }
        for name, source in receipt.inputs.items()
    }
    made["settings"] = renamed_settings(receipt.settings)
    made["external"] = _renamed(receipt.external, OUTSIDE)
    made["summary"] = _renamed(receipt.summary, COUNTS)
    if stage == "preferences":
        made["files"] = dict(sorted(_renamed(receipt.files, FILES).items()))
        agreement = _agreement(folder, receipt.files.get(AGREEMENT))
        if agreement is not None:
            made["files"][AGREEMENT] = _id_of(folder, agreement)
        made["output"] = content_id(made["files"])
    sources = {name: source["output"] for name, source in made["inputs"].items()}
    made["key"] = content_id([stage, receipt.version, sources, made["settings"], made["external"]])
    return with_check(made)


def _agreement(folder: Path, identity: str | None) -> dict[str, Any] | None:
    """What `agreement.json` is to hold; None where it holds that, or is not the file whose id is `identity`: damage stays
    to be found."""
    path = folder / AGREEMENT
    if not path.is_file() or file_id(path) != identity:
        return None
    found = read_json(path)
    if not isinstance(found, dict) or "sway" not in found:
        return None
    effect = _renamed(found["sway"], {"sway": "effect"}) if found["sway"] else None
    return _renamed(found, {"sway": "suggestion_effect"}) | {"suggestion_effect": effect}


def _id_of(folder: Path, value: Any) -> str:
    """The id of a JSON file that holds `value`."""
    trial = folder.with_suffix(".migration")
    trial.mkdir(exist_ok=True)
    write_json(trial / AGREEMENT, value)
    found = file_id(trial / AGREEMENT)
    remove_folder(trial)
    return found


def _key_of_work(note: Path, outputs: Mapping[str, str]) -> str | None:
    """The new key of unfinished work, where all that its key was made of is known; None where it is not.

    Work that stays under its old key is not gone on from, and the stage says so.
    """
    try:
        made, job = read_json(note), read_json(note.with_name("job.json"))["job"]
        version = made["version"]
        sources = {n.removeprefix("input "): v for n, v in made.items() if n.startswith("input ")}
        outside = {n.removeprefix("file "): v for n, v in made.items() if n.startswith("file ")}
        settings, stage = job["settings"], job["stage"]
    except (DataError, OSError, KeyError, TypeError, AttributeError):
        return None
    old, key = note.parent.stem, content_id([stage, version, sources, settings, outside])
    if old != key:
        return None
    stage = STAGES.get(stage, stage)
    sources = {INPUTS.get(stage, {}).get(name, name): outputs.get(id, id) for name, id in sources.items()}
    return content_id([stage, version, sources, renamed_settings(settings), _renamed(outside, OUTSIDE)])


def _marks(scratch: Path, keys: Mapping[str, str]) -> dict[str, Any]:
    """What the marks of a trainer's whole checkpoints in `scratch` are to hold (`align.train.loop.MARK`), by their paths:
    what the training was made from, its model's folder among it."""
    found = {}
    for path in sorted(scratch.glob("checkpoint-*/complete.json")):
        try:
            mark = read_json(path)
            inputs = mark["inputs"]
            model = Path(inputs["model"])
            settings = _section("dpo", inputs["settings"])
        except (DataError, KeyError, TypeError):
            continue
        renamed = {**inputs, "model": str(model.with_name(keys.get(model.name, model.name))), "settings": settings}
        if renamed != inputs:
            found[str(path.relative_to(scratch))] = {**mark, "inputs": renamed}
    return found


def _do(run: Path, step: dict[str, Any]) -> None:
    old, made = run / step["folder"], step["receipt"]
    new = old.with_name(step["key"])
    if made is not None and old.is_dir():
        if made["stage"] == "preferences":
            for before, now in FILES.items():
                if (old / before).is_file():
                    (old / before).rename(old / now)
            if (agreement := _agreement(old, step["agreement"])) is not None:
                write_json(old / AGREEMENT, agreement)
        write_json(old / RECEIPT, made)
        old.rename(new) if old != new else None
    for ending in (PARTIAL, WORK):
        half = old.with_name(old.name + ending)
        if half.is_dir() and old != new:
            half.rename(new.with_name(new.name + ending))
    for path, mark in step.get("marks", {}).items():
        if (new.with_name(new.name + WORK) / path).parent.is_dir():
            write_json(new.with_name(new.name + WORK) / path, mark)
    pointer = old.with_name(CURRENT)
    if pointer.is_file() and pointer.read_text(encoding="ascii").strip() == old.name != new.name:
        replace_file(pointer, new.name + "\n")
