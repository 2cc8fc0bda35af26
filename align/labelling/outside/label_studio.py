"""Label Studio's exports as records: JSON (tasks with annotations) and JSON-MIN (one annotation a row).

Written after the export formats of Label Studio 1.x as its documentation and converter have them: results of Pairwise,
Choices, Rating, Ranker and TextArea. Predictions are a model's and are left out.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from align.data.messages import BadRowError, excerpt
from align.data.rows import Row
from align.errors import ConfigError
from align.labelling.outside.fields import fields_used
from align.labelling.outside.questions import Record, Response, Value
from align.labelling.outside.words import Reading

MIN = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "id", "agreement")
"""Fields of a row of JSON-MIN that are Label Studio's."""
KINDS = ("selected", "choices", "rating", "ranker", "text")


def is_label_studio(row: Mapping[str, Any]) -> bool:
    whole = isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list)
    return whole or {"annotation_id", "annotator"} <= row.keys()


def record_of(row: dict[str, Any], where: str, reading: Reading, notes: Counter[str]) -> Record:
    """A row as a record; `notes` counts what is left out. BadRowError, ConfigError."""
    if "annotations" not in row:
        return _of_min(row, where, reading)
    if not isinstance(row.get("data"), dict) or not isinstance(row["annotations"], list):
        raise BadRowError("other content", f"`data` and `annotations` are {excerpt(row.get('data'))} and others")
    if row.get("predictions"):
        notes["predictions of a model, which are nobody's judgement"] += len(_list(row["predictions"]))
    responses = [_response(one, row["data"], reading.answers) for one in row["annotations"]]
    return Record(where, Row(row["data"]), responses, row.get("id"))


def _response(annotation: Any, data: dict[str, Any], answers: tuple[str, ...]) -> Response:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result", []), list):
        raise BadRowError("other content", f"`annotations` holds {excerpt(annotation)}")
    values: dict[str, Value] = {}
    sides: tuple[str, ...] = ()
    for result in annotation.get("result", []):
        if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
            raise BadRowError("other content", f"`result` holds {excerpt(result)}")
        name, value = str(result.get("from_name")), value_of(result["value"])
        if name in values:
            raise BadRowError("contradiction", f"an annotation has two results of {excerpt(name)}")
        values[name] = value
        if value.kind == "side":
            sides = answers or _fields(result.get("to_name"), data)
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    time = annotation.get("updated_at") or annotation.get("created_at")
    return Response(who, bool(annotation.get("was_cancelled")), values, time, annotation.get("lead_time"), sides)


def _of_min(row: dict[str, Any], where: str, reading: Reading) -> Record:
    """Results stand beside the task's data, those of a single choice or text as that text alone: any text that is no
    field of the prompt or of the answers may be one."""
    data = {name: value for name, value in row.items() if name not in MIN}
    found = {name: value for name, value in ((n, _of_tag(v)) for n, v in data.items()) if value is not None}
    fields = Row({name: value for name, value in data.items() if name not in found})
    used = fields_used(fields, reading)
    values = {n: Value("label", v) for n, v in fields.items() if isinstance(v, str) and n not in used} | found
    sided = any(value.kind == "side" for value in found.values())
    if sided and len(reading.answers) != 2:
        raise ConfigError(
            "JSON-MIN does not say which field stood left", where=where, hint="--answers LEFT,RIGHT names both"
        )
    time = row.get("updated_at") or row.get("created_at")
    sides = reading.answers if sided else ()
    return Record(where, fields, [Response(row.get("annotator"), False, values, time, row.get("lead_time"), sides)])


def _of_tag(value: Any) -> Value | None:
    """A result of Label Studio's; None for data."""
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], dict):
        return None
    return value_of(value[0]) if value[0].keys() & {*KINDS} and "id" not in value[0] else None


def value_of(value: dict[str, Any]) -> Value:
    """The value of a result, by its tag."""
    if value.get("selected") in ("left", "right"):
        return Value("side", value["selected"])
    if isinstance(value.get("choices"), list) and len(value["choices"]) == 1:
        return Value("label", value["choices"][0])
    if value.get("rating") is not None:
        return Value("rating", value["rating"])
    if value.get("ranker") is not None:
        return Value("ranking", _ranked(value["ranker"]))
    text = value.get("text")
    if isinstance(text, list):
        text = "\n".join(map(str, text))
    return Value("text", text) if isinstance(text, str) else Value("other", value)


def _ranked(value: Any) -> list[tuple[str, int]]:
    """The ids of a list, the best first. Of several buckets nobody says which is the better one."""
    if isinstance(value, dict):
        filled = {name: ids for name, ids in value.items() if ids}
        if len(filled) > 1:
            names = ", ".join(sorted(filled))
            raise BadRowError("not a ranking", f"items stand in the buckets {names}, and these have no order")
        value = next(iter(filled.values()), [])
    if not isinstance(value, list):
        raise BadRowError("not a ranking", f"{excerpt(value)} is no list of items")
    return [(str(name), rank) for rank, name in enumerate(value, 1)]


def _fields(to_name: Any, data: dict[str, Any]) -> tuple[str, ...]:
    """The fields that stood left and right: Label Studio names its tags, which most projects call as their fields."""
    names = tuple(part.strip() for part in to_name.split(",")) if isinstance(to_name, str) else ()
    if len(names) != 2 or not all(name in data for name in names):
        raise ConfigError(
            f"the tags {excerpt(to_name)} stood beside each other, and no fields are called so",
            hint="--answers LEFT,RIGHT names the fields of the answers, from left to right",
        )
    return names


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
