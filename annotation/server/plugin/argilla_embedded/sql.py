"""The engine's SQL, in SQLite's dialect. Another database means another module with these names, and no other change.

Values are always bound, never written into a statement. Names: `r` a record, `v` the values a filter looks at.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from argilla_embedded.text import Terms
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.search_engine.base import (
    AndFilter,
    Filter,
    FilterScope,
    MetadataFilterScope,
    Order,
    RangeFilter,
    RecordFilterScope,
    ResponseFilterScope,
    SuggestionFilterScope,
    TermsFilter,
)

RECORD_COLUMNS = {"id", "external_id", "status", "inserted_at", "updated_at"}
SUGGESTION_VALUES = {
    "value": "s.value",
    "score": "s.score",
    "agent": "json_array(s.agent)",
    "type": "json_array(s.type)",
}

PROGRESS = "SELECT status, count(*) FROM records WHERE dataset_id = :dataset GROUP BY status"
USER_PROGRESS = (
    "SELECT a.status, count(*) FROM responses a JOIN records r ON r.id = a.record_id"
    " WHERE r.dataset_id = :dataset AND a.user_id = :user GROUP BY a.status"
)
VECTORS_SIGNATURE = "SELECT count(*), max(updated_at) FROM vectors WHERE vector_settings_id = :settings"
VECTORS = "SELECT record_id, value FROM vectors WHERE vector_settings_id = :settings"
STALE_STATUS = """
    SELECT r.id FROM records r JOIN datasets d ON d.id = r.dataset_id LEFT JOIN (
        SELECT record_id, count(*) AS n FROM responses WHERE status = 'submitted' GROUP BY record_id) answers
    ON answers.record_id = r.id
    WHERE (r.status = 'completed') IS NOT (coalesce(answers.n, 0) >= json_extract(d.distribution, '$.min_submitted'))"""

_METADATA = "json_each(r.metadata) m, json_each(CASE m.type WHEN 'array' THEN m.value ELSE json_array(m.value) END) v WHERE m.key = {name}"
_IN = "IN (SELECT value FROM json_each({values}))"

TERMS_METRICS = (
    f"SELECT CAST(v.value AS TEXT) AS term, count(*) AS n FROM records r, {_METADATA.format(name=':name')}"
    " AND r.dataset_id = :dataset AND v.value IS NOT NULL GROUP BY 1 ORDER BY n DESC, term"
)
RANGE_METRICS = (
    f"SELECT min(v.value), max(v.value) FROM records r, {_METADATA.format(name=':name')} AND r.dataset_id = :dataset"
)


def key(value: object) -> str:
    """A UUID as the database writes it."""
    return UUID(str(value)).hex


class Search:
    """One search under construction: its conditions, its order and the values bound to it."""

    def __init__(self, dataset_id: object) -> None:
        self.values: dict[str, Any] = {}
        self.joins = ""
        self.score = "NULL"
        self.conditions = [f"r.dataset_id = {self.bind(key(dataset_id))}"]
        self.order = "r.inserted_at, r.id"

    def bind(self, value: object) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def bind_list(self, values: Iterable[object]) -> str:
        return self.bind(json.dumps(list(values)))

    def page(self, offset: int, limit: int) -> str:
        """Rows of (record id, score, how many match in all)."""
        return (
            f"SELECT r.id, {self.score}, count(*) OVER () FROM records r{self.joins} WHERE {' AND '.join(self.conditions)}"
            f" ORDER BY {self.order} LIMIT {int(limit)} OFFSET {int(offset)}"
        )

    # what to show -----------------------------------------------------------------------------------------------

    def match_text(self, terms: Terms, field: str | None) -> None:
        """Only records with these words, best first (bm25, summed over fields)."""
        if not terms:
            self.conditions.append("0")
            return
        field_is = f" AND t.field = {self.bind(field)}" if field else ""
        found = (
            "SELECT t.record_id{score} FROM align_fts JOIN align_text t ON t.id = align_fts.rowid WHERE align_fts MATCH {match}"
            + field_is
        )
        for alternatives in terms.wanted:
            match = self.bind(" OR ".join(alternatives))
            self.conditions.append(f"r.id IN ({found.format(score='', match=match)})")
        for phrase in terms.unwanted:
            self.conditions.append(f"r.id NOT IN ({found.format(score='', match=self.bind(phrase))})")
        if terms.wanted:
            match = self.bind(" OR ".join(phrase for alternatives in terms.wanted for phrase in alternatives))
            scored = found.format(score=", -align_fts.rank AS score", match=match)
            self.joins += f" JOIN (SELECT record_id, sum(score) AS score FROM ({scored}) GROUP BY record_id) words ON words.record_id = r.id"
            self.score, self.order = "words.score", "words.score DESC, r.inserted_at, r.id"

    def keep(self, given: Filter) -> None:
        self.conditions.append(self._condition(given))

    # in which order ---------------------------------------------------------------------------------------------

    def queue_for(self, user_id: object) -> None:
        """The labelling queue: higher `priority` in the metadata first (where it is given), then an order of the person's own.

        Everyone has another order, so that few answers are spread over many records before overlaps fill up, and no
        record is always met first. It depends on no model's score unless a `priority` was made from one.
        """
        priority = (
            "(SELECT m.value FROM json_each(r.metadata) m WHERE m.key = 'priority' AND m.type IN ('integer', 'real'))"
        )
        self.order = f"{priority} DESC NULLS LAST, align_shuffle(r.id, {self.bind(key(user_id))}), r.id"

    def sort(self, orders: list[Order]) -> None:
        self.order = ", ".join([self._order(order) for order in orders] + ["r.inserted_at", "r.id"])

    def _order(self, given: Order) -> str:
        direction = "DESC" if str(given.order) == "desc" else "ASC"
        scope = given.scope
        if isinstance(scope, RecordFilterScope):
            return f"{_record_column(scope)} {direction} NULLS LAST"
        if isinstance(scope, ResponseFilterScope):  # the mean, as Elasticsearch; a text has none, so the first of them
            pick = "coalesce(avg(CASE WHEN v.type IN ('integer', 'real') THEN v.value END), min(v.value))"
        else:
            pick = "max(v.value)" if direction == "DESC" else "min(v.value)"
        return f"(SELECT {pick} FROM {self._values(scope)}) {direction} NULLS LAST"

    # conditions -------------------------------------------------------------------------------------------------

    def _condition(self, given: Filter) -> str:
        if isinstance(given, AndFilter):
            return "(" + " AND ".join([self._condition(part) for part in given.filters or []] or ["1"]) + ")"
        if isinstance(given.scope, RecordFilterScope):
            return self._record_condition(given)
        if isinstance(given.scope, ResponseFilterScope) and not given.scope.question:
            return self._answer_status(given)
        return f"EXISTS (SELECT 1 FROM {self._values(given.scope)} AND {self._test('v.value', given)})"

    def _record_condition(self, given: TermsFilter | RangeFilter) -> str:
        column = _record_column(given.scope)
        if isinstance(given, RangeFilter):
            convert = _date if column.endswith("_at") else str
            return self._between(column, given, convert)
        values = [v for v in map(_key_or_none, given.values) if v] if column == "r.id" else given.values
        return f"{column} {_IN.format(values=self.bind_list(map(str, values)))}"

    def _answer_status(self, given: Filter) -> str:
        """`pending` means: no answer yet, by that person where one is named.

        The plus before `a.status` keeps SQLite from looking through all answers with that status for every record.
        """
        if not isinstance(given, TermsFilter) or str(given.scope.property) != "status":
            raise UnprocessableEntityError(f"responses cannot be filtered by {given}")
        statuses = [str(value) for value in given.values]
        answered = "EXISTS (SELECT 1 FROM responses a WHERE a.record_id = r.id"
        if given.scope.user:
            answered += f" AND a.user_id = {self.bind(key(given.scope.user.id))}"
        parts = [f"NOT {answered})"] if "pending" in statuses else []
        stored = [status for status in statuses if status != "pending"]
        if stored:
            parts.append(f"{answered} AND +a.status {_IN.format(values=self.bind_list(stored))})")
        return "(" + " OR ".join(parts or ["1"]) + ")"

    def _test(self, column: str, given: TermsFilter | RangeFilter) -> str:
        if isinstance(given, RangeFilter):
            return self._between(column, given, _number)
        return f"CAST({column} AS TEXT) {_IN.format(values=self.bind_list(map(str, given.values)))}"

    def _between(self, column: str, given: RangeFilter, convert: Any) -> str:
        low = [f"{column} >= {self.bind(convert(given.ge))}"] if given.ge is not None else []
        high = [f"{column} <= {self.bind(convert(given.le))}"] if given.le is not None else []
        return "(" + " AND ".join([*low, *high] or ["1"]) + ")"

    def _values(self, scope: FilterScope) -> str:
        """FROM … WHERE … that yields the values `v.value` of one record in that scope."""
        if isinstance(scope, MetadataFilterScope):
            return _METADATA.format(name=self.bind(scope.metadata_property))
        if isinstance(scope, SuggestionFilterScope):
            return (
                f"suggestions s JOIN questions q ON q.id = s.question_id, json_each({SUGGESTION_VALUES[str(scope.property)]}) v"
                f" WHERE s.record_id = r.id AND q.name = {self.bind(scope.question)}"
            )
        if isinstance(scope, ResponseFilterScope):
            by = f" AND a.user_id = {self.bind(key(scope.user.id))}" if scope.user else ""
            if not scope.question:
                return f"responses a, json_each(json_array(a.status)) v WHERE a.record_id = r.id{by}"
            return (
                f"responses a, json_each(a.\"values\") answer, json_each(answer.value, '$.value') v"
                f" WHERE a.record_id = r.id AND answer.key = {self.bind(scope.question)}{by}"
            )
        raise UnprocessableEntityError(f"unknown scope {scope}")


def _record_column(scope: RecordFilterScope) -> str:
    if str(scope.property) not in RECORD_COLUMNS:
        raise UnprocessableEntityError(f"records have no property {scope.property!r}")
    return f"r.{scope.property}"


def _key_or_none(value: object) -> str | None:
    try:
        return key(value)
    except ValueError:  # not an id, so no record has it
        return None


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UnprocessableEntityError(f"{value!r} is not a number") from error


def _date(value: object) -> str:
    """As the database writes times: UTC, no zone. Takes ISO 8601 or milliseconds since 1970."""
    try:
        if isinstance(value, int | float):
            time = datetime.fromtimestamp(value / 1000, tz=UTC)
        else:
            time = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError) as error:
        raise UnprocessableEntityError(f"{value!r} is not a date") from error
    if time.tzinfo:
        time = time.astimezone(UTC)
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")
