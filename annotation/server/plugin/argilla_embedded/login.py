"""Passwords: tried seldom, and hashed beside the event loop, one at a time.

Argilla checks as many as anybody sends, each for a fifth of a second in which nobody else is answered. Here wrong ones
are counted by user and address together, by address, and by user; whoever has tried too often gets a 429 that says for
how long, and no password is looked at. Nobody at one address can keep a user out who comes from another.
"""

import asyncio
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from argilla_embedded.gate import client_address
from argilla_embedded.throttle import Throttle
from argilla_server.contexts import accounts
from argilla_server.models import User
from fastapi import HTTPException
from sqlalchemy.ext.asyncio import AsyncSession

USER_AT_ADDRESS = Throttle(burst=5, every=30.0)
ADDRESS = Throttle(burst=20, every=3.0)
USER = Throttle(burst=50, every=10.0)
WAITING = 16
"""How many passwords may wait to be hashed; four seconds' worth."""

_hasher = ThreadPoolExecutor(1, thread_name_prefix="passwords")  # bcrypt lets the loop go on meanwhile
_waiting = 0


class Hashed(str):
    """A password's hash where Argilla expects the password."""


def install() -> None:
    hash_password, create, update = accounts.hash_password, accounts.create_user, accounts.update_user

    async def create_user(db: AsyncSession, attributes: dict[str, Any], *more: Any, **named: Any) -> User:
        return await create(db, await _hashed(attributes, hash_password), *more, **named)

    async def update_user(db: AsyncSession, user: User, attributes: dict[str, Any]) -> User:
        return await update(db, user, await _hashed(attributes, hash_password))

    accounts.hash_password = lambda given: str(given) if isinstance(given, Hashed) else hash_password(given)
    accounts.create_user, accounts.update_user = create_user, update_user
    accounts.authenticate_user = authenticate


async def _hashed(attributes: dict[str, Any], hash_password: Any) -> dict[str, Any]:
    if "password" not in attributes:
        return attributes
    loop = asyncio.get_running_loop()
    return attributes | {"password": Hashed(await loop.run_in_executor(_hasher, hash_password, attributes["password"]))}


async def authenticate(db: AsyncSession, username: str, password: str) -> User | None:
    """The user of that name and password, or None. HTTPException 429 for whoever has tried too often."""
    address, now = client_address.get(), time.monotonic()
    tries = [(USER_AT_ADDRESS, (username, address)), (ADDRESS, address), (USER, username)]
    wait = max(throttle.wait(key, now) for throttle, key in tries)
    if wait > 0:
        raise _come_back(wait)
    if _waiting >= WAITING:
        raise _come_back(1.0)
    for throttle, key in tries:  # before the password is looked at, so that many at once count as many
        throttle.spend(key, now)
    user = await accounts.get_user_by_username(db, username)
    if not await _verified(password, user.password_hash if user else accounts._DUMMY_HASH) or user is None:
        return None
    USER_AT_ADDRESS.forgive((username, address))
    for throttle, key in tries[1:]:
        throttle.give_back(key)
    return user


async def _verified(password: str, password_hash: str) -> bool:
    global _waiting
    _waiting += 1
    try:
        loop = asyncio.get_running_loop()
        return bool(await loop.run_in_executor(_hasher, accounts.verify_password, password, password_hash))
    finally:
        _waiting -= 1


def _come_back(seconds: float) -> HTTPException:
    after = math.ceil(seconds)
    said = f"too many attempts to log in; try again in {after} s"
    return HTTPException(status_code=429, detail=said, headers={"Retry-After": str(after)})
