"""Tool calls, their results and the list of tools: as the text of messages, and in OpenAI's form.

A message is a role and a text. What else a turn has stands in its text, as thoughts do (`align.turns`), so that every
table, id and answer that holds messages holds it too:

- an assistant's turn **ends with its calls**, each `<tool_call name="f" id="c1">` LF *arguments* LF `</tool_call>`, the
  first behind an empty line, the others behind a line feed. The arguments are the JSON text of an object;
- a turn of the role `tool` **is a result**, `<tool_result name="f" id="c1">` LF *text* LF `</tool_result>`;
- a message of the role `tools`, the first of its conversation, holds the **list of tools** as JSON.

`name` and `id` are JSON strings; an `id`, and a result's `name`, may be missing. A text that is not written exactly so
is a text and no call. `annotation/calls.js` cuts at the same places.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from align.errors import DataError
from align.store import parse_json
from align.types import Message

TOOL, TOOLS = "tool", "tools"
"""Roles of a result and of the list of tools."""
_CALL, _CALL_END = '<tool_call name="', "\n</tool_call>"
_RESULT_END = "\n</tool_result>"
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_CALL_HEAD = re.compile(rf"<tool_call name=({_STRING})(?: id=({_STRING}))?>\n")
_RESULT_HEAD = re.compile(rf"<tool_result(?: name=({_STRING}))?(?: id=({_STRING}))?>\n")
_THINK, _THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `arguments` is the JSON text of an object, as it was written."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool gave back, exactly."""

    text: str
    name: str | None = None
    id: str | None = None


def split_calls(text: str) -> tuple[str, list[Call]]:
    """A turn's text without its calls, its thoughts still in it; and the calls."""
    place = text.find(_CALL, _behind_thoughts(text)) if _CALL in text else -1
    while place >= 0:
        if (place == 0 or text.endswith("\n\n", 0, place)) and (calls := _calls(text, place)):
            return text[: max(place - 2, 0)], calls
        place = text.find(_CALL, place + 1)
    return text, []


def with_calls(text: str, calls: Iterable[Call]) -> str:
    """The opposite of `split_calls`."""
    written = "\n".join(f"{_head('tool_call', c.name, c.id)}{c.arguments}{_CALL_END}" for c in calls)
    before = text.removesuffix("\n\n")
    return f"{before}\n\n{written}" if before and written else written or text


def split_result(text: str) -> Result:
    """A result from the text of its turn; a text that is not written so is a result without name and id."""
    head = _RESULT_HEAD.match(text)
    names = _unquoted(head) if head is not None and text.endswith(_RESULT_END, head.end()) else None
    if head is None or names is None:
        return Result(text)
    return Result(text[head.end() : -len(_RESULT_END)], *names)


def with_result(result: Result) -> str:
    """The opposite of `split_result`."""
    return f"{_head('tool_result', result.name, result.id)}{result.text}{_RESULT_END}"


def arguments_of(text: str) -> dict[str, Any] | None:
    """The arguments of a call as an object; None where the text is not the JSON of one, or lies too deep in itself."""
    try:
        found = parse_json(text.encode(), "")
    except (DataError, UnicodeEncodeError):
        return None
    return found if isinstance(found, dict) else None


def tools_of(messages: Sequence[Message]) -> list[dict[str, Any]] | None:
    """The list of tools of a conversation; None where it has none."""
    if not messages or messages[0]["role"] != TOOLS:
        return None
    found: list[dict[str, Any]] = json.loads(messages[0]["content"])
    return found


def tool_name(tool: Any) -> str | None:
    """The name of a tool in OpenAI's form, or in that of its `function` alone."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


def as_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form, without the list of tools; those that are texts stay as they are."""
    return [_openai(message) for message in messages if message["role"] != TOOLS]


def beside(messages: Sequence[Message], name: str = "messages") -> dict[str, Any]:
    """The fields of a row for people: the messages in OpenAI's form, and `tools` where there are any."""
    tools = tools_of(messages)
    return {name: as_openai(messages), **({} if tools is None else {"tools": tools})}


def as_call(call: Call, arguments: Any) -> dict[str, Any]:
    """A call in OpenAI's form with the `arguments` in whatever form is needed."""
    function = {"name": call.name, "arguments": arguments}
    return {**({} if call.id is None else {"id": call.id}), "type": "function", "function": function}


def _openai(message: Message) -> dict[str, Any]:
    if message["role"] == TOOL:
        result = split_result(message["content"])
        names = {"tool_call_id": result.id, "name": result.name}
        return {"role": TOOL, "content": result.text} | {k: v for k, v in names.items() if v is not None}
    said, calls = split_calls(message["content"]) if message["role"] == "assistant" else ("", [])
    if not calls:
        return dict(message)
    return {"role": "assistant", "content": said or None, "tool_calls": [as_call(c, c.arguments) for c in calls]}


def _calls(text: str, place: int) -> list[Call]:
    """The calls that the text consists of from `place` on; none where it goes on with something else."""
    calls = []
    while head := _CALL_HEAD.match(text, place):
        end = text.find("\n<", head.end())  # neither stands in the JSON of an object, so the time stays linear
        names, arguments = _unquoted(head), text[head.end() : end]
        if names is None or names[0] is None or not text.startswith(_CALL_END, end) or arguments_of(arguments) is None:
            return []
        calls.append(Call(names[0], arguments, names[1]))
        place = end + len(_CALL_END)
        if place == len(text):
            return calls
        if text[place] != "\n":
            return []
        place += 1
    return []


def _behind_thoughts(text: str) -> int:
    """Where the turn begins to speak; its end where it only thinks."""
    if not text.lstrip().startswith(_THINK):
        return 0
    end = text.find(_THINK_END)
    return len(text) if end < 0 else end + len(_THINK_END)


def _head(tag: str, name: str | None, id: str | None) -> str:
    given = {"name": name, "id": id}
    return f"<{tag}{''.join(f' {k}={json.dumps(v, ensure_ascii=False)}' for k, v in given.items() if v is not None)}>\n"


def _unquoted(head: re.Match[str]) -> tuple[str | None, str | None] | None:
    try:
        name, id = (None if text is None else json.loads(text) for text in head.groups())
    except ValueError:
        return None
    return name, id
