"""Values of a row as text, and as the parts of a text; or why one cannot be used."""

from typing import Any

from align.normal import normal

PARTS = {"text": "text", "input_text": "text", "output_text": "text", "thinking": "thinking", "reasoning": "thinking"}
"""Types of parts that are read, and where their text stands."""
_OTHER_PARTS = {"image": "a picture", "video": "a video", "audio": "a sound", "file": "a file", "document": "a file"}


class BadRowError(Exception):
    """A row that cannot be used: a kind of defect that can be counted, and what was found."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")


def excerpt(value: object) -> str:
    """The beginning of a value, escaped, for a reason."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def is_said(value: object) -> bool:
    """Whether a field says something: empty text, also as JSON, and empty lists do not."""
    return value not in (None, "", [], {}, "[]", "{}", "null") and not (isinstance(value, str) and not value.strip())


def storable(value: object, field: str) -> str:
    """`value` as it is; BadRowError where it is no text, or cannot be written as UTF-8."""
    if not isinstance(value, str):
        raise BadRowError("not text", f"`{field}` is {excerpt(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError("not text", f"`{field}` holds a lone surrogate at character {error.start}") from None
    return value


def text_of(value: object, field: str, *, empty: bool = False) -> str:
    """`value` without outer white space; BadRowError where it is no text, cannot be written as UTF-8, or shows nothing
    and may not be `empty`."""
    text = storable(value, field).strip()
    if normal(text):
        return text
    if not empty:
        raise BadRowError("empty", f"`{field}` is {excerpt(value)}")
    return ""


def joined_parts(value: object, field: str) -> tuple[object, str]:
    """A content that is a list of parts as (its text, its thoughts), each the texts of its parts one behind the other;
    any other value as it is, without thoughts. BadRowError for a part that is a picture or anything else than text."""
    if not isinstance(value, list) or not value:
        return value, ""
    texts: dict[str, list[str]] = {"text": [], "thinking": []}
    for n, part in enumerate(value):
        name, text = _part(part, f"{field}[{n}]")
        texts[name].append(text)
    return "".join(texts["text"]), "".join(texts["thinking"])


def _part(part: object, field: str) -> tuple[str, str]:
    if not isinstance(part, dict):
        raise BadRowError("not text", f"`{field}` is {excerpt(part)}, and no part of a text")
    given: Any = part.get("type")
    kind = given if isinstance(given, str) else next((name for name in part if is_said(part[name])), "")
    if other := next((said for word, said in _OTHER_PARTS.items() if word in kind), None):
        raise BadRowError(
            "unusable field", f"`{field}` is {other} ({kind}), and the text alone would mean another thing"
        )
    if kind not in PARTS:
        way_out = "write calls as `tool_calls`, and results as messages of the role tool, as OpenAI does"
        raise BadRowError("unusable field", f"`{field}` is a part of the type {excerpt(given)}, not of text; {way_out}")
    name = PARTS[kind]
    text = part.get(name) if part.get(name) is not None else part.get("text")
    if isinstance(text, list):  # thoughts as parts of their own
        text, _ = joined_parts(text, f"{field}.{name}")
    return name, storable(text, f"{field}.{name}")
