"""The owner, whose name, password and API key are among the secrets (see `home`), exists and can use that key."""

import logging
from pathlib import Path

from argilla_embedded.home import secrets_of
from argilla_server.contexts import accounts
from argilla_server.database import AsyncSessionLocal
from argilla_server.enums import UserRole
from argilla_server.models import User
from argilla_server.settings import settings

log = logging.getLogger("uvicorn.error")


async def ensure() -> None:
    secrets = secrets_of(Path(settings.home_path))
    name, key = secrets["username"], secrets["api_key"]
    async with AsyncSessionLocal() as db:
        user = await accounts.get_user_by_username(db, name)
        if user is not None and user.api_key == key:
            return
        password_hash = accounts.hash_password(secrets["password"])
        if user is None:
            await User.create(
                db, first_name=name, username=name, role=UserRole.owner, password_hash=password_hash, api_key=key
            )
            log.info("owner %s made", name)
        else:  # the file was made again beside an older database; whoever owns the folder owns the server
            await user.update(db, password_hash=password_hash, api_key=key)
            log.warning("owner %s now has the password and API key that are in its secrets now", name)
