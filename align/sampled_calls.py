"""A sampled answer as text, with the calls of tools that it makes as `align.tool_calls` writes them.

How a template writes calls is seen where it writes two of our own. An answer is read so only where its prompt has tools,
and only where the template writes what was read exactly as it was sampled; all else stays the text that it is, as the
calls of templates that write no JSON do.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from align.errors import DataError
from align.text import decode_answer, text_behind
from align.tool_calls import Call, tools_of, with_calls
from align.turns import control_tokens, render, turn_text
from align.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBES = [Call(f"probe_tool_{n}", json.dumps({"probe_key": f"value {n}"}), f"callid00{n}") for n in (1, 2)]
_WORD = r"[\w.:-]{1,256}"
_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Writing:
    """What a template writes around the parts of calls. `before` matches what stands before the arguments of the first
    call and `between` what stands between those of two, None where it writes one only; `after` comes last."""

    opening: str
    before: re.Pattern[str]
    between: re.Pattern[str] | None
    after: re.Pattern[str]


def read_answer(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], token_ids: Sequence[int]) -> str:
    """`align.text.decode_answer` of an answer to `messages`, its ids without the token that ends it; with calls, where
    the prompt has tools and the answer calls them."""
    text = decode_answer(tokenizer, token_ids)
    writing = writing_of(tokenizer, tokenizer.chat_template) if tools_of(messages) else None
    whole = text_behind(tokenizer, token_ids) if writing is not None else ""
    if writing is None or (start := whole.find(writing.opening)) < 0:
        return text
    calls, place = _calls(whole, start, writing), _tokens_before(tokenizer, token_ids, whole[:start])
    if not calls or place is None:
        return text
    said = decode_answer(tokenizer, token_ids[:place]).rstrip() if place else ""
    read = with_calls(said, calls)
    return read if _writes(tokenizer, messages, read, whole) else text


@lru_cache(maxsize=8)
def writing_of(tokenizer: Any, template: str) -> Writing | None:
    """None where the template writes no calls, or their arguments otherwise than as JSON."""
    user = [Message(role="user", content="Hello")]
    for probes in (_PROBES, _PROBES[:1]):
        try:
            prompt = render(tokenizer, user)
            turn = turn_text(tokenizer, user, prompt, with_calls("", probes))
        except DataError:
            continue
        pieces = _without_end(tokenizer, turn)
        for probe in probes:
            pieces = pieces.replace(probe.arguments, "\0")
        if pieces.count("\0") != len(probes):
            return None
        first, *between, last = pieces.split("\0")
        opening = first.partition(_PROBES[0].name)[0]
        around = [_pattern(text) for text in (first, *between, last)]
        return Writing(opening, around[0], around[1] if between else None, around[-1]) if opening.strip() else None
    return None


def _pattern(text: str) -> re.Pattern[str]:
    pattern = re.escape(text)
    for n, probe in enumerate(_PROBES):
        pattern = pattern.replace(re.escape(probe.name), f"(?P<name>{_WORD})", 1)
        pattern = pattern.replace(re.escape(str(probe.id)), f"(?P<id{n}>{_WORD})", 1)
    return re.compile(pattern)


def _calls(text: str, start: int, writing: Writing) -> list[Call]:
    """The calls that the text consists of from `start` on; none where it goes on with something else."""
    found: list[tuple[str, str]] = []
    ids: list[str] = []
    pattern: re.Pattern[str] | None = writing.before
    while pattern is not None and (match := pattern.match(text, start)):
        ids += [value for name, value in match.groupdict().items() if name.startswith("id")]
        try:
            arguments, end = _JSON.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            return []
        if not isinstance(arguments, dict):
            return []
        found.append((match["name"], text[match.end() : end]))
        if last := writing.after.fullmatch(text, end):
            ids += [value for name, value in last.groupdict().items() if name.startswith("id")]
            given: Sequence[str | None] = ids if len(ids) == len(found) else [None] * len(found)
            return [Call(name, said, id) for (name, said), id in zip(found, given, strict=True)]
        pattern, start = writing.between, end
    return []


def _tokens_before(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int], text: str) -> int | None:
    """How many of the tokens say `text`; None where one goes on behind it."""
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high) // 2
        long = len(text_behind(tokenizer, token_ids[:middle])) >= len(text)
        low, high = (low, middle) if long else (middle + 1, high)
    return low if text_behind(tokenizer, token_ids[:low]) == text else None


def _writes(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], answer: str, sampled: str) -> bool:
    try:
        turn = turn_text(tokenizer, messages, render(tokenizer, messages), answer)
    except DataError:
        return False
    return _without_end(tokenizer, turn) == sampled


def _without_end(tokenizer: "PreTrainedTokenizerBase", turn: str) -> str:
    end = next((token for token in control_tokens(tokenizer) if token and turn.endswith(token)), "")
    return turn.removesuffix(end)
