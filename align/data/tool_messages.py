"""Tool calls, results and lists of tools as rows have them, in OpenAI's form, as texts of messages."""

import json
from typing import Any

from align.data.values import BadRowError, excerpt, is_said, joined_parts, storable
from align.errors import DataError
from align.store import parse_json
from align.tool_calls import (
    TOOL,
    TOOLS,
    Call,
    Result,
    arguments_of,
    split_calls,
    split_result,
    tool_name,
    with_calls,
    with_result,
)
from align.types import Message


def calling(said: str, value: object, field: str) -> str:
    """An assistant's text with the calls of its field `tool_calls` behind it."""
    if split_calls(said)[1]:
        raise BadRowError("unusable field", f"`{field}` and the text itself both hold calls")
    value = _from_text(value)
    if not isinstance(value, list):
        raise BadRowError("not a call", f"`{field}` is {excerpt(value)}, not a list of calls")
    calls = [_call(call, f"{field}[{n}]") for n, call in enumerate(value)]
    text = with_calls(said, calls)
    if split_calls(text)[1] != calls:
        raise BadRowError("unusable field", f"`{field}` stands behind thoughts that do not end")
    return text


def result_of(turn: dict[str, Any], value: object, field: str) -> Message:
    """A turn of a tool from its `content`, `tool_call_id` and `name`; its text stays exactly as it is."""
    text, thoughts = joined_parts(value, f"{field}.content")
    if thoughts:
        raise BadRowError("unusable field", f"`{field}.content` gives thoughts to tool, not to assistant")
    text = storable("" if text in (None, []) else text, f"{field}.content")
    id, name = (_name_or_none(turn.get(key), f"{field}.{key}") for key in ("tool_call_id", "name"))
    written = split_result(text)
    if id is None and name is None and with_result(written) == text:  # as our own files have it
        return {"role": TOOL, "content": text}
    return {"role": TOOL, "content": with_result(Result(text, name, id))}


def tools_turn(value: object, field: str) -> Message:
    """The list of tools as the message that stands before a conversation."""
    value = _from_text(value)
    if not isinstance(value, list):
        raise BadRowError("not a tool", f"`{field}` is {excerpt(value)}, not a list of tools")
    for n, tool in enumerate(value):
        if tool_name(tool) is None:
            raise BadRowError(
                "not a tool", f"`{field}[{n}]` is {excerpt(tool)}, without a `function` that has a `name`"
            )
    return {"role": TOOLS, "content": storable(_json(value, field, "not a tool"), field)}


def from_table(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table, without the nulls that tables give to each object in tools and calls for what others of its kind
    have."""
    return {name: _filled(value) if name == TOOLS else _calls_filled(value) for name, value in row.items()}


def _calls_filled(value: Any) -> Any:
    if isinstance(value, list):
        return [_calls_filled(turn) for turn in value]
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        return {**value, "tool_calls": _filled(value["tool_calls"])}
    return value


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner) for name, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def require_answered(messages: list[Message], field: str) -> None:
    """BadRowError where a result stands behind no call, or anything but a result behind a call. The last turn may
    call."""
    waiting: list[Call] = []
    for n, message in enumerate(messages):
        place, role = f"{field}[{n}]", message["role"]
        if role == TOOLS and n:
            raise BadRowError("roles out of turn", f"`{place}` is of tools, which stand before everything else")
        if role == TOOL:
            _answer(waiting, split_result(message["content"]), place)
        elif waiting:
            called = ", ".join(excerpt(call.name) for call in waiting[:3])
            raise BadRowError("roles out of turn", f"`{place}` is of {role}, expected tool: the call of {called} waits")
        elif role == "assistant":
            waiting = split_calls(message["content"])[1]
    if waiting and messages[-1]["role"] == TOOL:
        raise BadRowError("roles out of turn", f"`{field}` ends, and the call of {excerpt(waiting[0].name)} waits")


def _answer(waiting: list[Call], result: Result, place: str) -> None:
    """Takes the call that the result belongs to from those that wait: the one of its id, else the first."""
    if not waiting:
        raise BadRowError("roles out of turn", f"`{place}` is of tool, and no call waits for it")
    found = [n for n, call in enumerate(waiting) if result.id is None or call.id in (None, result.id)]
    if not found:
        raise BadRowError("roles out of turn", f"`{place}` answers the call {excerpt(result.id)}, which nobody made")
    del waiting[found[0]]


def _call(call: object, field: str) -> Call:
    """A call in OpenAI's form, or its `function` alone."""
    function = call.get("function") or call if isinstance(call, dict) else None
    name = tool_name(call)
    if not isinstance(call, dict) or not isinstance(function, dict) or name is None:
        raise BadRowError("not a call", f"`{field}` is {excerpt(call)}, without a `function` that has a `name`")
    if call.get("type") not in (None, "function"):
        raise BadRowError("unusable field", f"`{field}.type` is {excerpt(call['type'])}, and only functions are called")
    given = function.get("arguments")
    text = given or "{}" if isinstance(given, str | None) else _json(given, f"{field}.arguments", "not a call")
    if arguments_of(storable(text, f"{field}.arguments")) is None:
        raise BadRowError("not a call", f"`{field}.arguments` is {excerpt(given)}, not a JSON object")
    return Call(storable(name, f"{field}.name"), text, _name_or_none(call.get("id"), f"{field}.id"))


def _json(value: object, field: str, kind: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise BadRowError(kind, f"`{field}` cannot be written as JSON ({error})") from None


def _name_or_none(value: object, field: str) -> str | None:
    return storable(value, field) if is_said(value) else None


def _from_text(value: object) -> object:
    """What a text says as JSON, as tables hold lists of objects of different shapes; all else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value.encode(), "")
    except (DataError, UnicodeEncodeError):
        return value
