"""From rows to tokens. What is too long, empty or pointless is dropped here, with its reason; TRL cuts nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from align.dropped import mostly_dropped
from align.errors import ConfigError, DataError, StageError
from align.sampled import Sampled, as_sampled
from align.store import write_table
from align.text import encode_answer, encode_answered, encode_prompt, thinking_tokens, token_text
from align.tool_calls import split_calls
from align.turns import split_thoughts
from align.types import BinaryLabel, Dropped, Message, Preference, to_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = TypeVar("Row")

_log = logging.getLogger(__name__)
EMPTY = "the answer is empty"
SAME = "chosen and rejected are the same"
UNTOLD = "the tokenizer gives chosen and rejected the same tokens, though they differ"
WEIGHTLESS = "its weight is 0"
STOP_INSIDE = "the answer holds a stop token before its end"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One prompt with the answer to learn; `answer_ids` end with their only stop token.

    `learned` are the places (from, to) of earlier answers within `prompt_ids` that are learned too, stop tokens
    included.
    """

    prompt_ids: list[int]
    answer_ids: list[int]
    learned: tuple[tuple[int, int], ...] = ()

    @property
    def labels(self) -> list[int]:
        """For each token itself where it is learned, else −100."""
        labels = [-100] * len(self.prompt_ids)
        for start, end in self.learned:
            labels[start:end] = self.prompt_ids[start:end]
        return labels + self.answer_ids

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt with two answers; `target` is the probability that chosen is better, `weight` > 0."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    target: float
    weight: float
    hidden: tuple[int, int] = (0, 0)
    """How many of the first tokens of chosen and of rejected the loss does not see."""

    @property
    def tokens(self) -> int:
        """Of the longer of the two sequences."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass(frozen=True, slots=True)
class BinaryExample:
    """One prompt with one answer; `target` is the probability that it is good, `weight` > 0."""

    prompt_ids: list[int]
    answer_ids: list[int]
    target: float
    weight: float

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True)
class Limit:
    """The longest sequence, and where that limit comes from."""

    tokens: int
    reason: str


def limit_of(max_tokens: int, context: int | None) -> Limit:
    """The smaller of the recipe's `max_tokens` and the model's context (None where the model has no limit)."""
    if context is not None and context < max_tokens:
        return Limit(context, f"longer than the model's context ({context} tokens)")
    return Limit(max_tokens, f"longer than max_tokens ({max_tokens})")


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[list[Message], str]],
    stops: Sequence[int],
    limit: Limit,
    *,
    turns: Literal["all", "last"] = "last",
    candidates: Sequence[str] = (),
    sampled: Sampled | None = None,
    mask_thinking: bool = False,
) -> tuple[list[Demonstration], list[Dropped]]:
    """Demonstrations as tokens, and those left out. `where` of a dropped row is its place in `rows`, from 1.

    `candidates` has for each row the id of its answer, where `sampled` knows those (`pairs_of`). With `mask_thinking`
    thoughts are a part of the prompt: seen, and not learned. With `turns` "all" every assistant turn is learned as the
    model is asked for it: within the one sequence where the template writes earlier turns as they were answered, else
    (it trims them, or leaves out their thoughts) as a demonstration of its own.
    """
    sampled = sampled or Sampled({}, None)
    kept: list[Demonstration] = []
    dropped: list[Dropped] = []
    useful = [number for number, (_, answer) in enumerate(rows) if not _says_nothing(answer)]
    asked, answers = [rows[number][0] for number in useful], [rows[number][1] for number in useful]
    found = dict(zip(useful, encode_answered(tokenizer, asked, answers), strict=True))
    for number, (messages, answer) in enumerate(rows):
        try:
            prompt_ids, written = _encoded(found.get(number))
            _require_ended(tokenizer, answer, written, stops)
            answer_ids = as_sampled(tokenizer, written, sampled.ids_of(candidates[number])) if candidates else None
            row = _masked(tokenizer, Demonstration(prompt_ids, answer_ids or written), mask_thinking)
            learned, apart = (
                _earlier_turns(tokenizer, messages, row, stops, mask_thinking) if turns == "all" else ([], [])
            )
            for ids in [row.answer_ids, *(row.prompt_ids[start:end] for start, end in learned)]:
                _refuse(_fault(row.tokens, [ids], stops, limit))
            for other in apart:
                _refuse(_fault(other.tokens, [other.answer_ids], stops, limit))
            kept += [*apart, replace(row, learned=tuple(learned))]
            sampled.count(answer_ids is not None)
        except DataError as refusal:
            dropped.append(Dropped("demonstration", f"row {number + 1}", refusal.what))
    return kept, dropped


def _encoded(found: tuple[list[int], list[int]] | DataError | None) -> tuple[list[int], list[int]]:
    """The ids of prompt and answer; raises why there are none (None: the answer is empty, and nothing was encoded)."""
    if found is None:
        raise DataError(EMPTY)
    if isinstance(found, DataError):
        raise found
    return found


def _require_ended(tokenizer: PreTrainedTokenizerBase, answer: str, ids: list[int], stops: Sequence[int]) -> None:
    """DataError for a turn of calls that the template ends with a token of its own, at which the model is not
    stopped."""
    if ids and ids[-1] not in stops and split_calls(answer)[1]:
        token = token_text(tokenizer, ids[-1])
        what = f"the chat template ends a turn that calls tools with {token}, which ends no answer of this model"
        raise DataError(f"{what}; name it in eos_token_id of generation_config.json")


def _masked(tokenizer: PreTrainedTokenizerBase, row: Demonstration, mask_thinking: bool) -> Demonstration:
    """With the answer's thoughts behind the prompt, where they are not to be learned."""
    hidden = _thoughts(tokenizer, row.answer_ids) if mask_thinking else 0
    return Demonstration([*row.prompt_ids, *row.answer_ids[:hidden]], row.answer_ids[hidden:]) if hidden else row


def _thoughts(tokenizer: PreTrainedTokenizerBase, answer_ids: list[int]) -> int:
    """How many tokens are hidden; of one that only thinks all but the token that ends it."""
    return min(thinking_tokens(tokenizer, answer_ids), len(answer_ids) - 1)


def _earlier_turns(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[Message],
    row: Demonstration,
    stops: Sequence[int],
    mask_thinking: bool,
) -> tuple[list[tuple[int, int]], list[Demonstration]]:
    """The places of earlier answers in the row's prompt, and those that the template writes otherwise there, apart."""
    learned: list[tuple[int, int]] = []
    apart: list[Demonstration] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = messages[:place]
        asked, answer = encode_prompt(tokenizer, before), encode_answer(tokenizer, before, message["content"])
        _require_ended(tokenizer, message["content"], answer, stops)
        end = len(asked) + len(answer)
        turn = _masked(tokenizer, Demonstration(asked, answer), mask_thinking)
        if row.prompt_ids[:end] == asked + answer:
            learned.append((len(turn.prompt_ids), end))
        else:
            apart.append(turn)
    return learned, apart


def encode_preferences(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Preference],
    stops: Sequence[int],
    limit: Limit,
    sampled: Sampled | None = None,
    mask_thinking: bool = False,
) -> tuple[list[Pair], list[Dropped]]:
    """Preferences as tokens, and those left out; `where` of a dropped row is the preference's id. See `pairs_of`."""
    found = pairs_of(tokenizer, rows, stops, limit, sampled, mask_thinking)
    return [row for row in found if isinstance(row, Pair)], [row for row in found if isinstance(row, Dropped)]


def pairs_of(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Preference],
    stops: Sequence[int],
    limit: Limit,
    sampled: Sampled | None = None,
    mask_thinking: bool = False,
) -> list[Pair | Dropped]:
    """Each preference as tokens, or why it is left out.

    An answer has the ids that it was sampled as, where `sampled` knows them and they say what its text says
    (`align.sampled`). With `mask_thinking` the pair says how many of its tokens are thoughts (`hidden`). Raises
    DataError for a target outside [0.5, 1] or a weight below 0.
    """
    sampled = sampled or Sampled({}, None)
    for row in rows:
        _require_possible(row, "preference", 0.5)
    pointless = [_pointless(row) for row in rows]
    useful = [row for row, why in zip(rows, pointless, strict=True) if why is None]
    texts = [text for row in useful for text in (row.chosen, row.rejected)]
    encoded = iter(encode_answered(tokenizer, [row.messages for row in useful for _ in "cr"], texts))
    found: list[Pair | Dropped] = []
    for row, why in zip(rows, pointless, strict=True):
        both = [] if why is not None else [next(encoded), next(encoded)]
        try:
            _refuse(why)
            (prompt, chosen), (_, rejected) = map(_encoded, both)
            for text, ids in ((row.chosen, chosen), (row.rejected, rejected)):
                _require_ended(tokenizer, text, ids, stops)
            own = [as_sampled(tokenizer, ids, sampled.ids_of(candidate))
                   for ids, candidate in ((chosen, row.chosen_id), (rejected, row.rejected_id))]  # fmt: skip
            chosen_ids, rejected_ids = own[0] or chosen, own[1] or rejected
            pair = Pair(prompt, chosen_ids, rejected_ids, row.target, row.weight)
            if mask_thinking:
                pair = replace(pair, hidden=(_thoughts(tokenizer, chosen_ids), _thoughts(tokenizer, rejected_ids)))
            answers = [pair.chosen_ids, pair.rejected_ids]
            _refuse(UNTOLD if chosen == rejected else _fault(pair.tokens, answers, stops, limit))
            sampled.count(*(ids is not None for ids in own))
            found.append(pair)
        except DataError as refusal:
            found.append(Dropped("preference", row.id, refusal.what))
    return found


def encode_binary(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[BinaryLabel],
    stops: Sequence[int],
    limit: Limit,
    sampled: Sampled | None = None,
    mask_thinking: bool = False,
) -> tuple[list[BinaryExample], list[Dropped]]:
    """Binary labels as tokens, and those left out; `where` of a dropped row is the binary label's id. `sampled` is as
    in `pairs_of`, `mask_thinking` as in `encode_demonstrations`.

    Raises DataError for a target outside [0, 1] or a weight below 0.
    """
    sampled = sampled or Sampled({}, None)
    kept: list[BinaryExample] = []
    dropped: list[Dropped] = []
    for row in rows:
        _require_possible(row, "binary label", 0.0)
    pointless = [
        EMPTY if row.target >= 0.5 and _says_nothing(row.text) else WEIGHTLESS if row.weight == 0 else None
        for row in rows
    ]
    useful = [row for row, why in zip(rows, pointless, strict=True) if why is None]
    encoded = iter(encode_answered(tokenizer, [row.messages for row in useful], [row.text for row in useful]))
    for row, why in zip(rows, pointless, strict=True):
        own = None if why is not None else next(encoded)
        try:
            _refuse(why)
            prompt, written = _encoded(own)
            _require_ended(tokenizer, row.text, written, stops)
            answer = as_sampled(tokenizer, written, sampled.ids_of(row.candidate_id))
            asked = _masked(tokenizer, Demonstration(prompt, answer or written), mask_thinking)
            example = BinaryExample(asked.prompt_ids, asked.answer_ids, row.target, row.weight)
            _refuse(_fault(example.tokens, [example.answer_ids], stops, limit))
            kept.append(example)
            sampled.count(answer is not None)
        except DataError as refusal:
            dropped.append(Dropped("binary label", row.id, refusal.what))
    return kept, dropped


def _refuse(reason: str | None) -> None:
    """A row is refused like those that the chat template refuses: by a DataError that says why."""
    if reason is not None:
        raise DataError(reason)


def _require_possible(row: Preference | BinaryLabel, what: str, least: float) -> None:
    if not least <= row.target <= 1:
        raise DataError(f"the target must be from {least:g} to 1, found {row.target}", where=f"{what} {row.id}")
    if not 0 <= row.weight < float("inf"):
        raise DataError(f"the weight must be a number from 0 up, found {row.weight}", where=f"{what} {row.id}")


def _pointless(row: Preference) -> str | None:
    if _says_nothing(row.chosen):  # an answer that says nothing can be rejected for it
        return EMPTY
    if row.chosen == row.rejected:
        return SAME
    return WEIGHTLESS if row.weight == 0 else None


def _says_nothing(answer: str) -> bool:
    """Whether it is empty but for its thoughts."""
    return not split_thoughts(answer)[1].strip()


def _fault(tokens: int, answers: Sequence[list[int]], stops: Sequence[int], limit: Limit) -> str | None:
    for ids in answers:
        if not ids or ids[-1] not in stops:
            raise StageError(
                f"an encoded answer does not end with a stop token (its last id is {ids[-1:]}, the stop ids are {list(stops)})"
            )
        if not set(stops).isdisjoint(ids[:-1]):
            return STOP_INSIDE
    return limit.reason if tokens > limit.tokens else None


def as_input(row: Pair) -> tuple[object, ...]:
    """What a training is made from; without `hidden` where nothing is, as earlier versions had it."""
    return astuple(row) if any(row.hidden) else astuple(row)[:-1]


def spread(rows: Sequence[Row], count: int = 8) -> list[Row]:
    """At most `count` rows, evenly spaced."""
    return [rows[i * len(rows) // min(count, len(rows))] for i in range(min(count, len(rows)))]


def write_dropped(out: Path, dropped: Sequence[Dropped]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "dropped.parquet", to_table(Dropped, dropped))


def reasons(dropped: Sequence[Dropped]) -> dict[str, int]:
    """How many rows were dropped for each reason, the most frequent first."""
    return dict(Counter(row.reason for row in dropped).most_common())


def require_rows(kept: Sequence[object], dropped: Sequence[Dropped], what: str) -> None:
    """DataError where nothing is left to train on; a warning where most of it is not."""
    if kept and (sentence := mostly_dropped(what, len(kept), reasons(dropped))):
        _log.warning("%s (dropped.parquet names each)", sentence)
    if not kept:
        why = ", ".join(f"{count} × {reason}" for reason, count in reasons(dropped).items()) or "none were given"
        raise DataError(f"no {what} is left to train on: {why}")


def require_vocabulary(token_ids: Sequence[Sequence[int]], size: int) -> None:
    """ConfigError where the tokenizer speaks of tokens that the model does not have."""
    largest = max(max(ids) for ids in token_ids)
    if largest >= size:
        raise ConfigError(
            f"the tokenizer gives token {largest}, but the model has only {size}",
            hint="use the tokenizer that belongs to the model",
        )
