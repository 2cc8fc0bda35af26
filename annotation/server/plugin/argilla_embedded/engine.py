"""Argilla's search engine interface over Argilla's own database: the database is the index.

Every method that would keep an index up to date has nothing to do; words are kept by triggers (see `schema`).
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from argilla_embedded import ENGINE, sql, vectors
from argilla_embedded.closing import is_closed
from argilla_embedded.dialect import dialect
from argilla_embedded.text import Terms, TooLong, parse
from argilla_server.database import async_engine
from argilla_server.enums import MetadataPropertyType, SimilarityOrder
from argilla_server.errors.future import UnprocessableEntityError
from argilla_server.models import Dataset, MetadataProperty, Record, Response, Suggestion, User, VectorSettings
from argilla_server.search_engine.base import (
    Filter,
    FloatMetadataMetrics,
    IntegerMetadataMetrics,
    MetadataMetrics,
    Order,
    SearchEngine,
    SearchResponseItem,
    SearchResponses,
    TermsMetrics,
    TextQuery,
)
from fastapi import HTTPException
from sqlalchemy import text

EVERYTHING = 10**9

_building = asyncio.Lock()
_looking = asyncio.Lock()
"""One search for words at a time: several at once would take the processors from those who only label."""
WAITING = 6
"""How many may wait for it, each with a connection to the database in hand."""


async def _rows(statement: str, values: dict[str, Any]) -> Sequence[Any]:
    async with async_engine.connect() as connection:
        return (await connection.execute(text(statement), values)).all()


class OwnProgress(NamedTuple):
    """A dataset's records for one person: `done` are answered or skipped, `left` are still to come, and of those a
    draft is `begun`."""

    done: int
    left: int
    begun: int


async def own_progress(dataset: UUID, user: UUID) -> OwnProgress:
    """Nothing is left in a dataset that is closed."""
    keys = {"dataset": dialect.key(dataset), "user": dialect.key(user)}
    ((done, left, begun),) = await _rows(sql.OWN_PROGRESS, keys)
    ((guidelines,),) = await _rows("SELECT guidelines FROM datasets WHERE id = :dataset", {"dataset": keys["dataset"]})
    return OwnProgress(done, 0, 0) if is_closed(guidelines) else OwnProgress(done, left, begun)


_waiting = 0


@contextlib.asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    """One's turn to search for words; HTTPException 429 where too many wait."""
    global _waiting
    if _waiting >= WAITING:
        said = "too many people search at this moment; try again in a second"
        raise HTTPException(status_code=429, detail=said, headers={"Retry-After": "1"})
    _waiting += 1
    try:
        async with _looking:
            yield
    finally:
        _waiting -= 1


def _terms(query: str) -> Terms:
    try:
        return parse(query)
    except TooLong as error:
        raise UnprocessableEntityError(str(error)) from error


@SearchEngine.register(engine_name=ENGINE)
class EmbeddedSearchEngine(SearchEngine):
    @classmethod
    async def new_instance(cls) -> "EmbeddedSearchEngine":
        return cls()

    async def close(self) -> None: ...

    async def ping(self) -> bool:
        return True

    async def info(self) -> dict[str, Any]:
        """The process id lets whoever started this server know that it is the one that answers."""
        return {"name": ENGINE, "database": async_engine.dialect.name, "pid": os.getpid()}

    # the database is the index --------------------------------------------------------------------------------------

    async def create_index(self, dataset: Dataset) -> None: ...
    async def delete_index(self, dataset: Dataset) -> None: ...
    async def configure_metadata_property(self, dataset: Dataset, metadata_property: MetadataProperty) -> None: ...
    async def configure_index_vectors(self, vector_settings: VectorSettings) -> None: ...
    async def index_records(self, dataset: Dataset, records: Iterable[Record]) -> None: ...
    async def partial_record_update(self, record: Record, **update: Any) -> None: ...
    async def delete_records(self, dataset: Dataset, records: Iterable[Record]) -> None: ...
    async def update_record_response(self, response: Response) -> None: ...
    async def delete_record_response(self, response: Response) -> None: ...
    async def update_record_suggestion(self, suggestion: Suggestion) -> None: ...
    async def delete_record_suggestion(self, suggestion: Suggestion) -> None: ...

    # counting -------------------------------------------------------------------------------------------------------

    async def get_dataset_progress(self, dataset: Dataset) -> dict[str, int]:
        return await self._counts(dataset, sql.PROGRESS, {})

    async def get_dataset_user_progress(self, dataset: Dataset, user: User) -> dict[str, int]:
        return await self._counts(dataset, sql.USER_PROGRESS, {"user": dialect.key(user.id)})

    async def _counts(self, dataset: Dataset, statement: str, values: dict[str, Any]) -> dict[str, int]:
        if dataset.is_draft:
            return {}
        counts = dict(map(tuple, await _rows(statement, {"dataset": dialect.key(dataset.id), **values})))
        return {"total": sum(counts.values()), **counts}

    async def compute_metrics_for(self, metadata_property: MetadataProperty) -> MetadataMetrics:
        values = {"dataset": dialect.key(metadata_property.dataset_id), "path": dialect.path([metadata_property.name])}
        if metadata_property.type == MetadataPropertyType.terms:
            counts = [TermsMetrics.TermCount(term=term, count=n) for term, n in await _rows(sql.TERMS_METRICS, values)]
            return TermsMetrics(total=sum(c.count for c in counts), values=counts)
        ((low, high),) = await _rows(sql.RANGE_METRICS, values)
        kind = (
            IntegerMetadataMetrics if metadata_property.type == MetadataPropertyType.integer else FloatMetadataMetrics
        )
        return kind(min=low, max=high)

    # searching ------------------------------------------------------------------------------------------------------

    async def search(
        self,
        dataset: Dataset,
        query: TextQuery | str | None = None,
        filter: Filter | None = None,
        sort: list[Order] | None = None,
        offset: int = 0,
        limit: int = 100,
        user_id: UUID | None = None,
    ) -> SearchResponses:
        """Sorted as asked; else best match first; else the labelling queue of `user_id`; else as added."""
        search = sql.Search(dataset.id)
        if user_id is not None:
            search.queue_for(user_id, filter, closed=is_closed(dataset.guidelines))
        if query is not None:
            query = TextQuery(q=query) if isinstance(query, str) else query
            search.match_text(_terms(query.q), query.field)
        if filter is not None:
            search.keep(filter)
        if sort:
            search.sort(sort)
        async with _turn() if query is not None else contextlib.nullcontext():
            rows = await _rows(search.page(offset, limit), search.values)
            total = rows[0][2] if rows else await self._total(search) if offset else 0
        return SearchResponses(
            items=[SearchResponseItem(record_id=UUID(str(r)), score=s) for r, s, _ in rows], total=total
        )

    async def _total(self, search: sql.Search) -> int:
        """Of a page beyond the end, whose own rows cannot tell."""
        rows = await _rows(search.page(0, 1), search.values)
        return int(rows[0][2]) if rows else 0

    async def similarity_search(
        self,
        dataset: Dataset,
        vector_settings: VectorSettings,
        value: list[float] | None = None,
        record: Record | None = None,
        query: TextQuery | str | None = None,
        filter: Filter | None = None,
        max_results: int = 100,
        order: SimilarityOrder = SimilarityOrder.most_similar,
        threshold: float | None = None,
    ) -> SearchResponses:
        if bool(value) == bool(record):
            raise ValueError("give either a vector or a record to compare with")
        value = value or record.vector_value_by_vector_settings(vector_settings)
        if not value:
            raise ValueError(f"record {record.id} has no vector {vector_settings.name!r}")
        matrix = await self._matrix(vector_settings)
        ranked = await asyncio.to_thread(vectors.nearest, matrix, value, least=order == SimilarityOrder.least_similar)
        if filter is not None or query is not None:
            found = await self.search(dataset, query, filter, limit=EVERYTHING)
            kept = {dialect.key(item.record_id) for item in found.items}
            ranked = [(r, s) for r, s in ranked if r in kept]
        ranked = [
            (r, s)
            for r, s in ranked
            if (record is None or r != dialect.key(record.id)) and (threshold is None or s >= threshold)
        ]
        items = [SearchResponseItem(record_id=UUID(str(r)), score=s) for r, s in ranked[:max_results]]
        return SearchResponses(items=items, total=len(items))

    async def _matrix(self, vector_settings: VectorSettings) -> vectors.Matrix:
        values = {"settings": dialect.key(vector_settings.id)}
        signature = (values["settings"], *map(tuple, await _rows(sql.VECTORS_SIGNATURE, values)))
        async with _building:  # of several who wait for one matrix, the first makes it
            matrix = vectors.cached(signature)
            if matrix is None:
                rows = [tuple(r) for r in await _rows(sql.VECTORS, values)]
                matrix = await asyncio.to_thread(vectors.build, rows)
                vectors.keep(signature, matrix)
        return matrix
