"""Chat templates and tokens: one way from messages to ids, for SFT, DPO and sampling alike.

A sequence is `encode_prompt(...) + encode_answer(...)`. The template writes both: the prompt is its rendering with the
start of the assistant's turn, the answer is what its rendering of the whole conversation has behind that, up to the
token that ends the turn. So an answer gets the header, the block of thoughts or the channel that the model was taught
to write there. Where the rendering of the turn does not begin as the prompt does, the row is refused.

**Control tokens come from the template alone.** Where a message or an answer contains the text of one ("</s>",
"<|im_end|>"), that text is encoded as ordinary characters: nobody can end a turn or open another by writing so.
Control tokens are those that the tokenizer marks as special, and the one that ends a turn.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align import templates
from align.errors import ConfigError, DataError
from align.store import read_json
from align.templates import CHATML, PLAIN, TEMPLATES
from align.turns import (
    ANSWER,
    BREAK,
    CLOSE,
    ESCAPE,
    OPEN,
    control_tokens,
    end_of_turn,
    pattern,
    render,
    split_thoughts,
    thoughts_of,
    turn_text,
    with_thoughts,
)
from align.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CHATML", "PLAIN", "TEMPLATES", "decode_answer", "encode_answer", "encode_answered", "encode_prompt",
           "load_tokenizer", "make_paddable", "padding_id", "split_thoughts", "stop_token_ids", "text_behind",
           "thinking_tokens", "token_text"]  # fmt: skip

_SENTENCES = (
    "Tell me about the cat.",
    "It sat:\n\n1. here\n\t- or there\n",
    "Où est l'été à Łódź?",
    "你好世界",
    "Fine 🙂 👍🏽",
    "def f(x):\n    return {'a': x[0] != 1}",
)
"""What a tokenizer has to give back: spaces, lines, accents, other scripts, emoji, code."""
_ANCHORS = ("\n", "a")  # stand for "some text came before": no leading space is added to what follows, or lost from it


def load_tokenizer(
    path: str | Path,
    *,
    revision: str | None = None,
    chat_template: str | None = None,
    replace_chat_template: bool = False,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    date: str | None = None,
) -> "PreTrainedTokenizerBase":
    """A model's tokenizer, with a chat template that was tried.

    `chat_template` is `plain`, `chatml` or the path of a Jinja file, for a tokenizer that has none, or with
    `replace_chat_template` in the place of its own. `chat_template_kwargs` and `date` are written into it
    (`align.templates.written_in`). Raises ConfigError where there is no tokenizer, no template, two different ones, or
    one that cannot be used.
    """
    from transformers import AutoTokenizer

    local = Path(path).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, local_files_only=local)
    except (OSError, ValueError) as error:
        what = f"no tokenizer can be loaded from {str(path)!r} ({str(error).splitlines()[0]})"
        raise ConfigError(what, where="model.path", hint="give a local model folder or a Hub id") from error
    name = chat_template or f"the template of {str(path)!r}"
    own, replaced = _own_template(tokenizer), replace_chat_template
    template = templates.choose(own, chat_template, model=str(path), replace=replaced)
    templates.require_syntax(template, name)
    template = templates.written_in(template, chat_template_kwargs or {}, date)
    tokenizer.chat_template = template
    _require_usable(tokenizer, name)
    _require_faithful(tokenizer, str(path))
    return tokenizer


def stop_token_ids(tokenizer: "PreTrainedTokenizerBase", model_path: Path | None) -> list[int]:
    """Every token that ends an answer, sorted: the tokenizer's eos, the one that ends the template's assistant turn,
    and those of the folder's generation_config.json (of its config.json where there is no generation_config.json)."""
    stops = {_end_of_answer(tokenizer)}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    files = [model_path / name for name in ("generation_config.json", "config.json")] if model_path is not None else []
    for file in [f for f in files if f.is_file()][:1]:
        named = read_json(file).get("eos_token_id")
        stops.update(named if isinstance(named, list) else [] if named is None else [named])
    return sorted(stops)


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> list[int]:
    """The ids that an answer comes after: the template's text of `messages`, with the start of the assistant's turn."""
    return _encode(tokenizer, render(tokenizer, messages))


def encode_answer(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], answer: str) -> list[int]:
    """The answer's ids in that context, as the template writes the turn; they end with exactly one stop token.

    Where the tokenizer would melt the prompt's end and the answer's beginning into one token, the answer is encoded
    for itself, since a model that is asked to go on from the prompt cannot produce that token either. Raises DataError
    where the template refuses the conversation, or writes the turn otherwise than the prompt begins it.
    """
    prompt = render(tokenizer, messages)
    turn = turn_text(tokenizer, messages, prompt, answer)
    before, whole = _encode(tokenizer, prompt), _encode(tokenizer, prompt + turn)
    together = whole[: len(before)] == before
    ids = whole[len(before) :] if together else _encode(tokenizer, turn, follows=True)
    return _ended(tokenizer, ids)


def encode_answered(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Sequence[Message]], answers: Sequence[str]
) -> list[tuple[list[int], list[int]] | DataError]:
    """`encode_prompt` and `encode_answer` of many rows, in a fraction of the time; or why a row has no ids.

    Each prompt is rendered and encoded once; of it only what follows its last control token, at which tokenizers begin
    again, is encoded again with each answer. The tokenizer is asked for many texts at a time.
    """
    keys = [tuple((m["role"], m["content"]) for m in messages) for messages in prompts]
    rendered: dict[tuple[tuple[str, str], ...], str | DataError] = {}
    for key, messages in dict(zip(keys, prompts, strict=True)).items():
        try:
            rendered[key] = render(tokenizer, messages)
        except DataError as refusal:
            rendered[key] = refusal
    cut = _cut(tokenizer, [text for text in rendered.values() if isinstance(text, str)])
    rows = [rendered[key] for key in keys]
    turns = [_turn_or_why(tokenizer, *row) for row in zip(prompts, rows, answers, strict=True)]
    asked = [cut[str(row)][1] + turn for row, turn in zip(rows, turns, strict=True) if isinstance(turn, str)]
    encoded = iter(_encode_many(tokenizer, asked))
    found: list[tuple[list[int], list[int]] | DataError] = []
    for row, turn in zip(rows, turns, strict=True):
        if isinstance(turn, DataError):
            found.append(turn)
            continue
        (head, _, before), whole = cut[str(row)], next(encoded)
        together = whole[: len(before)] == before
        answer = whole[len(before) :] if together else _encode(tokenizer, turn, follows=True)
        found.append(([*head, *before], _ended(tokenizer, answer)))
    return found


def _turn_or_why(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], prompt: str | DataError, answer: str
) -> str | DataError:
    if isinstance(prompt, DataError):
        return prompt
    try:
        return turn_text(tokenizer, messages, prompt, answer)
    except DataError as refusal:
        return refusal


def _ended(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> list[int]:
    """With eos where the template itself ends a turn with no token."""
    if end_of_turn(tokenizer, tokenizer.chat_template).id is not None:
        return ids
    return [*ids, int(tokenizer.eos_token_id)]  # it is there: `load_tokenizer` saw to it


def _cut(tokenizer: "PreTrainedTokenizerBase", rendered: Sequence[str]) -> dict[str, tuple[list[int], str, list[int]]]:
    """Each text → the ids of its beginning, its end from the last control token on, and the end's ids."""
    seen = control_tokens(tokenizer).keys() - _unseen(tokenizer).keys()
    rendered = list(dict.fromkeys(rendered))
    ends = [text[max([text.rfind(token) for token in seen] + [0]) :] for text in rendered]
    whole = dict(zip(rendered, _encode_many(tokenizer, rendered), strict=True))
    others = list(dict.fromkeys(end for end in ends if end not in whole))  # mostly one, the header of the turn
    tails = whole | dict(zip(others, _encode_many(tokenizer, others), strict=True))
    found = {}
    for (text, ids), end in zip(whole.items(), ends, strict=True):
        tail = tails[end]
        begin = len(ids) - len(tail)
        found[text] = (ids[:begin], end, tail) if tail and ids[begin:] == tail else ([], text, ids)
    return found


def decode_answer(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int]) -> str:
    """The text of an answer's ids without control tokens, its leading and trailing spaces kept, its thoughts as
    `split_thoughts` finds them.

    Bytes that are no UTF-8 (an answer cut inside a character) become U+FFFD.
    """
    shape = thoughts_of(tokenizer, tokenizer.chat_template)
    if not shape.closer:
        return _plain(tokenizer, token_ids)
    text = text_behind(tokenizer, token_ids)
    said, thoughts = text, ""
    if shape.closer in text:
        thoughts, _, said = text.rpartition(shape.closer)
    elif shape.header and text.lstrip().startswith(shape.header):
        said = text.lstrip()[len(shape.header) :]
    elif shape.opened or (shape.opener and text.lstrip().startswith(shape.opener)):  # cut off while it thought
        return f"{OPEN}\n{_clean(tokenizer, text.lstrip().removeprefix(shape.opener)).strip(chr(10))}"
    else:
        return _plain(tokenizer, token_ids)
    thoughts = _clean(tokenizer, thoughts.lstrip().removeprefix(shape.opener)).strip("\n")
    return with_thoughts(thoughts, _clean(tokenizer, said).lstrip("\n"))


def thinking_tokens(tokenizer: "PreTrainedTokenizerBase", answer_ids: Sequence[int]) -> int:
    """How many of an answer's first tokens are thoughts, or an empty block of them, with what closes them; all of one
    that was cut off while it thought, 0 where it has none."""
    shape = thoughts_of(tokenizer, tokenizer.chat_template)
    if not shape.closer:
        return 0
    text = text_behind(tokenizer, answer_ids)
    closings = text.count(shape.closer)
    if not closings:
        cut = shape.opened or (shape.opener and text.lstrip().startswith(shape.opener))
        said = shape.header and text.lstrip().startswith(shape.header)
        return len(answer_ids) if cut and not said else 0
    low, high = 1, len(answer_ids)
    while low < high:  # the shortest beginning that closes them all
        middle = (low + high) // 2
        closed = text_behind(tokenizer, answer_ids[:middle]).count(shape.closer) == closings
        low, high = (low, middle) if closed else (middle + 1, high)
    return low


def _plain(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int]) -> str:
    """What the ids say, without what the template writes before and behind every answer."""
    text = _without_control(tokenizer, token_ids)
    head, tail = _around(tokenizer, tokenizer.chat_template)
    return text.removeprefix(head).removesuffix(tail)


def _without_control(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int]) -> str:
    control = {i for text, i in control_tokens(tokenizer).items() if text not in (OPEN, CLOSE)}
    return text_behind(tokenizer, [i for i in token_ids if i not in control])


def _clean(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """Without control tokens."""
    return pattern(frozenset(control_tokens(tokenizer))).sub("", text)


def text_behind(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int]) -> str:
    """What the ids say behind other text, control tokens too; no space is lost at the beginning."""
    ids, anchor = list(token_ids), _ANCHORS[-1]
    text = _decode(tokenizer, _anchor_ids(tokenizer, anchor) + ids)
    return text[len(anchor) :] if text.startswith(anchor) else _decode(tokenizer, ids)


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _own_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The tokenizer's template; of several named ones, the default."""
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def _require_usable(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """ConfigError for a template that fails, loses the answer, or names tokens that the tokenizer lacks."""
    where = "model.chat_template"
    if tokenizer.chat_template == CHATML and any(len(_ids(tokenizer, t)) != 1 for t in ("<|im_start|>", "<|im_end|>")):
        what = "the template chatml needs the tokens <|im_start|> and <|im_end|>, which the tokenizer does not have"
        raise ConfigError(what, where=where, hint="use plain, or a Jinja file that names tokens of this tokenizer")
    try:
        rendered = render(tokenizer, [{"role": "user", "content": "Hello"}], answer=ANSWER)
    except DataError as error:
        raise ConfigError(f"{name} does not work: {error.what}", where=where) from error
    if ANSWER not in rendered:
        raise ConfigError(f"{name} leaves out the assistant's text", where=where, hint="it must render every message")
    if end_of_turn(tokenizer, tokenizer.chat_template).id is None and tokenizer.eos_token_id is None:
        what = f"nothing ends an answer: {name} puts no token after it and the tokenizer has no eos_token"
        raise ConfigError(what, where=where, hint="name the eos_token in tokenizer_config.json")


def _require_faithful(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """ConfigError for a tokenizer that loses text, as one does whose class is not that of its files.

    A character that a vocabulary does not have is no loss of this kind, but in the plainest sentence.
    """
    for sentence in _SENTENCES:
        ids = _encode(tokenizer, sentence, follows=True)
        if tokenizer.unk_token_id in ids and sentence != _SENTENCES[0]:
            continue
        try:
            asked = _decode(tokenizer, encode_prompt(tokenizer, [Message(role="user", content=sentence)]))
        except DataError:  # this template refuses it; the words themselves are looked at
            asked = sentence
        said = text_behind(tokenizer, ids)
        if said != sentence or sentence.strip() not in asked:
            what = f"the tokenizer of {name!r} loses text: {sentence!r} comes back as {said if said != sentence else asked!r}"
            hint = f"its class {type(tokenizer).__name__} may not be that of its files; for a byte-level tokenizer.json set "
            hint += '"tokenizer_class": "PreTrainedTokenizerFast" in its tokenizer_config.json, else use another model'
            raise ConfigError(what, where="model.path", hint=hint)


def token_text(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> str:
    """The text by which the tokenizer knows a token; that of an added one may differ from its piece in the
    vocabulary."""
    added = tokenizer.added_tokens_decoder.get(token_id)
    return str(added.content if added is not None else tokenizer.convert_ids_to_tokens(token_id))


def padding_id(tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int], size: int) -> int:
    """A token of the model's `size` to pad with, that ends no answer: the tokenizer's own, another special one, or the
    first of the vocabulary."""
    own = [] if tokenizer.pad_token_id is None else [int(tokenizer.pad_token_id)]
    special = sorted(int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return next(i for i in [*own, *special, *range(size)] if i not in stops and i < size)


def make_paddable(tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int], size: int) -> int:
    """Give the tokenizer in memory a padding token within the model's `size` and an end, which trainers ask for; where
    it has no padding token of its own it is one of the `stops`. Returns the padding token's id."""
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = token_text(tokenizer, stops[0])
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= size:
        tokenizer.pad_token = token_text(tokenizer, min(stop for stop in stops if stop < size))
    return int(tokenizer.pad_token_id)


def _encode(tokenizer: "PreTrainedTokenizerBase", rendered: str, *, follows: bool = False) -> list[int]:
    """Ids of a rendered text. `follows` says that text came before, so that no space is put in front."""
    ids: list[int] = []
    for piece in re.split(f"{BREAK}(?!{ESCAPE})", rendered) if BREAK in rendered else [rendered]:
        text = piece.replace(BREAK + ESCAPE, BREAK)
        ids += _encode_piece(tokenizer, text, follows=follows)
        follows = True
    return ids


def _encode_many(tokenizer: "PreTrainedTokenizerBase", rendered: Sequence[str]) -> list[list[int]]:
    """`_encode` of each text; those that need no cutting go to the tokenizer together."""
    unseen = (
        pattern(frozenset(names)) if (names := _unseen(tokenizer)) else None
    )  # a pattern of nothing is slow to search for
    whole = [n for n, t in enumerate(rendered) if t and BREAK not in t and not (unseen and unseen.search(t))]
    ids: dict[int, list[int]] = {}
    if whole:
        how = {
            "add_special_tokens": False,
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "verbose": False,
        }
        ids = dict(zip(whole, tokenizer([rendered[n] for n in whole], **how).input_ids, strict=True))
    return [list(ids[n]) if n in ids else _encode(tokenizer, text) for n, text in enumerate(rendered)]


def _encode_piece(tokenizer: "PreTrainedTokenizerBase", text: str, *, follows: bool) -> list[int]:
    unseen = _unseen(tokenizer)
    if not unseen:
        return _follow(tokenizer, text) if follows else _ids(tokenizer, text)
    ids: list[int] = []
    for part in filter(None, re.split(f"({pattern(frozenset(unseen)).pattern})", text)):
        ids += [unseen[part]] if part in unseen else _follow(tokenizer, part) if follows else _ids(tokenizer, part)
        follows = False
    return ids


def _follow(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of a text that goes on from another; many tokenizers put a space in front of one that stands alone."""
    for anchor in _ANCHORS:
        before, both = _anchor_ids(tokenizer, anchor), _ids(tokenizer, anchor + text)
        if both[: len(before)] == before:
            return both[len(before) :]
    return _ids(tokenizer, text)


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _unseen(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Text → id of control tokens that the tokenizer does not see inside a text; we put their ids ourselves."""
    return _unseen_tokens(tokenizer, tokenizer.chat_template)


def _end_of_answer(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id that the template puts after an answer, else eos (one of them is there: `load_tokenizer` saw to it)."""
    end = end_of_turn(tokenizer, tokenizer.chat_template).id
    return end if end is not None else int(tokenizer.eos_token_id)


# Facts of a tokenizer, kept for as long as its template stays the same.


@lru_cache(maxsize=16)
def _anchor_ids(tokenizer: Any, anchor: str) -> list[int]:
    return _ids(tokenizer, anchor)


@lru_cache(maxsize=8)
def _around(tokenizer: Any, template: str) -> tuple[str, str]:
    """What stands before and behind an answer when its own ids are read: spaces of the template, or one that the
    tokenizer puts in front of whatever follows a control token."""
    try:
        ids = encode_answer(tokenizer, [Message(role="user", content="Hello")], ANSWER)
    except DataError:  # no answer can be learned with this template
        return "", ""
    head, there, tail = _without_control(tokenizer, ids).partition(ANSWER)
    return (head, tail) if there else ("", "")


@lru_cache(maxsize=8)
def _unseen_tokens(tokenizer: Any, template: str) -> dict[str, int]:
    return {t: i for t, i in control_tokens(tokenizer).items() if _ids(tokenizer, "a" + t)[-1:] != [i]}
