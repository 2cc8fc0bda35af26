"""Checkpoint folders: the given model as one, and a trained model published as one.

A checkpoint is merged weights as safetensors, a tokenizer with its chat template and a generation config that lists
every stop token; nothing pickled, no path of the machine that made it, and (under LoRA) the adapter beside.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.errors import ConfigError, ServiceError, StageError
from align.ids import ADAPTER_CONFIG
from align.store import disk_errors, read_json, write_json
from align.templates import Chat
from align.text import load_tokenizer, stop_token_ids
from align.train import rounding
from align.train.adapter import ADAPTER, save_adapter
from align.train.world import agreed, gathered_weights, rank

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

PromptAndAnswer = tuple[list[int], list[int]]
"""Token ids."""
RELOAD_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest difference of an answer's mean token log-probability, in nats, between memory and the published folder."""

_TOKENIZER_FILES = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
     "merges.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "tekken.json"}
)  # fmt: skip
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
        if _stored_dtypes(source) == {dtype}:
            for file in _weight_files(source):
                _place(file, out / file.name, link=from_hub)
        else:
            _save_weights(model, out)
        _write_beside_weights(source, out, dtype, {**chat, "date": chat.get("date") or date.today().isoformat()})


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
    config = _config_of(folder, where)
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
    right, found = _architectures(config), config.architectures or []
    if not right or (found and not set(found) & set(right)):
        raise ConfigError(
            f"{where} is no causal language model, found {', '.join(found) or config.model_type}", where="model.path"
        )


def _architectures(config: Any) -> list[str]:
    """The causal language models of a config's family; empty where it has none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, ())
    return [names] if isinstance(names, str) else list(names)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _weight_files(folder: Path) -> list[Path]:
    """What holds the weights as safetensors, with the index of a sharded model; empty where they are stored otherwise."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [index, *(folder / name for name in sorted(set(read_json(index)["weight_map"].values())))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _stored_dtypes(folder: Path) -> set[str]:
    from safetensors import safe_open

    names = {"F32": "float32", "BF16": "bfloat16"}
    found: set[str] = set()
    for path in _weight_files(folder):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
                found |= {str(file.get_slice(key).get_dtype()) for key in file.keys()}  # noqa: SIM118
    return {names.get(name, name) for name in found}


def _place(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file, or give it a second name where it is never rewritten and the system allows it: not between disks, not
    of another user's file, not on every file system."""
    target.unlink(missing_ok=True)
    if link:
        with suppress(OSError):
            return os.link(source.resolve(), target)
    shutil.copyfile(source, target)


def _save_weights(model: PreTrainedModel, out: Path) -> None:
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()  # the given one may be refused at saving; it is written below
    model.save_pretrained(out)


def _write_beside_weights(source: Path, out: Path, dtype: str, chat: Chat) -> None:
    """Config, tokenizer and generation config as in `source`, for trainers change theirs (`use_cache`, pad token)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=True)
    config.architectures = config.architectures or _architectures(config)[:1]
    config.dtype = dtype
    config.save_pretrained(out)
    tokenizer = load_tokenizer(source, **chat)
    copy_tokenizer(tokenizer, source, out)
    given = source / "generation_config.json"
    generation = read_json(given) if given.is_file() else {}
    for ours_not in ("transformers_version", "_from_model_config"):
        generation.pop(ours_not, None)
    generation["eos_token_id"] = list(stop_token_ids(tokenizer, source))
    if tokenizer.pad_token_id is not None:
        generation["pad_token_id"] = tokenizer.pad_token_id
    write_json(out / "generation_config.json", generation)


def copy_tokenizer(tokenizer: Any, source: Path, out: Path) -> None:
    """The given tokenizer's own bytes, which the library may not write again as they were, and the template beside them."""
    files = [file for file in source.iterdir() if file.name in _TOKENIZER_FILES or file.suffix == ".tiktoken"]
    for file in files:
        _place(file, out / file.name, link=False)
    if not files:  # in a form of its own
        tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def publish_model(
    model: Any, source: Path, out: Path, *, dtype: str, chat_template: str | None = None, draw: int = 0
) -> rounding.Arrived:
    """Write a trained `model`, which started from the checkpoint or model in `source`, as a checkpoint folder `out`.

    A PEFT model is merged (in place) and its adapter written to `out/adapter`. In bfloat16 weights are rounded at random
    (`align.train.rounding`), in the `draw` of that number. Returns how much of the trained change arrived; StageError where it is too little.
    """
    from peft import PeftModel

    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        arrived = rounding.Arrived()
        if isinstance(model, PeftModel):
            save_adapter(model, out / ADAPTER, source)
            model, arrived = rounding.merged_in_place(model, draw)
        if dtype == "bfloat16":
            rest = rounding.rounded_in_place(model, source, draw)
            arrived = rest if arrived.trained == 0 else arrived
        arrived.require(str(out))
        _save_weights(model, out)
        _write_beside_weights(source, out, dtype, {"chat_template": chat_template})
    return arrived


def whole_model(model: Any, source: Path) -> Any:
    """`model` itself, or where its weights are sharded over processes (FSDP2, ZeRO-3) a whole one in the first of them.

    `source` is the folder that it started from. Called by all processes; in the others it is not whole.
    """
    weights = gathered_weights(model)
    if weights is None or rank() > 0:
        return model
    from peft import PeftModel, get_peft_model

    whole = load_model(source, str(next(iter(weights.values())).dtype).removeprefix("torch."))
    if isinstance(model, PeftModel):
        whole = get_peft_model(whole, model.peft_config["default"])
    whole.load_state_dict(weights)
    return whole


def sequence_logps(model: PreTrainedModel, sequences: Sequence[PromptAndAnswer]) -> Tensor:
    """Mean log-probability of each answer's tokens after its prompt, `(prompt_ids, answer_ids)`; shape [sequences]."""
    import torch

    means = []
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for prompt, answer in sequences:
            ids_1T = torch.tensor([prompt + answer], device=model.device)
            logits_AV = model(input_ids=ids_1T, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            logps_A = logits_AV.log_softmax(-1).gather(1, ids_1T[0, len(prompt) :, None])
            means.append(logps_A.mean().cpu())
    model.train(was_training)
    return torch.stack(means)


def publish_and_verify(
    model: Any,
    source: Path,
    sequences: Sequence[PromptAndAnswer],
    *,
    out: Path,
    dtype: str,
    chat_template: str | None = None,
    pairs: Sequence[tuple[PromptAndAnswer, PromptAndAnswer]] = (),
) -> dict[str, float]:
    """`publish_model`, then `verify_published` on `sequences`. Returns `reload_logp_difference`, the largest difference
    of log-probabilities, and in bfloat16 which share of the trained change is in what is published: `published_weights`
    of that of the weights, and for models that are small enough `published_logps` of that of the answers' log-probabilities,
    or with `pairs` (better answer, worse answer) of that of their margins.

    Of several processes the first one does it, and the others wait.
    """
    model = whole_model(model, source)
    found: dict[str, float] = {}
    if rank() == 0:
        device = model.device
        expected = sequence_logps(model, sequences)
        draw = None
        if dtype == "bfloat16":
            draw = rounding.best_draw(
                model, source, lambda folder: load_model(folder, "float32").to(device), _compared(sequences, pairs)
            )
        number = draw.number if draw is not None else 0
        arrived = publish_model(model, source, out, dtype=dtype, chat_template=chat_template, draw=number)
        if draw is None:
            found["reload_logp_difference"] = verify_published(out, expected, sequences, dtype=dtype, device=device)
        else:
            again = _compared(sequences, pairs)(load_model(out, "float32").to(device))
            tokens = max(len(answer) for pair in pairs for _, answer in pair) if pairs else 1  # margins are sums
            allowed = RELOAD_TOLERANCE["float32"] * tokens
            found["reload_logp_difference"] = _require_same(again, draw.told, allowed, out)
        if dtype == "bfloat16":
            found["published_weights"] = arrived.share
        if draw is not None:
            found["published_logps"] = draw.share
            _warn_of_loss(draw.share)
    return agreed(found)


def _compared(
    sequences: Sequence[PromptAndAnswer], pairs: Sequence[tuple[PromptAndAnswer, PromptAndAnswer]]
) -> Callable[[Any], Tensor]:
    """What of a model is compared before and after publishing: margins where there are pairs, else log-probabilities."""
    import torch

    asked = [one for pair in pairs for one in pair] or list(sequences)
    lengths = torch.tensor([len(answer) for _, answer in asked])

    def compare(model: Any) -> Tensor:
        logps = sequence_logps(model, asked)
        if not pairs:
            return logps
        return (logps * lengths)[::2] - (logps * lengths)[1::2]

    return compare


def _warn_of_loss(share: float) -> None:
    if share < rounding.LEAST:
        print(
            f"only {share:.0%} of the trained change of log-probabilities is in the published checkpoint: of a model this "
            "small, or a training this short, rounding to bfloat16 is louder than the change; raise the learning rate, or "
            "set model.dtype: float32",
            file=sys.stderr,
        )


def context_of(model: PreTrainedModel) -> int | None:
    """The most tokens that the model's positions reach; None where its config knows no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def verify_published(
    out: Path, expected: Tensor, sequences: Sequence[PromptAndAnswer], *, dtype: str, device: Any
) -> float:
    """Read the published folder again and compare `sequence_logps` with those of the model in memory.

    Returns the largest difference; StageError where it is over `RELOAD_TOLERANCE`.
    """
    again = sequence_logps(load_model(out, dtype).to(device), sequences)
    return _require_same(again, expected, RELOAD_TOLERANCE[dtype], out)


def _require_same(again: Tensor, expected: Tensor, tolerance: float, out: Path) -> float:
    difference = float((again - expected).abs().max())
    if not difference <= tolerance:
        raise StageError(
            f"the published checkpoint differs from the trained model: log-probabilities by {difference:.2g}, "
            f"allowed is {tolerance:g}",
            where=str(out),
        )
    return difference
