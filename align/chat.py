"""Asks a model behind an OpenAI-compatible HTTP endpoint: patient, several requests at a time, and close with its key.
What comes back is bounded in time and size.

The key is read from the environment at each call. It goes into the Authorization header and nowhere else: not into an
error, a reason or a record's `repr`.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.config.rewards import Endpoint
from align.errors import ServiceError
from align.http import Backoff, certificates, is_later, run_async
from align.types import Message

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a request is sent again, doubling from the first to the longest; the endpoint's Retry-After counts up
to the longest."""
LARGEST = 4 << 20
"""Bytes of a reply that are read."""
SHOWN = 200
"""Characters of an endpoint's own words that are passed on."""
BUSY = 409
"""What some endpoints say when they come back later, beside the statuses of `align.http`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's text, whole; or None, and why there is none. `answered` says whether the endpoint answered at all."""

    text: str | None
    reason: str = ""
    answered: bool = True


def ask(
    endpoint: Endpoint, conversations: Sequence[list[Message]], schema: dict[str, Any] | None = None
) -> list[Reply]:
    """The model's reply to each conversation, in that order; with `schema` it is asked to be JSON of that schema.

    What fails for one conversation is a Reply without text. Raises ServiceError for what would fail for all: the key is
    refused, the model or path is unknown, or not one of them got an answer.
    """

    if not conversations:
        return []
    key = os.environ.get(endpoint.key_env)
    if key and not (key.isascii() and key.isprintable()):  # an error of the client's would show it
        raise ServiceError(f"the key in ${endpoint.key_env} cannot be one", where=endpoint.url, hint="it is one word")
    bodies = [_body(endpoint, messages, schema) for messages in conversations]
    replies = run_async(_all(endpoint, bodies, key))
    if not any(reply.answered for reply in replies):
        hint = "see whether it runs and the address is right; the same command goes on from here"
        raise ServiceError(f"the model does not answer ({replies[0].reason})", where=endpoint.url, hint=hint)
    return replies


async def _all(endpoint: Endpoint, bodies: list[dict[str, Any]], key: str | None) -> list[Reply]:
    import httpx

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    free = asyncio.Semaphore(endpoint.concurrency)

    async def one(body: dict[str, Any]) -> Reply:
        async with free:
            return await _one(client, endpoint, body, key)

    limits = httpx.Limits(max_connections=endpoint.concurrency)
    async with httpx.AsyncClient(
        base_url=endpoint.url, headers=headers, timeout=None, limits=limits, verify=certificates(True)
    ) as client:
        tasks = [asyncio.ensure_future(one(body)) for body in bodies]
        try:
            return await asyncio.gather(*tasks)
        finally:  # what fails for one fails for all, and nothing more is sent
            for task in tasks:
                task.cancel()


def _body(endpoint: Endpoint, messages: list[Message], schema: dict[str, Any] | None) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": messages,
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
    }
    if schema is not None:
        form = {"name": "verdict", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return {name: value for name, value in {**body, **endpoint.request}.items() if value is not None}


async def _one(client: "httpx.AsyncClient", endpoint: Endpoint, body: dict[str, Any], key: str | None) -> Reply:
    """One request, sent again as long as it may help."""
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE)
    for left in range(endpoint.retries, -1, -1):
        try:
            response, reason = await _send(client, body, endpoint.timeout)
        except OverflowError as error:
            return Reply(None, str(error))
        if response is not None and not is_later(response.status_code) and response.status_code != BUSY:
            return _read(response, endpoint, key)
        if left:
            await asyncio.sleep(backoff.pause(response))
    return Reply(None, f"no reply after {endpoint.retries + 1} tries: {reason}", answered=False)


async def _send(
    client: "httpx.AsyncClient", body: dict[str, Any], seconds: float
) -> "tuple[httpx.Response | None, str]":
    """The response, whole within `seconds` however it drips; else why there is none. OverflowError for more than
    LARGEST."""
    import httpx

    # json.dumps escapes what UTF-8 refuses, which httpx's own JSON does not; unpacked, a small reply may be a large one
    options: dict[str, Any] = {
        "content": json.dumps(body),
        "headers": {"content-type": "application/json", "accept-encoding": "identity"},
    }
    content = b""
    try:
        async with asyncio.timeout(seconds), client.stream("POST", "chat/completions", **options) as response:
            async for block in response.aiter_raw():
                content += block
                if len(content) > LARGEST:
                    raise OverflowError(f"the reply is larger than {LARGEST >> 20} MiB")
    except TimeoutError:
        return None, f"no reply within {seconds:g} s"
    except httpx.HTTPError as error:
        return None, type(error).__name__  # its message may hold anything
    return httpx.Response(
        response.status_code, headers=response.headers, content=content
    ), f"HTTP {response.status_code}"


def _read(response: "httpx.Response", endpoint: Endpoint, key: str | None) -> Reply:
    status = response.status_code
    if status in (401, 403):  # its words may quote the key
        state = "refuses the key in" if key else "wants a key, and none is in"
        raise ServiceError(f"the endpoint {state} ${endpoint.key_env} (HTTP {status})", where=endpoint.url)
    said = " ".join((response.text.replace(key, "…") if key else response.text).split())[:SHOWN]
    if status in (404, 405) or 300 <= status < 400:
        what = f"there is no model {endpoint.model!r} or no chat API here (HTTP {status}: {said})"
        raise ServiceError(what, where=endpoint.url, hint="the address ends before /chat/completions, as in …/v1")
    if status >= 400:
        return Reply(None, f"HTTP {status}: {said}")
    try:
        choice = response.json()["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return Reply(None, "what came back is no chat completion")
    if not isinstance(text, str) or not text.strip():
        return Reply(None, "the reply is empty")
    if finish == "length":
        return Reply(None, f"the reply was cut at max_tokens ({endpoint.max_tokens})")
    if finish == "content_filter":
        return Reply(None, "the endpoint's filter withheld the reply")
    return Reply(text)
