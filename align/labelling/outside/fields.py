"""Where in a row of somebody else's the prompt and the answers stand."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from align.data.messages import (
    BadRowError,
    agreed,
    answer_of,
    excerpt,
    hh_question,
    in_full,
    is_hh,
    prompt_of,
    storable,
    unquoted,
)
from align.data.rows import Row, fields_found
from align.errors import ConfigError
from align.labelling.outside.words import Reading, called
from align.types import Message

PROMPTS = ("prompt", "messages", "conversations", "conversation", "instruction", "question", "query", "chat")
LISTS = ("answers", "responses", "completions", "generations", "predictions", "items")
"""Fields that hold all answers as a list."""
STEMS = "answer|response|completion|generation|output|text|reply|candidate|conversation|prediction|option|chat"
_MEMBER = re.compile(rf"({STEMS})s?[ _.-]?(a|b|c|d|left|right|[0-9])", re.IGNORECASE)
SINGLE = ("answer", "response", "completion", "generation", "output", "text", "reply", "candidate", "prediction")
WHOLE = ("ratings", "rating", "items")
"""Fields that hold objects and are no messages."""
MOST = 4
"""Answers that stand beside each other in one task."""
_BODIES = ("body", "text", "html", "title")
"""Where the text of an item of Label Studio's List stands."""


class Shown(NamedTuple):
    """What a row is about. `names` are what the file calls the answers: fields, or ids of items; else empty."""

    messages: list[Message]
    answers: list[str]
    names: list[str]


def question_and_answers(row: Row, reading: Reading) -> Shown:
    """The prompt and the answers of a row. BadRowError where it has none; ConfigError where it can be read in two
    ways."""
    places = _places(row, reading)
    if len(places) == 1 and isinstance(row.get(places[0]), list):
        names, values = _items(row[places[0]], places[0])
    else:
        names, values = list(places), [row[place] for place in places]
    if len(values) > MOST:
        raise BadRowError("too many answers", f"{len(values)} answers are judged together, and at most {MOST} can be")
    if all(map(is_hh, values)) and len({hh_question(value) for value in values}) > 1:
        raise BadRowError("prompts differ", "the answers' conversations differ before their last assistant turn")
    read = [_answer(value, name) for value, name in zip(values, names or [places[0]] * len(values), strict=True)]
    fields = (reading.prompt,) if reading.prompt else tuple(name for name in PROMPTS if name not in places)
    found = [prompt_of(row, fields), *(before for before, _ in read)]
    prompts = [messages for messages in found if messages is not None]
    if not prompts:
        raise BadRowError("missing field", f"needs {called(*fields)}, found {fields_found(row)}")
    prompt = prompts[0]
    for other in prompts[1:]:
        if (both := agreed(prompt, other)) is None:
            raise BadRowError("prompts differ", "the prompt and the answers' conversations, or two of these, differ")
        prompt = both
    return Shown(in_full(row, prompt), [text for _, text in read], names)


def fields_used(row: Row, reading: Reading) -> set[str]:
    """The fields that hold the answers, or may hold the prompt."""
    return {*_places(row, reading), *((reading.prompt,) if reading.prompt else PROMPTS)}


def unread(row: Row) -> Iterator[str]:
    """The fields that say something and were not asked for; those inside ratings and items are known."""
    for name in row.ignored():
        if name in row or name.partition("[]")[0].partition(".")[0] not in WHOLE:
            yield name


def suffix(name: str) -> str:
    """What tells a field from its siblings.

    >>> suffix("response-1"), suffix("Answer_B"), suffix("elsewhere")
    ('1', 'b', '')
    """
    found = _MEMBER.fullmatch(name)
    return found[2].casefold() if found else ""


def _places(row: Row, reading: Reading) -> Sequence[str]:
    """The fields that hold the answers, from left to right. Whoever only looks has read nothing: fields that are passed
    over are ignored ones."""
    if reading.answers:
        if lacking := [name for name in reading.answers if row.get(name) is None]:
            raise BadRowError("missing field", f"needs {called(lacking[0])}, found {fields_found(row)}")
        return reading.answers
    lists = [[name] for name in LISTS if isinstance(dict.get(row, name), list) and name != reading.prompt]
    families: dict[str, list[str]] = {}
    for name in sorted(row):
        found = _MEMBER.fullmatch(name)
        if found and name != reading.prompt and dict.get(row, name) is not None:
            families.setdefault(found[1].casefold(), []).append(name)
    found_places = lists + [names for names in families.values() if len(names) > 1]
    if not found_places:
        found_places = [[name] for name in SINGLE if dict.get(row, name) is not None and name != reading.prompt]
    if len(found_places) > 1:
        several = " and ".join(called(*names) for names in found_places[:3])
        raise ConfigError(
            f"{several} can all be the answers", hint="--answers FIELD,FIELD says which they are, from left to right"
        )
    if not found_places:
        raise BadRowError("missing field", f"needs `answers`, or `answer_a` and `answer_b`, found {fields_found(row)}")
    return found_places[0]


def _items(values: list[Any], name: str) -> tuple[list[str], list[Any]]:
    """A list of answers: texts, assistant messages, or items with an id (Label Studio's List)."""
    if not values:
        raise BadRowError("empty", f"`{name}` is []")
    if not all(isinstance(value, dict) and "id" in value for value in values):
        return [], values
    names = [str(value["id"]) for value in values]
    if len(set(names)) < len(names):
        raise BadRowError("unusable field", f"two items of `{name}` have one id: {excerpt(names)}")
    return names, [next((v[b] for b in _BODIES if v.get(b) is not None), None) for v in values]


def _answer(value: object, name: str) -> tuple[list[Message] | None, str]:
    """(the conversation before it, the answer); its text stays as it is."""
    if isinstance(value, str) and not is_hh(value) and unquoted(value, name) is value:
        return None, storable(value, name)
    return answer_of(value, name, empty=True)
