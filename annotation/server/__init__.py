"""The real Argilla server, in an environment of its own: no Docker, no Elasticsearch, no Redis.

`install` makes the environment, `start`, `stop`, `status` and `logs` run the server, `credentials` says how to log in,
`add_user`, `list_users` and `remove_user` look after people. `plugin/` is what runs inside Argilla's own interpreter.
"""

from annotation.server.installation import environment, install
from annotation.server.server import (
    Credentials,
    DatasetProgress,
    ServerInfo,
    ServerStatus,
    credentials,
    default_home,
    has_server,
    logs,
    require_server,
    revive,
    start,
    status,
    stop,
)
from annotation.server.users import NewUser, User, add_user, list_users, remove_user

__all__ = [
    "Credentials",
    "DatasetProgress",
    "NewUser",
    "ServerInfo",
    "ServerStatus",
    "User",
    "add_user",
    "credentials",
    "default_home",
    "environment",
    "has_server",
    "install",
    "list_users",
    "logs",
    "remove_user",
    "require_server",
    "revive",
    "start",
    "status",
    "stop",
]
