"""A proxy on loopback in front of a real server that does to requests what a function says: for tests of patience."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("refused", "delayed", "cut", "lost", "429", "500", "500 after it was done")
"""Hung up on before it is read; passed on late; the reply cut in the middle, or not sent at all; in its place an error."""
Fault = Callable[[str, str], str | None]


@dataclass
class FaultyProxy:
    url: str
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0


def some(share: float, seed: int) -> Fault:
    """Each kind as often as any other, on `share` of the requests."""
    drawn = random.Random(seed)
    return lambda method, path: drawn.choice(KINDS) if drawn.random() < share else None


@contextmanager
def faulty_proxy(target: str, fault: Fault) -> Iterator[FaultyProxy]:
    """`fault` gets method and path, one request at a time, and says one of KINDS or None."""
    address, lock = urlsplit(target).netloc, threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            with lock:
                kind = fault(self.command, self.path)
                proxy.requests += 1
                proxy.faults.update([kind] if kind else [])
            if kind == "refused":
                return self._hang_up()
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if kind == "delayed":
                time.sleep(0.3)
            if kind in ("429", "500"):
                return self._send(int(kind), b"{}")
            status, content = self._pass_on(body)
            if kind == "lost":
                return self._hang_up()
            if kind == "500 after it was done":
                return self._send(500, b"{}")
            self._send(status, content, cut=kind == "cut")

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - their names in http.server

        def _pass_on(self, body: bytes) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(address, timeout=60)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding")}
                connection.request(self.command, self.path, body, headers)
                reply = connection.getresponse()
                return reply.status, reply.read()
            except OSError:
                return 502, b"{}"
            finally:
                connection.close()

        def _send(self, status: int, content: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            if status != 204:
                self.send_header("content-length", str(len(content) + cut))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self._hang_up()

        def _hang_up(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.flush()
            self.connection.close()

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # a client that waits no longer, or a connection that we closed
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

        def log_message(self, *_: Any) -> None:
            pass

    class Web(ThreadingHTTPServer):
        daemon_threads = True

    with Web(("127.0.0.1", 0), Handler) as web:
        proxy = FaultyProxy(f"http://127.0.0.1:{web.server_port}")
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield proxy
        finally:
            web.shutdown()
