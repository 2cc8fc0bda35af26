"""A reward model on disk and in transformers: a language model with a head that gives one score, or several.

A score is the head's output at the sequence's last token, the stop token behind the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import ConfigError
from align.layerwise import device_of
from align.train.order import passes

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

HEAD = "score.weight"
TOKENS = {"cpu": 4096, "cuda": 16_384}
"""Most tokens of a forward pass of scoring, padding included; a longer sequence goes alone. On CPU larger passes no
longer fit its caches: with 28,000 tokens they took twice as long."""


def require_head(folder: Path) -> None:
    """ConfigError where the safetensors in `folder` have no head with one score. Reads no weights."""
    from safetensors import safe_open

    if not folder.is_dir():
        hint = "check the path; `align reward train` makes a reward model"
        raise ConfigError(f"there is no folder {str(folder)!r}", where="reward", hint=hint)
    sizes = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            sizes += [weights.get_slice(name).get_shape()[0] for name in weights.keys() if name == HEAD]  # noqa: SIM118
    if sizes != [1]:
        found = f"a head with {sizes[0]}" if sizes else f"no weights {HEAD}"
        raise ConfigError(
            f"{str(folder)!r} is no reward model with one score, found {found}", where="reward",
            hint="`align reward train` makes one",
        )  # fmt: skip


def _count(labels: int) -> str:
    return "one score" if labels == 1 else f"{labels} scores"


def load_reward_model(folder: Path, dtype: str, *, fresh: bool = False, labels: int = 1) -> PreTrainedModel:
    """A sequence classification model with `labels` scores from a folder on disk, every weight read from it.

    With `fresh` the folder holds a language model, and the head is new: it says 0 everywhere, so that nothing depends
    on a draw. Raises ConfigError where the model is none of that kind or weights are missing (they would be random).
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    where = "model.path" if fresh else "reward"
    try:
        with _quiet() if fresh else nullcontext():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False,
                output_loading_info=True, **({"num_labels": labels} if fresh else {}),
            )  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ConfigError(f"{str(folder)!r} cannot be loaded as a reward model ({line})", where=where) from error
    if model.config.num_labels != labels or not hasattr(model, "score"):
        found = f"{type(model).__name__} with {model.config.num_labels} labels"
        raise ConfigError(f"{str(folder)!r} is no reward model with {_count(labels)}, found {found}", where=where,
                          hint="`align reward train` makes one")  # fmt: skip
    missing = sorted(info["missing_keys"])
    if fresh and missing == [HEAD]:
        torch.nn.init.zeros_(model.score.weight)
    elif missing:
        hint = "a LoRA folder has to be merged first; `align reward train` does it"
        raise ConfigError(
            f"{str(folder)!r} lacks {len(missing)} weights, the first is {missing[0]}; they would be random",
            where=where, hint=None if fresh else hint,
        )  # fmt: skip
    return model  # type: ignore[no-any-return]


def _quiet() -> Any:
    """Without transformers' report that a head is missing, which it has to be."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    return suppress_seqcls_warning()


def sequence_scores(model: Any, sequences: Sequence[Sequence[int]], pad: int) -> Tensor:
    """The scores of sequences of token ids, which must not end with `pad`; shape [sequences, labels], float32 on
    CPU."""
    import torch

    model.config.get_text_config().pad_token_id = pad  # the model finds the last token by it
    was_training, device = model.training, device_of(model)
    model.eval()
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    most = TOKENS.get(device.type, TOKENS["cuda"])
    scores_SK = torch.zeros(len(sequences), model.config.num_labels)
    with torch.no_grad():
        for part in passes([len(sequences[row]) for row in order], most, None, padded=True):
            rows = [order[place] for place in part]
            ids = [torch.tensor(sequences[row]) for row in rows]
            ids_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad).to(device)
            lengths_B = torch.tensor([len(one) for one in ids], device=device)
            mask_BT = torch.arange(ids_BT.shape[1], device=device) < lengths_B[:, None]
            logits_BK = model(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False).logits
            scores_SK[rows] = logits_BK.float().cpu()
    model.train(was_training)
    return scores_SK
