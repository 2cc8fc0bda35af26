"""Webhook deliveries that outlive the process.

Argilla calls `enqueue_notify_events` after the change is committed. What it enqueues goes into `align_outbox`, and one
task of the server's loop delivers it, oldest first for each webhook, again and again with growing pauses until the
receiver says yes. A delivery keeps its `webhook-id` over all attempts and restarts, so that a receiver can drop the
second copy of one whose confirmation was lost.

For answers even the moment between the commit and the enqueueing is covered: triggers note them in `align_unsent` in
the answer's own transaction, enqueueing strikes the note out, and what is left at the next start is enqueued then.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from argilla_embedded.dialect import dialect
from argilla_server.bulk.records_bulk import CreateRecordsBulk
from argilla_server.contexts import webhooks
from argilla_server.database import AsyncSessionLocal
from argilla_server.models import Response, Webhook
from argilla_server.webhooks.v1 import event as argilla_event
from argilla_server.webhooks.v1.commons import _build_headers, _build_payload
from argilla_server.webhooks.v1.enums import ResponseEvent
from argilla_server.webhooks.v1.responses import notify_response_event
from fastapi.encoders import jsonable_encoder
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from standardwebhooks.webhooks import Webhook as Signer

log = logging.getLogger("uvicorn.error")

TIMEOUT = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 600.0
GIVE_UP_AFTER = 7 * 24 * 3600.0

_ADD = (
    "INSERT INTO align_outbox (message_id, webhook_id, event, timestamp, data, created, due)"
    " VALUES (:message_id, :webhook_id, :event, :timestamp, :data, :now, :now)"
)
_STRIKE_OUT = "DELETE FROM align_unsent WHERE id = (SELECT min(id) FROM align_unsent WHERE event = :event AND response_id = :response_id)"
_FORGET = f"DELETE FROM align_unsent WHERE {dialect.among_keys('response_id', ':ids')}"
_HEADS = "SELECT * FROM align_outbox WHERE id IN (SELECT min(id) FROM align_outbox GROUP BY webhook_id)"

_wake = asyncio.Event()


def install() -> None:
    argilla_event.enqueue_notify_events = enqueue
    stored = CreateRecordsBulk._upsert_records_responses

    async def store_unannounced(self: CreateRecordsBulk, pairs: list[Any]) -> list[Response]:
        """Answers that are logged along with records: Argilla announces none of them, so they need no note."""
        responses = await stored(self, pairs)
        ids = dialect.keys(dialect.key(response.id) for response in responses)
        await self._db.execute(text(_FORGET), {"ids": ids})
        return responses

    CreateRecordsBulk._upsert_records_responses = store_unannounced


async def enqueue(db: AsyncSession, event: str, timestamp: datetime, data: dict[str, Any]) -> list[Any]:
    """Put one event into the outbox of every webhook that wants it."""
    wanting = [w for w in await webhooks.list_enabled_webhooks(db) if event in w.events]
    payload = json.dumps(jsonable_encoder(data)) if wanting else ""
    for webhook in wanting:
        row = {
            "message_id": f"msg_{secrets.token_urlsafe(16)}",
            "webhook_id": dialect.key(webhook.id),
            "event": str(event),
        }
        await db.execute(text(_ADD), {**row, "timestamp": timestamp.isoformat(), "data": payload, "now": time.time()})
    if "id" in data:
        await db.execute(text(_STRIKE_OUT), {"event": str(event), "response_id": dialect.key(data["id"])})
    await db.commit()
    _wake.set()
    return []


async def recover() -> None:
    """Enqueue the answers that were stored but not enqueued when the server was killed."""
    async with AsyncSessionLocal() as db:
        for note in (await db.execute(text("SELECT * FROM align_unsent ORDER BY id"))).all():
            response = await Response.get(db, UUID(str(note.response_id)))
            if response is not None:
                log.warning(
                    "%s of response %s was not announced before the server stopped; announcing it now",
                    note.event,
                    response.id,
                )
                await notify_response_event(db, ResponseEvent(note.event), response)
            await db.execute(text("DELETE FROM align_unsent WHERE id = :id"), {"id": note.id})
            await db.commit()


@contextlib.asynccontextmanager
async def delivering() -> AsyncIterator[None]:
    task = asyncio.create_task(_deliver_forever())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _deliver_forever() -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
        while True:
            _wake.clear()
            try:
                pause = await _deliver_due(client)
            except Exception:  # a full disk, a locked database: deliveries wait, the server goes on
                log.exception("webhook deliveries failed; trying again")
                pause = FIRST_PAUSE
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_wake.wait(), pause)


async def _deliver_due(client: httpx.AsyncClient) -> float:
    """Try the oldest delivery of every webhook, where it is due; returns the seconds until the next is due."""
    async with AsyncSessionLocal() as db:
        heads = (await db.execute(text(_HEADS))).all()
    due = [head for head in heads if head.due <= time.time()]
    if due:
        await asyncio.gather(*(_deliver(client, head) for head in due))
        return 0.0
    return max(0.05, min([head.due - time.time() for head in heads], default=LONGEST_PAUSE))


async def _deliver(client: httpx.AsyncClient, row: Any) -> None:
    async with AsyncSessionLocal() as db:
        webhook = await Webhook.get(db, UUID(str(row.webhook_id)))
    done = webhook is None or not webhook.enabled
    if not done:
        done = await _post(client, webhook, row)
    if not done and time.time() - row.created > GIVE_UP_AFTER:
        log.error(
            "webhook %s: giving up on %s %s after %d attempts", webhook.url, row.event, row.message_id, row.attempts + 1
        )
        done = True
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**row.attempts)
    later = "UPDATE align_outbox SET attempts = attempts + 1, due = :due WHERE id = :id"
    async with AsyncSessionLocal() as db:
        await db.execute(
            text("DELETE FROM align_outbox WHERE id = :id" if done else later),
            {"id": row.id, **({} if done else {"due": time.time() + pause})},
        )
        await db.commit()


async def _post(client: httpx.AsyncClient, webhook: Webhook, row: Any) -> bool:
    now = datetime.utcnow()
    payload = json.dumps(_build_payload(row.event, datetime.fromisoformat(row.timestamp), json.loads(row.data)))
    signature = Signer(webhook.secret).sign(row.message_id, now, payload)
    try:
        answer = await client.post(webhook.url, content=payload, headers=_build_headers(row.message_id, now, signature))
        answer.raise_for_status()
    except httpx.HTTPError as error:
        log.warning(
            "webhook %s: %s %s not delivered (%s)",
            webhook.url,
            row.event,
            row.message_id,
            error or type(error).__name__,
        )
        return False
    return True
