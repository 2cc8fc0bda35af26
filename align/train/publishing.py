"""A trained model as a checkpoint folder: its weights, the given tokenizer's own bytes, config and stop tokens, the
adapter."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.layerwise import empty_model
from align.store import disk_errors, read_json, write_json
from align.templates import Chat
from align.text import load_tokenizer, stop_token_ids
from align.train import rounding
from align.train.adapter import ADAPTER, save_adapter
from align.train.world import gathered_weights, rank

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARD_SIZE = "5GB"
"""Of one file of weights; a GPU's are copied to the host file by file."""
_TOKENIZER_FILES = frozenset(
    {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt",
     "merges.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "tekken.json"}
)  # fmt: skip


def publish_model(
    model: Any, source: Path, out: Path, *, dtype: str, chat_template: str | None = None, draw: int = 0
) -> rounding.Arrived:
    """Write a trained `model`, which started from the checkpoint or model in `source`, as a checkpoint folder `out`.

    A PEFT model is merged (in place) and its adapter written to `out/adapter`. In bfloat16 weights are rounded at
    random (`align.train.rounding`), in the `draw` of that number. Returns how much of the trained change arrived;
    StageError where it is too little.
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
        save_weights(model, out)
        write_beside_weights(source, out, dtype, {"chat_template": chat_template})
    return arrived


def whole_model(model: Any, source: Path) -> Any:
    """`model` itself, or where its weights are sharded over processes (FSDP2, ZeRO-3) a whole one in the first of them.

    `source` is the folder that it started from. Called by all processes; in the others it is not whole. The gathered
    weights become the model's own, so that the first process has them once.
    """
    weights = gathered_weights(model)
    if weights is None or rank() > 0:
        return model
    from peft import PeftModel, get_peft_model

    whole = empty_model(source, str(next(iter(weights.values())).dtype).removeprefix("torch."))
    if isinstance(model, PeftModel):
        whole = get_peft_model(whole, model.peft_config["default"])
    whole.load_state_dict(weights, assign=True)
    (whole.base_model.model if isinstance(whole, PeftModel) else whole).tie_weights()
    return whole


def save_weights(model: PreTrainedModel, out: Path) -> None:
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()  # the given one may be refused at saving; it is written below
    model.save_pretrained(out, max_shard_size=SHARD_SIZE)


def write_beside_weights(source: Path, out: Path, dtype: str, chat: Chat) -> None:
    """Config, tokenizer and generation config as in `source`, for trainers change theirs (`use_cache`, pad token)."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=True)
    config.architectures = config.architectures or architectures(config)[:1]
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
    """The given tokenizer's own bytes, which the library may not write again as they were, and the template beside
    them."""
    files = [file for file in source.iterdir() if file.name in _TOKENIZER_FILES or file.suffix == ".tiktoken"]
    for file in files:
        place(file, out / file.name, link=False)
    if not files:  # in a form of its own
        tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def place(source: Path, target: Path, *, link: bool) -> None:
    """Copy a file, or give it a second name where it is never rewritten and the system allows it: not between disks,
    not of another user's file, not on every file system."""
    target.unlink(missing_ok=True)
    if link:
        with suppress(OSError):
            return os.link(source.resolve(), target)
    shutil.copyfile(source, target)


def architectures(config: Any) -> list[str]:
    """The causal language models of a config's family; empty where it has none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type, ())
    return [names] if isinstance(names, str) else list(names)
