"""What a file says: one person's word about answers to one prompt, in one form for every format."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from align.data.messages import BadRowError, excerpt, storable
from align.data.preferences import is_number
from align.errors import ConfigError
from align.types import Message, Purpose, Rating, TaskKind

Format = Literal["rows", "argilla", "label-studio"]
FORMATS: tuple[Format, ...] = ("rows", "argilla", "label-studio")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is to be read, where it can be read in more than one way.

    `annotator` is whose judgements those are that name nobody. `prompt` and `answers` name fields; several fields of
    answers from left to right. `question` is what counts where several things were asked, `scale` the lowest and the
    highest rating that could be given, `outcomes` what the file's own labels mean: label → outcome.
    """

    format: Format | None = None
    annotator: str | None = None
    prompt: str | None = None
    answers: tuple[str, ...] = ()
    question: str | None = None
    scale: tuple[float, float] | None = None
    outcomes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Word:
    """What one person said, as the file has it. The letters of `outcome` and `flags` and the places of `ranking` and
    `shown` mean `answers` in the file's order; `assemble` turns them into the canonical one.

    `shown` is None where nobody knows who stood where. `task` is the id of a task of ours; its answers are in canonical
    order already. `candidates` are their ids, `models` who gave them, each where it is known.
    """

    where: str
    messages: list[Message]
    answers: list[str]
    annotator: str
    kind: TaskKind
    outcome: str
    shown: list[int] | None = None
    strength: int | None = None
    flags: list[str] | None = None
    edit: str | None = None
    reason: str | None = None
    time: str | None = None
    seconds: float | None = None
    ranking: list[int] | None = None
    ratings: list[Rating] | None = None
    name: str | None = None
    task: str | None = None
    candidates: list[str] | None = None
    models: list[str] | None = None
    round: int = 0
    purpose: Purpose = "train"
    repeat: int | None = None
    revision: int | None = None


def person(value: object, reading: Reading) -> str:
    """Who said it: text or a number, as the file has it; BadRowError where nobody is named, and no option says who."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise BadRowError("no annotator", f"the annotator is {excerpt(value)}, neither text nor a whole number")
    if value and value.strip():
        return storable(value, "annotator")
    if reading.annotator is None:
        raise BadRowError(
            "no annotator", "the row does not say whose judgement it is (--annotator NAME says it for all)"
        )
    return reading.annotator


def utc(value: object) -> str | None:
    """A time as ISO 8601 in UTC: of ISO text (UTC where it names no zone), or of seconds since 1970."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            if time.utcoffset() is not None and not time.utcoffset():
                return value
            time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        elif is_number(value):
            time = datetime.fromtimestamp(float(value), UTC)
        else:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise BadRowError("not a time", f"{excerpt(value)} is neither ISO 8601 nor seconds since 1970") from None
    return time.isoformat()


def moment(time: str) -> datetime:
    """A time of a judgement, to compare with others."""
    return datetime.fromisoformat(utc(time) or time)


def score_of(value: object, criterion: str, scale: tuple[float, float] | None) -> Rating:
    """A rating on our scale, 1 to 5, from one between the ends of `scale`.

    Without a scale it is a whole number from 1 to 5: ConfigError for any other, since the file's own scale is then
    another one, and ratings that lie within 1 to 5 would be misread too.
    """
    if not is_number(value):
        raise BadRowError("not a number", f"the rating of {criterion!r} is {excerpt(value)}")
    number = float(value)
    if scale is None and not (1 <= number <= 5 and number.is_integer()):
        raise ConfigError(
            f"the rating of {criterion!r} is {number:g}", hint="--scale LOW:HIGH says from where to where"
        )
    low, high = scale or (1.0, 5.0)
    if not low <= number <= high:
        raise BadRowError("out of range", f"the rating of {criterion!r} is {number:g}, not from {low:g} to {high:g}")
    return Rating(criterion=criterion, score=math.floor(1 + 4 * (number - low) / (high - low) + 0.5))


def ranks_of(values: object, answers: int) -> list[int]:
    """A rank for each answer, 1 the best, equal ones for ties, without gaps."""
    if not isinstance(values, list) or not all(is_number(v) and float(v).is_integer() for v in values):
        raise BadRowError("not a ranking", f"{excerpt(values)} is no list of whole numbers")
    if len(values) != answers:
        raise BadRowError("not a ranking", f"{excerpt(values)} has {len(values)} ranks for {answers} answers")
    order = sorted(set(map(int, values)))
    return [order.index(int(value)) + 1 for value in values]


def remark(value: object, name: str) -> str | None:
    """A text beside the judgement; None where it says nothing."""
    return storable(value, name) if value is not None and not (isinstance(value, str) and not value.strip()) else None


def called(*names: str) -> str:
    """Names from a file, for a sentence: each on one line, and short."""
    return ", ".join(f"`{name}`" if name.isprintable() and len(name) <= 40 else excerpt(name) for name in names[:6])


def seconds_of(value: object) -> float | None:
    if value is None:
        return None
    if not is_number(value) or value < 0:
        raise BadRowError("not a number", f"the seconds are {excerpt(value)}")
    return float(value)


def whole(value: Any, name: str, default: int) -> int:
    if value is None:
        return default
    if not is_number(value) or value != int(value) or not 0 <= value < 2**31:
        raise BadRowError("not a number", f"`{name}` is {excerpt(value)}, not a whole number from 0 up")
    return int(value)
