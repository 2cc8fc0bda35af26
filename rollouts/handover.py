"""What a running server needs to serve the next checkpoint: nothing, adapters, or a new start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.ids import content_id
from rollouts.adapters import FOLDER, has_adapter, obstacle


@dataclass(frozen=True, slots=True)
class Handover:
    """Load the sum of `adapters` (oldest first; none is the base itself), or start again because of `restart`."""

    adapters: list[Path]
    restart: str | None = None


def model_print(checkpoint: Path) -> str:
    """Tells one model's files from others, and from what lay at the same path before, without reading them."""
    files = sorted([*checkpoint.glob("*.safetensors"), checkpoint / "config.json"])
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return content_id([str(checkpoint.resolve()), stats])


def handover(
    serves: Mapping[str, Any], wanted: Mapping[str, Any], checkpoint: Path, ancestors: Sequence[Path]
) -> Handover:
    """How a server that was begun with `serves` comes to serve `checkpoint` as `wanted`.

    Both hold `model` (a `model_print`), `tokens` (the longest prompt plus answer), `max_lora_rank`, and other settings
    that have to be equal. `ancestors` are the checkpoints that `checkpoint` was trained from, the nearest first.
    """
    for name, value in wanted.items():
        if name == "tokens" and value > serves[name]:
            return Handover(
                [], f"it has room for {serves[name]} tokens of prompt and answer, and {value} may be needed"
            )
        if name not in ("model", "tokens") and value != serves[name]:
            return Handover([], f"its {name} is {serves[name]}, and {value} is asked for")
    adapters, base = adapters_until(serves["model"], checkpoint, ancestors)
    if base is None:
        return Handover([], "the new checkpoint is not the server's model with adapters: all its weights were trained")
    reason = obstacle(adapters, serves["max_lora_rank"])
    return Handover([], reason) if reason else Handover(adapters)


def adapters_until(model: str | None, checkpoint: Path, ancestors: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """The adapters, oldest first, that make `checkpoint` of the ancestor whose `model_print` is `model`, and that one.

    The ancestor is None where no chain of adapters leads to it. Where `model` is None, the chain goes as far as it can.
    """
    adapters: list[Path] = []
    for folder, parent in zip([checkpoint, *ancestors], [*ancestors, None], strict=True):
        if model is not None and model_print(folder) == model:
            return adapters[::-1], folder
        if parent is None or not has_adapter(folder):
            return adapters[::-1], None if model is not None else folder
        adapters.append(folder / FOLDER)
    raise AssertionError("the last ancestor has no parent")
