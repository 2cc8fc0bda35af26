"""Chat templates and tokens: one way from messages to ids, for SFT, DPO and sampling alike.

A sequence is `encode_prompt(...) + encode_answer(...)`. The template writes everything up to the answer; the answer's
own text comes after it exactly as it is (a template that trims or rewrites answers does not get at it), and one stop
token ends it. So what is trained on is what the model is asked to go on from, and what it should produce.

**Control tokens come from the template alone.** Where a message or an answer contains the text of one ("</s>",
"<|im_end|>"), that text is encoded as ordinary characters: nobody can end a turn or open another by writing so.
Control tokens are those that the tokenizer marks as special, and the one that ends a turn.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import ConfigError, DataError
from align.store import read_json
from align.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = (
    "{{ bos_token if bos_token is defined and bos_token else '' }}"
    "{%- for message in messages %}"
    "{{- '\\n' if not loop.first and message['role'] != 'assistant' else '' }}"
    "{{- message['content'] }}"
    "{{- eos_token if message['role'] == 'assistant' else '' }}"
    "{%- endfor %}"
)
"""For base models: bos if there is one, then the text; an answer goes on where the prompt ended, and ends with eos."""

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' }}"
)

TEMPLATES = {"plain": PLAIN, "chatml": CHATML}
"""Built-in chat templates, by the names that `model.chat_template` takes."""

_BREAK, _ESCAPE = "\ufdd0", "\ufdd1"  # Unicode noncharacters: where a text is cut into pieces; "not a cut, a character"
_ANSWER = "An answer, to see what the template puts around it."
_ANCHORS = ("\n", "a")  # stand for "some text came before": no leading space is added to what follows, or lost from it


def load_tokenizer(
    path: str | Path, *, revision: str | None = None, chat_template: str | None = None
) -> "PreTrainedTokenizerBase":
    """A model's tokenizer, with a chat template that was tried.

    `chat_template` is `plain`, `chatml` or the path of a Jinja file, for a tokenizer that has none. Raises
    ConfigError where there is no tokenizer, no template, two different ones, or one that cannot be used.
    """
    from transformers import AutoTokenizer

    local = Path(path).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision, local_files_only=local)
    except (OSError, ValueError) as error:
        what = f"no tokenizer can be loaded from {str(path)!r} ({str(error).splitlines()[0]})"
        raise ConfigError(what, where="model.path", hint="give a local model folder or a Hub id") from error
    own = _own_template(tokenizer)
    given = _read_template(chat_template) if chat_template is not None else None
    if given is not None and own is not None and given != own:
        what = f"the tokenizer of {str(path)!r} has a chat template of its own, and {chat_template!r} is another"
        raise ConfigError(what, where="model.chat_template", hint="leave model.chat_template out")
    if given is None and own is None:
        what = f"the tokenizer of {str(path)!r} has no chat template"
        raise ConfigError(what, where="model.chat_template", hint="set `model.chat_template: plain | chatml | file`")
    tokenizer.chat_template = given if given is not None else own
    _require_usable(tokenizer, chat_template or f"the template of {str(path)!r}")
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
    return _encode(tokenizer, _render(tokenizer, messages))


def encode_answer(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], answer: str) -> list[int]:
    """The answer's ids in that context; they end with exactly one stop token, the one that the template puts there.

    Where the tokenizer would melt the prompt's end and the answer's beginning into one token, the answer is encoded
    for itself, since a model that is asked to go on from the prompt cannot produce that token either.
    """
    prompt = _render(tokenizer, messages)
    literal = _break_up(tokenizer, answer)
    before, whole = _encode(tokenizer, prompt), _encode(tokenizer, prompt + literal)
    together = whole[: len(before)] == before
    ids = whole[len(before) :] if together else _encode(tokenizer, literal, follows=True)
    return [*ids, _end_of_answer(tokenizer)]


def encode_answered(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Sequence[Message]], answers: Sequence[str]
) -> list[tuple[list[int], list[int]] | DataError]:
    """`encode_prompt` and `encode_answer` of many rows, in a fraction of the time; or why a row has no ids.

    Each prompt is rendered and encoded once; of it only what follows its last control token, at which tokenizers begin
    anew, is encoded again with each answer. The tokenizer is asked for many texts at a time.
    """
    keys = [tuple((m["role"], m["content"]) for m in messages) for messages in prompts]
    rendered: dict[tuple[tuple[str, str], ...], str | DataError] = {}
    for key, messages in dict(zip(keys, prompts, strict=True)).items():
        try:
            rendered[key] = _render(tokenizer, messages)
        except DataError as refusal:
            rendered[key] = refusal
    cut = _cut(tokenizer, [text for text in rendered.values() if isinstance(text, str)])
    end, rows = _end_of_answer(tokenizer), [rendered[key] for key in keys]
    literals = [_break_up(tokenizer, answer) for answer in answers]
    asked = [cut[row][1] + literal for row, literal in zip(rows, literals, strict=True) if isinstance(row, str)]
    encoded = iter(_encode_many(tokenizer, asked))
    found: list[tuple[list[int], list[int]] | DataError] = []
    for row, literal in zip(rows, literals, strict=True):
        if isinstance(row, DataError):
            found.append(row)
            continue
        (head, _, before), whole = cut[row], next(encoded)
        together = whole[: len(before)] == before
        answer = whole[len(before) :] if together else _encode(tokenizer, literal, follows=True)
        found.append(([*head, *before], [*answer, end]))
    return found


def _cut(tokenizer: "PreTrainedTokenizerBase", rendered: Sequence[str]) -> dict[str, tuple[list[int], str, list[int]]]:
    """Each text → the ids of its beginning, its end from the last control token on, and the end's ids."""
    seen = _control(tokenizer).keys() - _unseen(tokenizer).keys()
    ends = [text[max([text.rfind(token) for token in seen] + [0]) :] for text in rendered]
    found = {}
    for text, ids, end, tail in zip(
        rendered, _encode_many(tokenizer, rendered), ends, _encode_many(tokenizer, ends), strict=True
    ):
        begin = len(ids) - len(tail)
        found[text] = (ids[:begin], end, tail) if tail and ids[begin:] == tail else ([], text, ids)
    return found


def decode_answer(tokenizer: "PreTrainedTokenizerBase", token_ids: Sequence[int]) -> str:
    """The text of an answer's ids, without control tokens, its leading and trailing spaces kept.

    Bytes that are no UTF-8 (an answer cut inside a character) become U+FFFD.
    """
    control = _control(tokenizer).values()
    ids = [i for i in token_ids if i not in control]
    anchor = _ANCHORS[-1]
    text = _decode(tokenizer, _anchor_ids(tokenizer, anchor) + ids)
    return text[len(anchor) :] if text.startswith(anchor) else _decode(tokenizer, ids)


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text)


def _own_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The tokenizer's template; of several named ones, the default."""
    own = tokenizer.chat_template
    return own.get("default") if isinstance(own, dict) else own


def _read_template(name: str) -> str:
    if name in TEMPLATES:
        return TEMPLATES[name]
    file = Path(name)
    if not file.is_file():
        what = f"{name!r} is no built-in chat template and no file"
        raise ConfigError(what, where="model.chat_template", hint="use plain, chatml or the path of a Jinja file")
    return file.read_text(encoding="utf-8")


def _require_usable(tokenizer: "PreTrainedTokenizerBase", name: str) -> None:
    """ConfigError for a template that fails, loses the answer, or names tokens that the tokenizer lacks."""
    where = "model.chat_template"
    if tokenizer.chat_template == CHATML and any(len(_ids(tokenizer, t)) != 1 for t in ("<|im_start|>", "<|im_end|>")):
        what = "the template chatml needs the tokens <|im_start|> and <|im_end|>, which the tokenizer does not have"
        raise ConfigError(what, where=where, hint="use plain, or a Jinja file that names tokens of this tokenizer")
    try:
        rendered = _render(tokenizer, [{"role": "user", "content": "Hello"}], answer=_ANSWER)
    except DataError as error:
        raise ConfigError(f"{name} does not work: {error.what}", where=where) from error
    if _ANSWER not in rendered:
        raise ConfigError(f"{name} leaves out the assistant's text", where=where, hint="it must render every message")
    if _end_token(tokenizer, tokenizer.chat_template) is None and tokenizer.eos_token_id is None:
        what = f"nothing ends an answer: {name} puts no token after it and the tokenizer has no eos_token"
        raise ConfigError(what, where=where, hint="name the eos_token in tokenizer_config.json")


def _render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], answer: str | None = None) -> str:
    """The template's text, control tokens in the messages broken up; up to the answer, or with it."""
    turns = [Message(role=m["role"], content=_break_up(tokenizer, m["content"])) for m in messages]
    turns += [Message(role="assistant", content=answer)] if answer is not None else []
    return _apply(tokenizer, turns, generate=answer is None)


def _apply(tokenizer: "PreTrainedTokenizerBase", turns: list[Message], *, generate: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate))
    except (TemplateError, TypeError, KeyError) as error:
        roles = ", ".join(m["role"] for m in turns)
        raise DataError(f"the chat template refuses a conversation of {roles} ({error})") from error


def _break_up(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """Marks a cut inside each control token's text, so that `_encode` sees ordinary characters."""
    escaped = text.replace(_BREAK, _BREAK + _ESCAPE) if _BREAK in text else text
    return _pattern(frozenset(_control(tokenizer))).sub(lambda m: m[0][:1] + _BREAK + m[0][1:], escaped)


def _encode(tokenizer: "PreTrainedTokenizerBase", rendered: str, *, follows: bool = False) -> list[int]:
    """Ids of a rendered text. `follows` says that text came before, so that no space is put in front."""
    ids: list[int] = []
    for piece in re.split(f"{_BREAK}(?!{_ESCAPE})", rendered) if _BREAK in rendered else [rendered]:
        text = piece.replace(_BREAK + _ESCAPE, _BREAK)
        ids += _encode_piece(tokenizer, text, follows=follows)
        follows = True
    return ids


def _encode_many(tokenizer: "PreTrainedTokenizerBase", rendered: Sequence[str]) -> list[list[int]]:
    """`_encode` of each text; those that need no cutting go to the tokenizer together."""
    unseen = _pattern(frozenset(_unseen(tokenizer)))
    whole = [n for n, text in enumerate(rendered) if text and _BREAK not in text and not unseen.search(text)]
    ids: dict[int, list[int]] = {}
    if whole:
        texts = [rendered[n] for n in whole]
        ids = dict(zip(whole, tokenizer(texts, add_special_tokens=False, verbose=False).input_ids, strict=True))
    return [list(ids[n]) if n in ids else _encode(tokenizer, text) for n, text in enumerate(rendered)]


def _encode_piece(tokenizer: "PreTrainedTokenizerBase", text: str, *, follows: bool) -> list[int]:
    unseen = _unseen(tokenizer)
    if not unseen:
        return _follow(tokenizer, text) if follows else _ids(tokenizer, text)
    ids: list[int] = []
    for part in filter(None, re.split(f"({_pattern(frozenset(unseen)).pattern})", text)):
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


def _control(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Text → id of the tokens that only a template may write."""
    return _control_tokens(tokenizer, tokenizer.chat_template)


def _unseen(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Text → id of control tokens that the tokenizer does not see inside a text; we put their ids ourselves."""
    return _unseen_tokens(tokenizer, tokenizer.chat_template)


def _end_of_answer(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The id that the template puts after an answer, else eos (one of them is there: `load_tokenizer` saw to it)."""
    end = _end_token(tokenizer, tokenizer.chat_template)
    return end if end is not None else int(tokenizer.eos_token_id)


# Facts of a tokenizer, kept for as long as its template stays the same.


@lru_cache(maxsize=16)
def _anchor_ids(tokenizer: Any, anchor: str) -> list[int]:
    return _ids(tokenizer, anchor)


@lru_cache(maxsize=8)
def _special_tokens(tokenizer: Any) -> dict[str, int]:
    added = {str(t.content): int(i) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


@lru_cache(maxsize=8)
def _end_token(tokenizer: Any, template: str) -> int | None:
    turns = [Message(role="user", content="Hello"), Message(role="assistant", content=_ANSWER)]
    rest = _apply(tokenizer, turns, generate=False).rpartition(_ANSWER)[2]
    known = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()} | _special_tokens(tokenizer)
    found = _pattern(frozenset(known)).search(rest)
    return int(known[found[0]]) if found else None


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Any, template: str) -> dict[str, int]:
    end = _end_token(tokenizer, template)
    return _special_tokens(tokenizer) | ({} if end is None else {str(tokenizer.convert_ids_to_tokens(end)): end})


@lru_cache(maxsize=8)
def _unseen_tokens(tokenizer: Any, template: str) -> dict[str, int]:
    return {t: i for t, i in _control_tokens(tokenizer, template).items() if _ids(tokenizer, "a" + t)[-1:] != [i]}


@lru_cache(maxsize=32)
def _pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of `texts`, the longest first; nothing where there is none."""
    return re.compile("|".join(re.escape(t) for t in sorted(texts, key=lambda t: (-len(t), t))) or "(?!)")
