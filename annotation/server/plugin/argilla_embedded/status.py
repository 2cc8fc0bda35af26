"""A record's status follows its answers.

Argilla commits an answer first and the record's status (`completed` from `min_submitted` submitted answers on) in a
second transaction, which a kill can prevent and which two answers at once can get wrong. Here triggers set the status
in the answer's own transaction, and when a dataset wants another number of answers. What is left of Argilla's second
transaction is to announce records to webhooks; where none listens, it is spared.
"""

import asyncio
from typing import Any
from uuid import UUID

from argilla_server.contexts import distribution, webhooks
from argilla_server.database import AsyncSessionLocal
from argilla_server.search_engine import SearchEngine
from argilla_server.webhooks.v1.enums import RecordEvent

ANNOUNCED = {str(RecordEvent.updated), str(RecordEvent.completed)}


def install() -> None:
    original, lock = distribution.update_record_status, asyncio.Lock()

    async def update_record_status(search_engine: SearchEngine, record_id: UUID) -> Any:
        async with AsyncSessionLocal() as db:
            listening = any(ANNOUNCED & set(w.events) for w in await webhooks.list_enabled_webhooks(db))
        if listening:
            async with lock:  # two at once would have one fail and wait
                return await original(search_engine, record_id)
        return None

    distribution.update_record_status = update_record_status
