"""A form as Argilla's questions, and answers in the two languages: canonical inside, by place on the screen outside.

People see answers A to D from left to right; a task's `shown` says which canonical candidate stands where. `to_screen`
and `from_screen` are the one place where the two meet, for every kind of task.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from align.errors import DataError
from align.escape import escape, unescape
from align.types import FLAGS, LETTERS, Rating
from annotation.backend import Answer
from annotation.form import Form

PLACES = "ABCD"
"""Names of the places on the screen, from left to right."""
BETTER = {"left": "A is better", "right": "B is better", "tie": "Tie", "both_bad": "Both bad"}
SIDES = ("left", "right")
BINARY = {"good": "Good", "bad": "Bad"}
STRENGTH_WORDS = ("slightly", "clearly", "far")
"""Strengths 1, 2 and 3, as they are stored on the server."""
FLAG_WORDS = {"unsafe": "unsafe", "wrong": "wrong", "off_topic": "off topic", "format": "bad format"}
SCORES = range(1, 6)

MAIN = {"pair": "preference", "blind_ab": "preference", "single": "verdict", "rank": "ranking"}
"""The name of the required question of each kind; rating has one for each criterion."""

Values = dict[str, dict[str, Any]]
"""A response's values as Argilla has them: question → {"value": …}."""


def questions(form: Form) -> list[dict[str, Any]]:
    """The questions of `form`, in the order of the page, as Argilla's API takes them."""
    main = {
        "pair": lambda: [_labels("preference", "Which answer is better?", BETTER, required=True)],
        "blind_ab": lambda: [_labels("preference", "Which answer is better?", BETTER, required=True)],
        "single": lambda: [_labels("verdict", "Is this a good answer?", BINARY, required=True)],
        "rank": lambda: [_ranking(form.answers)],
        "rating": lambda: [_rating(criterion) for criterion in form.criteria],
    }[form.kind]()
    words = {word: word.capitalize() for word in STRENGTH_WORDS}
    optional = {
        "strength": lambda: _labels("strength", "How much better?", words),
        "flags": lambda: _labels("flags", "Anything wrong?", _flag_options(form.answers), several=True),
        "edit": lambda: _text("edit", "A better answer, in your words"),
        "reason": lambda: _text("reason", "Why?"),
    }
    return main + [make() for name, make in optional.items() if name in form.ask]


def to_screen(answer: Answer, shown: Sequence[int], form: Form) -> Values:
    """What the server holds after `answer` to a record that shows the candidates in that order; {} for a bare skip."""
    said: dict[str, Any] = {}
    if answer.outcome != "skipped":
        if form.kind in ("pair", "blind_ab"):
            said["preference"] = _side(answer.outcome, shown)
        elif form.kind == "single":
            said["verdict"] = answer.outcome
        elif form.kind == "rank":
            said["ranking"] = _places_of(answer.ranking or [], shown, form.answers)
        else:
            said |= {rating_name(r["criterion"]): r["score"] for r in answer.ratings or []}
    if answer.strength is not None:
        said["strength"] = STRENGTH_WORDS[answer.strength - 1]
    if answer.flags:
        said["flags"] = sorted(_turned(flag, LETTERS, PLACES, shown.index) for flag in answer.flags)
    said |= {name: unescape(text) for name, text in (("edit", answer.edit), ("reason", answer.reason)) if text}
    return {name: {"value": value} for name, value in said.items()}


def from_screen(
    task: str, values: Mapping[str, Any] | None, shown: Sequence[int], form: Form, *, skipped: bool
) -> Answer:
    """The answer that a response's `values` are; the inverse of `to_screen`.

    A skipped response may hold what was filled in before: of that, flags and the reason are kept, for they may say why.
    A strength beside a tie says nothing and a flag of a place without an answer means nothing; neither is kept. Texts
    come out escaped (`align.escape`). Raises DataError for a value that no question of the form has.
    """
    said = {name: value.get("value") for name, value in (values or {}).items() if isinstance(value, Mapping)}
    outcome, ranking, ratings = "skipped", None, None
    if not skipped:
        outcome, ranking, ratings = _main(task, said, shown, form)
    strength = said.get("strength") if outcome in ("a", "b") else None
    if strength is not None and strength not in STRENGTH_WORDS:
        raise _unknown(task, "strength", strength)
    given = said.get("flags") or []
    if not isinstance(given, list) or not all(isinstance(f, str) and f in _flag_options(len(PLACES)) for f in given):
        raise _unknown(task, "flags", given)
    flags = [f for f in given if PLACES.index(f[0]) < len(shown)]
    return Answer(
        task_id=task,
        outcome=outcome,
        strength=STRENGTH_WORDS.index(strength) + 1 if strength else None,
        flags=sorted(_turned(f, PLACES, LETTERS, shown.__getitem__) for f in flags) or None,
        edit=None if skipped else _storable(task, "edit", said.get("edit")),
        reason=_storable(task, "reason", said.get("reason")),
        ranking=ranking,
        ratings=ratings,
    )


def rating_name(criterion: str) -> str:
    """The name of a criterion's question."""
    return f"rating_{criterion}"


def _main(
    task: str, said: Mapping[str, Any], shown: Sequence[int], form: Form
) -> tuple[str, list[int] | None, list[Rating] | None]:
    """(outcome, ranking, ratings) of a submitted response."""
    if form.kind == "rank":
        return "ranked", _ranks_of(task, said.get("ranking"), shown), None
    if form.kind == "rating":
        return "rated", None, [_score_of(task, said, criterion) for criterion in form.criteria]
    name = MAIN[form.kind]
    label = said.get(name)
    if not isinstance(label, str) or label not in (BINARY if form.kind == "single" else BETTER):
        raise _unknown(task, name, label)
    return LETTERS[shown[SIDES.index(label)]] if label in SIDES else str(label), None, None


def _side(outcome: str, shown: Sequence[int]) -> str:
    return SIDES[shown.index(LETTERS.index(outcome))] if outcome in ("a", "b") else outcome


def _places_of(ranking: Sequence[int], shown: Sequence[int], answers: int) -> list[dict[str, Any]]:
    """Ranks of the places; one without an answer stands last, since Argilla wants all of them ranked."""
    ranks = [ranking[candidate] for candidate in shown] + [answers] * (answers - len(shown))
    return [{"value": place, "rank": rank} for place, rank in zip(PLACES, ranks, strict=False)]


def _ranks_of(task: str, value: Any, shown: Sequence[int]) -> list[int]:
    """The rank of each canonical candidate, without gaps: a person may leave a place empty, and means nothing by it."""
    items = value if isinstance(value, list) else []
    given: dict[str, Any] = {str(i.get("value")): i.get("rank") for i in items if isinstance(i, Mapping)}
    places = PLACES[: len(shown)]
    if any(not isinstance(given.get(place), int) for place in places):
        raise _unknown(task, "ranking", value)
    order = sorted({given[place] for place in places})
    ranks = [0] * len(shown)
    for place, candidate in zip(places, shown, strict=True):
        ranks[candidate] = order.index(given[place]) + 1
    return ranks


def _score_of(task: str, said: Mapping[str, Any], criterion: str) -> Rating:
    score = said.get(rating_name(criterion))
    if not isinstance(score, int) or score not in SCORES:
        raise _unknown(task, rating_name(criterion), score)
    return Rating(criterion=criterion, score=score)


def _turned(flag: str, before: str, after: str, turn: Any) -> str:
    """`<name>:<flag>` with the name in the other language."""
    name, what = flag.split(":", 1)
    return f"{after[turn(before.index(name))]}:{what}"


def _storable(task: str, question: str, text: Any) -> str | None:
    """None for white space alone, which Argilla's text field leaves behind."""
    if text is not None and not isinstance(text, str):
        raise _unknown(task, question, text)
    return escape(text) if text and text.strip() else None


def _unknown(task: str, question: str, value: Any) -> DataError:
    return DataError(
        f"a submitted response has the unknown value {value!r} for {question!r}",
        where=f"task {task}",
        hint="correct it in Argilla",
    )


def _labels(
    name: str, title: str, options: Mapping[str, str], *, required: bool = False, several: bool = False
) -> dict[str, Any]:
    settings = {
        "type": "multi_label_selection" if several else "label_selection",
        "options": [{"value": value, "text": text} for value, text in options.items()],
    }
    return {"name": name, "title": title, "required": required, "settings": settings}


def _ranking(answers: int) -> dict[str, Any]:
    options = [{"value": place, "text": f"Answer {place}"} for place in PLACES[:answers]]
    title = "Rank them: 1 is best, equals may share a place"
    return {"name": "ranking", "title": title, "required": True, "settings": {"type": "ranking", "options": options}}


def _rating(criterion: str) -> dict[str, Any]:
    options = [{"value": score} for score in SCORES]
    title = f"{criterion[0].upper()}{criterion[1:]}? 1 bad … 5 excellent"
    settings = {"type": "rating", "options": options}
    return {"name": rating_name(criterion), "title": title, "required": True, "settings": settings}


def _text(name: str, title: str) -> dict[str, Any]:
    return {"name": name, "title": title, "required": False, "settings": {"type": "text", "use_markdown": False}}


def _flag_options(answers: int) -> dict[str, str]:
    """One option for each flag of each place; a single answer needs no letter."""
    return {
        f"{place}:{flag}": f"{place}: {FLAG_WORDS[flag]}" if answers > 1 else FLAG_WORDS[flag].capitalize()
        for place in PLACES[:answers]
        for flag in FLAGS
    }
