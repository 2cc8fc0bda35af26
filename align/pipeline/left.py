"""Work that a stage left under another key: it is not gone on from, and that is said, with what differs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.errors import DataError
from align.pipeline.receipts import Receipt
from align.pipeline.stage import JOB, WORK, Stage
from align.store import read_json, write_json

MADE_FROM = "made_from.json"
"""In a stage's scratch: what its key is made of, by name."""
_NO_WORK = {MADE_FROM, JOB, "lock"}
SHORT = 60
"""Characters of a value that is told; of a longer one only the name is."""


def note_left(scratch: Path, stage: Stage, inputs: Mapping[str, Receipt]) -> list[str]:
    """Write down what the work in `scratch` is made from; a sentence for each other scratch of the stage that holds
    work."""
    made = {
        "version": stage.declared.version, **{f"input {name}": receipt.output for name, receipt in inputs.items()},
        **_flat(stage.settings), **{f"file {name}": id for name, id in stage.files.items()},
    }  # fmt: skip
    scratch.mkdir(parents=True, exist_ok=True)
    write_json(scratch / MADE_FROM, made)
    made = read_json(scratch / MADE_FROM)  # as that of the others is read
    notes = []
    for other in sorted(scratch.parent.glob(f"*{WORK}")):
        left = [p for p in other.rglob("*") if p.is_file() and p.name not in _NO_WORK]
        if other != scratch and left:
            size = max(0.1, sum(path.lstat().st_size for path in left) / 2**20)
            notes.append(
                f"starts over; {size:.1f} MiB of unfinished work were made with other settings ({_difference(other, made)}): with "
                "those again the stage goes on from there, and `align clean` removes it"
            )
    return notes


def _difference(scratch: Path, now: Mapping[str, Any]) -> str:
    try:
        then = read_json(scratch / MADE_FROM)
    except DataError:
        return "by an earlier version, or its note is damaged"
    words = []
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if before != after:
            short = not name.startswith(("input ", "file ")) and len(f"{before}{after}") <= SHORT
            words.append(f"{name}: {before} then, {after} now" if short else f"another {name}")
    return ", ".join(words)


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
