"""The labelling page: a conversation as bubbles, up to four answers beside each other, safe whatever is in them.

Argilla shows a custom field in an iframe of its own origin, with the record as JSON inside a `<script>` that it does
not escape, put together by `String.replace`. So that no text can break out on any server, all of it travels as base64
of ASCII JSON: no `<`, `$` or `#` appears, and NUL and lone surrogates, which databases refuse, are JSON's own escapes.
The page makes DOM text nodes of it and never HTML, and a Content-Security-Policy forbids it every request.
"""

import base64
import json
import re
from functools import cache
from pathlib import Path

from align.turns import said
from align.types import Message, Task
from annotation.form import Form

FIELD = "comparison"
"""Name of the custom field; page.js knows it too."""

WORDS_LIMIT = 4_000
"""Characters of searchable text in a record."""
EDITED = "its page was edited on the server"
TURNED = "its answers stand in another order on the server"


@cache
def page() -> str:
    """HTML, CSS and JavaScript of the page as one text, for Argilla's custom field in advanced mode."""
    folder = Path(__file__).parent
    text = (folder / "page.html").read_text(encoding="utf-8")
    for name in re.findall(r"^@(.+)@$", text, re.MULTILINE):
        text = text.replace(f"@{name}@", (folder / name).read_text(encoding="utf-8"))
    # Argilla puts this text in with String.replace: there "$" is an instruction, and "#...#" is what it replaces.
    if found := re.search(r"\$[$&`'0-9<]|#[A-Z_]+#", text):
        raise ValueError(f"the page has {found[0]!r}, which Argilla would replace")
    return text


def payload(task: Task, form: Form) -> dict[str, str]:
    """What the page shows of a task, answers from left to right; and its bare words, so that people can search.

    Neither the purpose nor the canonical order is in it, and a blind comparison looks like any pair.
    """
    words = re.findall(r"\w+", " ".join([m["content"] for m in _messages(task, form)] + _answers(task, form)))
    return {"payload": _packed(task, form), "words": " ".join(words)[:WORDS_LIMIT]}


def seen_otherwise(fields: object, task: Task, form: Form) -> str | None:
    """In which way a record's `fields`, as the server has them, show something else than `task`; None where they show
    it."""
    given = fields.get(FIELD) if isinstance(fields, dict) else None
    packed = given.get("payload") if isinstance(given, dict) else None
    if packed == _packed(task, form):
        return None
    try:
        content = json.loads(base64.b64decode(packed or "", validate=True))
        messages, answers = content["messages"], content["answers"]
    except (ValueError, TypeError, KeyError):
        return EDITED
    shown = _answers(task, form)
    if messages != _messages(task, form) or not isinstance(answers, list) or sorted(map(str, answers)) != sorted(shown):
        return EDITED
    return None if answers == shown else TURNED


def _answers(task: Task, form: Form) -> list[str]:
    """The answers from left to right, as they are shown."""
    texts = [task.texts[place] for place in task.shown]
    return [said(text) for text in texts] if form.hide_thinking else texts


def _messages(task: Task, form: Form) -> list[Message]:
    if not form.hide_thinking:
        return task.messages
    return [{**m, "content": said(m["content"])} if m["role"] == "assistant" else m for m in task.messages]


def _packed(task: Task, form: Form) -> str:
    kind = "pair" if task.kind == "blind_ab" else task.kind
    content = {"kind": kind, "places": form.answers, "messages": _messages(task, form), "answers": _answers(task, form)}
    return base64.b64encode(json.dumps(content, ensure_ascii=True).encode("ascii")).decode("ascii")
