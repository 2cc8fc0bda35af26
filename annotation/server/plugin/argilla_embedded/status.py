"""A record's status follows its answers.

Argilla commits an answer first and the record's status (`completed` from `min_submitted` submitted answers on) in a
second transaction. A kill between the two leaves a stale status, so it is recomputed at start; and two such second
transactions at once could each overwrite the other, so they go one after another.
"""

import asyncio
import logging
from typing import Any
from uuid import UUID

from argilla_embedded import sql
from argilla_server.contexts import distribution
from argilla_server.database import AsyncSessionLocal
from argilla_server.search_engine import SearchEngine
from argilla_server.settings import settings
from sqlalchemy import text

log = logging.getLogger("uvicorn.error")


def install() -> None:
    original, lock = distribution.update_record_status, asyncio.Lock()

    async def update_record_status(search_engine: SearchEngine, record_id: UUID) -> Any:
        async with lock:
            return await original(search_engine, record_id)

    distribution.update_record_status = update_record_status


async def reconcile() -> None:
    async with AsyncSessionLocal() as db:
        stale = (await db.execute(text(sql.STALE_STATUS))).scalars().all()
    if stale:
        log.warning("%d record(s) had a status that did not follow from their answers; mended", len(stale))
    async with SearchEngine.get_by_name(settings.search_engine) as engine:
        for record_id in stale:
            await distribution.update_record_status(engine, UUID(str(record_id)))
