"""vLLM's OpenAI-compatible server: started by us, or one that is running.

A server of ours goes on from round to round: under LoRA the new round's adapter is loaded while it runs. Where that
cannot be, because all weights were trained or the adapters outgrow `max_lora_rank`, it starts again and says why.
"""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from align.config.base import Sampling
from align.config.rollouts import Cpu, Engine, Server
from align.errors import AlignError, ConfigError, ServiceError, StageError
from align.ids import seed_for
from align.python import python_module
from rollouts import server_process
from rollouts.adapters import adapter_id, one_adapter
from rollouts.engine import Completion, Request, context_length, resolve_engine
from rollouts.handover import adapters_until, handover, model_print
from rollouts.server_client import Client

MODEL = "policy"
"""What a server of ours calls the model that it was begun with."""
PORT_TAKEN = "address already in use"
DYING_SECONDS = 10.0
STARTS = 3
"""How often a server is begun whose port another process has taken in the meantime."""
_numbers = itertools.count()


class ServerEndedError(StageError):
    """A server of ours is gone."""


class ServerGenerator:
    """`rollouts.Generator` over HTTP. `threads` are those of a server of ours; None leaves them to vLLM.

    `ancestors` are the checkpoints that `checkpoint` was trained from, the nearest first. Inside
    `server_process.kept_server` the server stays for the next one, else it ends with `close`. A server of ours that
    dies is started again, `engine.retries` times for one call, and does the call's requests again.
    """

    def __init__(
        self,
        checkpoint: Path,
        stops: Sequence[int],
        engine: Engine,
        *,
        dtype: str,
        max_tokens_total: int,
        threads: int | None,
        ancestors: Sequence[Path] = (),
    ) -> None:
        self._checkpoint, self._ancestors, self._stops = checkpoint, list(ancestors), list(stops)
        self._options, self._retries, self._stack = engine.server or Server(), engine.retries, ExitStack()
        self._wanted: dict[str, Any] = {
            "model": model_print(checkpoint), "tokens": max_tokens_total, "dtype": dtype, "threads": threads,
            "cpu": engine.cpu.model_dump() if engine.cpu else None, "max_lora_rank": self._options.max_lora_rank,
            "gpu_share": self._options.gpu_share,
        }  # fmt: skip
        try:
            if self._options.url is None:
                resolve_engine("vllm")  # it has to be installed here
                kept = server_process.kept_home()
                self._home = kept or self._stack.enter_context(server_process.new_home())
                self._begin()
            else:
                self._join(self._options.url)
        except BaseException:
            self.close()
            raise

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        wanted = [
            {"prompt": request.token_ids, "seed": seed_for(seed, request.prompt_id, sample)}
            for request in requests
            for sample in range(samples)
        ]
        for attempt in itertools.count():
            try:
                choices = self._client.complete([{**self._order(sampling), **one} for one in wanted])
                break
            except ServerEndedError as end:
                if attempt == self._retries:
                    raise
                _say(f"starts again, for it ended: {end.what}")
                server_process.stop(self._home)
                self._begin()
        done = [_completion(choice, sampling.logprobs) for choice in choices]
        _require_our_limit(done, sampling.max_tokens)
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _order(self, sampling: Sampling) -> dict[str, Any]:
        """What all requests of a call have in common; said in full, for a running server has defaults of its own."""
        return {
            "model": self._model, "max_tokens": sampling.max_tokens, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0, "stop_token_ids": self._stops, "return_token_ids": True,
            "cache_salt": os.urandom(8).hex(),  # no prefix from a call before, or of other weights
            **({"logprobs": 0, "return_tokens_as_token_ids": True} if sampling.logprobs else {}),
        }  # fmt: skip

    def close(self) -> None:
        """Unload the adapter; end the server if nobody keeps it."""
        self._stack.close()

    def _begin(self) -> None:
        """Hand the checkpoint over to the server that runs in our home, or start one."""
        server = server_process.running(self._home)
        restart = None
        if server is not None:
            step = handover(server.serves, self._wanted, self._checkpoint, self._ancestors)
            restart = step.restart
            if restart is None:
                self._client = self._client_of(server)
                try:
                    self._await_health(server)
                    self._serve(MODEL, step.adapters, self._home / "adapters")
                    return
                except (StageError, ServiceError) as refusal:
                    restart = refusal.what
        if restart is not None:
            _say(f"starts again: {restart}")
        self._start()
        self._model = MODEL

    def _start(self) -> None:
        began = time.monotonic()
        serves = {**self._wanted, "tokens": _room(self._checkpoint, self._wanted["tokens"])}
        for attempt in range(STARTS):
            command, environment = server_command(self._checkpoint, serves)
            server = server_process.start(self._home, command, environment, serves)
            self._client = self._client_of(server)
            try:
                self._await_health(server)
                break
            except ServiceError as failure:
                if PORT_TAKEN not in failure.what.lower() or attempt + 1 == STARTS:
                    raise
        _say(f"serves {self._checkpoint} after {time.monotonic() - began:.1f} s")

    def _client_of(self, server: server_process.Server) -> Client:
        def diagnose() -> AlignError | None:
            """A front end that answers for a dead engine is given the time to notice."""
            deadline = time.monotonic() + DYING_SECONDS
            while server_process.alive(server.home) and time.monotonic() < deadline:
                if client.healthy():
                    return None
                time.sleep(0.1)
            return ServerEndedError(f"the server that we started has ended; {server_process.last_lines(server.home)}")

        options = self._options
        client = Client(
            server.url, server.key, concurrency=options.concurrency, timeout=options.timeout, own=True, diagnose=diagnose
        )  # fmt: skip
        return client

    def _await_health(self, server: server_process.Server) -> None:
        deadline = time.monotonic() + self._options.start_timeout
        while not self._client.healthy():
            ended = not server_process.alive(server.home)
            if ended or time.monotonic() > deadline:
                said = server_process.last_lines(server.home)
                server_process.stop(server.home)
                how = "ended while it started" if ended else f"did not answer within {self._options.start_timeout:g} s"
                raise ServiceError(
                    f"vLLM's server {how}; {said}", where="rollouts.server",
                    hint="see there what it lacks" if ended else "raise rollouts.server.start_timeout",
                )  # fmt: skip
            time.sleep(0.1)

    def _join(self, url: str) -> None:
        """Use the running server at `url`, which is never restarted. Raises ConfigError where it cannot serve."""
        options, tokens = self._options, self._wanted["tokens"]
        self._client = Client(
            url, os.environ.get(options.api_key_env), concurrency=options.concurrency, timeout=options.timeout,
            key_name=options.api_key_env,
        )  # fmt: skip
        base = _base_model(self._client.models(), options.model, url)
        if (room := base.get("max_model_len")) is not None and tokens > room:
            what = f"prompt and answer may take {tokens} tokens, but the server at {url} has room for {room}"
            raise ConfigError(what, where="rollouts.server.url", hint="start it with a larger --max-model-len")
        # The server may have a copy of the model, or see other folders than we do: then all adapters that there are
        # make the policy of what it serves, and the sync check says whether that is so.
        root, own = Path(str(base.get("root"))), [model_print(p) for p in (self._checkpoint, *self._ancestors)]
        known = model_print(root) if root.is_dir() else None
        adapters, _ = adapters_until(known if known in own else None, self._checkpoint, self._ancestors)
        folder = self._checkpoint.parent
        if len(adapters) > 1:  # their sum has to be where the server sees it
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=".adapter-", dir=folder)))
            folder.chmod(0o755)  # it may run as another user
        self._serve(str(base["id"]), adapters, folder)

    def _serve(self, base: str, adapters: Sequence[Path], folder: Path) -> None:
        """Ask for `base` from now on, or for the sum of `adapters` on it, loaded until `close`.

        Each load has a name of its own: a name never stands for weights that were replaced.
        """
        self._model = base
        if not adapters:
            return
        began = time.monotonic()
        name = f"adapter-{adapter_id(adapters)[:12]}-{os.getpid()}-{next(_numbers)}"
        self._client.load_adapter(name, str(one_adapter(adapters, folder / name).resolve()))
        self._stack.callback(self._unload, name)
        self._model = name
        _say(f"loaded {len(adapters)} adapter(s) in {time.monotonic() - began:.2f} s")

    def _unload(self, name: str) -> None:
        try:
            self._client.unload_adapter(name)
        except AlignError as error:  # the server is gone, and the adapter with it
            _say(f"could not unload an adapter ({error.what.splitlines()[0]})")


def server_command(checkpoint: Path, serves: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """vLLM's command line, but for address and key, and what it needs in its environment."""
    import torch

    from align.vllm import CPU_ENVIRONMENT, ENVIRONMENT
    from rollouts.vllm_engine import cpu_options, fitted, require_head_dim

    on_cpu = not torch.cuda.is_available()
    rank, threads, dtype, tokens = serves["max_lora_rank"], serves["threads"], serves["dtype"], serves["tokens"]
    options: dict[str, Any] = {
        "model": checkpoint.resolve(), "served-model-name": MODEL, "dtype": dtype, "max-model-len": tokens,
        "skip-tokenizer-init": True, "generation-config": "vllm", "middleware": "rollouts.server_guard.Guard",
        "disable-fastapi-docs": True, "disable-uvicorn-access-log": True, "uvicorn-log-level": "warning",
        **({"enable-lora": True, "max-lora-rank": rank} if rank else {}),
    }  # fmt: skip
    if on_cpu:
        require_head_dim(checkpoint)
        cpu = fitted(Cpu(**(serves["cpu"] or {})), checkpoint, dtype=dtype, max_tokens_total=tokens)
        options |= cpu_options(cpu, tokens)
    else:
        options["gpu-memory-utilization"] = serves["gpu_share"]
    environment = ENVIRONMENT | (CPU_ENVIRONMENT if on_cpu else {}) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    environment |= {"PYTHONWARNINGS": "ignore"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")  # the server's engine is always a process of its own
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = python_module("vllm.entrypoints.openai.api_server")
    for name, value in options.items():
        flag = name.replace("_", "-")
        command += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return command, environment


def _room(checkpoint: Path, tokens: int) -> int:
    """Room for somewhat longer prompts than those of the first call, so that the next ones need no new start."""
    most = context_length(checkpoint)
    roomy = 1 << (tokens - 1).bit_length()
    return roomy if most is None else min(roomy, most)


def _base_model(models: Sequence[dict[str, Any]], name: str | None, url: str) -> dict[str, Any]:
    bases = [model for model in models if model.get("parent") is None]
    found = [model for model in bases if name in (None, model["id"])]
    if len(found) == 1:
        return found[0]
    what = f"the server at {url} serves {', '.join(str(m['id']) for m in bases) or 'nothing'}"
    raise ConfigError(
        what + (f", and not {name!r}" if name is not None else ""),
        where="rollouts.server.model",
        hint="name one of them",
    )


def _require_our_limit(done: Sequence[Completion], max_tokens: int) -> None:
    """StageError where the server cut answers before they were as long as we let them be."""
    cut = [len(one.token_ids) for one in done if one.finish == "length" and len(one.token_ids) < max_tokens]
    if cut:
        what = f"vLLM's server cut {len(cut)} of {len(done)} answers after {max(cut)} tokens, and {max_tokens} were asked for"
        hint = (
            "its own limit is `max_new_tokens`, of the model's generation_config.json or --override-generation-config: "
        )
        hint += f"start it with `--generation-config vllm`, or set max_tokens to {max(cut)}"
        raise StageError(what, where="rollouts.server", hint=hint)


def _completion(choice: dict[str, Any], logprobs: bool) -> Completion:
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise StageError(f"vLLM's server ended a sample by {reason!r}")
    said = choice["logprobs"]["token_logprobs"] if logprobs else None
    return Completion(choice["token_ids"], reason, said)


def _say(text: str) -> None:
    print(f"rollouts server: {text}", file=sys.stderr, flush=True)
