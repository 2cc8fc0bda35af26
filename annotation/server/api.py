"""Calls to a server's own API by its address, with the patience of `annotation.argilla_api`."""

from collections.abc import Callable
from typing import Any

PATIENCE = 10.0
"""Seconds for a server that is away for a moment."""


def call(
    url: str,
    path: str,
    *,
    key: str | None = None,
    method: str = "GET",
    body: object = None,
    timeout: float = 30.0,
    patience: float = PATIENCE,
    conflict: bool = False,
    done: Callable[[], bool] | None = None,
) -> Any:
    """The JSON that `url + path` answers (None for an empty answer); ServiceError for anything but success.

    `conflict` and `done` as in `Api.call`.
    """
    from annotation.argilla_api import Api, open_client  # here, since httpx takes longer to import than --help

    with open_client(url, key, timeout) as client:
        return Api(client, url, patience).call(
            method, path.removeprefix("/api/v1"), json=body, conflict=conflict, done=done
        )
