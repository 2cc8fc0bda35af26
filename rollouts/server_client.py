"""The few calls that we make to vLLM's OpenAI-compatible server: many at a time, patient, with errors for people."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from align.errors import AlignError, ConfigError, ServiceError, StageError
from align.http import Backoff, certificates, is_later, run_async

ATTEMPTS = 4
FIRST_PAUSE = 0.25
"""Seconds before the second attempt; each pause is twice the one before."""
LONGEST_PAUSE = 10.0
BROKEN = 500
"""What it says of a sample while its engine dies; of other calls it is a refusal."""
SAMPLE = "/v1/completions"
QUICK_SECONDS = 10.0
"""For calls that compute nothing."""


class Client:
    """Calls to the server at `url`; `key` is sent as its bearer token.

    `concurrency` bounds the requests in flight and `timeout` is the seconds that one may take. `diagnose` is asked when
    the server cannot be reached: what it returns is raised at once instead of trying again.
    """

    def __init__(
        self, url: str, key: str | None, *, concurrency: int, timeout: float, own: bool = False, key_name: str = "",
        diagnose: Callable[[], AlignError | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._url, self._concurrency, self._timeout, self._key_name = url.rstrip("/"), concurrency, timeout, key_name
        self._diagnose = diagnose
        self._options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "trust_env": not own,  # a proxy has no business between us and loopback
            "verify": certificates(not own),
            "limits": httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        }

    def healthy(self) -> bool:
        """Whether the server answers and its engine lives."""
        try:
            with httpx.Client(**self._options, timeout=QUICK_SECONDS) as http:
                return http.get(f"{self._url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """What is served: base models (without `parent`) and adapters, each with `id` and `root`."""
        found = self._one("GET", "/v1/models")
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise self._no_vllm("its list of models is none")
        return list(found["data"])

    def load_adapter(self, name: str, path: str) -> None:
        """Load the LoRA adapter in the folder `path`, which the server must see."""
        self._one("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        self._one("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def complete(self, orders: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The first choice of each completion asked for, in order. One that fails makes the others end too."""

        async def all_of_them() -> list[dict[str, Any]]:
            free = asyncio.Semaphore(self._concurrency)
            async with httpx.AsyncClient(**self._options, timeout=self._timeouts()) as http:

                async def one(order: dict[str, Any]) -> dict[str, Any]:
                    async with free:
                        return self._choice(await self._ask(http, "POST", SAMPLE, order))

                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(order)) for order in orders]
                return [task.result() for task in tasks]

        try:
            return run_async(all_of_them())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _timeouts(self) -> httpx.Timeout:
        return httpx.Timeout(self._timeout, connect=QUICK_SECONDS, pool=None)

    def _one(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        async def ask() -> Any:
            async with httpx.AsyncClient(**self._options, timeout=self._timeouts()) as http:
                return await self._ask(http, method, path, body)

        return run_async(ask())

    async def _ask(self, http: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None) -> Any:
        """The JSON (or text) that comes back. Requests have seeds of their own, so asking again changes nothing."""
        backoff, failure, answer = Backoff(FIRST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE), "", None
        for attempt in range(ATTEMPTS):
            if attempt:
                if (reason := self._diagnose()) is not None:
                    raise reason
                await asyncio.sleep(backoff.pause(answer))
                answer = None
            try:
                answer = await http.request(method, f"{self._url}{path}", json=body)
            except httpx.ReadTimeout:
                what = f"the server at {self._url} took more than {self._timeout:g} s for one request"
                raise ServiceError(
                    what, where="rollouts.server.timeout", hint="raise it, or lower concurrency"
                ) from None
            except httpx.TransportError as error:
                failure = f"cannot be reached ({str(error) or type(error).__name__})"
                continue
            if not is_later(answer.status_code) or (answer.status_code == BROKEN and path != SAMPLE):
                return self._content(answer, path)
            failure = f"fails (HTTP {answer.status_code}: {_said(answer)})"
        raise self._diagnose() or ServiceError(
            f"the server at {self._url} {failure}, {ATTEMPTS} times in a row", where="rollouts.server",
            hint="the same command goes on when it answers again",
        )  # fmt: skip

    def _content(self, answer: httpx.Response, path: str) -> Any:
        if answer.status_code == 200:
            return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text
        if answer.status_code in (401, 403):
            hint = f"put it into the environment variable {self._key_name}" if self._key_name else None
            raise ConfigError(f"the server at {self._url} does not accept our key", where="rollouts.server", hint=hint)
        if answer.status_code == 404 and path.endswith("_lora_adapter") and '"detail"' in answer.text:  # no such path
            raise ConfigError(
                f"the server at {self._url} lets nobody load adapters", where="rollouts.server",
                hint="start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora",
            )  # fmt: skip
        raise StageError(f"the server at {self._url} refuses {path} (HTTP {answer.status_code}): {_said(answer)}")

    def _choice(self, found: Any) -> dict[str, Any]:
        try:
            choice = dict(found["choices"][0])
        except (TypeError, KeyError, IndexError):
            raise self._no_vllm("its completion has no choice") from None
        if not isinstance(choice.get("token_ids"), list):
            raise self._no_vllm("it does not return token ids")
        return choice

    def _no_vllm(self, why: str) -> ConfigError:
        return ConfigError(
            f"at {self._url} there is no vLLM server that we can use: {why}", where="rollouts.server.url"
        )


def _said(answer: httpx.Response) -> str:
    """The server's own message, in one line."""
    try:
        found = answer.json()
        found = found.get("error", found)
        text = str(found.get("message", found) if isinstance(found, dict) else found)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:300]
