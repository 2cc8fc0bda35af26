"""One server for one database: statuses, deliveries and background jobs are looked after by a single process.

On SQLite the home's lock sees to it. On PostgreSQL, where a server on another machine could be pointed at the same
database, an advisory lock does; it goes with the connection, so the one of a killed server is free at once.
"""

import time

from argilla_server.database import sync_engine
from argilla_server.settings import settings
from sqlalchemy import text
from sqlalchemy.engine import Connection

PATIENCE = 5.0
"""Seconds for a server that was just killed to let go."""

LOCK = 0x616C69676E  # "align" in ASCII

_held: list[Connection] = []


def claim() -> None:
    """Have the database for this process alone; RuntimeError where another server has it."""
    if not settings.database_is_postgresql:
        return
    connection = sync_engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    deadline = time.monotonic() + PATIENCE
    while not connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}).scalar():
        if time.monotonic() > deadline:
            raise RuntimeError("another server is running on this PostgreSQL database; stop it first")
        time.sleep(0.2)
    _held.append(connection)
