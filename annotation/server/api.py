"""Calls to the server's own API, without any library. Proxies of the environment are not for this machine itself."""

import json
import urllib.error
import urllib.request
from typing import Any

from align.errors import ServiceError


class _Stay(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirect to any other origin, with the owner's key in its headers."""

    def redirect_request(self, *_: Any) -> None:
        return None  # and so the redirect itself is the answer, as an HTTPError


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def call(
    url: str, path: str, *, key: str | None = None, method: str = "GET", body: object = None, timeout: float = 30.0
) -> Any:
    """The JSON that `url + path` answers (None for an empty answer); ServiceError for anything but success."""
    headers = {"Content-Type": "application/json"} | ({"X-Argilla-Api-Key": key} if key else {})
    request = urllib.request.Request(
        url + path, method=method, headers=headers, data=None if body is None else json.dumps(body).encode()
    )
    try:
        with _opener.open(request, timeout=timeout) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            raise redirected(url, error.headers.get("Location")) from error
        raise ServiceError(f"Argilla refused {method} {path} ({error.code}: {_detail(error)})", where=url) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        ours = url.startswith("http://127.0.0.1:")
        hint = "see `align server status` and `align server logs`" if ours else "check the address"
        raise ServiceError(f"Argilla does not answer ({reason})", where=url, hint=hint) from error
    return json.loads(content) if content else None


def redirected(url: str, to: str | None) -> ServiceError:
    """For a server that points elsewhere: the key goes there only if a person says so."""
    return ServiceError(
        f"this address only points to another ({(to or 'it does not say which')[:200]}), and the key is not sent there",
        where=url,
        hint="give the address to which it points, if that is your Argilla",
    )


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read().decode("utf-8", errors="replace")
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = text
    return " ".join(str(detail).split())[:300]
