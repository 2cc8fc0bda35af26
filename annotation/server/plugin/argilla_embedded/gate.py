"""In front of Argilla: by which names the server may be asked, how much it may be sent, and from where a request comes.

A page of another site whose name is made to lead here (DNS rebinding) would be answered as if it were ours, so the
server answers to the names that it knows. What is sent is read into memory whole, so strangers may send little.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from argilla_server.contexts import accounts
from argilla_server.database import AsyncSessionLocal
from argilla_server.errors import UnauthorizedError
from argilla_server.security.authentication.jwt import JWT
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}
HOSTS_VARIABLE = "ALIGN_HOSTS"
"""More names, separated by commas: those of a proxy in front."""
OPEN, KNOWN = 64 * 2**10, 50 * 2**20
"""Bytes of a request's body: of anybody, and of somebody whose key or token is good."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

client_address: ContextVar[str] = ContextVar("client_address", default="")


class Gate:
    """ASGI middleware."""

    def __init__(self, app: Application) -> None:
        more = os.environ.get(HOSTS_VARIABLE, "").split(",")
        self._app, self._hosts = app, LOOPBACK | {name.strip().lower() for name in more if name.strip()}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if host_of(headers.get("host", "")) not in self._hosts:
            said = "this server does not answer to that name; `align server start --host NAME` makes it known"
            return await JSONResponse({"detail": said}, status_code=421)(scope, receive, send)
        client_address.set((scope.get("client") or ("", 0))[0])
        limit = OPEN
        if _may_be_large(headers) and await _is_known(headers):
            limit = KNOWN
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return await JSONResponse({"detail": _too_large(limit)}, status_code=413)(scope, receive, send)
        return await self._app(scope, _bounded(receive, limit), send)


def host_of(header: str) -> str:
    """The name without the port, in small letters.

    >>> host_of("Label.example.org:443"), host_of("[::1]:80"), host_of("")
    ('label.example.org', '[::1]', '')
    """
    name = header.strip().lower()
    end = name.rfind("]") if name.startswith("[") else -1
    colon = name.rfind(":")
    return name[:colon] if colon > end else name


def _may_be_large(headers: Headers) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdecimal() or int(length) > OPEN


async def _is_known(headers: Headers) -> bool:
    """Whether the key or token belongs to somebody, as Argilla will ask again later."""
    key, bearer = headers.get("x-argilla-api-key"), headers.get("authorization", "")
    async with AsyncSessionLocal() as db:
        if key:
            return await accounts.get_user_by_api_key(db, key) is not None
        kind, _, token = bearer.partition(" ")
        if kind.lower() != "bearer":
            return False
        try:
            name = JWT.decode(token).get("username")
        except UnauthorizedError:
            return False
        return await accounts.get_user_by_username(db, name) is not None


def _bounded(receive: Receive, limit: int) -> Receive:
    """`receive` that stops at `limit` bytes, for bodies that do not say their length."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(status_code=413, detail=_too_large(limit))
        return message

    return bounded


def _too_large(limit: int) -> str:
    return f"the request is larger than {limit} bytes" + (
        "; more is taken with a key or token that is good" if limit == OPEN else "; send it in parts"
    )
