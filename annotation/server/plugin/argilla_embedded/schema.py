"""Our tables and triggers inside Argilla's database, and the migration of both.

`align_text` and `align_fts` hold the words of every record, kept by triggers in the same transaction as the record, so
they cannot drift. `align_unsent` notes every answer in the transaction that stores it, for webhooks (see `outbox`).
"""

import argilla_server
from argilla_server._version import __version__ as argilla_version
from argilla_server.database import sync_engine
from sqlalchemy import text
from sqlalchemy.engine import Connection

VERSION = f"{argilla_version}/1"
"""What the database was migrated for: Argilla's version and that of the statements below."""

_WORDS = """
    CASE f.type WHEN 'text' THEN f.value ELSE coalesce(
        (SELECT group_concat(leaf.atom, char(10)) FROM json_tree(f.value) leaf
         WHERE leaf.type = 'text' AND leaf.key IS NOT 'role'), '') END"""
"""Of one field `f`: its text, or all texts inside a chat (without the roles) or a custom field."""

_FIELDS = r"json_each(CASE WHEN json_valid(new.fields) THEN replace(new.fields, '\u0000', '\u0020') ELSE '{}' END) f"
"""A record's fields. A NUL (JSON escapes it) becomes a space, for SQLite would end the text there."""

_ADD = f"""
    INSERT INTO align_text (record_id, field)
        SELECT new.id, f.key FROM {_FIELDS}
        WHERE f.type IN ('text', 'array', 'object') AND NOT EXISTS (
            SELECT 1 FROM fields image WHERE image.dataset_id = new.dataset_id AND image.name = f.key
            AND json_extract(image.settings, '$.type') = 'image');
    INSERT INTO align_fts (rowid, body)
        SELECT t.id, {_WORDS} FROM align_text t JOIN {_FIELDS} ON f.key = t.field
        WHERE t.record_id = new.id;"""

_REMOVE = """
    DELETE FROM align_fts WHERE rowid IN (SELECT id FROM align_text WHERE record_id = old.id);
    DELETE FROM align_text WHERE record_id = old.id;"""


def _note_answer(event: str) -> str:
    return f"""
    INSERT INTO align_unsent (event, response_id) SELECT '{event}', new.id WHERE EXISTS (
        SELECT 1 FROM webhooks w, json_each(w.events) e WHERE w.enabled AND e.value = '{event}');"""


TRIGGERS = {
    "align_record_added": f"AFTER INSERT ON records BEGIN {_ADD} END",
    "align_record_changed": f"AFTER UPDATE OF fields ON records WHEN new.fields IS NOT old.fields BEGIN {_REMOVE} {_ADD} END",
    "align_record_removed": f"AFTER DELETE ON records BEGIN {_REMOVE} END",
    "align_answer_added": f"AFTER INSERT ON responses BEGIN {_note_answer('response.created')} END",
    "align_answer_changed": f"AFTER UPDATE ON responses BEGIN {_note_answer('response.updated')} END",
}

TABLES = [
    "CREATE TABLE IF NOT EXISTS align_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS align_unsent (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, response_id CHAR(32) NOT NULL)",
    """CREATE TABLE IF NOT EXISTS align_outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL UNIQUE,
        webhook_id CHAR(32) NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
        event TEXT NOT NULL, timestamp TEXT NOT NULL, data TEXT NOT NULL,
        created REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS align_outbox_webhook ON align_outbox (webhook_id, id)",
]

INDEX = [
    "DROP TABLE IF EXISTS align_fts",
    "DROP TABLE IF EXISTS align_text",
    "CREATE TABLE align_text (id INTEGER PRIMARY KEY, record_id CHAR(32) NOT NULL, field TEXT NOT NULL)",
    "CREATE INDEX align_text_record ON align_text (record_id)",
    "CREATE VIRTUAL TABLE align_fts USING fts5 (body, tokenize = 'unicode61 remove_diacritics 2')",
    f"INSERT INTO align_text (record_id, field) SELECT new.id, f.key FROM records new, {_FIELDS}"
    " WHERE f.type IN ('text', 'array', 'object') AND NOT EXISTS (SELECT 1 FROM fields image WHERE image.dataset_id = new.dataset_id"
    " AND image.name = f.key AND json_extract(image.settings, '$.type') = 'image')",
    f"INSERT INTO align_fts (rowid, body) SELECT t.id, {_WORDS} FROM align_text t JOIN records new ON new.id = t.record_id"
    f" JOIN {_FIELDS} ON f.key = t.field",
]


def migrate() -> None:
    """Bring the database to this version of Argilla and of ours; nothing where that was done already."""
    with sync_engine.connect() as connection:
        done = _migrated(connection)
    if done == VERSION:
        return
    with (
        sync_engine.begin() as connection
    ):  # Argilla's migrations copy tables, which would leave triggers behind or break on them
        for name in TRIGGERS:
            connection.execute(text(f"DROP TRIGGER IF EXISTS {name}"))
    _migrate_argilla()
    with sync_engine.begin() as connection:
        for statement in [*TABLES, *INDEX, *(f"CREATE TRIGGER {name} {body}" for name, body in TRIGGERS.items())]:
            connection.exec_driver_sql(statement)
        connection.execute(
            text("INSERT OR REPLACE INTO align_meta VALUES ('migrated', :version)"), {"version": VERSION}
        )


def _migrated(connection: Connection) -> str | None:
    if not connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'align_meta'")).scalar():
        return None
    return connection.execute(text("SELECT value FROM align_meta WHERE key = 'migrated'")).scalar()


def _migrate_argilla() -> None:
    from pathlib import Path

    from alembic import command
    from alembic.config import Config

    config = Config()  # not from Argilla's alembic.ini, whose logging section would silence the server's loggers
    config.set_main_option("script_location", str(Path(argilla_server.__file__).parent / "alembic"))
    command.upgrade(config, "head")
