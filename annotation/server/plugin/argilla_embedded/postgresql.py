"""What our SQL looks like on PostgreSQL: JSON as JSONB, words as tsvector, ids as UUID. See `dialect`.

Functions of ours are in plain SQL and PL/pgSQL and need no extension and no superuser. `align_jsonb` exists because
Argilla's columns are of type JSON, which keeps a NUL or half a surrogate pair that JSONB refuses.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from argilla_embedded.text import Phrase

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, CursorResult

# values as they are bound ---------------------------------------------------------------------------------------------


def key(value: object) -> UUID:
    return UUID(str(value))


def items(values: Iterable[object]) -> list[str]:
    """A list of texts; what the database cannot hold is replaced as `align_jsonb` does."""
    return [str(value).replace("\0", "\ufffd").encode(errors="replace").decode() for value in values]


def keys(values: Iterable[object]) -> list[object]:
    return list(values)


def path(names: Sequence[str]) -> list[str]:
    return list(names)


def moment(time: datetime) -> datetime:
    return time


# pieces of SQL
# ----------------------------------------------------------------------------------------------------------

ANSWER_STATUS = "CAST(a.status AS text)"
BY_CODE = 'COLLATE "C"'
"""Texts are sorted by code point, whatever language the database was made for."""

AS_TEXT = f"(v.value #>> '{{}}') {BY_CODE}"
AS_NUMBER = "CASE WHEN jsonb_typeof(v.value) = 'number' THEN CAST(v.value #>> '{}' AS numeric) END"
AS_STRING = f"(CASE WHEN jsonb_typeof(v.value) = 'string' THEN v.value #>> '{{}}' END) {BY_CODE}"


def among(expression: str, values: str) -> str:
    return f"{expression} = ANY (CAST({values} AS text[]))"


def among_keys(expression: str, values: str) -> str:
    return f"{expression} = ANY (CAST({values} AS uuid[]))"


def elements(column: str, where: str) -> str:
    return f"LATERAL align_elements(align_jsonb({column}) #> CAST({where} AS text[])) v (value)"


def text_of(record: str, name: str) -> str:
    """Cut, for an index entry holds less than 3 kB; ids are shorter."""
    return f"left(align_jsonb({record}.metadata) ->> '{name}', 200)"


def number_of(record: str, name: str) -> str:
    metadata = f"align_jsonb({record}.metadata)"
    return (
        f"(CASE WHEN jsonb_typeof({metadata} -> '{name}') = 'number' THEN CAST({metadata} ->> '{name}' AS numeric) END)"
    )


def column(name: str) -> str:
    return {"external_id": f"r.external_id {BY_CODE}", "status": f"CAST(r.status AS text) {BY_CODE}"}.get(
        name, f"r.{name}"
    )


def shuffle(record: str, seed: str) -> str:
    return f"md5(CAST({record}.id AS text) || CAST(CAST({seed} AS uuid) AS text))"


# words
# ------------------------------------------------------------------------------------------------------------------


def match(phrases: Sequence[Phrase]) -> list[str]:
    """One value for each phrase; a beginning ends in `*`, which is no part of any word."""
    return items(p.words.replace("*", " ") + ("*" if p.prefix else "") for p in phrases)


def _any_of(names: Sequence[str]) -> str:
    return "(" + " || ".join(f"coalesce(align_tsquery({name}), '')" for name in names) + ")"


def found(names: Sequence[str], field_is: str) -> str:
    return f"SELECT t.record_id FROM align_text t WHERE t.body @@ {_any_of(names)}{field_is}"


def scored(names: Sequence[str], field_is: str) -> str:
    """With a score for each field: ts_rank, where a long field's words weigh less."""
    query = _any_of(names)
    return (
        f"SELECT t.record_id, ts_rank(t.body, {query}, 1) AS score FROM align_text t WHERE t.body @@ {query}{field_is}"
    )


# tables
# -----------------------------------------------------------------------------------------------------------------

_FUNCTIONS = [
    r"""CREATE OR REPLACE FUNCTION align_jsonb(value json) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
        SELECT CASE WHEN strpos(CAST(value AS text), '\u') = 0 THEN CAST(value AS jsonb) ELSE CAST(regexp_replace(
            regexp_replace(CAST(value AS text), '\\u0000|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])', '\\ufffd', 'g'),
            '(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}', '\\ufffd', 'g') AS jsonb) END $body$""",
    """CREATE OR REPLACE FUNCTION align_elements(value jsonb) RETURNS SETOF jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
        SELECT e FROM jsonb_array_elements(
            CASE jsonb_typeof(value) WHEN 'array' THEN value ELSE jsonb_build_array(value) END) e
        WHERE value IS NOT NULL $body$""",
    # the words of a text: without accents and case, and nothing but letters and digits
    """CREATE OR REPLACE FUNCTION align_words(value text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
        SELECT array_remove(regexp_split_to_array(lower(
            regexp_replace(normalize(left(value, 200000), NFD), '[\u0300-\u036f]', '', 'g') COLLATE "{collation}"),
            '[^[:alnum:]]+'), '') $body$""",
    # a tsvector takes 16,383 positions, words of 2 kB and 1 MB in all; more must not make a record fail
    """CREATE OR REPLACE FUNCTION align_tsvector(value text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
        SELECT CAST(coalesce(string_agg('''' || left(word, 255) || ''':' || n, ' '), '') AS tsvector)
        FROM unnest(align_words(value)) WITH ORDINALITY w (word, n) WHERE n <= 16383 $body$""",
    """CREATE OR REPLACE FUNCTION align_tsquery(value text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
        SELECT CAST(string_agg('''' || left(word, 255) || '''', ' <-> ' ORDER BY n)
            || CASE WHEN right(value, 1) = '*' THEN ':*' ELSE '' END AS tsquery)
        FROM unnest(align_words(value)) WITH ORDINALITY w (word, n) $body$""",
    # all texts inside a chat (without the roles) or a custom field, except what is base64
    """CREATE OR REPLACE FUNCTION align_leaves(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $body$
        WITH RECURSIVE leaf (name, value) AS (
            SELECT CAST(NULL AS text), value
            UNION ALL
            SELECT child.name, child.value FROM leaf, LATERAL (
                SELECT CAST(NULL AS text) AS name, e AS value FROM jsonb_array_elements(
                    CASE WHEN jsonb_typeof(leaf.value) = 'array' THEN leaf.value ELSE '[]' END) e
                UNION ALL
                SELECT p.key, p.value FROM jsonb_each(
                    CASE WHEN jsonb_typeof(leaf.value) = 'object' THEN leaf.value ELSE '{}' END) p) child)
        SELECT string_agg(leaf.value #>> '{}', chr(10)) FROM leaf
        WHERE jsonb_typeof(leaf.value) = 'string' AND name IS DISTINCT FROM 'role'
        AND NOT (length(leaf.value #>> '{}') > 256 AND (leaf.value #>> '{}') !~ '[^A-Za-z0-9+/=]') $body$""",
]

_ROWS = """
    SELECT r.id, f.key, align_tsvector(coalesce(align_leaves(f.value), ''))
    FROM {records} r, LATERAL jsonb_each(
        CASE WHEN jsonb_typeof(align_jsonb(r.fields)) = 'object' THEN align_jsonb(r.fields) ELSE '{{}}' END) f
    WHERE jsonb_typeof(f.value) IN ('string', 'array', 'object') AND NOT EXISTS (
        SELECT 1 FROM fields image WHERE image.dataset_id = r.dataset_id AND image.name = f.key
        AND image.settings ->> 'type' = 'image')"""


def _function(name: str, body: str) -> str:
    return f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN {body} RETURN NULL; END $body$"


def _note_answer(event: str) -> str:
    return _function(
        f"align_note_{event.partition('.')[2]}",
        f"""INSERT INTO align_unsent (event, response_id) SELECT '{event}', new.id WHERE EXISTS (
            SELECT 1 FROM webhooks w WHERE w.enabled AND CAST(w.events AS jsonb) @> '["{event}"]');""",
    )


_STATE = """CAST(CASE WHEN
    (SELECT count(*) FROM responses a WHERE a.record_id = r.id AND a.status = 'submitted')
    >= (SELECT CAST(d.distribution ->> 'min_submitted' AS integer) FROM datasets d WHERE d.id = r.dataset_id)
    THEN 'completed' ELSE 'pending' END AS record_status_enum)"""


def _follow(which: str) -> str:
    return (
        f"UPDATE records r SET status = {_STATE}, updated_at = timezone('utc', clock_timestamp())"
        f" WHERE {which} AND r.status IS DISTINCT FROM {_STATE};"
    )


def _follow_answer(row: str) -> str:
    """Two answers to one record at once would each miss the other, so they wait for each other: first at the dataset,
    which Argilla's own transaction changes next anyway, and always in this order, so that nobody waits in a circle."""
    return f"""
        PERFORM 1 FROM datasets d JOIN records r ON r.dataset_id = d.id WHERE r.id = {row}.record_id FOR NO KEY UPDATE OF d;
        PERFORM 1 FROM records r WHERE r.id = {row}.record_id FOR NO KEY UPDATE;
        {_follow(f"r.id = {row}.record_id")}"""


_TRIGGERS = {
    "align_status_added": "AFTER INSERT ON responses FOR EACH ROW EXECUTE FUNCTION align_status_given()",
    "align_status_changed": "AFTER UPDATE OF status ON responses FOR EACH ROW EXECUTE FUNCTION align_status_given()",
    "align_status_removed": "AFTER DELETE ON responses FOR EACH ROW EXECUTE FUNCTION align_status_removed()",
    "align_status_wanted": "AFTER UPDATE OF distribution ON datasets FOR EACH ROW WHEN (CAST(new.distribution AS text)"
    " IS DISTINCT FROM CAST(old.distribution AS text)) EXECUTE FUNCTION align_status_wanted()",
    "align_record_added": "AFTER INSERT ON records REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION align_record_added()",
    "align_record_changed": "AFTER UPDATE OF fields ON records FOR EACH ROW"
    " WHEN (CAST(new.fields AS text) IS DISTINCT FROM CAST(old.fields AS text)) EXECUTE FUNCTION align_record_changed()",
    "align_answer_added": "AFTER INSERT ON responses FOR EACH ROW EXECUTE FUNCTION align_note_created()",
    "align_answer_changed": "AFTER UPDATE ON responses FOR EACH ROW EXECUTE FUNCTION align_note_updated()",
}

REMOVE = [
    *(f"DROP TRIGGER IF EXISTS {name} ON {re.search(r' ON ([a-z]+)', body)[1]}" for name, body in _TRIGGERS.items()),
    "DROP INDEX IF EXISTS align_record_item",
]

_MAKE = [
    *_FUNCTIONS,
    "CREATE TABLE IF NOT EXISTS align_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS align_unsent (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event TEXT NOT NULL, response_id UUID NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS align_outbox (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, message_id TEXT NOT NULL UNIQUE,
        webhook_id UUID NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
        event TEXT NOT NULL, timestamp TEXT NOT NULL, data TEXT NOT NULL,
        created DOUBLE PRECISION NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due DOUBLE PRECISION NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS align_outbox_webhook ON align_outbox (webhook_id, id)",
    "DROP TABLE IF EXISTS align_text",
    """CREATE TABLE align_text (record_id UUID NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        field TEXT NOT NULL, body tsvector NOT NULL, PRIMARY KEY (record_id, field))""",
    f"INSERT INTO align_text {_ROWS.format(records='records')}",
    "CREATE INDEX align_text_body ON align_text USING gin (body)",
    f"CREATE INDEX align_record_item ON records (dataset_id, {text_of('records', 'item').replace('records.', '')})",
    _function("align_record_added", f"INSERT INTO align_text {_ROWS.format(records='added')};"),
    _function(
        "align_record_changed",
        f"DELETE FROM align_text WHERE record_id = new.id; INSERT INTO align_text {_ROWS.format(records='(SELECT new.id, new.dataset_id, new.fields)')};",
    ),
    _function("align_status_given", _follow_answer("new")),
    _function("align_status_removed", _follow_answer("old")),
    _function("align_status_wanted", _follow("r.dataset_id = new.id")),
    _follow("TRUE"),
    _note_answer("response.created"),
    _note_answer("response.updated"),
    *(f"CREATE TRIGGER {name} {body}" for name, body in _TRIGGERS.items()),
]


def make(connection: "Connection") -> list[str]:
    """The statements that make our tables, index, functions and triggers, filled from what is there.

    Case and letters are Unicode's where the server has ICU, whatever language the database was made for.
    """
    if connection.exec_driver_sql("SHOW server_encoding").scalar() != "UTF8":
        raise RuntimeError("the PostgreSQL database is not in UTF-8; make one with ENCODING 'UTF8'")
    unicode = connection.exec_driver_sql("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'").scalar()
    return [statement.replace("{collation}", "und-x-icu" if unicode else "default") for statement in _MAKE]


SCRUB = [
    "ALTER TABLE align_outbox ALTER COLUMN data TYPE text",  # which drops what the planner's statistics keep of it
    *(
        f"VACUUM (FULL, ANALYZE) {table}"
        for table in ("responses", "suggestions", "records", "align_text", "align_outbox")
    ),
]
"""Write the tables' files without deleted rows, and their statistics again."""


def is_scrubbed(result: "CursorResult") -> bool:
    """A statement of SCRUB waits for those who are in its way."""
    return True


_LOCK_NOT_AVAILABLE, _DEADLOCK = "55P03", "40P01"


def is_busy(error: BaseException) -> bool:
    """Whether a statement failed because others held what it needs: for longer than a `lock_timeout` of the database's
    allows, or in a circle."""
    return getattr(error, "sqlstate", None) in (_LOCK_NOT_AVAILABLE, _DEADLOCK)
