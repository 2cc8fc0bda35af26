"""The migration of Argilla's database and of our tables and triggers inside it.

`align_text` (with SQLite also `align_fts`) holds the words of every record, kept by triggers in the same transaction as
the record, so it cannot drift. `align_unsent` notes every answer in the transaction that stores it, for webhooks (see
`outbox`). A record's status follows its answers in that same transaction (see `status`). The statements are in `sqlite`
and `postgresql`.
"""

import argilla_server
from argilla_embedded.dialect import dialect
from argilla_server._version import __version__ as argilla_version
from argilla_server.database import sync_engine
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

VERSION = f"{argilla_version}/3"
"""What the database was migrated for: Argilla's version and that of the statements below."""


def migrate() -> None:
    """Bring the database to this version of Argilla and of ours; nothing where that was done already."""
    with sync_engine.connect() as connection:
        done = _migrated(connection)
    if done == VERSION:
        return
    with sync_engine.begin() as connection:
        for statement in dialect.REMOVE:
            connection.exec_driver_sql(statement)
    _migrate_argilla()
    with sync_engine.begin() as connection:
        for statement in dialect.make(connection):
            connection.exec_driver_sql(statement)
        connection.execute(text("DELETE FROM align_meta WHERE key = 'migrated'"))
        connection.execute(text("INSERT INTO align_meta VALUES ('migrated', :version)"), {"version": VERSION})


def _migrated(connection: Connection) -> str | None:
    if not inspect(connection).has_table("align_meta"):
        return None
    return connection.execute(text("SELECT value FROM align_meta WHERE key = 'migrated'")).scalar()


def _migrate_argilla() -> None:
    from pathlib import Path

    from alembic import command
    from alembic.config import Config

    config = Config()  # not from Argilla's alembic.ini, whose logging section would silence the server's loggers
    config.set_main_option("script_location", str(Path(argilla_server.__file__).parent / "alembic"))
    command.upgrade(config, "head")
