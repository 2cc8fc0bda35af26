"""Argilla's records of our own labelling page: what was shown is packed in them, and answers are by place on the
screen."""

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from align.data.messages import BadRowError, conversation_of, excerpt
from align.errors import DataError
from align.labelling.outside.questions import UNRANKED, Record, Response, Value
from align.labelling.outside.rows import PURPOSES
from align.labelling.outside.words import Reading, Word, person, utc
from align.types import Message, TaskKind
from annotation.form import Form
from annotation.page import FIELD
from annotation.questions import MAIN, from_screen

RATING = "rating_"
ID_LENGTH = 32
KINDS: tuple[TaskKind, ...] = ("pair", "rank", "single", "rating")


def is_ours(record: Record) -> bool:
    packed = dict.get(record.fields, FIELD)
    return isinstance(packed, dict) and isinstance(packed.get("payload"), str)


def words_of_ours(record: Record, reading: Reading) -> Iterator[Word | BadRowError]:
    """What each person said, or why it cannot be used. With the record's `shown` the task keeps its id and its
    canonical order; without, answers are those on the screen from left to right."""
    try:
        kind, messages, answers, places = _unpacked(record.fields[FIELD]["payload"])
        shown = _shown(record.fields.get("shown"), len(answers))
    except BadRowError as bad:
        yield from (bad for _ in record.responses)
        return
    purpose, repeat = record.fields.get("purpose"), record.fields.get("repeat")
    known = shown is not None and isinstance(record.id, str) and len(record.id) == ID_LENGTH and purpose in PURPOSES
    order = shown if shown is not None and known else list(range(len(answers)))
    canonical = [answers[order.index(place)] for place in range(len(answers))]
    for response in record.responses:
        try:
            word = Word(
                where=record.where,
                messages=messages,
                answers=canonical,
                annotator=person(response.annotator, reading),
                kind="blind_ab" if kind == "pair" and purpose == "eval" else kind,
                outcome="skipped",
                shown=order,
                time=utc(response.time),
                task=str(record.id) if known else None,
                purpose=purpose if known else "train",
                repeat=repeat if known and isinstance(repeat, int) else None,
            )
            yield _answered(word, response, places)
        except BadRowError as bad:
            yield bad


def _answered(word: Word, response: Response, places: int) -> Word:
    criteria = tuple(name.removeprefix(RATING) for name in response.values if name.startswith(RATING))
    form = Form(kind=word.kind, answers=places, criteria=criteria)
    values = {name: {"value": _raw(value)} for name, value in response.values.items()}
    if word.kind == "rank" and (ranks := response.values.get(MAIN["rank"])) and ranks.kind == "names":
        raise BadRowError("not a ranking", UNRANKED)
    if word.kind == "rating" and not criteria and not response.skipped:
        raise BadRowError("no answer", "no rating was given")
    try:
        said = from_screen(word.task or word.where, values, word.shown or [], form, skipped=response.skipped)
    except DataError as error:
        raise BadRowError("unknown outcome", error.what) from None
    return replace(
        word,
        outcome=said.outcome,
        strength=said.strength,
        flags=said.flags,
        edit=said.edit,
        reason=said.reason,
        ranking=said.ranking,
        ratings=said.ratings,
    )


def _raw(value: Value) -> Any:
    """As Argilla has it."""
    if value.kind == "ranking":
        return [{"value": name, "rank": rank} for name, rank in value.value]
    return value.value


def _unpacked(payload: str) -> tuple[TaskKind, list[Message], list[str], int]:
    """What the page showed: kind, conversation, answers from left to right, and how many places it has."""
    try:
        content = json.loads(base64.b64decode(payload, validate=True))
        kind, answers, places = content["kind"], content["answers"], content["places"]
        messages = content["messages"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadRowError("other content", f"`{FIELD}` is not what our labelling page shows") from None
    sound = isinstance(answers, list) and all(isinstance(text, str) for text in answers) and isinstance(places, int)
    if kind not in KINDS or not sound or not (2 if kind in ("pair", "rank") else 1) <= len(answers) <= places <= 4:
        raise BadRowError("other content", f"`{FIELD}` is not what our labelling page shows")
    if kind != "rank" and len(answers) != (2 if kind == "pair" else 1):
        raise BadRowError("other content", f"a {kind} cannot be about {len(answers)} answers")
    conversation_of(messages, FIELD)
    return kind, messages, answers, places


def _shown(value: Any, count: int) -> list[int] | None:
    """The canonical candidate at each place, as `1,0`; None where the export has no metadata."""
    if value is None:
        return None
    try:
        shown = [int(part) for part in value.split(",")]
    except (AttributeError, ValueError):
        shown = []
    if sorted(shown) != list(range(count)):
        raise BadRowError("other content", f"`shown` is {excerpt(value)}, no order of {count} answers")
    return shown
