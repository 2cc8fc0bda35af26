"""One rule for the three servers that we call (Argilla, a judge's endpoint, vLLM): when a request is sent again, how
long to wait before, in which event loop, and whose certificates count."""

import asyncio
import functools
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

    import httpx

LATER = (408, 425, 429)
"""HTTP statuses, beside 5xx, that say to come back later; with these nothing was done."""
T = TypeVar("T")


def is_later(status: int) -> bool:
    """Whether a reply with this status may be another one soon."""
    return status >= 500 or status in LATER


class Backoff:
    """Seconds to wait before each further try: from `first`, doubled each time, up to `longest`; more where the server
    asks for it in Retry-After, up to `asked`."""

    def __init__(self, first: float, longest: float, asked: float) -> None:
        self._next, self._longest, self._asked = first, longest, asked

    def pause(self, reply: "httpx.Response | None") -> float:
        """Before the next try; `reply` is what came back on the last one, if anything did."""
        text = reply.headers.get("retry-after", "") if reply is not None else ""
        wanted = min(float(text), self._asked) if text.isascii() and text.isdecimal() else 0.0
        pause, self._next = max(self._next, wanted), min(2 * self._next, self._longest)
        return pause


def is_this_machine(url: str) -> bool:
    """Whether the host of `url` is loopback, for which no proxy is asked."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


@functools.cache
def certificates(trust_env: bool) -> "ssl.SSLContext":
    """Who is trusted as an https server, for a client's `verify`. httpx reads its list for each client again, which takes
    longer than most requests to this machine."""
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in an event loop of its own, also where the caller is in one (a notebook); Ctrl-C ends it at once."""
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(work)
        with ThreadPoolExecutor(1) as thread:
            try:
                return thread.submit(loop.run_until_complete, task).result()
            except BaseException:
                loop.call_soon_threadsafe(task.cancel)
                raise
    finally:
        loop.close()
