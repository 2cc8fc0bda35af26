"""A small HTTP server that speaks as an OpenAI-compatible endpoint does: each reply is what a function of the body says."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = str | int | tuple[int, str] | dict[str, Any] | None
"""Text of the model; an HTTP status; status and body; a whole body as JSON; None hangs up."""


@dataclass
class FakeJudge:
    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def fake_judge(reply: Callable[[dict[str, Any]], Answer]) -> Iterator[FakeJudge]:
    """`reply` gets the request's body; it is called for one request at a time."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                judge.bodies.append(body)
                judge.headers.append({name.lower(): value for name, value in self.headers.items()})
                answer = reply(body) if self.path == "/v1/chat/completions" else 404
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            status, text = _as_http(answer)
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            if status == 429:
                self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(text)

        def handle(self) -> None:
            with suppress(OSError):  # a client that waits no longer
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        judge = FakeJudge(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield judge
        finally:
            server.shutdown()
            thread.join()


def _as_http(answer: str | int | tuple[int, str] | dict[str, Any]) -> tuple[int, bytes]:
    if isinstance(answer, int):
        return answer, b"{}"
    if isinstance(answer, tuple):
        return answer[0], answer[1].encode()
    if isinstance(answer, str):
        answer = {"choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]}
    return 200, json.dumps(answer).encode()
