"""The records of a dataset: what is kept of them after reading, and how they are read and sent in bulk."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from align.errors import ServiceError
from annotation.argilla_api import Api

RECORDS_A_CALL, BYTES_A_CALL = 100, 4_000_000
RECORDS_A_PAGE = range(50, 501)
"""How many records are read at once: more and more while they are small, since Argilla counts to each page again."""


class Record(NamedTuple):
    """What of a record is kept after reading: 50,000 of them must not fill the memory with texts that are at hand.

    `wrong` says in which way it is not as it was left.
    """

    id: str
    task: str | None
    responses: list[dict[str, Any]]
    wrong: str | None


def read_records(api: Api, dataset: str, wrong: Callable[[dict[str, Any]], str | None]) -> list[Record]:
    """All records of `dataset` with all responses; `wrong` says of each in which way it is not as it was left.

    Argilla pages by insertion time, which batches share, so a page may repeat a record and miss another: that is seen
    by counting, and read again. Raises ServiceError.
    """
    for _ in range(3):
        found: dict[str, Record] = {}
        total, offset, limit = 1, 0, RECORDS_A_PAGE.start
        while offset < total:
            reply = api.call("GET", f"/datasets/{dataset}/records", include="responses", offset=offset, limit=limit)
            total, offset = reply["total"], offset + limit
            size = sum(map(_size, reply["items"]))
            limit = min(2 * limit, RECORDS_A_PAGE.stop - 1) if size < BYTES_A_CALL / 2 else RECORDS_A_PAGE.start
            found.update(
                (r["id"], Record(r["id"], r["external_id"], r["responses"] or [], wrong(r))) for r in reply["items"]
            )
        if len(found) == total:
            return list(found.values())
    raise ServiceError(
        f"Argilla says that there are {total} records and lists {len(found)}",
        where=api.url,
        hint="run the same command again",
    )


def batches(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """At most RECORDS_A_CALL records and about BYTES_A_CALL bytes at once."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in records:
        length = _size(record)
        if batch and (len(batch) == RECORDS_A_CALL or size + length > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += length
    if batch:
        yield batch


def _size(record: dict[str, Any]) -> int:
    """About how many bytes a record has on its way."""
    return sum(len(part) for field in record["fields"].values() if isinstance(field, dict) for part in field.values())
