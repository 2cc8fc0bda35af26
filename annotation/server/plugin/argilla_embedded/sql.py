"""The engine's SQL. What differs between databases is in `dialect`.

Values are always bound, never written into a statement. Names: `r` a record, `a` an answer, `v` the values a filter
looks at.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from argilla_embedded import queue
from argilla_embedded.dialect import dialect
from argilla_embedded.text import Phrase, Terms
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

PROGRESS = "SELECT status, count(*) FROM records WHERE dataset_id = :dataset GROUP BY status"
USER_PROGRESS = (
    "SELECT a.status, count(*) FROM responses a JOIN records r ON r.id = a.record_id"
    " WHERE r.dataset_id = :dataset AND a.user_id = :user GROUP BY a.status"
)
OWN_PROGRESS = (
    "SELECT (SELECT count(*) FROM responses a JOIN records r ON r.id = a.record_id WHERE r.dataset_id = :dataset"
    f" AND a.user_id = :user AND {dialect.ANSWER_STATUS} IN ('submitted', 'discarded')),"
    f" count(*), coalesce(sum(begun), 0) FROM ({queue.LEFT}) AS open_ones"
)
"""How many records a person has answered or skipped, how many the queue still has for them, and drafts of how many."""
VECTORS_SIGNATURE = "SELECT count(*), max(updated_at) FROM vectors WHERE vector_settings_id = :settings"
VECTORS = "SELECT record_id, CAST(value AS text) FROM vectors WHERE vector_settings_id = :settings ORDER BY record_id"

_METADATA = f"records r, {dialect.elements('r.metadata', ':path')} WHERE r.dataset_id = :dataset"
TERMS_METRICS = (
    f"SELECT {dialect.AS_TEXT} AS term, count(*) AS n FROM {_METADATA} AND ({dialect.AS_TEXT}) IS NOT NULL"
    " GROUP BY 1 ORDER BY 2 DESC, 1"
)
RANGE_METRICS = f"SELECT min({dialect.AS_NUMBER}), max({dialect.AS_NUMBER}) FROM {_METADATA}"

NO_NUMBER = "CAST(NULL AS numeric)"
DATES = {"inserted_at", "updated_at"}


@dataclass(frozen=True)
class Values:
    """`source` is FROM … WHERE … of the values of one record; each is seen as a text, a number, or a proper string."""

    source: str
    text: str = dialect.AS_TEXT
    number: str = dialect.AS_NUMBER
    string: str = dialect.AS_STRING


class Search:
    """One search under construction: its conditions, its order and the values bound to it."""

    def __init__(self, dataset_id: object) -> None:
        self.values: dict[str, Any] = {}
        self.joins = ""
        self.score = "NULL"
        self.dataset = self.bind(dialect.key(dataset_id))
        self.conditions = [f"r.dataset_id = {self.dataset}"]
        self.order = "r.inserted_at, r.id"

    def bind(self, value: object) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def page(self, offset: int, limit: int) -> str:
        """Rows of (record id, score, how many match in all)."""
        return (
            f"SELECT r.id, {self.score}, count(*) OVER () FROM records r{self.joins} WHERE {' AND '.join(self.conditions)}"
            f" ORDER BY {self.order} LIMIT {int(limit)} OFFSET {int(offset)}"
        )

    # what to show -----------------------------------------------------------------------------------------------

    def match_text(self, terms: Terms, field: str | None) -> None:
        """Only records with these words, best first, by scores summed over fields."""
        if not terms:
            self.conditions.append("1 = 0")
            return
        field_is = f" AND t.field = {self.bind(field)}" if field else ""
        if terms.unwanted:
            self.conditions.append(f"r.id NOT IN ({dialect.found(self._match(terms.unwanted), field_is)})")
        if terms.wanted:
            # one set for all words: as a condition for each, they would be joins, whose orders a planner tries out
            found = [dialect.found(self._match(alternatives), field_is) for alternatives in terms.wanted]
            self.conditions.append(f"r.id IN ({' INTERSECT '.join(found)})")
            scored = dialect.scored(self._match([p for alternatives in terms.wanted for p in alternatives]), field_is)
            self.joins += (
                f" JOIN (SELECT record_id, sum(score) AS score FROM ({scored}) scored GROUP BY record_id) words"
                " ON words.record_id = r.id"
            )
            self.score, self.order = "words.score", "words.score DESC, r.inserted_at, r.id"

    def _match(self, phrases: Iterable[Phrase]) -> list[str]:
        return [self.bind(value) for value in dialect.match(list(phrases))]

    def keep(self, given: Filter) -> None:
        self.conditions.append(self._condition(given))

    # in which order ---------------------------------------------------------------------------------------------

    def queue_for(self, user_id: object, given: Filter | None, *, closed: bool) -> None:
        """The labelling queue of that person; where only what they have not answered is asked for, as it is served:
        nothing of a `closed` data set."""
        names = {"user": self.bind(dialect.key(user_id)), "dataset": self.dataset}
        self.order = queue.ORDER.format(**names)
        if given is not None and _asks_for_pending(given):
            self.conditions.append("1 = 0" if closed else queue.ONE_OF_AN_ITEM.format(**names))

    def sort(self, orders: list[Order]) -> None:
        self.order = ", ".join([self._order(order) for order in orders] + ["r.inserted_at", "r.id"])

    def _order(self, given: Order) -> str:
        direction = "DESC" if str(given.order) == "desc" else "ASC"
        scope = given.scope
        if isinstance(scope, RecordFilterScope):
            return f"{dialect.column(str(scope.property))} {direction} NULLS LAST"
        values = self._values(scope)
        pick = "max" if direction == "DESC" else "min"
        number = "avg" if isinstance(scope, ResponseFilterScope) else pick  # the mean, as Elasticsearch
        string = "min" if isinstance(scope, ResponseFilterScope) else pick
        return ", ".join(
            f"(SELECT {function}({value}) FROM {values.source}) {direction} NULLS LAST"
            for function, value in ((number, values.number), (string, values.string))
        )

    # conditions -------------------------------------------------------------------------------------------------

    def _condition(self, given: Filter) -> str:
        if isinstance(given, AndFilter):
            return "(" + " AND ".join([self._condition(part) for part in given.filters or []] or ["1 = 1"]) + ")"
        if isinstance(given.scope, RecordFilterScope):
            return self._record_condition(given)
        if isinstance(given.scope, ResponseFilterScope) and not given.scope.question:
            return self._answer_status(given)
        values = self._values(given.scope)
        if isinstance(given, RangeFilter):
            test = self._between(values.number, given, _number)
        else:
            test = dialect.among(values.text, self.bind(dialect.items(map(str, given.values))))
        return f"EXISTS (SELECT 1 FROM {values.source} AND {test})"

    def _record_condition(self, given: TermsFilter | RangeFilter) -> str:
        name = str(given.scope.property)
        if isinstance(given, RangeFilter):
            if name not in DATES:
                raise UnprocessableEntityError(f"records cannot be filtered by a range of {name!r}")
            return self._between(f"r.{name}", given, _moment)
        if name == "id":
            keys = [key for key in map(_key_or_none, given.values) if key]
            return dialect.among_keys("r.id", self.bind(dialect.keys(keys)))
        if name in DATES:
            times = [self._between(f"r.{name}", RangeFilter(given.scope, v, v), _moment) for v in given.values]
            return "(" + " OR ".join(times) + ")"
        return dialect.among(dialect.column(name), self.bind(dialect.items(map(str, given.values))))

    def _answer_status(self, given: Filter) -> str:
        """`pending` means: no answer yet, by that person where one is named."""
        if not isinstance(given, TermsFilter) or str(given.scope.property) != "status":
            raise UnprocessableEntityError(f"responses cannot be filtered by {given}")
        statuses = [str(value) for value in given.values]
        answered = f"EXISTS (SELECT 1 FROM {self._answers(given.scope)}"
        parts = [f"NOT {answered})"] if "pending" in statuses else []
        stored = [status for status in statuses if status != "pending"]
        if stored:
            parts.append(f"{answered} AND {dialect.among(dialect.ANSWER_STATUS, self.bind(dialect.items(stored)))})")
        return "(" + " OR ".join(parts or ["1 = 1"]) + ")"

    def _between(self, value: str, given: RangeFilter, convert: Callable[[object], Any]) -> str:
        low = [f"{value} >= {self.bind(convert(given.ge))}"] if given.ge is not None else []
        high = [f"{value} <= {self.bind(convert(given.le))}"] if given.le is not None else []
        return "(" + " AND ".join([*low, *high] or ["1 = 1"]) + ")"

    def _answers(self, scope: ResponseFilterScope, more: str = "") -> str:
        by = f" AND a.user_id = {self.bind(dialect.key(scope.user.id))}" if scope.user else ""
        return f"responses a{more} WHERE a.record_id = r.id{by}"

    def _values(self, scope: FilterScope) -> Values:
        if isinstance(scope, MetadataFilterScope):
            return Values(f"{self._elements('r.metadata', scope.metadata_property)} WHERE 1 = 1")
        if isinstance(scope, SuggestionFilterScope):
            name = str(scope.property)
            source = "suggestions s JOIN questions q ON q.id = s.question_id{} WHERE s.record_id = r.id AND q.name = "
            if name in ("value", "score"):
                return Values(source.format(f", {self._elements(f's.{name}')}") + self.bind(scope.question))
            text = f"CAST(s.{name} AS text) {dialect.BY_CODE}"
            return Values(source.format("") + self.bind(scope.question), text, NO_NUMBER, text)
        if isinstance(scope, ResponseFilterScope):
            if not scope.question:
                return Values(self._answers(scope), dialect.ANSWER_STATUS, NO_NUMBER, dialect.ANSWER_STATUS)
            elements = self._elements('a."values"', scope.question, "value")
            return Values(self._answers(scope, f", {elements}"))
        raise UnprocessableEntityError(f"unknown scope {scope}")

    def _elements(self, column: str, *names: str) -> str:
        return dialect.elements(column, self.bind(dialect.path(names)))


def _asks_for_pending(given: Filter) -> bool:
    if isinstance(given, AndFilter):
        return any(map(_asks_for_pending, given.filters or []))
    return (
        isinstance(given, TermsFilter)
        and isinstance(given.scope, ResponseFilterScope)
        and not given.scope.question
        and [str(value) for value in given.values] == ["pending"]
    )


def _key_or_none(value: object) -> object | None:
    try:
        return dialect.key(value)
    except ValueError:  # not an id, so no record has it
        return None


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UnprocessableEntityError(f"{value!r} is not a number") from error


def _moment(value: object) -> Any:
    """As the database has times: UTC, no zone. Takes ISO 8601 or milliseconds since 1970."""
    try:
        if isinstance(value, int | float):
            time = datetime.fromtimestamp(value / 1000, tz=UTC)
        else:
            time = datetime.fromisoformat(str(value))
        if time.tzinfo:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError) as error:
        raise UnprocessableEntityError(f"{value!r} is not a date") from error
    return dialect.moment(time)
