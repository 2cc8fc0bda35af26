"""Records of a tool in which one asks whatever one likes: which question counts, and what its answers mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from align.data.messages import BadRowError, excerpt
from align.data.rows import Row, fields_found
from align.errors import ConfigError
from align.labelling.outside.fields import Shown, question_and_answers, unread
from align.labelling.outside.labels import outcome_of, place_of
from align.labelling.outside.words import Reading, Word, called, person, ranks_of, remark, score_of, seconds_of, utc
from align.types import TaskKind

REASONS = ("reason", "reasons", "comment", "comments", "explanation", "rationale", "why", "notes")
"""Questions whose text is why somebody thinks so."""
UNRANKED = (
    "Argilla's SDK writes rankings without their ranks; export the records by the server's API instead "
    "(/api/v1/datasets/ID/records?include=responses)"
)
EDITS = ("edit", "correction", "corrected", "rewrite")


Kind = Literal["label", "text", "side", "rating", "ranking", "names", "other"]
PRECEDENCE: tuple[Kind, ...] = ("side", "label", "ranking", "rating", "text")


class Value(NamedTuple):
    """What was answered to one question. `kind` "label" may also be text; "side" is left or right; "ranking" has a
    (name, rank) for each answer; "names" are several labels, or a ranking that lost its ranks."""

    kind: Kind
    value: Any


class Main(NamedTuple):
    """The questions that count, and the form of their answers."""

    names: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True, slots=True)
class Response:
    """One person's answers to the questions of a record. `sides` are the fields that stood left and right."""

    annotator: object
    skipped: bool
    values: Mapping[str, Value]
    time: object = None
    seconds: object = None
    sides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What was shown, and what was answered. `id` is what whoever made the record calls it."""

    where: str
    fields: Row
    responses: Sequence[Response]
    id: object = None


def main_question(records: Sequence[Record], reading: Reading) -> Main:
    """The question that says what people thought; of ratings without any other, all of them. ConfigError where that can
    be read in more than one way."""
    kinds: dict[str, set[Kind]] = {}
    for record, response in _said(records):
        for name, value in response.values.items():
            kinds.setdefault(name, set()).add(_role(name, value, record, reading))
    by_kind = {kind: sorted(n for n, found in kinds.items() if kind in found) for kind in PRECEDENCE}
    if reading.question is not None:
        if reading.question not in kinds:
            found = called(*sorted(kinds)) or "none"
            raise ConfigError(f"nobody answered a question {excerpt(reading.question)}", hint=f"answered are: {found}")
        kind: Kind = next((k for k in PRECEDENCE if k in kinds[reading.question]), "label")
        kind = "ranking" if kinds[reading.question] == {"names"} else kind
        return Main((reading.question,), kind)
    mains: dict[str, Kind] = {name: kind for kind in PRECEDENCE[:3] for name in by_kind[kind]}
    ratings = by_kind["rating"]
    texts = by_kind["text"] if not mains and not ratings else []
    choice = [*mains, *ratings[:1], *texts]
    if not choice and any("names" in found for found in kinds.values()):
        return Main(tuple(n for n, found in kinds.items() if "names" in found), "ranking")
    if len(choice) > 1:
        raise ConfigError(f"{called(*choice)} can all be what counts", hint="--question NAME says which")
    if ratings:
        return Main(tuple(ratings), "rating")
    return Main(tuple(choice), mains[choice[0]] if mains else "label")


def words_of_record(record: Record, main: Main, reading: Reading) -> Iterator[Word | BadRowError]:
    """What each person said of a record, or why it cannot be used."""
    try:
        shown = question_and_answers(record.fields, reading)
    except BadRowError as bad:
        yield from (bad for _ in record.responses)
        return
    for response in record.responses:
        try:
            yield _word(record, shown, response, main, reading)
        except BadRowError as bad:
            yield bad


def ignored(record: Record, main: Main) -> set[str]:
    """The names of fields and of answered questions that nobody reads."""
    read = {*main.names, *REASONS, *EDITS}
    asked = {name for response in record.responses for name in response.values}
    return {name for name in {*unread(record.fields), *asked} if name not in read and name not in record.fields.read}


def _said(records: Sequence[Record]) -> Iterator[tuple[Record, Response]]:
    return ((record, response) for record in records for response in record.responses if not response.skipped)


def _role(name: str, value: Value, record: Record, reading: Reading) -> Kind:
    """What an answer can be: a label that means something, or just text; else the value's own kind."""
    if value.kind != "label":
        return value.kind
    if name in (*REASONS, *EDITS):
        return "other"
    try:
        shown = question_and_answers(record.fields, reading)
        outcome_of(value.value, len(shown.answers), shown.names, range(len(shown.answers)), reading)
    except BadRowError:
        return "text"
    return "label"


def _word(record: Record, shown: Shown, response: Response, main: Main, reading: Reading) -> Word:
    count = len(shown.answers)
    kind = _task_kind(main, count)
    sides = _sides(response, shown)
    texts = {name: value.value for name, value in response.values.items() if isinstance(value.value, str)}
    word = Word(
        where=record.where,
        messages=shown.messages,
        answers=shown.answers,
        annotator=person(response.annotator, reading),
        kind=kind,
        outcome="skipped",
        shown=sides,
        reason=next((text for name in REASONS if (text := remark(texts.get(name), name))), None),
        time=utc(response.time),
        seconds=seconds_of(response.seconds),
    )
    if response.skipped:
        return word
    given = {name: response.values[name] for name in main.names if name in response.values}
    if not given:
        asked = called(*main.names) or "any question"
        raise BadRowError("no answer", f"nothing was said to {asked}, but to {fields_found(dict(response.values))}")
    word = replace(word, edit=next((text for name in EDITS if (text := remark(texts.get(name), name))), None))
    name, value = next(iter(given.items()))
    if kind == "rank":
        if value.kind != "ranking":
            what = UNRANKED if value.kind == "names" else f"{called(name)} is {excerpt(value.value)}"
            raise BadRowError("not a ranking", what)
        return replace(word, outcome="ranked", ranking=_ranking(value.value, shown))
    if kind == "rating":
        return replace(word, outcome="rated", ratings=[score_of(v.value, n, reading.scale) for n, v in given.items()])
    return replace(word, outcome=outcome_of(value.value, count, shown.names, sides, reading))


def _task_kind(main: Main, count: int) -> TaskKind:
    """The kind of task that asks such a question about so many answers; BadRowError where there is none."""
    if main.kind == "ranking":
        if count < 2:
            raise BadRowError("not a ranking", "there is one answer")
        return "rank"
    if main.kind == "rating":
        if count > 1:
            raise BadRowError("other content", f"one rating for {count} answers (--answers FIELD says which is rated)")
        return "rating"
    if count > 2:
        raise BadRowError("other content", f"one label for {count} answers")
    return "pair" if count == 2 else "single"


def _sides(response: Response, shown: Shown) -> list[int] | None:
    """Which answer stood where. Tools show a record's fields one behind the other, in an order that is their own; only
    what the record itself says of the sides is believed."""
    if not response.sides:
        return None
    if sorted(response.sides) != sorted(shown.names):
        raise ConfigError(
            f"{called(*response.sides)} stood beside each other, and the answers are {called(*shown.names) or 'a list'}",
            hint="--answers LEFT,RIGHT names the fields of the answers, from left to right",
        )
    return [shown.names.index(name) for name in response.sides]


def _ranking(value: Sequence[tuple[Any, Any]], shown: Shown) -> list[int]:
    """A rank for each answer, in the record's order."""
    count = len(shown.answers)
    ranks: dict[int, Any] = {}
    for name, rank in value:
        place = place_of(name, count, shown.names, range(count))
        if place is None or place in ranks:
            raise BadRowError("not a ranking", f"{excerpt(name)} is none of the answers, or stands in it twice")
        ranks[place] = rank
    if len(ranks) < count:
        raise BadRowError("not a ranking", f"{count - len(ranks)} of {count} answers have no rank")
    return ranks_of([ranks[place] for place in range(count)], count)
