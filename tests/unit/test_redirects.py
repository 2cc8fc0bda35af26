"""No client of ours follows a redirect: the key that it carries is for one origin."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from align.chat import ask
from align.config.rewards import Endpoint
from align.errors import AlignError, ServiceError
from annotation import server
from annotation.argilla_api import Api
from annotation.argilla_backend import open_argilla
from annotation.server.api import call
from rollouts.server_client import Client

KEY = "a-key-of-the-owner"


@contextmanager
def origin(status: int, to: str = "") -> Iterator[tuple[str, list[str]]]:
    """Answers everything with `status`, a redirect with the address `to`; the requests that came, with their headers."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(f"{self.command} {self.path}\n{self.headers}")
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            if to:
                self.send_header("location", to + self.path)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - their names in http.server

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", seen
        listening.shutdown()


def api(url: str) -> object:
    with httpx.Client(base_url=url, headers={"X-Argilla-Api-Key": KEY}, trust_env=False) as client:
        return Api(client, url, 1.0).call("GET", "/me")


CLIENTS: dict[str, Callable[[str], object]] = {
    "a call to a server": lambda url: call(url, "/api/v1/users", key=KEY),
    "a change on a server": lambda url: call(url, "/api/v1/users", key=KEY, method="POST", body={}),
    "users": lambda url: server.list_users(url),
    "adding a user": lambda url: server.add_user(url, "kim"),
    "the backend's API": api,
    "the backend": lambda url: open_argilla(
        url, KEY, workspace="w", dataset="d", guidelines=None, overlap=1, patience=1.0
    ),
    "a judge": lambda url: ask(
        Endpoint(url=f"{url}/v1", model="m", key_env="ARGILLA_API_KEY"), [[{"role": "user", "content": "x"}]]
    ),
    "an engine": lambda url: Client(url, KEY, concurrency=1, timeout=5.0).models(),
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_key_stays_with_the_origin_that_it_is_for(client: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_KEY", KEY)
    with (
        origin(200) as (elsewhere, stolen),
        origin(status, elsewhere) as (url, seen),
        pytest.raises(AlignError) as caught,
    ):
        CLIENTS[client](url)
    assert stolen == [] and len(seen) == 1
    assert KEY not in str(caught.value) and url in str(caught.value)


def test_whoever_is_redirected_is_told_where_to() -> None:
    with origin(308, "https://label.example.org") as (url, _), pytest.raises(ServiceError) as caught:
        call(url, "/api/v1/me", key=KEY)
    assert str(caught.value) == (
        f"{url}: this address only points to another (https://label.example.org/api/v1/me), and the key is not sent "
        "there; give the address to which it points, if that is your Argilla"
    )
