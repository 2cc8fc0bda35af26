"""What vLLM's server is started with beside itself: no path without the key.

vLLM asks for the key under /v1 alone; /invocations, for one, samples without it. Runs inside the server, which imports
nothing else of ours.
"""

import os
import secrets
from typing import Any

OPEN = "/health"


class Guard:
    """ASGI middleware: 401 for every request without the key of the environment, but for `OPEN`."""

    def __init__(self, app: Any) -> None:
        self._app, self._expected = app, f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] != OPEN and not self._knows_the_key(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"Unauthorized"})
            return
        await self._app(scope, receive, send)

    def _knows_the_key(self, scope: Any) -> bool:
        return any(
            name == b"authorization" and secrets.compare_digest(value, self._expected)
            for name, value in scope["headers"]
        )
