"""Your own rows: one judgement a row, in the fields that docs/files.md lists. What we export is such a file."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from align.data.messages import BadRowError, excerpt, storable
from align.data.preferences import is_number
from align.data.rows import Row, fields_found
from align.errors import ConfigError
from align.labelling.outside.fields import Shown, question_and_answers
from align.labelling.outside.labels import outcome_of
from align.labelling.outside.words import (
    Reading,
    Word,
    person,
    ranks_of,
    remark,
    score_of,
    seconds_of,
    utc,
    whole,
)
from align.types import FLAGS, LETTERS, OUTCOMES, STRENGTHS, Purpose, Rating, TaskKind, prompt_id, task_id

ANNOTATORS = ("annotator", "annotator_id", "user_id", "user", "worker_id", "worker", "rater", "judge", "labeler")
LABELS = ("outcome", "winner", "preference", "choice", "label", "binary")
RATINGS = ("ratings", "rating")
TIMES = ("time", "timestamp", "created_at", "tstamp")
MAIN = (*LABELS, "ranking", *RATINGS)
"""Fields that say what somebody thought."""
PURPOSES = ("train", "control", "gold", "eval")
CRITERION = "quality"
"""What a rating is of where the row does not say."""
_STRENGTHS = {"slightly": 1, "clearly": 2, "far": 3}


def words_of_row(row: Row, where: str, reading: Reading) -> list[Word]:
    """What a row says: one judgement, or one for each answer where it rates several. BadRowError, ConfigError."""
    chosen = row.get("chosen") is not None and row.get("rejected") is not None and not reading.answers
    if chosen:
        reading = replace(reading, answers=("chosen", "rejected"))
    shown = question_and_answers(row, reading)
    word = _beside(row, where, shown, reading)
    if chosen:
        if said := [name for name in MAIN if row.get(name) is not None]:
            raise BadRowError("unusable field", f"`chosen` and `{said[0]}` both say which answer is better")
        return [replace(word, kind="pair", outcome="a")]
    if _is_ours(row):
        return [_of_kind(row, word, shown, reading)]
    return _of_main(row, word, shown, reading)


def _beside(row: Row, where: str, shown: Shown, reading: Reading) -> Word:
    """All but what was said."""
    count = len(shown.answers)
    word = Word(
        where=where,
        messages=shown.messages,
        answers=shown.answers,
        annotator=person(_first(row, ANNOTATORS), reading),
        kind="pair",
        outcome="skipped",
        shown=_order(row.get("shown"), count),
        strength=_strength(row.get("strength")),
        flags=_flags(row.get("flags"), count),
        edit=remark(row.get("edit"), "edit"),
        reason=remark(row.get("reason"), "reason"),
        time=utc(_first(row, TIMES)),
        seconds=seconds_of(row.get("seconds")),
        name=remark(row.get("name"), "name"),
        models=_models(row, count),
    )
    if not _is_ours(row):
        return word
    word = replace(
        word,
        round=whole(row.get("round"), "round", 0),
        purpose=_purpose(row.get("purpose")),
        repeat=None if row.get("repeat") is None else whole(row["repeat"], "repeat", 0),
        revision=None if row.get("revision") is None else whole(row["revision"], "revision", 0),
    )
    return _ours(row, word) if row.get("task_id") is not None else word


def _is_ours(row: Row) -> bool:
    """Whether a row is in the form that we write: its `kind` is one of ours. Others may mean something else by it."""
    kind = dict.get(row, "kind")
    return isinstance(kind, str) and kind in OUTCOMES


def _ours(row: Row, word: Word) -> Word:
    """A row that `align annotate export` wrote: the ids must be those of its content."""
    kind, candidates, prompt = row["kind"], row.get("candidates"), prompt_id(word.messages)
    if not isinstance(candidates, list) or not all(isinstance(c, str) for c in candidates):
        raise BadRowError("missing field", "a row with `task_id` needs the ids of its `candidates`")
    if len(candidates) != len(word.answers) or len(set(candidates)) < len(candidates):
        raise BadRowError("other content", f"there are {len(candidates)} candidates and {len(word.answers)} answers")
    made = task_id(str(kind), prompt, candidates, word.purpose, word.repeat or 0, word.round)
    if row["task_id"] != made or row.get("prompt_id") not in (None, prompt) or candidates != sorted(candidates):
        raise BadRowError("other content", "`task_id` is not that of this prompt and these candidates; leave it out")
    row.get("id")
    return replace(word, task=made, candidates=candidates, repeat=word.repeat or 0)


def _of_kind(row: Row, word: Word, shown: Shown, reading: Reading) -> Word:
    """A row that says which kind of task it is about; `outcome` is one of ours then, or `ranking`, `ratings` say it."""
    kind: TaskKind = row["kind"]
    count = len(word.answers)
    wanted = {"pair": (2, 2), "blind_ab": (2, 2), "rank": (2, 4)}.get(kind, (1, 1))
    if not wanted[0] <= count <= wanted[1]:
        raise BadRowError("other content", f"a {kind} cannot be about {count} answers")
    word = replace(word, kind=kind)
    label = _first(row, LABELS)
    if label == "skipped":
        return word
    if kind == "rank":
        return replace(word, outcome="ranked", ranking=ranks_of(row.get("ranking"), count))
    if kind == "rating":
        return replace(word, outcome="rated", ratings=_ratings(_first(row, RATINGS), row, reading))
    if label is None:
        raise BadRowError("missing field", f"needs `outcome`, found {fields_found(row)}")
    return replace(word, outcome=outcome_of(label, count, shown.names, word.shown, reading))


def _of_main(row: Row, word: Word, shown: Shown, reading: Reading) -> list[Word]:
    """A row whose kind is in which field it has."""
    said = [name for name in MAIN if row.get(name) is not None]
    if reading.question is not None:
        said = [name for name in said if name == reading.question]
    if not said:
        raise BadRowError(
            "missing field", f"needs {', '.join(f'`{m}`' for m in MAIN)} or `chosen`, found {fields_found(row)}"
        )
    if len(said) > 1:
        both = " and ".join(f"`{name}`" for name in said)
        raise ConfigError(f"{both} both say what somebody thought", hint="--question FIELD says which of them counts")
    name, count = said[0], len(word.answers)
    if name == "ranking":
        if count < 2:
            raise BadRowError("not a ranking", "there is one answer")
        return [replace(word, kind="rank", outcome="ranked", ranking=ranks_of(row[name], count))]
    if name in RATINGS:
        if count == 1:
            return [replace(word, kind="rating", outcome="rated", ratings=_ratings(row[name], row, reading))]
        return _each(word, row[name], row, reading)
    kind: TaskKind = "pair" if count == 2 else "single"
    if count > 2:
        raise BadRowError("other content", f"one label for {count} answers")
    label = row[name]
    if count == 2 and word.models and word.models.count(label) == 1 and str(label) not in reading.outcomes:
        return [replace(word, kind=kind, outcome=LETTERS[word.models.index(label)])]
    return [replace(word, kind=kind, outcome=outcome_of(label, count, shown.names, word.shown, reading))]


def _each(word: Word, given: object, row: Row, reading: Reading) -> list[Word]:
    """Ratings of several answers, one judgement for each."""
    if not isinstance(given, list) or len(given) != len(word.answers):
        raise BadRowError("other content", f"{excerpt(given)} does not rate each of {len(word.answers)} answers")
    if word.flags or word.edit:
        raise BadRowError("unusable field", "`flags` and `edit` cannot belong to ratings of several answers")
    found = []
    for place, value in enumerate(given):
        models = None if word.models is None else [word.models[place]]
        ratings = _ratings(value, row, reading)
        one = replace(word, answers=[word.answers[place]], models=models, shown=None, kind="rating", outcome="rated")
        found.append(replace(one, ratings=ratings, strength=None))
    return found


def _ratings(value: object, row: Row, reading: Reading) -> list[Rating]:
    """`4`, `{"helpful": 4}` or `[{"criterion": "helpful", "score": 4}]`."""
    scale = reading.scale or _scale(row.get("scale"))
    pairs: list[tuple[Any, Any]]
    if isinstance(value, dict):
        pairs = [(name, score) for name, score in value.items() if score is not None]
    elif isinstance(value, list) and all(isinstance(v, dict) for v in value):
        pairs = [(v.get("criterion"), v.get("score")) for v in value]
    else:
        pairs = [(CRITERION, value)]
    names = [name for name, _ in pairs]
    if not pairs or not all(isinstance(n, str) and n for n in names) or len(set(names)) < len(names):
        raise BadRowError("not a rating", f"{excerpt(value)} does not give each criterion a score")
    return [score_of(score, name, scale) for name, score in pairs]


def _scale(value: object) -> tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] < value[1]:
        return float(value[0]), float(value[1])
    raise BadRowError("out of range", f"`scale` is {excerpt(value)}, not [lowest, highest]")


def _order(value: object, count: int) -> list[int] | None:
    """Which answer, from 0, stood at each place from left to right."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(map(is_number, value)) or sorted(value) != list(range(count)):
        raise BadRowError("other content", f"`shown` is {excerpt(value)}, no order of {count} answers, from 0")
    return [int(place) for place in value]


def _strength(value: object) -> int | None:
    if value is None:
        return None
    number = _STRENGTHS.get(value) if isinstance(value, str) else value
    if not is_number(number) or number not in STRENGTHS:
        raise BadRowError("out of range", f"`strength` is {excerpt(value)}, not 1, 2 or 3")
    return int(number)


def _flags(value: object, count: int) -> list[str] | None:
    if value is None or value == []:
        return None
    known = [f"{letter}:{flag}" for letter in LETTERS[:count] for flag in FLAGS]
    if not isinstance(value, list) or not all(isinstance(flag, str) and flag in known for flag in value):
        raise BadRowError("unknown flag", f"{excerpt(value)}; a flag is {', '.join(known[:4])} and so on")
    return value


def _models(row: Row, count: int) -> list[str] | None:
    """Who gave the answers: `models`, or `model_a` and `model_b`."""
    value = row.get("models")
    if value is None and count == 2 and row.get("model_a") is not None and row.get("model_b") is not None:
        value = [row["model_a"], row["model_b"]]
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count or not all(isinstance(v, str) for v in value):
        raise BadRowError("other content", f"`models` is {excerpt(value)}, not a name for each of {count} answers")
    return [storable(name, "models") for name in value]


def _purpose(value: Any) -> Purpose:
    if value is None:
        return "train"
    if not isinstance(value, str) or value not in PURPOSES:
        raise BadRowError("unknown purpose", f"{excerpt(value)} is none of {', '.join(PURPOSES)}")
    return value  # type: ignore[return-value]


def _first(row: Row, names: Sequence[str]) -> Any:
    """What the first of these fields that the row has says."""
    return next((row[name] for name in names if row.get(name) is not None), None)
