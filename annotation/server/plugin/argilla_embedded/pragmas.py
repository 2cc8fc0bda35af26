"""How every connection to the database is set up.

WAL lets readers go on beside the one writer. `synchronous = FULL` makes a commit wait for the disk, so that an answer
which the server has confirmed outlives a power cut and not only a killed process.
"""

import hashlib
from typing import Any

from argilla_server.settings import settings
from sqlalchemy import event
from sqlalchemy.engine import Engine


def shuffle(record_id: str, seed: str) -> bytes:
    """A fixed pseudo-random key: the same for the same record and seed, unrelated between seeds."""
    return hashlib.blake2b(record_id.encode(), key=seed.encode()[:64], digest_size=8).digest()


@event.listens_for(Engine, "connect")
def _set_up(connection: Any, _record: Any) -> None:
    if settings.database_is_sqlite:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()
        connection.create_function("align_shuffle", 2, shuffle, deterministic=True)
