"""Conversations in the forms that people bring, as one form: instructions, then `user` and `assistant` in turn, with the
calls of tools and their results in between (`align.tool_calls`)."""

import ast
import json
import re
from typing import Any, TypeGuard

from align.data.tool_messages import calling, require_answered, result_of, tools_turn
from align.data.values import BadRowError as BadRowError
from align.data.values import excerpt as excerpt
from align.data.values import is_said as is_said
from align.data.values import joined_parts, text_of
from align.data.values import storable as storable
from align.normal import normal
from align.tool_calls import TOOL, TOOLS
from align.turns import OPEN, split_thoughts, with_thoughts
from align.types import Message, prompt_id

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
ROLES |= {"developer": "developer", "tool": TOOL, "tools": TOOLS}
"""Role names that are understood, those of sharegpt included; `tools` is the list of tools in our own files."""
INSTRUCTIONS = ("system", "developer", TOOLS)
"""Roles of turns that nobody answers; they may stand anywhere, and mostly come first."""

SYSTEM = ("system", "system_prompt")
"""Names of a system turn that stands beside a conversation."""
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
"""Names of a turn's thoughts."""
MORE_THAN_TEXT = ("tools", "functions", "images", "image", "videos", "video", "audios", "audio")
TURN_FIELDS = {"role", "from", "content", "value", "tool_calls", "function_call", "weight", "train"}
TURN_FIELDS |= {*THOUGHTS, *MORE_THAN_TEXT}
"""What is understood in a message; all else in it is ignored, and counted by name."""
RESULT_FIELDS = {"tool_call_id", "name"}
"""What is understood besides in a result of a tool."""

_HH = "\n\nHuman:"
_HH_ANSWER = "\n\nAssistant:"
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_BARE = re.compile(r"\s*Human:")
_QUOTED = re.compile(r"""\s*[\[{]\s*\{?\s*["'](role|from|content|value)["']\s*:""")
"""How messages begin that somebody wrote as text: as JSON, or as Python does."""


def turn_of(value: object, field: str, *, empty: bool = False) -> Message:
    """One message, written as `role` and `content` or, as sharegpt does, as `from` and `value`."""
    if not isinstance(value, dict):
        raise BadRowError("not a message", f"`{field}` is {excerpt(value)}")
    if is_said(value.get("function_call")):
        raise BadRowError("unusable field", f"`{field}.function_call` is of an old form; write it as `tool_calls`")
    require_text_only(value, f"{field}.")
    role, said = (  # tables give every field to each message, and None to what it has not
        value.get(name) if value.get(name) is not None else value.get(other)
        for name, other in (("role", "from"), ("content", "value"))
    )
    if not isinstance(role, str) or role not in ROLES:
        known_roles = ", ".join(name for name in ROLES if name != TOOLS)
        raise BadRowError("unknown role", f"`{field}` has the role {excerpt(role)}, not one of {known_roles}")
    known, calls = ROLES[role], value.get("tool_calls")
    if is_said(calls) and known != "assistant":
        raise BadRowError("unusable field", f"`{field}.tool_calls` are of {known}, and only an assistant calls tools")
    if known == TOOL:
        return result_of(value, said, field)
    if known == TOOLS:
        return tools_turn(said, field)
    said, thoughts = joined_parts("" if said is None and is_said(calls) else said, f"{field}.content")
    content = text_of(said, field, empty=empty or is_said(calls))
    name = next((name for name in THOUGHTS if is_said(value.get(name))), None)
    if (name is not None or thoughts) and known != "assistant":
        raise BadRowError(
            "unusable field", f"`{field}.{name or 'content'}` gives thoughts to {known}, not to assistant"
        )
    content = content if not thoughts else thought(thoughts, content, f"{field}.content")
    content = content if name is None else thought(value[name], content, f"{field}.{name}")
    return {"role": known, "content": calling(content, calls, f"{field}.tool_calls") if is_said(calls) else content}


def unread_fields(turn: dict[str, Any]) -> set[str]:
    """The fields of a message that say something and are not understood."""
    known = TURN_FIELDS | RESULT_FIELDS if turn.get("role", turn.get("from")) == TOOL else TURN_FIELDS
    return {name for name in turn.keys() - known if is_said(turn[name])}


def require_text_only(fields: dict[str, Any], before: str = "") -> None:
    """BadRowError where a row or a turn needs more than its text to be understood: pictures, sounds, tools of its own."""
    for name in MORE_THAN_TEXT:
        if is_said(fields.get(name)) and (before or name != TOOLS):
            raise BadRowError(
                "unusable field",
                f"`{before}{name}` is {excerpt(fields[name])}, and the text alone would mean another thing",
            )


def thought(thoughts: object, answer: str, field: str) -> str:
    """`answer` with its thoughts in front, as `align.turns` has them; BadRowError where it has others already."""
    text = text_of(thoughts, field)
    before, _ = split_thoughts(answer)
    if before is not None and before.strip() != text:
        raise BadRowError("unusable field", f"`{field}` and the answer's {OPEN} hold two different thoughts")
    return answer if before is not None else with_thoughts(text, answer)


def in_full(row: dict[str, Any], messages: list[Message]) -> list[Message]:
    """`messages` with the system turn and the list of tools that stand beside them in the row.

    BadRowError where they have others already, and where the row needs more than text and tools to be understood.
    """
    require_text_only(row)
    tools, messages = (messages[:1], messages[1:]) if messages[0]["role"] == TOOLS else ([], messages)
    for name in SYSTEM:
        if not is_said(row.get(name)):
            continue
        system: Message = {"role": "system", "content": text_of(row[name], name)}
        if messages[0]["role"] != "system":
            messages = [system, *messages]
        elif normal(messages[0]["content"]) != normal(system["content"]):
            other = excerpt(messages[0]["content"])
            raise BadRowError("prompts differ", f"`{name}` is {excerpt(row[name])}, and the system turn is {other}")
    if is_said(row.get(TOOLS)):
        given = [tools_turn(row[TOOLS], TOOLS)]
        if tools not in ([], given):
            raise BadRowError("prompts differ", "`tools` and the conversation name different tools")
        tools = given
    return [*tools, *messages]


def conversation_of(value: object, field: str, *, empty_end: bool = False) -> list[Message]:
    """A list of messages, also as its text, or text in the HH form, whose roles take turns; another text is one user
    turn.

    With `empty_end` the last turn may be empty.
    """
    value = unquoted(value, field)
    if isinstance(value, str):
        messages = (
            hh_turns(value, field, empty_end=empty_end)
            if is_hh(value)
            else [_user(_no_turns(text_of(value, field), field))]
        )
    elif isinstance(value, list) and value:
        last = len(value) - 1
        messages = [turn_of(turn, f"{field}[{n}]", empty=empty_end and n == last) for n, turn in enumerate(value)]
    else:
        raise BadRowError("empty" if value == [] else "not a conversation", f"`{field}` is {excerpt(value)}")
    return in_turn(messages, field)


def in_turn(messages: list[Message], field: str) -> list[Message]:
    """`messages`, if user and assistant alternate, the user first, and results follow their calls; else BadRowError.
    Turns that instruct may stand before and between them."""
    require_answered(messages, field)
    before = ""
    for place, turn in enumerate(messages):
        if turn["role"] in INSTRUCTIONS:
            continue
        expected = "user" if before in ("", "assistant") else "assistant"
        if turn["role"] not in (expected, TOOL):
            raise BadRowError("roles out of turn", f"`{field}[{place}]` is of {turn['role']}, expected {expected}")
        before = turn["role"]
    if not before:
        raise BadRowError("roles out of turn", f"`{field}` has a system turn only")
    return messages


def unquoted(value: object, field: str) -> object:
    """The messages that `value` is the text of, as a table in CSV holds them; any other value as it is.

    BadRowError for a text that begins and ends as messages do and cannot be read.
    """
    if not isinstance(value, str) or not _QUOTED.match(value) or value.rstrip()[-1] not in "]}":
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            messages = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return messages if _are_messages(messages) else value
    what = f"`{field}` begins as a list of messages does, and is neither JSON nor Python: {excerpt(value)}"
    raise BadRowError("not a conversation", f"{what}; write messages, or the text as the content of one")


def turns_in(value: object) -> list[dict[str, Any]]:
    """The messages that a field holds, as such or as text, whatever is in them; none where it holds something else."""
    try:
        value = unquoted(value, "")
    except BadRowError:
        return []
    return [turn for turn in (value if isinstance(value, list) else [value]) if isinstance(turn, dict)]


def _are_messages(value: object) -> bool:
    """A list of objects with a role and a content, or one such object whose role is known: other objects are data."""
    if isinstance(value, dict):
        return _is_whole(value) and value.get("role", value.get("from")) in (*ROLES,)
    return isinstance(value, list) and all(map(_is_whole, value))


def _is_whole(turn: object) -> bool:
    if not isinstance(turn, dict):
        return False
    return (
        {"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys() or {"role", "tool_calls"} <= turn.keys()
    )


def _no_turns(text: str, field: str) -> str:
    """`text`, which a user said; BadRowError where it may be a conversation in the HH form, and cannot be read as
    one."""
    if _HH_BARE.match(text):
        what = f"`{field}` begins with 'Human:', and no blank line and 'Assistant:' follow"
        raise BadRowError("not a conversation", f"{what}; put two line ends before it, or take it out")
    return text


def is_hh(value: object) -> bool:
    """Whether `value` is a conversation in the HH text form: also without the line ends at its beginning, if somebody
    answers in it."""
    return isinstance(value, str) and (
        value.startswith(_HH) or (_HH_BARE.match(value) is not None and _HH_ANSWER in value)
    )


def hh_turns(text: str, field: str, *, empty_end: bool = False) -> list[Message]:
    """The turns of `"\\n\\nHuman: … \\n\\nAssistant: …"`."""
    parts = _HH_TURN.split("\n\n" + text.lstrip())[1:]
    roles = ["user" if name == "Human" else "assistant" for name in parts[::2]]
    last = len(roles) - 1
    return [
        {"role": role, "content": text_of(turn, f"{field}[{n}]", empty=empty_end and n == last)}
        for n, (role, turn) in enumerate(zip(roles, parts[1::2], strict=True))
    ]


def hh_question(text: str) -> str:
    """All of an HH text before its last assistant turn; the whole text where it has none."""
    return ("\n\n" + text.lstrip()).rpartition(_HH_ANSWER)[0] or text


def answer_of(value: object, field: str, *, empty: bool = False) -> tuple[list[Message] | None, str]:
    """An answer as (the conversation before it, its text); the conversation is None where only the answer is given.

    Text, one assistant message, a list of it, or a whole conversation (messages, also as their text, or HH text) that
    ends with it. A list that begins with the assistant goes on from the prompt: what it has before its last turn is for
    `gone_on` to put behind it. An answer that somebody rejected may be `empty`.
    """
    value = unquoted(value, field)
    if isinstance(value, str) and not is_hh(value):
        return None, text_of(value, field, empty=empty)
    if isinstance(value, str | list) and value and not (isinstance(value, list) and len(value) == 1):
        if _continues(value):
            *before, answer = (
                turn_of(t, f"{field}[{n}]", empty=empty and n == len(value) - 1) for n, t in enumerate(value)
            )
        else:
            *before, answer = conversation_of(value, field, empty_end=empty)
    else:
        before, answer = [], turn_of(value[0] if isinstance(value, list) and value else value, field, empty=empty)
    if answer["role"] != "assistant":
        raise BadRowError(
            "no answer", f"`{field}` ends with {answer['role']} {excerpt(answer['content'])}, not assistant"
        )
    _require_unweighed(value, field)
    return asks(before, field) if before else None, answer["content"]


def _continues(value: object) -> TypeGuard[list[Any]]:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and first.get("role", first.get("from")) in ("assistant", "gpt")


def gone_on(
    prompt: list[Message] | None, before: list[Message] | None, field: str
) -> tuple[list[Message] | None, bool]:
    """`prompt` with what an answer has `before` its last turn, where that goes on from it, and whether it does."""
    if not before or before[0]["role"] != "assistant":
        return prompt, False
    if prompt is None:
        raise BadRowError("roles out of turn", f"`{field}[0]` is of assistant, and nothing stands before it")
    return asks(in_turn([*prompt, *before], field), field), True


def _require_unweighed(answer: object, field: str) -> None:
    """BadRowError for an answer whose own turn says that it counts less, or not at all."""
    place = f"{field}[{len(answer) - 1}]" if isinstance(answer, list) else field
    turn = answer[-1] if isinstance(answer, list) else answer
    for name in ("weight", "train"):
        if isinstance(turn, dict) and (value := turn.get(name)) is not None and value != 1:
            way_out = "take it out, and give the row a `weight` where it counts less than others"
            raise BadRowError(
                "unusable field", f"`{place}.{name}` is {excerpt(value)}, and an answer is whole; {way_out}"
            )


def prompt_of(row: dict[str, Any], fields: tuple[str, ...]) -> list[Message] | None:
    """The conversation in the first of `fields` that the row has, ending with a user turn or a tool's result; None where
    it has none.

    `instruction` is the alpaca form: with `input` (Dolly's `context`) beneath it and `history` (pairs) before it. A
    system turn beside the conversation is for `in_full` to add.
    """
    field = next((name for name in fields if row.get(name) is not None), None)
    if field is None:
        return None
    if field == "instruction":
        return _alpaca(row)
    value = unquoted(row[field], field)
    if isinstance(value, str) and is_hh(value) and value.rstrip().endswith(_HH_ANSWER):
        value = hh_question(value)
    return asks(conversation_of(value, field), field)


def agreed(one: list[Message], other: list[Message]) -> list[Message] | None:
    """The prompt that two parts of a row give; a system turn may stand in one of them alone. None where they differ."""
    whole, part = (one, other) if len(one) >= len(other) else (other, one)
    same = prompt_id(part) == prompt_id(whole[len(whole) - len(part) :])
    return whole if same and len(whole) - len(part) in (0, whole[0]["role"] in INSTRUCTIONS) else None


def asks(messages: list[Message], field: str) -> list[Message]:
    """`messages`, if they end with a user turn or a tool's result; else BadRowError."""
    if messages[-1]["role"] not in ("user", TOOL):
        raise BadRowError(
            "no question", f"`{field}` ends with {messages[-1]['role']} {excerpt(messages[-1]['content'])}, not user"
        )
    return messages


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _alpaca(row: dict[str, Any]) -> list[Message]:
    messages: list[Message] = []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRowError("not a message", f"`history` is {excerpt(history)}, not a list of pairs")
    for n, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRowError("not a message", f"`history[{n}]` is {excerpt(pair)}, not a pair")
        messages.append(_user(text_of(pair[0], f"history[{n}]")))
        messages.append({"role": "assistant", "content": text_of(pair[1], f"history[{n}]")})
    text = text_of(row["instruction"], "instruction")
    beneath = [text_of(row[name], name) for name in ("input", "context") if str(row.get(name) or "").strip()]
    if len(beneath) == 2 and beneath[0] != beneath[1]:
        raise BadRowError("unusable field", "`input` and `context` both say what the instruction is about")
    return [*messages, _user("\n".join([text, *beneath[:1]]))]
