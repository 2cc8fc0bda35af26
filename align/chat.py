"""Asks a model behind an OpenAI-compatible HTTP endpoint: patient, several requests at a time, and close with its key.

The key is read from the environment at each call. It goes into the Authorization header and nowhere else: not into an
error, a reason or a record's `repr`.
"""

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.config.rewards import Endpoint
from align.errors import ServiceError
from align.types import Message

if TYPE_CHECKING:
    import httpx

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a request is sent again, doubling from the first to the longest; the endpoint's Retry-After counts up
to the longest."""
SHOWN = 200
"""Characters of an endpoint's own words that are passed on."""
LATER = (408, 409, 425, 429)
"""HTTP statuses, beside 5xx, that say to come back later."""


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
    import httpx

    if not conversations:
        return []
    key = os.environ.get(endpoint.key_env)
    if key and not (key.isascii() and key.isprintable()):  # an error of the client's would show it
        raise ServiceError(f"the key in ${endpoint.key_env} cannot be one", where=endpoint.url, hint="it is one word")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    bodies = [_body(endpoint, messages, schema) for messages in conversations]
    client = httpx.Client(base_url=endpoint.url, headers=headers, timeout=endpoint.timeout)
    with client, ThreadPoolExecutor(endpoint.concurrency) as pool:
        waiting = [pool.submit(_one, client, endpoint, body, key) for body in bodies]
        try:
            replies = [one.result() for one in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True, wait=False)
            raise
    if not any(reply.answered for reply in replies):
        hint = "see whether it runs and the address is right; the same command goes on from here"
        raise ServiceError(f"the model does not answer ({replies[0].reason})", where=endpoint.url, hint=hint)
    return replies


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


def _one(client: "httpx.Client", endpoint: Endpoint, body: dict[str, Any], key: str | None) -> Reply:
    """One request, sent again as long as it may help."""
    pause = FIRST_PAUSE
    for left in range(endpoint.retries, -1, -1):
        response, reason = _send(client, body)
        if response is not None and response.status_code < 500 and response.status_code not in LATER:
            return _read(response, endpoint, key)
        if left:
            asked = _retry_after(response)
            time.sleep(min(LONGEST_PAUSE, max(pause, asked)))
            pause = min(2 * pause, LONGEST_PAUSE)
    return Reply(None, f"no reply after {endpoint.retries + 1} tries: {reason}", answered=False)


def _send(client: "httpx.Client", body: dict[str, Any]) -> "tuple[httpx.Response | None, str]":
    import httpx

    try:
        # json.dumps escapes what UTF-8 refuses, which httpx's own JSON does not
        response = client.post(
            "chat/completions", content=json.dumps(body), headers={"content-type": "application/json"}
        )
    except httpx.HTTPError as error:
        return None, type(error).__name__  # its message may hold anything
    return response, f"HTTP {response.status_code}"


def _retry_after(response: "httpx.Response | None") -> float:
    """Seconds that the endpoint asks to wait for; 0 where it says nothing that is a number."""
    text = response.headers.get("retry-after", "") if response is not None else ""
    return float(text) if text.isdecimal() else 0.0


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
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Reply(None, "what came back is no chat completion")
    if not isinstance(text, str) or not text.strip():
        return Reply(None, "the reply is empty")
    if finish == "length":
        return Reply(None, f"the reply was cut at max_tokens ({endpoint.max_tokens})")
    if finish == "content_filter":
        return Reply(None, "the endpoint's filter withheld the reply")
    return Reply(text)
