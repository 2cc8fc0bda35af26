"""What flows between the packages: `Prompt → Candidate → Task → Judgement → Preference`, and `Judgement → BinaryLabel`.

Rows travel as Arrow tables with the schemas below, so that a million of them stay cheap; the frozen dataclass of
the same name is for the small ends. `to_table` and `from_table` convert. Ids are blake2b of content (`align.ids`);
times are attributes and never part of an id.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal, TypedDict, TypeVar

import pyarrow as pa

from align.ids import content_id
from align.normal import normal

Role = Literal["system", "developer", "user", "assistant", "tool", "tools"]
TaskKind = Literal["pair", "rank", "single", "rating", "blind_ab"]
Purpose = Literal["train", "control", "gold", "eval"]
Split = Literal["train", "test"]
FinishReason = Literal["stop", "length"]

PAIR_OUTCOMES: tuple[str, ...] = ("a", "b", "tie", "both_bad", "skipped")
OUTCOMES: dict[str, tuple[str, ...]] = {
    "pair": PAIR_OUTCOMES,
    "blind_ab": PAIR_OUTCOMES,
    "rank": ("ranked", "skipped"),
    "single": ("good", "bad", "skipped"),
    "rating": ("rated", "skipped"),
}
"""What a judgement's `outcome` can be, for each kind of task."""
LETTERS = "abcd"
"""Names of a task's canonical candidates 0 to 3."""
FLAGS: tuple[str, ...] = ("unsafe", "wrong", "off_topic", "format")
"""What an answer can be flagged for; a judgement's flag is `<letter>:<flag>`, as `b:unsafe`."""
STRENGTHS = (1, 2, 3)
"""How much better: slightly, clearly, far."""


class Message(TypedDict):
    """One turn of a conversation; calls of tools, their results and the list of tools stand in the content
    (`align.tool_calls`)."""

    role: str
    content: str


Score = Callable[[Sequence[list[Message]], Sequence[str]], list[float | None]]
"""(prompts, answers) → one score for each answer, higher is better; None is an answer that cannot be scored."""
Summary = dict[str, Any]
"""What a stage or a training says of itself: JSON-able values by name."""


class Rating(TypedDict):
    """How good an answer is by one named criterion, from 1 (bad) to 5 (excellent)."""

    criterion: str
    score: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for an answer; `source` is the `file:line` it came from."""

    id: str
    messages: list[Message]
    split: Split
    source: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer to a prompt. `tokens` counts what the engine sampled, the stop token included.

    `finish` is "stop" where the model ended the answer itself and "length" where the limit cut it. `temperature` is
    that of the draw, where it is known; `redrawn` counts the draws before it that repeated another answer and were
    thrown away.
    """

    id: str
    prompt_id: str
    text: str
    checkpoint: str
    sample: int
    tokens: int
    finish: FinishReason
    temperature: float | None = None
    redrawn: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """One question for people about one to four candidates of one prompt.

    `candidates` is in canonical order (sorted ids); `shown` gives, for each place on the screen from left to right,
    the index of the candidate that stands there. `wanted` is how many submitted answers close the task.

    A `repeat` above 0 asks again what the task with repeat 0 asked, in another order, so that position bias and
    consistency can be measured; the same person gets both, far apart. Higher `priority` is served first. `expected` is
    the right outcome of a gold task, which never leaves this side; `suggested` is an outcome that is pre-selected for
    the annotator, only where the recipe asks for that. Both are canonical, as a judgement's outcome.
    """

    id: str
    kind: TaskKind
    round: int
    purpose: Purpose
    repeat: int
    prompt_id: str
    messages: list[Message]
    candidates: list[str]
    texts: list[str]
    shown: list[int]
    wanted: int
    priority: float = 0.0
    expected: str | None = None
    suggested: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person said about one task. `annotator` is who: a person's user id on the server, which no renaming
    changes, or a simulated annotator's name in the recipe.

    `outcome` is one of `OUTCOMES[kind]`. For a pair "a" and "b" always mean the *canonical* candidates 0 and 1, never
    the sides of the screen; so do the letters of `flags`. `strength` (of a preference) is one of `STRENGTHS`. `ranking`
    (kind rank) has the rank of each canonical candidate, 1 the best, equal numbers for ties; `ratings` (kind rating)
    has a score for each criterion. `edit` is an answer that the person wrote instead. `revision` counts the person's
    later changes of mind, from 0. `time` is ISO 8601 in UTC; `seconds` is how long the person took, where that is
    known.
    """

    id: str
    task_id: str
    kind: TaskKind
    annotator: str
    revision: int
    outcome: str
    strength: int | None = None
    flags: list[str] | None = None
    edit: str | None = None
    reason: str | None = None
    time: str | None = None
    seconds: float | None = None
    ranking: list[int] | None = None
    ratings: list[Rating] | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """One compiled pair. `target` is the probability in [0.5, 1] that `chosen` is better; `weight` ≥ 0."""

    id: str
    prompt_id: str
    messages: list[Message]
    chosen_id: str
    rejected_id: str
    chosen: str
    rejected: str
    target: float
    weight: float
    margin: float
    round: int
    judgements: list[str]


@dataclass(frozen=True, slots=True)
class BinaryLabel:
    """One compiled verdict on a single answer. `target` is the probability in [0, 1] that it is good; `weight` ≥ 0."""

    id: str
    prompt_id: str
    messages: list[Message]
    candidate_id: str
    text: str
    target: float
    weight: float
    round: int
    judgements: list[str]


@dataclass(frozen=True, slots=True)
class Edit:
    """An answer that an annotator wrote in place of the model's: a demonstration for supervised fine-tuning."""

    id: str
    prompt_id: str
    messages: list[Message]
    text: str
    annotator: str
    judgement: str
    round: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that went no further, and why. `where` is a `file:line` or an id."""

    what: str
    where: str
    reason: str


MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_STRINGS = pa.list_(pa.string())
_RATINGS = pa.list_(pa.struct([("criterion", pa.string()), ("score", pa.int32())]))

SCHEMAS: dict[type, pa.Schema] = {
    Prompt: pa.schema([("id", pa.string()), ("messages", MESSAGES), ("split", pa.string()), ("source", pa.string())]),
    Candidate: pa.schema(
        [("id", pa.string()), ("prompt_id", pa.string()), ("text", pa.string()), ("checkpoint", pa.string())]
        + [("sample", pa.int32()), ("tokens", pa.int32()), ("finish", pa.string())]
        + [("temperature", pa.float64()), ("redrawn", pa.int32())]
    ),
    Task: pa.schema(
        [("id", pa.string()), ("kind", pa.string()), ("round", pa.int32()), ("purpose", pa.string())]
        + [("repeat", pa.int32()), ("prompt_id", pa.string()), ("messages", MESSAGES), ("candidates", _STRINGS)]
        + [("texts", _STRINGS), ("shown", pa.list_(pa.int32())), ("wanted", pa.int32())]
        + [("priority", pa.float64()), ("expected", pa.string()), ("suggested", pa.string())]
    ),
    Judgement: pa.schema(
        [("id", pa.string()), ("task_id", pa.string()), ("kind", pa.string()), ("annotator", pa.string())]
        + [("revision", pa.int32()), ("outcome", pa.string()), ("strength", pa.int32()), ("flags", _STRINGS)]
        + [("edit", pa.string()), ("reason", pa.string()), ("time", pa.string()), ("seconds", pa.float64())]
        + [("ranking", pa.list_(pa.int32())), ("ratings", _RATINGS)]
    ),
    Preference: pa.schema(
        [("id", pa.string()), ("prompt_id", pa.string()), ("messages", MESSAGES), ("chosen_id", pa.string())]
        + [("rejected_id", pa.string()), ("chosen", pa.string()), ("rejected", pa.string()), ("target", pa.float64())]
        + [("weight", pa.float64()), ("margin", pa.float64()), ("round", pa.int32()), ("judgements", _STRINGS)]
    ),
    BinaryLabel: pa.schema(
        [("id", pa.string()), ("prompt_id", pa.string()), ("messages", MESSAGES), ("candidate_id", pa.string())]
        + [("text", pa.string()), ("target", pa.float64()), ("weight", pa.float64()), ("round", pa.int32())]
        + [("judgements", _STRINGS)]
    ),
    Edit: pa.schema(
        [("id", pa.string()), ("prompt_id", pa.string()), ("messages", MESSAGES), ("text", pa.string())]
        + [("annotator", pa.string()), ("judgement", pa.string()), ("round", pa.int32())]
    ),
    Dropped: pa.schema([("what", pa.string()), ("where", pa.string()), ("reason", pa.string())]),
}

Record = TypeVar("Record")


def to_table(kind: type[Record], rows: Iterable[Record]) -> pa.Table:
    """Dataclass rows of one `kind` as an Arrow table with that kind's schema."""
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMAS[kind])  # type: ignore[call-overload]


def from_table(kind: type[Record], table: pa.Table) -> list[Record]:
    """The rows of `table` as dataclasses of `kind`; columns that `kind` does not know are left out, and fields with a
    default may have no column, as in files that an earlier version wrote."""
    columns = set(table.column_names)
    names = [f.name for f in fields(kind) if f.name in columns or f.default is MISSING]  # type: ignore[arg-type]
    return [kind(**row) for row in table.select(names).to_pylist()]


def as_dict(row: Any) -> dict[str, Any]:
    """A dataclass row as a plain dictionary, for JSON."""
    return asdict(row)


def prompt_id(messages: list[Message]) -> str:
    """Prompts that read the same are the same, whatever their line ends and Unicode form (`align.normal`)."""
    return content_id(["prompt", [[m["role"], normal(m["content"])] for m in messages]])


def messages_id(messages: list[Message]) -> str:
    """Of exactly these characters, as a model reads them; a prompt in normal form has it as its `prompt_id` too."""
    return content_id(["prompt", [[m["role"], m["content"]] for m in messages]])


def candidate_id(prompt: str, text: str, checkpoint: str) -> str:
    return content_id(["candidate", prompt, text, checkpoint])


def task_id(kind: str, prompt: str, candidates: list[str], purpose: str, repeat: int, round: int) -> str:
    return content_id(["task", kind, prompt, sorted(candidates), purpose, repeat, round])


def judgement_id(task: str, annotator: str, revision: int) -> str:
    return content_id(["judgement", task, annotator, revision])


def preference_id(prompt: str, chosen: str, rejected: str) -> str:
    """`chosen` and `rejected` are candidate ids."""
    return content_id(["preference", prompt, chosen, rejected])


def binary_label_id(prompt: str, candidate: str) -> str:
    return content_id(["thumb", prompt, candidate])  # "thumb" is part of every id made so far
