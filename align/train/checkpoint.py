"""Checkpoint folders: the given model as one, and a model read from one.

A checkpoint is merged weights as safetensors, a tokenizer with its chat template and a generation config that lists
every stop token; nothing pickled, no path of the machine that made it, and (under LoRA) the adapter beside.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.errors import ConfigError, ServiceError
from align.ids import ADAPTER_CONFIG
from align.layerwise import as_trained, weight_files
from align.store import disk_errors, read_json
from align.templates import Chat
from align.train.adapter import ADAPTER
from align.train.publishing import architectures, place, save_weights, write_beside_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HUB_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")


def import_model(
    path: str, out: Path, *, revision: str | None, dtype: str, seed: int | None = None, **chat: Unpack[Chat]
) -> None:
    """Write the given model, a local folder or a Hub id, as a checkpoint folder `out`; `dtype` is that of its weights.

    Its chat template has the variables and the date of `chat` written in; of a date that is not named, today's.
    Given a `seed`, a local folder with a config and no weights at all gets random ones, as training from scratch needs.

    Raises ConfigError for a path that is not there, holds no config.json, no causal language model or not all of
    its weights, or has no chat template and none is given; ServiceError where the Hub cannot be reached.
    """
    source, from_hub = _find(path, revision)
    scratch = seed is not None and not from_hub and not any(_holds_weights(file) for file in source.iterdir())
    model = random_model(source, dtype, seed or 0, named=path) if scratch else load_model(source, dtype, named=path)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        if stored_dtypes(source) == {dtype}:
            for file in [*source.glob("model.safetensors.index.json"), *weight_files(source)]:
                place(file, out / file.name, link=from_hub)
        else:
            save_weights(model, out)
        write_beside_weights(source, out, dtype, {**chat, "date": chat.get("date") or date.today().isoformat()})


def _find(path: str, revision: str | None) -> tuple[Path, bool]:
    """The folder of a model, and whether it lies in the Hub's cache (whose files nobody rewrites)."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1:
            raise ConfigError(
                f"there is no model folder {path!r}",
                where="model.path",
                hint="give a local folder or a Hub id (owner/name)",
            )
        return _download(path, revision), True
    if revision is not None:
        raise ConfigError(f"revision {revision!r} means nothing for the local folder {path!r}", where="model.revision")
    if (folder / ADAPTER_CONFIG).is_file():
        raise _adapter_as_model(folder)
    if not (folder / "config.json").is_file():
        raise ConfigError(f"the folder {path!r} has no config.json, so it is no model", where="model.path")
    return folder, False


def _adapter_as_model(folder: Path) -> ConfigError:
    """The error for a folder with an adapter, which nobody would add to what is loaded."""
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    what = f"the folder {str(folder)!r} holds a LoRA adapter" + (f" of {base!r}" if base else "")
    if (folder / "config.json").is_file():
        what, hint = (
            f"{what} beside a model, and the adapter would be ignored",
            "merge it, or move adapter_config.json away",
        )
    else:
        hint = "merge it into its model (PEFT's merge_and_unload) and name the merged folder"
        if folder.name == ADAPTER and (folder.parent / "config.json").is_file():
            hint = f"it is merged already: name {str(folder.parent)!r}"
    return ConfigError(what, where="model.path", hint=hint)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*_HUB_FILES, "pytorch_model*"]))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"there is no local folder and no model on the Hub called {name!r}"
            + (f" at {revision!r}" if revision else ""),
            where="model.path",
            hint="check the name; for a private model set HF_TOKEN",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise ServiceError(
            f"{name!r} is no local folder, and the Hub cannot be reached",
            where="model.path",
            hint="give a local folder",
        ) from error
    if not (folder / "config.json").is_file():
        raise ConfigError(f"the Hub's {name!r} has no config.json, so it is no model", where="model.path")
    return folder


def load_model(folder: Path, dtype: str, *, named: str | None = None) -> PreTrainedModel:
    """A causal language model from a folder on disk, every weight read from it; no network, no code that comes with it.

    Raises ConfigError for another kind of model and for weights that are missing (they would be random).
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = f"the model {named or str(folder)!r}"
    config = as_trained(_config_of(folder, where))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise ConfigError(f"{where} cannot be loaded ({_first_line(error)})", where="model.path") from error
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(
            f"{where} lacks {len(missing)} weights, the first is {missing[0]}; they would be random", where="model.path"
        )
    return model  # type: ignore[no-any-return]


def random_model(folder: Path, dtype: str, seed: int, *, named: str | None = None) -> PreTrainedModel:
    """A causal language model of the folder's config.json with random weights; the same seed gives the same ones.

    Raises ConfigError for another kind of model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = f"the model {named or str(folder)!r}"
    config = _config_of(folder, where)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model.to(getattr(torch, dtype))  # type: ignore[arg-type]


def _holds_weights(file: Path) -> bool:
    """Whether a file of a model's folder can be a part of its weights, whole or not."""
    return file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf") or (
        file.name.endswith(".index.json")
    )


def _config_of(folder: Path, where: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(
            f"{where} has a config.json that cannot be read ({_first_line(error)})", where="model.path"
        ) from error
    _require_causal(config, where)
    return config


def _require_causal(config: Any, where: str) -> None:
    right, found = architectures(config), config.architectures or []
    if not right or (found and not set(found) & set(right)):
        raise ConfigError(
            f"{where} is no causal language model, found {', '.join(found) or config.model_type}", where="model.path"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def stored_dtypes(folder: Path) -> set[str]:
    from safetensors import safe_open

    names = {"F32": "float32", "BF16": "bfloat16"}
    found: set[str] = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            found |= {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118
    return {names.get(name, name) for name in found}


def context_of(model: PreTrainedModel) -> int | None:
    """The most tokens that the model's positions reach; None where its config knows no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
