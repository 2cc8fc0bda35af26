"""Conversations in the forms that people bring, as one form: `system`? then `user` and `assistant` in turn."""

import re
from typing import Any

from align.normal import normal
from align.types import Message

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""Role names that are understood, those of sharegpt included."""

_HH = "\n\nHuman:"
_HH_ANSWER = "\n\nAssistant:"
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


class BadRowError(Exception):
    """A row that cannot be used: a kind of defect that can be counted, and what was found."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")


def excerpt(value: object) -> str:
    """The beginning of a value, escaped, for a reason."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def text_of(value: object, field: str) -> str:
    """`value` without outer white space; BadRowError where it is no text, shows nothing, or cannot be written as UTF-8."""
    if not isinstance(value, str):
        raise BadRowError("not text", f"`{field}` is {excerpt(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError("not text", f"`{field}` holds a lone surrogate at character {error.start}") from None
    if not (text := value.strip()) or not normal(text):
        raise BadRowError("empty", f"`{field}` is {excerpt(value)}")
    return text


def turn_of(value: object, field: str) -> Message:
    """One message, written as `role` and `content` or, as sharegpt does, as `from` and `value`."""
    if not isinstance(value, dict):
        raise BadRowError("not a message", f"`{field}` is {excerpt(value)}")
    if value.get("tool_calls"):
        raise BadRowError("not text", f"`{field}` calls tools")
    role = value.get("role", value.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadRowError("unknown role", f"`{field}` has the role {excerpt(role)}, not one of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": text_of(value.get("content", value.get("value")), field)}


def conversation_of(value: object, field: str) -> list[Message]:
    """A list of messages, or text in the HH form, whose roles take turns; a text that is not HH is one user turn."""
    if isinstance(value, str):
        messages = hh_turns(value, field) if value.startswith(_HH) else [_user(text_of(value, field))]
    elif isinstance(value, list) and value:
        messages = [turn_of(turn, f"{field}[{n}]") for n, turn in enumerate(value)]
    else:
        raise BadRowError("empty" if value == [] else "not a conversation", f"`{field}` is {excerpt(value)}")
    return in_turn(messages, field)


def in_turn(messages: list[Message], field: str) -> list[Message]:
    """`messages`, if after an optional system turn user and assistant alternate, the user first; else BadRowError."""
    turns = messages[1:] if messages[0]["role"] == "system" else messages
    for n, turn in enumerate(turns):
        expected = "assistant" if n % 2 else "user"
        if turn["role"] != expected:
            place = n + len(messages) - len(turns)
            raise BadRowError("roles out of turn", f"`{field}[{place}]` is of {turn['role']}, expected {expected}")
    if not turns:
        raise BadRowError("roles out of turn", f"`{field}` has a system turn only")
    return messages


def is_hh(value: object) -> bool:
    """Whether `value` is a whole conversation in the HH text form."""
    return isinstance(value, str) and value.startswith(_HH)


def hh_turns(text: str, field: str) -> list[Message]:
    """The turns of `"\\n\\nHuman: … \\n\\nAssistant: …"`."""
    parts = _HH_TURN.split(text)[1:]
    roles = ["user" if name == "Human" else "assistant" for name in parts[::2]]
    turns = enumerate(zip(roles, parts[1::2], strict=True))
    return [{"role": role, "content": text_of(turn, f"{field}[{n}]")} for n, (role, turn) in turns]


def hh_question(text: str) -> str:
    """All of an HH text before its last assistant turn; the whole text where it has none."""
    return text.rpartition(_HH_ANSWER)[0] or text


def answer_of(value: object, field: str) -> tuple[list[Message] | None, str]:
    """An answer as (the conversation before it, its text); the conversation is None where only the answer is given.

    Text, one assistant message, a list of it, or a whole conversation (messages or HH text) that ends with it.
    """
    if isinstance(value, str) and not is_hh(value):
        return None, text_of(value, field)
    if isinstance(value, str | list) and value and not (isinstance(value, list) and len(value) == 1):
        *before, answer = conversation_of(value, field)
    else:
        before, answer = [], turn_of(value[0] if isinstance(value, list) and value else value, field)
    if answer["role"] != "assistant":
        raise BadRowError(
            "no answer", f"`{field}` ends with {answer['role']} {excerpt(answer['content'])}, not assistant"
        )
    return asks(before, field) if before else None, answer["content"]


def prompt_of(row: dict[str, Any], fields: tuple[str, ...]) -> list[Message] | None:
    """The conversation in the first of `fields` that the row has, ending with a user turn; None where it has none.

    `instruction` is the alpaca form: with `input` beneath it, `system` and `history` (pairs) before it.
    """
    field = next((name for name in fields if row.get(name) is not None), None)
    if field is None:
        return None
    value = row[field]
    if field == "instruction":
        return _alpaca(row)
    if is_hh(value) and value.rstrip().endswith(_HH_ANSWER):
        value = hh_question(value)
    return asks(conversation_of(value, field), field)


def asks(messages: list[Message], field: str) -> list[Message]:
    """`messages`, if they end with a user turn; else BadRowError."""
    if messages[-1]["role"] != "user":
        raise BadRowError(
            "no question", f"`{field}` ends with {messages[-1]['role']} {excerpt(messages[-1]['content'])}, not user"
        )
    return messages


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _alpaca(row: dict[str, Any]) -> list[Message]:
    messages: list[Message] = []
    if row.get("system"):
        messages.append({"role": "system", "content": text_of(row["system"], "system")})
    history = row.get("history") or []
    if not isinstance(history, list):
        raise BadRowError("not a message", f"`history` is {excerpt(history)}, not a list of pairs")
    for n, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise BadRowError("not a message", f"`history[{n}]` is {excerpt(pair)}, not a pair")
        messages.append(_user(text_of(pair[0], f"history[{n}]")))
        messages.append({"role": "assistant", "content": text_of(pair[1], f"history[{n}]")})
    text = text_of(row["instruction"], "instruction")
    return [*messages, _user(text + "\n" + text_of(row["input"], "input") if row.get("input") else text)]
