"""Argilla's HTTP API with patience and one-sentence errors that never hold a key."""

import time
from typing import TYPE_CHECKING, Any

from align.errors import AlignError, ServiceError
from annotation.server.api import redirected

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries, doubling from the first to the longest."""


class Api:
    """Calls that are safe to repeat, repeated for `patience` seconds while the server is away or fails."""

    def __init__(self, client: "httpx.Client", url: str, patience: float) -> None:
        self._client, self.url, self._patience = client, url, patience

    def call(
        self, method: str, path: str, *, json: Any = None, key: str | None = None, conflict: bool = False, **params: Any
    ) -> Any:
        """The reply's JSON, None for an empty one. `key` acts as another user; `conflict` accepts "it exists" (→ None).

        Raises ServiceError.
        """
        headers = {"X-Argilla-Api-Key": key} if key else None
        until, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            reply, error = self._try(method, path, json=json, params=params or None, headers=headers)
            if reply is not None and reply.status_code < 500:
                break
            if time.monotonic() + pause > until:
                raise self._gone(reply, error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        if 300 <= reply.status_code < 400:
            raise redirected(self.url, reply.headers.get("location"))
        if reply.status_code == 409 and conflict:
            return None
        if reply.status_code >= 400:
            raise self._refused(method, path, reply)
        try:
            return reply.json() if reply.content else None
        except ValueError as error:
            raise not_argilla(self.url) from error

    def _try(self, method: str, path: str, **options: Any) -> "tuple[httpx.Response | None, Exception | None]":
        import httpx

        try:
            return self._client.request(method, f"/api/v1{path}", **options), None
        except httpx.TransportError as error:
            return None, error

    def _gone(self, reply: "httpx.Response | None", error: Exception | None) -> AlignError:
        if reply is None:
            return unreachable(self.url, error)
        return ServiceError(
            f"Argilla keeps failing (HTTP {reply.status_code})",
            where=self.url,
            hint="see the server's log, then run the same command again",
        )

    def _refused(self, method: str, path: str, reply: "httpx.Response") -> AlignError:
        if reply.status_code == 401:
            return wrong_key(self.url)
        if reply.status_code == 403:
            return ServiceError(
                f"the API key's user may not {method} {path}", where=self.url, hint="use the owner's API key"
            )
        # Replies about users may quote a password.
        said = "" if path.startswith("/users") else f": {reply.text[:300]}"
        return ServiceError(f"Argilla refused {method} {path} (HTTP {reply.status_code}){said}", where=self.url)


def unreachable(url: str, error: Exception | None) -> ServiceError:
    return ServiceError(
        f"Argilla does not answer ({type(error).__name__})",
        where=url,
        hint="start it (`align server start`), or check the address in annotate.server, then run the same command again",
    )


def wrong_key(url: str) -> ServiceError:
    return ServiceError("Argilla refuses the API key", where=url, hint="give the owner's key of this server")


def not_argilla(url: str) -> ServiceError:
    return ServiceError("what answers here is not Argilla", where=url, hint="check the address in annotate.server")
