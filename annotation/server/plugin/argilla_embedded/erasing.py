"""What an owner deleted for good leaves the database's files, too, and the deliveries that wait.

A deleted row stands in its file until its place is used again, and an event for a webhook holds what was answered. The
owner's client deletes answers and records as on any Argilla, and then says here which those were.
"""

import asyncio
import json
import time
from typing import Any
from uuid import UUID

from argilla_embedded.dialect import dialect
from argilla_server.api.routes import api_v1
from argilla_server.database import AsyncSessionLocal, async_engine
from argilla_server.models import User
from argilla_server.security import auth
from fastapi import HTTPException, Security
from pydantic import BaseModel
from sqlalchemy import text

PATIENCE = 10.0
"""Seconds for those who read the old state of the database to come to an end."""


class Gone(BaseModel):
    """Ids of deleted answers and records."""

    ids: set[UUID]


def install() -> None:
    api_v1.add_api_route("/align/erased", erased, methods=["PUT"])


async def erased(*, body: Gone, current_user: User = Security(auth.get_current_user)) -> dict[str, str]:
    """Doing it twice is doing it once. HTTPException 503 where others keep the database busy."""
    if not current_user.is_owner:
        raise HTTPException(status_code=403, detail="only an owner may erase")
    await _empty_deliveries({str(identity) for identity in body.ids})
    await _scrub()
    return {"database": async_engine.dialect.name}


async def _empty_deliveries(gone: set[str]) -> None:
    """Events about what is gone are still delivered, without what was said and shown."""
    async with AsyncSessionLocal() as db:
        rows = await db.stream(text("SELECT id, data FROM align_outbox"))
        emptied = [(row.id, data) async for row in rows if (data := without_words(json.loads(row.data), gone))]
        for identity, data in emptied:
            values = {"id": identity, "data": json.dumps(data)}
            await db.execute(text("UPDATE align_outbox SET data = :data WHERE id = :id"), values)
        await db.commit()


def without_words(data: dict[str, Any], gone: set[str]) -> dict[str, Any] | None:
    """An event's data without the answer or the record that is `gone`; None where it is about neither."""
    record = data.get("record") if isinstance(data.get("record"), dict) else None
    if data.get("id") not in gone and (record is None or record.get("id") not in gone):
        return None
    if record is None:
        return data | {"fields": {}} if "fields" in data else None
    return data | {"values": None, "record": record | {"fields": {}} if record.get("id") in gone else record}


async def _scrub() -> None:
    deadline = time.monotonic() + PATIENCE
    async with async_engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="AUTOCOMMIT")
        for statement in dialect.SCRUB:
            while not dialect.is_scrubbed(await connection.exec_driver_sql(statement)):
                if time.monotonic() > deadline:
                    raise HTTPException(status_code=503, detail="the database is busy; try again in a moment")
                await asyncio.sleep(0.2)
