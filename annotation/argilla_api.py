"""Argilla's HTTP API with patience and one-sentence errors that never hold a key.

One rule for every call. What certainly did nothing (no connection, "too many requests") is sent again. What may have
been done, its reply lost or a server's error in its place, is sent again where doing it twice is doing it once:
reading, replacing, deleting, and making what has a name of its own, where a conflict then says that it is there. A
second try that is refused because the first one succeeded is told from a real refusal by reading back.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from align.errors import AlignError, ServiceError
from align.http import LATER, Backoff, certificates, is_later, is_this_machine

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two tries, doubling from the first to the longest."""
LONGEST_ASKED = 10.0
"""Seconds that a server's Retry-After may ask for."""
FIRST_CONTACT = 5.0
"""Seconds for a server that has not answered yet: its address may be wrong."""
TRIES = 4
"""At least so many where something answers, or hangs up, however long each takes."""
TIMEOUT, CONNECT_TIMEOUT = 60.0, 10.0
BULK = "/bulk"
"""Ends the addresses under which Argilla adds what is missing and replaces what is there."""


class Refused(ServiceError):  # noqa: N818 - a sentence for people, as all of them
    """The server understood, and will not."""


@dataclass
class Tries:
    """How one call went so far. `lost`: an earlier try may have been done without our knowing."""

    until: float
    count: int = 0
    lost: bool = False
    revived: bool = False
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE, LONGEST_ASKED))


class Api:
    """Calls of one server, each repeated for up to `patience` seconds while it is away or fails.

    `revive` is called where nothing listens at its address: it may start the server again, and says whether it did.
    """

    def __init__(
        self, client: "httpx.Client", url: str, patience: float, revive: Callable[[], bool] = lambda: False
    ) -> None:
        self._client, self.url, self._patience, self._revive = client, url, patience, revive
        self._heard = False

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        key: str | None = None,
        conflict: bool = False,
        done: Callable[[], bool] | None = None,
        timeout: float = TIMEOUT,
        **params: Any,
    ) -> Any:
        """The reply's JSON, None for an empty one. `key` acts as another user; `conflict` accepts "it exists" (→ None);
        `timeout` are seconds for one reply where it takes longer than other calls.

        `done` reads back whether an earlier try, whose reply was lost, succeeded (→ None). Raises ServiceError.
        """
        headers = {"X-Argilla-Api-Key": key} if key else None
        tries = Tries(time.monotonic() + (self._patience if self._heard else min(self._patience, FIRST_CONTACT)))
        again = method != "POST" or conflict or done is not None or path.endswith(BULK)
        while True:
            longer = {"timeout": timeout} if timeout > TIMEOUT else {}
            reply, error = self._try(method, path, json=json, params=params or None, headers=headers, **longer)
            if reply is not None and not is_later(reply.status_code):
                break
            self._come_back(tries, reply, error, again=again, what=f"{method} {path}")
        if reply.status_code == 409 and conflict:
            return None
        if tries.lost and (
            (reply.status_code == 404 and method == "DELETE") or (reply.status_code in (409, 422) and done and done())
        ):
            return None
        return self._content(method, path, reply)

    def _try(self, method: str, path: str, **options: Any) -> "tuple[httpx.Response | None, Exception | None]":
        import httpx

        try:
            reply = self._client.request(method, f"/api/v1{path}", **options)
        except httpx.TransportError as error:
            return None, error
        self._heard = True
        return reply, None

    def _come_back(
        self, tries: Tries, reply: "httpx.Response | None", error: Exception | None, *, again: bool, what: str
    ) -> None:
        """Wait for the next try, or raise where there is none."""
        import httpx

        tries.count += 1
        unsent = isinstance(
            error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
        )
        if isinstance(error, httpx.ConnectError) and self._heard and not tries.revived:
            tries.revived = True
            if self._revive():
                return
        if not unsent and not (reply is not None and reply.status_code in LATER):
            tries.lost = True
            if not again:
                raise ServiceError(f"whether Argilla did {what} is not known: its reply was lost", where=self.url)
        pause = tries.backoff.pause(reply)
        if time.monotonic() + pause > tries.until and (unsent or tries.count >= TRIES or not self._heard):
            raise self._gone(reply, error)
        time.sleep(pause)

    def _content(self, method: str, path: str, reply: "httpx.Response") -> Any:
        if 300 <= reply.status_code < 400:
            raise redirected(self.url, reply.headers.get("location"))
        if reply.status_code >= 400:
            raise self._refused(method, path, reply)
        try:
            return reply.json() if reply.content else None
        except (ValueError, RecursionError) as error:
            raise not_argilla(self.url) from error

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
            return Refused(
                f"the API key's user may not {method} {path}", where=self.url, hint="use the owner's API key"
            )
        # Replies about users may quote a password.
        said = "" if path.startswith("/users") else f": {reply.text[:300]}"
        return Refused(f"Argilla refused {method} {path} (HTTP {reply.status_code}){said}", where=self.url)


def open_client(url: str, key: str | None, timeout: float = TIMEOUT) -> "httpx.Client":
    """A client of the server at `url`, to which alone it sends the key: redirects are not followed. Proxies of the
    environment are not for this machine itself. ServiceError for what is no address."""
    import httpx

    trust_env = not is_this_machine(url)
    try:
        return httpx.Client(
            base_url=url,
            headers={"X-Argilla-Api-Key": key} if key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            trust_env=trust_env,
            verify=certificates(trust_env),
        )
    except (httpx.InvalidURL, ValueError) as error:  # a key with letters that no header takes, too
        raise ServiceError("this is no address of an Argilla, or the key is none", where=url) from error


def connect(
    url: str, api_key: str, patience: float, oldest: tuple[int, int], revive: Callable[[], bool] = lambda: False
) -> Api:
    """The API of the Argilla at `url`, as its owner. ServiceError where that is no Argilla, one before `oldest` (major
    and minor version) or of another major version, or where the key is not an owner's."""
    client = open_client(url, api_key)
    api = Api(client, url, patience, revive)
    try:
        version = str(api.call("GET", "/version")["version"])
        major, minor = (int(part) for part in version.split(".")[:2])
    except (ValueError, KeyError, TypeError) as error:
        raise not_argilla(url) from error
    if (major, minor) < oldest or major > oldest[0]:
        needed = ".".join(map(str, oldest))
        raise ServiceError(f"this is Argilla {version}", where=url, hint=f"{needed} or a later {oldest[0]}.x is needed")
    me = api.call("GET", "/me")
    if me["role"] != "owner":
        raise ServiceError(
            f"the API key belongs to {me['username']!r}, who is not an owner",
            where=url,
            hint="give the owner's key of this server",
        )
    return api


def unreachable(url: str, error: Exception | None) -> ServiceError:
    ours = "start it (`align server start`; `align server status` and `align server logs` say more), or "
    hint = f"{ours if is_this_machine(url) else ''}check the address, then run the same command again"
    return ServiceError(f"Argilla does not answer ({type(error).__name__})", where=url, hint=hint)


def redirected(url: str, to: str | None) -> ServiceError:
    """For a server that points elsewhere: the key goes there only if a person says so."""
    return ServiceError(
        f"this address only points to another ({(to or 'it does not say which')[:200]}), and the key is not sent there",
        where=url,
        hint="give the address to which it points, if that is your Argilla",
    )


def wrong_key(url: str) -> ServiceError:
    return ServiceError("Argilla refuses the API key", where=url, hint="give the owner's key of this server")


def not_argilla(url: str) -> ServiceError:
    return ServiceError("what answers here is not Argilla", where=url, hint="check the address in annotate.server")
