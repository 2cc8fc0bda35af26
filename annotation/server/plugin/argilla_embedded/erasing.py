"""What an owner deleted for good leaves the database's files, too, and the deliveries that wait.

A deleted row stands in its file until its place is used again, and an event for a webhook holds what was answered. The
owner's client deletes answers and records as on any Argilla, and then asks for this. Which those were is seen from the
tables, so that a client that was cut off in between has only to ask again.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

from argilla_embedded.dialect import dialect
from argilla_server.api.routes import api_v1
from argilla_server.database import AsyncSessionLocal, async_engine
from argilla_server.models import Record, Response, User
from argilla_server.security import auth
from fastapi import HTTPException, Security
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

PATIENCE = 10.0
"""Seconds for those who keep the database busy to come to an end."""
IDS_A_QUERY = 500


def install() -> None:
    api_v1.add_api_route("/align/erased", erased, methods=["PUT"])


async def erased(*, current_user: User = Security(auth.get_current_user)) -> dict[str, str]:
    """Doing it twice is doing it once. HTTPException 503 where others keep the database busy."""
    if not current_user.is_owner:
        raise HTTPException(status_code=403, detail="only an owner may erase")
    deadline = time.monotonic() + PATIENCE
    for step in (_empty_deliveries, *(partial(_scrub, statement) for statement in dialect.SCRUB)):
        while not await _is_done(step):
            if time.monotonic() > deadline:
                raise HTTPException(status_code=503, detail="the database is busy; try again in a moment")
            await asyncio.sleep(0.2)
    return {"database": async_engine.dialect.name}


async def _is_done(step: Callable[[], Awaitable[bool]]) -> bool:
    """Do one step; False where somebody is in its way."""
    try:
        return await step()
    except DBAPIError as error:
        if dialect.is_busy(error.orig):
            return False
        raise


async def _scrub(statement: str) -> bool:
    async with async_engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
        return dialect.is_scrubbed(await connection.exec_driver_sql(statement))


async def _empty_deliveries() -> bool:
    """Events about what is in no table any more are still delivered, without what was said and shown."""
    async with AsyncSessionLocal() as db:
        rows = await db.stream(text("SELECT event, data FROM align_outbox"))
        named = {identity async for row in rows for identity in named_in(row.event, json.loads(row.data))}
        gone = named - await _present(db, sorted(named))
        rows = await db.stream(text("SELECT id, data FROM align_outbox"))
        emptied = [(row.id, data) async for row in rows if (data := without_words(json.loads(row.data), gone))]
        for identity, data in emptied:
            values = {"id": identity, "data": json.dumps(data)}
            await db.execute(text("UPDATE align_outbox SET data = :data WHERE id = :id"), values)
        await db.commit()
    return True


def named_in(event: str, data: dict[str, Any]) -> list[str]:
    """Ids of the answer and the record that an event is about; none where it is about a data set."""
    kind = event.partition(".")[0]
    return [data["id"], data["record"]["id"]] if kind == "response" else [data["id"]] if kind == "record" else []


async def _present(db: AsyncSession, ids: list[str]) -> set[str]:
    """Those of `ids` that an answer or a record has."""
    found: set[str] = set()
    for begin in range(0, len(ids), IDS_A_QUERY):
        some = [UUID(identity) for identity in ids[begin : begin + IDS_A_QUERY]]
        for model in (Response, Record):
            found.update(map(str, await db.scalars(select(model.id).where(model.id.in_(some)))))
    return found


def without_words(data: dict[str, Any], gone: set[str]) -> dict[str, Any] | None:
    """An event's data without the answer or the record that is `gone`; None where it is about neither."""
    record = data.get("record") if isinstance(data.get("record"), dict) else None
    if data.get("id") not in gone and (record is None or record.get("id") not in gone):
        return None
    if record is None:
        return data | {"fields": {}}
    return data | {"values": None, "record": record | {"fields": {}} if record.get("id") in gone else record}
