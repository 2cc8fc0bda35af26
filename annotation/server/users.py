"""The people (and simulated annotators) who may log in: to the embedded server, or to an Argilla at some address."""

import os
import secrets
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from align.errors import ConfigError, ServiceError
from annotation.server.api import call
from annotation.server.server import credentials, running_url

ROLES = ("annotator", "admin", "owner")
PASSWORD_LENGTH = range(8, 101)


@dataclass(frozen=True, slots=True)
class User:
    id: str
    username: str
    role: str


@dataclass(frozen=True, slots=True)
class NewUser:
    """Shown once: the password is stored nowhere in the clear."""

    username: str
    role: str
    password: str
    api_key: str


Place = Path | str | None
"""A server: the home of an embedded one (None: the user's own), or an address, with the owner's key in
ARGILLA_API_KEY."""


def add_user(
    place: Place,
    username: str,
    role: str = "annotator",
    *,
    password: str | None = None,
    workspace: str | None = None,
) -> NewUser:
    """Make a user, with a random password unless one is given, and a member of `workspace` where one is named.

    Raises ConfigError for a role, name or password that cannot be, or a workspace that is not there; ServiceError
    where the server does not run or has that user already.
    """
    if role not in ROLES:
        raise ConfigError(f"there is no role {role!r}", hint=f"use one of {', '.join(ROLES)}")
    if not username.strip():
        raise ConfigError("the user's name is empty")
    if password is not None and len(password) not in PASSWORD_LENGTH:
        raise ConfigError(f"the password has {len(password)} characters", hint="it takes 8 to 100")
    url, key = _connect(place)
    if any(user.username == username for user in list_users(place)):
        raise ServiceError(
            f"there is a user {username!r} already", where=url, hint="choose another name, or remove that user first"
        )
    workspace_id = None if workspace is None else _workspace_id(url, key, workspace)
    password = password or secrets.token_urlsafe(12)
    body = {"username": username, "first_name": username.strip(), "role": role, "password": password}

    def found() -> dict[str, Any] | None:
        users: list[dict[str, Any]] = call(url, "/api/v1/users", key=key)["items"]
        return next((user for user in users if user["username"] == username), None)

    made = (
        call(url, "/api/v1/users", key=key, method="POST", body=body, done=lambda: found() is not None) or found()
    )  # None where the reply was lost and the user is there
    if made is None:
        raise ServiceError(f"Argilla lost the user {username!r} that was just made", where=url)
    if workspace_id:
        member = {"user_id": made["id"]}
        call(url, f"/api/v1/workspaces/{workspace_id}/users", key=key, method="POST", body=member, conflict=True)
    return NewUser(username, role, password, made["api_key"])


def list_users(place: Place) -> tuple[User, ...]:
    url, key = _connect(place)
    return tuple(User(u["id"], u["username"], u["role"]) for u in call(url, "/api/v1/users", key=key)["items"])


def remove_user(place: Place, username: str, *, with_answers: bool = False) -> int:
    """Remove a user; returns how many answers went with them.

    Argilla deletes a user's answers along with the user, so one who gave any is only removed `with_answers`.
    """
    url, key = _connect(place)
    if username == call(url, "/api/v1/me", key=key)["username"]:
        raise ConfigError(f"{username!r} is the owner by whom this server is run", hint="the owner stays")
    found = [user for user in list_users(place) if user.username == username]
    if not found:
        raise ConfigError(
            f"there is no user {username!r}", where=url, hint=f"see `align server users list{_place_as_option(place)}`"
        )
    answers = _count_answers(url, key, username)
    if answers and not with_answers:
        raise ServiceError(
            f"{username!r} gave {answers} answers, which would be deleted too",
            where=url,
            hint="collect them first, then say --with-answers",
        )
    call(url, f"/api/v1/users/{found[0].id}", key=key, method="DELETE")
    return answers


def _place_as_option(place: Place) -> str:
    return "" if place is None else f" {'--server' if isinstance(place, str) else '--home'} {shlex.quote(str(place))}"


def _connect(place: Place) -> tuple[str, str]:
    """The server's address and the owner's key."""
    if not isinstance(place, str):
        return running_url(place), credentials(place).api_key
    key = os.environ.get("ARGILLA_API_KEY")
    if not key:
        raise ConfigError("there is no API key", where=place, hint="set ARGILLA_API_KEY to the owner's key")
    return place.rstrip("/"), key


def _workspace_id(url: str, key: str, name: str) -> str:
    workspaces = call(url, "/api/v1/me/workspaces", key=key)["items"]
    for workspace in workspaces:
        if workspace["name"] == name:
            return str(workspace["id"])
    raise ConfigError(
        f"there is no workspace {name!r}",
        where=url,
        hint=f"there are: {', '.join(w['name'] for w in workspaces) or 'none'}",
    )


def _count_answers(url: str, key: str, username: str) -> int:
    total = 0
    for dataset in call(url, "/api/v1/me/datasets", key=key)["items"]:
        progress: list[dict[str, Any]] = call(url, f"/api/v1/datasets/{quote(dataset['id'])}/users/progress", key=key)[
            "users"
        ]
        mine = [p for p in progress if p["username"] == username]
        total += sum(
            count for p in mine for state in ("completed", "pending") for count in (p.get(state) or {}).values()
        )
    return total
