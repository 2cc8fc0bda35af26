"""Argilla's exports as records: flat rows with `.responses` columns, the SDK's JSON, and the server's own.

Written against Argilla 2.8. What says nothing (drafts) is left out and counted. The SDK's JSON (`to_json`) does not say
which answers are drafts or were discarded; all count as submitted, and that is said. Nor does the SDK write the ranks
of a ranking (it keeps the names in the order in which they happen to be stored): such rankings are refused.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from align.data.messages import BadRowError, excerpt
from align.data.rows import Row
from align.labelling.outside.questions import Record, Response, Value

ENDING = ".responses"
NOT_SAID = "answers of which the export does not say whether they were submitted (`to_json` leaves it out)"
DRAFTS = "drafts, which say nothing yet"
OWN = ("id", "_server_id", "status", "external_id", "metadata", "dataset_id", "inserted_at", "updated_at")
"""Fields of a record that are Argilla's."""


def is_argilla(row: Mapping[str, Any]) -> bool:
    """Whether a row is a record of Argilla's, in any of its forms."""
    nested = isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict | list | None)
    return (nested and "responses" in row) or any(name.endswith(ENDING) for name in row)


def record_of(row: dict[str, Any], where: str, notes: Counter[str]) -> Record:
    """A row as a record; `notes` counts what is left out or uncertain. BadRowError."""
    if isinstance(row.get("fields"), dict) and "responses" in row:
        metadata = row.get("metadata")
        fields = Row({**(metadata if isinstance(metadata, dict) else {}), **row["fields"]})
        responses = row["responses"] or []
        found = list(_nested(responses, notes) if isinstance(responses, dict) else _of_server(responses, notes))
    else:
        names = [name.removesuffix(ENDING) for name in row if name.endswith(ENDING)]
        ours = {f"{name}{ending}" for name in names for ending in (ENDING, f"{ENDING}.users", f"{ENDING}.status")}
        ours |= {n for n in row if ".suggestion" in n}
        fields = Row({n: v for n, v in row.items() if n not in ours and n not in OWN})
        found = list(_flat(row, names, notes))
    return Record(where, fields, found, row.get("external_id") or row.get("id"))


def _flat(row: dict[str, Any], names: list[str], notes: Counter[str]) -> Iterator[Response]:
    """Columns of one question: its answers, whose they are and in which state, side by side."""
    people = _People()
    for name in names:
        values = _list(row.get(f"{name}{ENDING}"), f"{name}{ENDING}")
        users = _list(row.get(f"{name}{ENDING}.users"), f"{name}{ENDING}.users") or [None] * len(values)
        states = _list(row.get(f"{name}{ENDING}.status"), f"{name}{ENDING}.status") or [None] * len(values)
        if not len(values) == len(users) == len(states):
            raise BadRowError("other content", f"`{name}{ENDING}` and its users and status differ in length")
        for value, user, state in zip(values, users, states, strict=True):
            people.add(user, name, value, state)
    yield from people.responses(notes)


def _nested(responses: dict[str, Any], notes: Counter[str]) -> Iterator[Response]:
    """`{question: [{"value", "user_id"}]}`, as `to_json` and `to_list` write."""
    people = _People()
    for name, answers in responses.items():
        for answer in _list(answers, f"responses.{name}"):
            if not isinstance(answer, dict):
                raise BadRowError("other content", f"`responses.{name}` holds {excerpt(answer)}")
            people.add(answer.get("user_id"), name, answer.get("value"), answer.get("status"))
    yield from people.responses(notes)


class _People:
    """Answers question by question as answers person by person."""

    def __init__(self) -> None:
        self._said: dict[object, dict[str, Value]] = {}
        self._status: dict[object, set[object]] = {}

    def add(self, who: Any, question: str, value: Any, status: Any) -> None:
        """BadRowError where the same person answers a question twice: of two who are not named nobody can say whether
        they are one."""
        if not isinstance(who, str | int | None):
            raise BadRowError("no annotator", f"the user is {excerpt(who)}")
        values = self._said.setdefault(who, {})
        if question in values:
            name = "somebody who is not named" if who is None else excerpt(who)
            raise BadRowError("contradiction", f"{name} answers `{question}` more than once")
        values[question] = value_of(value)
        self._status.setdefault(who, set()).add(status if isinstance(status, str | None) else str(status))

    def responses(self, notes: Counter[str]) -> Iterator[Response]:
        for who, values in self._said.items():
            yield from _response(who, values, self._status[who], None, notes)


def _of_server(responses: Any, notes: Counter[str]) -> Iterator[Response]:
    """`[{"user_id", "status", "values": {question: {"value"}}, "updated_at"}]`, as the server's API gives them."""
    for answer in _list(responses, "responses"):
        if not isinstance(answer, dict) or not isinstance(answer.get("values"), dict | None):
            raise BadRowError("other content", f"`responses` holds {excerpt(answer)}")
        values = {
            name: value_of(given["value"])
            for name, given in (answer.get("values") or {}).items()
            if isinstance(given, dict) and "value" in given
        }
        state = answer.get("status")
        status: set[object] = {state if isinstance(state, str | None) else str(state)}
        yield from _response(answer.get("user_id"), values, status, answer.get("updated_at"), notes)


def _response(
    who: object, values: dict[str, Value], status: set[object], time: object, notes: Counter[str]
) -> Iterator[Response]:
    """Nothing for a draft."""
    if status == {None}:
        notes[NOT_SAID] += 1
    elif not status <= {"submitted", "discarded", None} or len(status - {None}) > 1:
        notes[DRAFTS] += 1
        return
    yield Response(who, "discarded" in status, values, time)


def value_of(value: Any) -> Value:
    """What was answered, by its form: Argilla's export does not name the questions' types."""
    if isinstance(value, bool) or value is None:
        return Value("other", value)
    if isinstance(value, str):
        return Value("label", value)
    if isinstance(value, int | float):
        return Value("rating", value)
    if isinstance(value, list) and value and all(isinstance(v, dict) and {"value", "rank"} <= v.keys() for v in value):
        return Value("ranking", [(item["value"], item["rank"]) for item in value])
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return Value("names", value)
    return Value("other", value)


def _list(value: Any, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRowError("other content", f"`{name}` is {excerpt(value)}, not a list")
    return value
