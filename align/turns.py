"""The assistant's turn as a chat template writes it: its header, its thoughts, its end, and the text in between.

**Thoughts** stand in an answer's text as `<think>\n…\n</think>\n\n` before what it says (`split_thoughts`), in
whatever form the template writes them. **Calls** of tools stand at its end (`align.tool_calls`); the template gets them,
results and the list of tools in OpenAI's form. What a template leaves out of a conversation is refused.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from align import templates
from align.errors import DataError
from align.tool_calls import (
    TOOL,
    TOOLS,
    Call,
    arguments_of,
    as_call,
    split_calls,
    split_result,
    tool_name,
    tools_of,
)
from align.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK, ESCAPE = "\ufdd0", "\ufdd1"
"""Unicode noncharacters: where a text is cut into pieces; "not a cut, a character"."""
_ESCAPED_BREAK = "\\ufdd0"
ANSWER = "An answer, to see what the template puts around it."
_THOUGHT = "A thought, to see whether the template writes it."
_NEXT = "What the user says next."
_PROBE = Call("probe_tool", json.dumps({"probe_key": "A value, to see whether the template writes it."}), "callid001")
OPEN, CLOSE = "<think>", "</think>"
_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Names under which templates read a message's thoughts."""


def split_thoughts(text: str) -> tuple[str | None, str]:
    """An answer's thoughts, None where it has none, and what it says. Thoughts that were cut off leave nothing to
    say."""
    before, opened, rest = text.partition(OPEN)
    if not opened or before.strip():
        return None, text
    thoughts, closed, said = rest.partition(CLOSE)
    return thoughts.strip("\n"), said.lstrip("\n") if closed else ""


def said(text: str) -> str:
    """An answer without its thoughts."""
    return split_thoughts(text)[1]


def with_thoughts(thoughts: str, said: str) -> str:
    return f"{OPEN}\n{thoughts}\n{CLOSE}\n\n{said}" if thoughts else said


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], answer: str | None = None) -> str:
    """The template's text, control tokens in the messages broken up; up to the answer, or with it."""
    tools = broken(tokenizer, tools_of(messages))
    turns = [as_turn(tokenizer, m["role"], m["content"]) for m in messages if m["role"] != TOOLS]
    turns += [as_turn(tokenizer, "assistant", answer)] if answer is not None else []
    text = apply(tokenizer, turns, generate=answer is None, tools=tools)
    _require_written(tokenizer, text, turns, tools)
    return text


def turn_text(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], prompt: str, answer: str) -> str:
    """What the template writes behind `prompt` for the answer, up to the token that ends the turn, or to the end of the
    answer where no token does."""
    whole = render(tokenizer, messages, answer=answer)
    if not whole.startswith(prompt):
        raise DataError(_otherwise(tokenizer, prompt, whole))
    end = end_of_turn(tokenizer, tokenizer.chat_template)
    if split_calls(answer)[1]:
        end = _end_of_calls(tokenizer, whole[len(prompt) :], end)
    if not whole.endswith(end.rest):
        raise DataError(f"the chat template ends this answer otherwise than others, not with {end.rest!r}")
    turn = whole[len(prompt) : len(whole) - len(end.rest)] + end.text
    if OPEN in answer and turn.count(CLOSE) > answer.count(CLOSE):
        what = "the chat template writes a block of thoughts of its own before the answer, which has one already"
        raise DataError(f"{what}; give answers without {OPEN}…{CLOSE}, or use another template")
    return turn


def _otherwise(tokenizer: "PreTrainedTokenizerBase", prompt: str, whole: str) -> str:
    """Why an answer cannot be learned, the same words for each row, and the ways out."""
    same = _shared(prompt, whole)
    read = sorted(templates.variables_of(tokenizer.chat_template) & {"enable_thinking", "thinking", "reasoning_effort"})
    variables = f"set model.chat_template_kwargs (the template reads {', '.join(read)}), " if read else ""
    return (
        f"the chat template's prompt begins the answer with {prompt[same:][:40]!r}, and its rendering of the answered "
        f"conversation does not, so the model would learn what it is never asked for; {variables}give answers with their "
        f"thoughts ({OPEN}…{CLOSE}), or use another template (model.replace_chat_template)"
    )


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def as_turn(tokenizer: "PreTrainedTokenizerBase", role: str, text: str) -> dict[str, Any]:
    """A message as the template takes it, thoughts apart where it has a name for them, calls and results in OpenAI's
    form."""
    if role == TOOL:
        result = split_result(text)
        names = {"name": result.name, "tool_call_id": result.id}
        given = {name: broken(tokenizer, value) for name, value in names.items() if value is not None}
        return {"role": role, "content": break_up(tokenizer, result.text), **given}
    if role != "assistant":
        return {"role": role, "content": break_up(tokenizer, text)}
    text, calls = split_calls(text)
    turn: dict[str, Any] = {
        "role": role,
        "content": break_up(tokenizer, text, spare=(OPEN, CLOSE) if OPEN in text else ()),
    }
    if OPEN in text:
        thoughts, said = split_thoughts(text)
        field = thoughts_of(tokenizer, tokenizer.chat_template).field
        if thoughts is not None and field is not None:
            turn |= {"content": break_up(tokenizer, said), field: break_up(tokenizer, thoughts)}
    return _with_calls(tokenizer, turn, calls) if calls else turn


def _with_calls(tokenizer: "PreTrainedTokenizerBase", turn: dict[str, Any], calls: Sequence[Call]) -> dict[str, Any]:
    form = calls_of(tokenizer, tokenizer.chat_template)
    if form is None:
        raise DataError("the chat template writes no tool calls; use one that does (model.replace_chat_template)")
    written = [_call_turn(call, form) for call in calls]
    return {**turn, "content": turn["content"] or form.empty, "tool_calls": broken(tokenizer, written)}


def _call_turn(call: Call, form: "Calls") -> dict[str, Any]:
    return as_call(call, call.arguments if form.as_text else arguments_of(call.arguments))


def _require_written(
    tokenizer: "PreTrainedTokenizerBase", text: str, turns: Sequence[Mapping[str, Any]], tools: Any
) -> None:
    """DataError where a template leaves out what not every template knows: it would be another conversation."""
    template = tokenizer.chat_template
    if tools and not (_writes(tokenizer, template, TOOLS) and all(_stands_in(text, str(tool_name(t))) for t in tools)):
        raise DataError("the chat template does not write the list of tools; use one that does")
    for place, turn in enumerate(turns):
        role, content = turn["role"], turn["content"]
        if "tool_calls" in turn and not all(_stands_in(text, c["function"]["name"]) for c in turn["tool_calls"]):
            raise DataError("the chat template leaves out calls of tools")
        if "tool_calls" in turn and not _stands_in(text, split_thoughts(content or "")[1]):
            raise DataError("the chat template leaves out what is said beside a call of tools")
        if role in (TOOL, "developer") or (role == "system" and place):
            if _writes(tokenizer, template, role) and _stands_in(text, content):
                continue
            way_out = "; write system instead" if role == "developer" else ""
            raise DataError(f"the chat template leaves out a turn of {role}{way_out}")
    objects = [tools, *(turn["tool_calls"] for turn in turns if "tool_calls" in turn)]
    if any(objects) and _ESCAPED_BREAK in text and any(BREAK in json.dumps(one, ensure_ascii=False) for one in objects):
        raise DataError("the chat template escapes what it writes, and a tool or a call holds a control token's text")


@lru_cache(maxsize=32)
def _writes(tokenizer: Any, template: str, role: str) -> bool:
    """Whether the template writes a turn of `role` (of system: one that is not the first) or the list of tools, where it
    takes a simple conversation with it at all: a short text may stand somewhere else by chance."""
    user, said = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}
    tools: list[Any] | None = None
    turns: list[dict[str, Any]] = [user, said, {"role": role, "content": _THOUGHT}, user]
    if role == TOOLS:
        tools, turns = [{"type": "function", "function": {"name": _THOUGHT, "parameters": {"properties": {}}}}], [user]
    elif role == TOOL:
        made, form = _PROBE, calls_of(tokenizer, template)
        if form is None:
            return True  # the call itself is refused
        call = {"role": "assistant", "content": form.empty, "tool_calls": [_call_turn(made, form)]}
        turns = [user, call, {"role": TOOL, "content": _THOUGHT, "name": made.name, "tool_call_id": made.id}]
    elif role == "developer":
        turns = [{"role": role, "content": _THOUGHT}, user]
    try:
        return _stands_in(apply(tokenizer, turns, generate=True, tools=tools), _THOUGHT)
    except DataError:
        return True


def _stands_in(text: str, content: str) -> bool:
    """Whether a rendered text has the content in it, as it is or as JSON."""
    content = content.strip()
    return content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text


def apply(
    tokenizer: "PreTrainedTokenizerBase",
    turns: Sequence[Mapping[str, Any]],
    *,
    generate: bool,
    tools: list[Any] | None = None,
) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=generate))
    except (TemplateError, TypeError, LookupError, AttributeError, ValueError, ArithmeticError) as error:
        roles = ", ".join(m["role"] for m in turns)
        raise DataError(f"the chat template refuses a conversation of {roles} ({error})") from error


def broken(tokenizer: "PreTrainedTokenizerBase", value: Any) -> Any:
    """A value of JSON with every text in it as `break_up` has it."""
    if isinstance(value, str):
        return break_up(tokenizer, value)
    if isinstance(value, Mapping):
        return {break_up(tokenizer, name): broken(tokenizer, inner) for name, inner in value.items()}
    return [broken(tokenizer, inner) for inner in value] if isinstance(value, list) else value


def break_up(tokenizer: "PreTrainedTokenizerBase", text: str, spare: Sequence[str] = ()) -> str:
    """Marks a cut inside each control token's text but those in `spare`, so that `_encode` sees ordinary characters."""
    escaped = text.replace(BREAK, BREAK + ESCAPE) if BREAK in text else text
    control = frozenset(control_tokens(tokenizer).keys() - set(spare))
    return pattern(control).sub(lambda m: m[0][:1] + BREAK + m[0][1:], escaped)


def control_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Text → id of the tokens that only a template may write."""
    return _control(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=32)
def pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of `texts`, the longest first; nothing where there is none."""
    return re.compile("|".join(re.escape(t) for t in sorted(texts, key=lambda t: (-len(t), t))) or "(?!)")


@lru_cache(maxsize=8)
def _special(tokenizer: Any) -> dict[str, int]:
    added = {str(t.content): int(i) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


@lru_cache(maxsize=8)
def _control(tokenizer: Any, template: str) -> dict[str, int]:
    end = end_of_turn(tokenizer, template).id
    return _special(tokenizer) | ({} if end is None else {str(tokenizer.convert_ids_to_tokens(end)): end})


@dataclass(frozen=True, slots=True)
class End:
    """How the template ends the assistant's turn: all that comes after the answer, the part of it up to the token that
    ends the turn, and that token, None where there is none (then the part is empty)."""

    rest: str
    text: str
    id: int | None


@lru_cache(maxsize=8)
def end_of_turn(tokenizer: Any, template: str) -> End:
    """The token is one that the template writes wherever a turn ends: of several eos, else the last special one.

    What it writes after the last turn alone (Phi's eos) is not a part of the turn, unless there is nothing else.
    """
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ANSWER}]
    rest = apply(tokenizer, turns, generate=False).rpartition(ANSWER)[2]
    special = _special(tokenizer)
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()}
    known = {text: i for text, i in (added | special).items() if text.strip()}  # no newlines
    found = list(pattern(frozenset(known)).finditer(rest))
    if not found:
        return End(rest, "", None)
    try:
        later = apply(tokenizer, [*turns, {"role": "user", "content": _NEXT}], generate=False).partition(ANSWER)[2]
    except DataError:  # it takes no longer conversations
        later = rest
    shared = _shared(rest, later)
    always = [match for match in found if match.end() <= shared] or found[:1]
    eos = [match for match in always if known[match[0]] == tokenizer.eos_token_id]
    end = [*eos[:1], *[match for match in always if match[0] in special][-1:], always[-1]][0]
    return End(rest, rest[: end.end()], int(known[end[0]]))


@dataclass(frozen=True, slots=True)
class Calls:
    """How a template takes calls: what stands for a content that there is not, and whether arguments are the `text` of
    their JSON, and no object."""

    empty: str | None = None
    as_text: bool = False


@lru_cache(maxsize=8)
def calls_of(tokenizer: Any, template: str) -> Calls | None:
    """None where the template writes no calls in any of the forms that there are."""
    if "tool_calls" not in template:
        return None
    user = {"role": "user", "content": "Hello"}
    value, nones = json.loads(_PROBE.arguments)["probe_key"], apply(tokenizer, [user], generate=False).count("None")
    for as_text in (False, True):
        for empty in (None, ""):
            form = Calls(empty, as_text)
            turn = {"role": "assistant", "content": empty, "tool_calls": [_call_turn(_PROBE, form)]}
            try:
                whole = apply(tokenizer, [user, turn], generate=False)
            except DataError:
                continue
            if _PROBE.name in whole and value in whole and whole.count("None") == nones:
                return form
    return None


def _end_of_calls(tokenizer: "PreTrainedTokenizerBase", turn: str, end: End) -> End:
    """How a turn that calls ends: as others do, or with a token of its own, which nothing but white space follows."""
    if end.id is not None and turn.endswith(end.rest):
        return end
    found = list(pattern(frozenset(_special(tokenizer))).finditer(turn))
    if not found or turn[found[-1].end() :].strip():
        return end
    return End(turn[found[-1].start() :], found[-1][0], _special(tokenizer)[found[-1][0]])


@dataclass(frozen=True, slots=True)
class Thoughts:
    """How a template writes thoughts. `field` is its name for them in a message, None where it has none; `opener` and
    `closer` stand around them and `header` before an answer without them, all stripped; `opened` says that the prompt
    ends inside of them. Without a `closer` the template knows no thoughts."""

    field: str | None = None
    opener: str = ""
    closer: str = ""
    header: str = ""
    opened: bool = False


@lru_cache(maxsize=8)
def thoughts_of(tokenizer: Any, template: str) -> Thoughts:
    user = {"role": "user", "content": "Hello"}
    prompt = apply(tokenizer, [user], generate=True)
    for field in _FIELDS:
        turn = {"role": "assistant", "content": ANSWER, field: _THOUGHT}
        whole = apply(tokenizer, [user, turn], generate=False) if field in template else ""
        before, there, after = whole.partition(_THOUGHT)
        if not there or not before.startswith(prompt) or ANSWER not in after:
            continue
        opener, closer = before[len(prompt) :].strip(), after.partition(ANSWER)[0].strip()
        said = apply(tokenizer, [user, {"role": "assistant", "content": ANSWER}], generate=False)
        header = said[len(prompt) :].partition(ANSWER)[0].strip() if said.startswith(prompt) else ""
        return Thoughts(field, opener, closer, header, opened=not opener)
    opened = prompt.rstrip().endswith(OPEN)
    return Thoughts(None, OPEN, CLOSE, opened=opened) if opened or CLOSE in template else Thoughts()
