"""What our SQL looks like on SQLite: JSON by its functions, words in FTS5, ids as 32 hexadecimal digits."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from argilla_embedded.text import Phrase

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, CursorResult

# values as they are bound ---------------------------------------------------------------------------------------------


def key(value: object) -> str:
    """A UUID as the database writes it."""
    return UUID(str(value)).hex


def items(values: Iterable[object]) -> str:
    """A list of texts or keys, for `among`."""
    return json.dumps(list(values))


keys = items


def path(names: Sequence[str]) -> str:
    """Where in a JSON column a value stands, for `elements`."""
    return "$" + "".join(f'."{name}"' for name in names)


def moment(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")


# pieces of SQL
# ----------------------------------------------------------------------------------------------------------

ANSWER_STATUS = "+a.status"
"""The plus keeps SQLite from looking through all answers with that status for every record."""

BY_CODE = "COLLATE BINARY"
AS_TEXT = "CAST(v.value AS TEXT)"
AS_NUMBER = "CASE WHEN v.type IN ('integer', 'real') THEN v.value END"
AS_STRING = "CASE WHEN v.type = 'text' THEN v.value END"
"""An element's value: whatever it is as text; only if it is a number; only if it is a text."""


def among(expression: str, values: str) -> str:
    return f"{expression} IN (SELECT value FROM json_each({values}))"


among_keys = among


def elements(column: str, where: str) -> str:
    """FROM-item `v` of what stands at a path in a JSON column: the elements of a list, else the one value."""
    return f"json_each({column}, {where}) v"


def text_of(record: str, name: str) -> str:
    """A text in the metadata of the record with that alias, else NULL."""
    return f"(CASE WHEN json_type({record}.metadata, '$.{name}') = 'text' THEN json_extract({record}.metadata, '$.{name}') END)"


def number_of(record: str, name: str) -> str:
    """Likewise a number."""
    return f"(CASE WHEN json_type({record}.metadata, '$.{name}') IN ('integer', 'real') THEN json_extract({record}.metadata, '$.{name}') END)"


def column(name: str) -> str:
    """A record's column, as it is compared and sorted."""
    return f"r.{name}"


def shuffle(record: str, seed: str) -> str:
    """A fixed pseudo-random order of records for each seed (see `pragmas`)."""
    return f"align_shuffle({record}.id, {seed})"


# words
# ------------------------------------------------------------------------------------------------------------------


def match(phrases: Sequence[Phrase]) -> list[str]:
    """The values to bind for "any of these phrases"; `found` and `scored` take their names.

    Each phrase is quoted, so that nothing in it is an operator; FTS5's own tokenizer finds the words in it.
    """
    return [" OR ".join('"' + p.words.replace('"', '""') + '"' + ("*" if p.prefix else "") for p in phrases)]


def found(names: Sequence[str], field_is: str) -> str:
    """Records that have any of the phrases, in any field or in the one that `field_is` says."""
    return f"SELECT t.record_id FROM align_fts JOIN align_text t ON t.id = align_fts.rowid WHERE align_fts MATCH {names[0]}{field_is}"


def scored(names: Sequence[str], field_is: str) -> str:
    """Likewise, with a score for each field: bm25."""
    return (
        "SELECT t.record_id, -align_fts.rank AS score FROM align_fts JOIN align_text t ON t.id = align_fts.rowid"
        f" WHERE align_fts MATCH {names[0]}{field_is}"
    )


# tables
# -----------------------------------------------------------------------------------------------------------------

_WORDS = """
    CASE f.type WHEN 'text' THEN f.value ELSE coalesce(
        (SELECT group_concat(leaf.atom, char(10)) FROM json_tree(f.value) leaf
         WHERE leaf.type = 'text' AND leaf.key IS NOT 'role'
         AND NOT (length(leaf.atom) > 256 AND leaf.atom NOT GLOB '*[^A-Za-z0-9+/=]*')), '') END"""
"""Of one field `f`: its text, or all texts inside a chat (without the roles) or a custom field, except what is
base64."""

_FIELDS = r"json_each(CASE WHEN json_valid(new.fields) THEN replace(new.fields, '\u0000', '\u0020') ELSE '{}' END) f"
"""A record's fields. A NUL (JSON escapes it) becomes a space, for SQLite would end the text there."""

_SEARCHABLE = """f.type IN ('text', 'array', 'object') AND NOT EXISTS (
    SELECT 1 FROM fields image WHERE image.dataset_id = new.dataset_id AND image.name = f.key
    AND json_extract(image.settings, '$.type') = 'image')"""

_ADD = f"""
    INSERT INTO align_text (record_id, field) SELECT new.id, f.key FROM {_FIELDS} WHERE {_SEARCHABLE};
    INSERT INTO align_fts (rowid, body) SELECT t.id, {_WORDS} FROM align_text t JOIN {_FIELDS} ON f.key = t.field
        WHERE t.record_id = new.id;"""

_REMOVE = """
    DELETE FROM align_fts WHERE rowid IN (SELECT id FROM align_text WHERE record_id = old.id);
    DELETE FROM align_text WHERE record_id = old.id;"""


def _note_answer(event: str) -> str:
    return f"""
    INSERT INTO align_unsent (event, response_id) SELECT '{event}', new.id WHERE EXISTS (
        SELECT 1 FROM webhooks w, json_each(w.events) e WHERE w.enabled AND e.value = '{event}');"""


_STATE = """CASE WHEN
    (SELECT count(*) FROM responses a WHERE a.record_id = records.id AND +a.status = 'submitted')
    >= (SELECT json_extract(d.distribution, '$.min_submitted') FROM datasets d WHERE d.id = records.dataset_id)
    THEN 'completed' ELSE 'pending' END"""
"""What a record's status should be. The plus keeps SQLite from looking through all submitted answers for every
record."""


def _follow(which: str) -> str:
    return (
        f"UPDATE records SET status = {_STATE}, updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')"
        f" WHERE {which} AND status IS NOT {_STATE};"
    )


_TRIGGERS = {
    "align_status_added": f"AFTER INSERT ON responses BEGIN {_follow('id = new.record_id')} END",
    "align_status_changed": f"AFTER UPDATE OF status ON responses BEGIN {_follow('id = new.record_id')} END",
    "align_status_removed": f"AFTER DELETE ON responses BEGIN {_follow('id = old.record_id')} END",
    "align_status_wanted": "AFTER UPDATE OF distribution ON datasets WHEN new.distribution IS NOT old.distribution"
    f" BEGIN {_follow('dataset_id = new.id')} END",
    "align_record_added": f"AFTER INSERT ON records BEGIN {_ADD} END",
    "align_record_changed": f"AFTER UPDATE OF fields ON records WHEN new.fields IS NOT old.fields BEGIN {_REMOVE} {_ADD} END",
    "align_record_removed": f"AFTER DELETE ON records BEGIN {_REMOVE} END",
    "align_answer_added": f"AFTER INSERT ON responses BEGIN {_note_answer('response.created')} END",
    "align_answer_changed": f"AFTER UPDATE ON responses BEGIN {_note_answer('response.updated')} END",
}

REMOVE = [*(f"DROP TRIGGER IF EXISTS {name}" for name in _TRIGGERS), "DROP INDEX IF EXISTS align_record_item"]
"""Taken away before Argilla's migrations, which copy tables and would leave these behind or break on them."""

_MAKE = [
    "CREATE TABLE IF NOT EXISTS align_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS align_unsent (id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, response_id CHAR(32) NOT NULL)",
    """CREATE TABLE IF NOT EXISTS align_outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL UNIQUE,
        webhook_id CHAR(32) NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
        event TEXT NOT NULL, timestamp TEXT NOT NULL, data TEXT NOT NULL,
        created REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS align_outbox_webhook ON align_outbox (webhook_id, id)",
    "DROP TABLE IF EXISTS align_fts",
    "DROP TABLE IF EXISTS align_text",
    "CREATE TABLE align_text (id INTEGER PRIMARY KEY, record_id CHAR(32) NOT NULL, field TEXT NOT NULL)",
    "CREATE INDEX align_text_record ON align_text (record_id)",
    "CREATE VIRTUAL TABLE align_fts USING fts5 (body, tokenize = 'unicode61 remove_diacritics 2')",
    f"INSERT INTO align_text (record_id, field) SELECT new.id, f.key FROM records new, {_FIELDS} WHERE {_SEARCHABLE}",
    f"INSERT INTO align_fts (rowid, body) SELECT t.id, {_WORDS} FROM align_text t JOIN records new ON new.id = t.record_id"
    f" JOIN {_FIELDS} ON f.key = t.field",
    f"CREATE INDEX align_record_item ON records (dataset_id, {text_of('records', 'item').replace('records.', '')})",
    _follow("1"),
    *(f"CREATE TRIGGER {name} {body}" for name, body in _TRIGGERS.items()),
]


def make(connection: "Connection") -> list[str]:
    """The statements that make our tables, index and triggers, all filled from what is there."""
    return _MAKE


SCRUB = ["INSERT INTO align_fts (align_fts) VALUES ('optimize')", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"]
"""Write the index of words without those of deleted records, the file without deleted rows, and empty the log of
both."""


def is_scrubbed(result: "CursorResult") -> bool:
    """Whether a statement of SCRUB was done: a checkpoint says whether somebody was in its way."""
    return not result.returns_rows or result.one()[0] == 0


def is_busy(error: BaseException) -> bool:
    """Whether a statement failed because others held what it needs, for as long as a connection waits for them."""
    return "locked" in str(error)
