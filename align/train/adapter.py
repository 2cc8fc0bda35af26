"""The LoRA adapter that lies beside the checkpoint that it was merged into, as PEFT reads it.

It stands on the parent that it was trained on, not on the checkpoint beside it. Its config says where that lies, so
that `AutoPeftModelForCausalLM` finds it; the place is no part of the folder's content (`align.ids.file_id`) and may be
named again.
"""

from pathlib import Path
from typing import Any

from align.ids import ADAPTER_CONFIG
from align.store import read_json, remove_folder, write_json

ADAPTER = "adapter"


def save_adapter(model: Any, folder: Path, base: Path) -> None:
    """Write the adapter of a PEFT model that was trained on the checkpoint `base`."""
    remove_folder(folder)
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = read_json(folder / ADAPTER_CONFIG)
    if isinstance(config["target_modules"], list):  # PEFT writes a set, whose order differs from process to process
        config["target_modules"].sort()
    config["base_model_name_or_path"] = None
    write_json(folder / ADAPTER_CONFIG, config)
    name_base(folder, str(base))


def name_base(folder: Path, base: str, revision: str | None = None) -> None:
    """Say in the adapter's config where its base is: a folder of this machine, or a model of the Hub at a `revision`.

    Nothing where there is no adapter. A folder without weights, from which a training began at random, is no base and
    nothing can be.
    """
    file, there = folder / ADAPTER_CONFIG, Path(base).expanduser()
    if not file.is_file():
        return
    name: str | None = str(there.resolve()) if there.is_dir() else base
    if there.is_dir() and not any(there.glob("*.safetensors")) and not any(there.glob("*.bin")):
        name = None
    config = read_json(file)
    named = {**config, "base_model_name_or_path": name, "revision": None if there.is_dir() else revision}
    if named != config:
        write_json(file, named)
