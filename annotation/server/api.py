"""Calls to the server's own API, without any library. Proxies of the environment are not for this machine itself."""

import json
import urllib.error
import urllib.request
from typing import Any

from align.errors import ServiceError

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
        raise ServiceError(f"Argilla refused {method} {path} ({error.code}: {_detail(error)})", where=url) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        ours = url.startswith("http://127.0.0.1:")
        hint = "see `align server status` and `align server logs`" if ours else "check the address"
        raise ServiceError(f"Argilla does not answer ({reason})", where=url, hint=hint) from error
    return json.loads(content) if content else None


def _detail(error: urllib.error.HTTPError) -> str:
    text = error.read().decode("utf-8", errors="replace")
    try:
        detail = json.loads(text)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = text
    return " ".join(str(detail).split())[:300]
