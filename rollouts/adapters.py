"""LoRA adapters of several rounds as one, so that a server goes on with the base that it has.

Each round's adapter is trained on the merged checkpoint of the round before. The sum of their products is again a
product of two thin matrices: W + s1·B1·A1 + s2·B2·A2 = W + [s1·B1 s2·B2]·[A1; A2], of rank r1 + r2 (Hu et al. 2021 for
the adapter itself).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.ids import content_id, file_id
from align.store import read_json, remove_folder, write_json

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "adapter"
"""Where a checkpoint keeps the adapter that was merged into it."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False, "fan_in_fan_out": False,
    "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False, "target_parameters": None,
}  # fmt: skip
"""What an adapter's config has to say, where it says anything, for the sum above to be right."""


def has_adapter(checkpoint: Path) -> bool:
    return (checkpoint / FOLDER / WEIGHTS).is_file()


def adapter_id(folders: Sequence[Path]) -> str:
    """The same for the same adapters in the same order, whatever their folders are called."""
    return content_id([[file_id(folder / name) for name in (CONFIG, WEIGHTS)] for folder in folders])


def obstacle(folders: Sequence[Path], max_rank: int) -> str | None:
    """Why the sum of these adapters cannot be served in `max_rank`, or None."""
    for folder in folders:
        config = read_json(folder / CONFIG)
        for name, wanted in PLAIN.items():
            if config.get(name, wanted) not in (wanted, None):
                return f"an adapter has {name} {config[name]!r}"
    rank = sum(_rank(folder) for folder in folders)
    return f"the adapters' ranks add up to {rank}, over max_lora_rank ({max_rank})" if rank > max_rank else None


def one_adapter(folders: Sequence[Path], out: Path) -> Path:
    """A folder with the sum of the adapters: the given one if it is alone, else `out`, written again."""
    if len(folders) == 1:
        return folders[0]
    from safetensors.torch import load_file, save_file

    rank = sum(_rank(folder) for folder in folders)
    parts = [(_rank(folder), _scale(folder), load_file(folder / WEIGHTS)) for folder in folders]
    weights: dict[str, Tensor] = {}
    for name in sorted({name for _, _, found in parts for name in found}):
        weights[name] = _joined(name, parts)
    remove_folder(out)
    out.mkdir(parents=True)
    save_file(weights, out / WEIGHTS)
    config = read_json(folders[-1] / CONFIG)
    targets = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in weights})
    write_json(out / CONFIG, {**config, "r": rank, "lora_alpha": rank, "target_modules": targets})
    return out


def _joined(name: str, parts: "Sequence[tuple[int, float, dict[str, Tensor]]]") -> "Tensor":
    """Rows of lora_A, or scaled columns of lora_B, one adapter after the other; zeros where one does not have it."""
    import torch

    rows = ".lora_A." in name
    like = next(found[name] for _, _, found in parts if name in found)
    blocks = []
    for rank, scale, found in parts:
        if name in found:
            block = found[name] if rows else (found[name].float() * scale).to(like.dtype)
        else:
            block = like.new_zeros((rank, like.shape[1]) if rows else (like.shape[0], rank))
        blocks.append(block.to(like.dtype))
    return torch.cat(blocks, dim=0 if rows else 1).contiguous()


def _rank(folder: Path) -> int:
    return int(read_json(folder / CONFIG)["r"])


def _scale(folder: Path) -> float:
    config = read_json(folder / CONFIG)
    return float(config["lora_alpha"]) / int(config["r"])
