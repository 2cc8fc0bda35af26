"""Reward models: a checkpoint with one label, loaded, published and asked for scores; an ensemble's members beside it.

A score is the head's output at the sequence's last token, the stop token behind the answer. The folder is merged, so
that whatever loads it (`AutoModelForSequenceClassification`, TRL, vLLM) has the trained head, and its padding token
never ends an answer, for the head is read at the last token that is not padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from align.errors import DataError, StageError
from align.layerwise import by_layers
from align.store import checkpoint_id, read_json, write_json
from align.text import encode_answered, load_tokenizer, padding_id, stop_token_ids, token_text
from align.train.publishing import publish_model
from align.turns import said
from align.types import Message
from reward.classifier import load_reward_model, sequence_scores
from reward.members import read_members
from reward.scorer import scores_in
from rollouts.engine import context_length, model_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READING = "reading.json"
"""Says that a model reads answers without their thoughts."""
RELOAD_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest difference of a score between memory and the published folder, relative to the largest score where that is
over 1."""


ModelEngine = Literal["vllm", "transformers"]


def write_reading(folder: Path, *, thinking: bool) -> None:
    """Note in a reward model's folder whether it reads an answer's thoughts; without a note it does."""
    write_json(folder / READING, {"thinking": thinking})


def reads_thinking(folder: Path) -> bool:
    return not (folder / READING).is_file() or bool(read_json(folder / READING)["thinking"])


class ModelScorer:
    """A Scorer made of a reward model's folder."""

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        threads: int | None = None,
        engine: ModelEngine = "transformers",
    ) -> None:
        """`dtype` is that of the weights in memory, `threads` of the CPU (None: as they are).

        Raises ConfigError where `folder` is no reward model that `align reward train` or somebody else made: another
        kind of model, several labels, or weights missing; and where the engine cannot run it.
        """
        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.members = read_members(folder)
        self._reads_thinking = reads_thinking(folder)
        options: dict[str, Any] = {"dtype": dtype, "threads": threads}
        if engine == "vllm":
            from reward.vllm_scorer import VllmModel

            self._model: VllmModel | TransformersModel = VllmModel(folder, **options)
        else:
            stops, size = stop_token_ids(self.tokenizer, folder), model_config(folder)["vocab_size"]
            pad = padding_id(self.tokenizer, stops, size)
            self._model = TransformersModel(folder, pad, **options)
        self.context = context_length(folder)

    @cached_property
    def id(self) -> str:
        """The content id of weights, tokenizer and config."""
        return checkpoint_id(self.folder)

    def score(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
        """As `Scorer.score`; None for what `explain` has a reason for."""
        return scores_in(self.explain(prompts, answers))

    def explain(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | str]:
        """For each answer its score, or the reason why there is none: it is longer than the model's context, or the
        chat template refuses the conversation. Of an ensemble it is the members' mean."""
        encoded, scores = self._read(prompts, answers)
        rows = iter(scores)
        return [one if isinstance(one, str) else next(rows) for one in encoded]

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()

    def outputs(self, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[list[float] | str]:
        """As `explain`, with all the numbers that there are for an answer: one, or an ensemble's one for each
        member."""
        encoded, scores = self._read(prompts, answers)
        found = np.array(scores)[:, None]
        if self.members is not None and scores:
            found = found + self.members.deviations([one[1] for one in encoded if not isinstance(one, str)])
        rows = iter(found.tolist())
        return [one if isinstance(one, str) else next(rows) for one in encoded]

    def _read(
        self, prompts: Sequence[list[Message]], answers: Sequence[str]
    ) -> tuple[list[tuple[list[int], list[int]] | str], list[float]]:
        """What is `readable`, and the scores of those that have ids."""
        answers = answers if self._reads_thinking else [said(answer) for answer in answers]
        encoded = readable(self.tokenizer, self.context, prompts, answers)
        return encoded, self._model.read([[*one[0], *one[1]] for one in encoded if not isinstance(one, str)])


class TransformersModel:
    """A reward model in transformers, on a GPU where torch sees one."""

    def __init__(self, folder: Path, pad: int, *, dtype: str, threads: int | None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        model = load_reward_model(folder, dtype).eval()
        self._model: Any = model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
        self._pad = pad

    def read(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The score of each sequence of token ids."""
        return sequence_scores(self._model, sequences, self._pad)[:, 0].tolist()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Free the model's memory."""
        import gc

        self._model = None
        gc.collect()


def readable(
    tokenizer: PreTrainedTokenizerBase, context: int | None, prompts: Sequence[list[Message]], answers: Sequence[str]
) -> list[tuple[list[int], list[int]] | str]:
    """The token ids of each prompt and of its answer, or the reason why the model cannot read them."""
    found: list[tuple[list[int], list[int]] | str] = []
    for encoded in encode_answered(tokenizer, prompts, answers):
        if isinstance(encoded, DataError):
            found.append(encoded.what)
        elif context is not None and (tokens := sum(map(len, encoded))) > context:
            found.append(f"longer than the reward model's context ({tokens} tokens, it reads {context})")
        else:
            found.append(encoded)
    return found


def _name_padding(out: Path, pad: int) -> None:
    """Say in the published tokenizer's settings what the head takes for padding; the vocabulary's bytes stay.

    A token that stands for text is not named there: the tokenizer would take it out of every text.
    """
    tokenizer = load_tokenizer(out)
    if pad == tokenizer.pad_token_id or pad not in tokenizer.added_tokens_decoder:
        return
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (out / name).is_file():
            write_json(out / name, {**read_json(out / name), "pad_token": token_text(tokenizer, pad)})


def publish_and_verify(
    model: Any, source: Path, sequences: Sequence[Sequence[int]], pad: int, *, out: Path, dtype: str
) -> float:
    """Write a trained reward model that started from `source` as the folder `out`, read it again by layers, compare
    scores.

    Returns the largest difference on `sequences`; StageError where it is over `RELOAD_TOLERANCE`. A PEFT model is
    merged (in place) and its adapter written to `out/adapter`.
    """
    from transformers import AutoConfig

    expected, device = sequence_scores(model, sequences, pad), model.device
    kind = type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
    publish_model(model, source, out, dtype=dtype)
    config = AutoConfig.from_pretrained(out, local_files_only=True, num_labels=1)
    config.architectures = [kind]
    config.get_text_config().pad_token_id = pad
    config.save_pretrained(out)
    _name_padding(out, pad)
    found = by_layers(
        out, lambda read: sequence_scores(read, sequences, pad), dtype=dtype, device=device,
        kind="AutoModelForSequenceClassification",
    )  # fmt: skip
    difference = float((found - expected).abs().max())
    allowed = RELOAD_TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise StageError(
            f"the published reward model differs from the trained one: scores by {difference:.2g}, allowed is {allowed:.2g}",
            where=str(out),
        )
    return difference
