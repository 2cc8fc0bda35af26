"""An engine in a process of its own, so that its death costs the batch at hand and nothing else.

The child's standard input is a socket: orders and results cross it as JSON lines, and when the parent dies, by whatever
signal, the child sees its end and leaves too. What libraries print goes where the parent's own output goes. An order
that the engine died of is given to a fresh engine; orders behind it are too, and results do not depend on that.
"""

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from align.config.base import Sampling
from align.config.rollouts import Engine
from align.errors import KINDS, AlignError, StageError
from align.python import SAFE_PATH, python_module
from rollouts.engine import Completion, Request
from rollouts.engines import open_generator

_log = logging.getLogger(__name__)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by numeric libraries when they are loaded, so they are set before."""


class EngineProcess:
    """`rollouts.Generator` by a process that holds the engine; `submit` lets the caller work meanwhile.

    `retries` is how often an order is given to a fresh engine after the engine died of it.
    """

    def __init__(
        self, engine: Engine, checkpoint: Path, *, dtype: str, max_tokens_total: int, threads: int | None, retries: int
    ) -> None:
        self._opening: dict[str, Any] = {
            "engine": engine.model_dump(mode="json", include=set(Engine.model_fields)), "checkpoint": str(checkpoint), "dtype": dtype,
            "max_tokens_total": max_tokens_total, "threads": threads,
        }  # fmt: skip
        self._retries, self._tickets = retries, 0
        self._waiting: dict[int, str] = {}
        self._done: dict[int, list[list[Completion]]] = {}
        self._deaths: Counter[int] = Counter()
        self._start()

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        return self.submit(requests, sampling, samples=samples, seed=seed)()

    def submit(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> Callable[[], list[list[Completion]]]:
        """Order what `generate` gives, and return at once with a function that waits for it. Orders are done in turn.

        The function raises the AlignError that the engine raised, or StageError where it could not be loaded or died
        too often.
        """
        self._tickets += 1
        order = {
            "ticket": self._tickets, "requests": [[r.prompt_id, r.token_ids] for r in requests],
            "sampling": sampling.model_dump(include=set(Sampling.model_fields)), "samples": samples, "seed": seed,
        }  # fmt: skip
        self._waiting[self._tickets] = json.dumps(order) + "\n"
        self._send(self._waiting[self._tickets])
        return partial(self._result, self._tickets)

    def _result(self, ticket: int) -> list[list[Completion]]:
        while ticket not in self._done:
            told = self._read()
            if told is None:
                self._restart()
            elif "error" in told:
                raise KINDS[told["error"]](told["what"], where=told["where"], hint=told["hint"])
            elif "ticket" in told:
                del self._waiting[told["ticket"]]
                self._done[told["ticket"]] = [[Completion(*c) for c in several] for several in told["completions"]]
        return self._done.pop(ticket)

    def close(self) -> None:
        """End the process, whatever it does, and with it all memory that it holds."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        self._lines.close()
        self._ours.close()

    def _start(self) -> None:
        self._ours, theirs = socket.socketpair()
        threads = self._opening["threads"]
        counts = dict.fromkeys(THREADS, str(threads)) if threads is not None else {}
        with theirs:
            self._child = subprocess.Popen(
                python_module("rollouts.process"),
                stdin=theirs.fileno(),
                env={**os.environ, **SAFE_PATH, **counts},
                process_group=0,  # an interrupt from the terminal is ours to answer
            )
        self._lines = self._ours.makefile(encoding="utf-8")
        self._loaded, self._reason = False, ""
        self._send(json.dumps(self._opening) + "\n")

    def _send(self, line: str) -> None:
        with suppress(OSError):  # it died, which `_read` will notice
            self._ours.sendall(line.encode())

    def _read(self) -> dict[str, Any] | None:
        """The next message; None where the engine is dead."""
        try:
            line = self._lines.readline()
        except OSError:
            line = ""
        if not line.endswith("\n"):  # nothing, or half a message
            return None
        told: dict[str, Any] = json.loads(line)
        self._loaded |= "loaded" in told
        self._reason = told.get("died", self._reason)
        return told

    def _restart(self) -> None:
        code, ticket = self._child.wait(), min(self._waiting)
        reason = self._reason or _how_it_ended(code)
        if not self._loaded and self._reason:
            what = f"the engine cannot be loaded: {reason}"
            raise StageError(what, where=self._opening["checkpoint"], hint="what it printed says more")
        self._deaths[ticket] += 1
        if self._deaths[ticket] > self._retries:
            what = f"the engine died of the same batch {self._deaths[ticket]} times: {reason}"
            hint = "lower rollouts.cpu.sequences, rollouts.cpu.cache_gib or max_tokens, or use another rollouts.type"
            raise StageError(
                what, where=self._opening["checkpoint"], hint=f"{hint}; the same command goes on from here"
            )
        _log.warning("the engine died (%s); a fresh one takes its batch again", reason)
        self.close()
        self._start()
        for order in self._waiting.values():
            self._send(order)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    return f"its process was ended by {name}" + (", perhaps for want of memory" if code == -signal.SIGKILL else "")


@contextmanager
def engine_process(engine: Engine, checkpoint: Path, **options: Any) -> Iterator[EngineProcess]:
    """`EngineProcess`, closed at the end of the `with` block."""
    process = EngineProcess(engine, checkpoint, **options)
    try:
        yield process
    finally:
        process.close()


def _serve(channel: socket.socket) -> None:
    """The child: load the engine that the first line names, and do the orders of the others."""
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, orders), daemon=True).start()
    opening = json.loads(orders.get())
    engine, checkpoint = Engine(**opening.pop("engine")), Path(opening.pop("checkpoint"))
    with open_generator(engine, checkpoint, **opening) as generator:
        _tell(channel, {"loaded": True})
        while True:
            order = json.loads(orders.get())
            completions = generator.generate(
                [Request(*request) for request in order["requests"]],
                Sampling(**order["sampling"]),
                samples=order["samples"],
                seed=order["seed"],
            )
            plain = [[[c.token_ids, c.finish, c.logprobs] for c in several] for several in completions]
            _tell(channel, {"ticket": order["ticket"], "completions": plain})


def _listen(channel: socket.socket, orders: "queue.SimpleQueue[str]") -> None:
    with suppress(OSError), channel.makefile(encoding="utf-8") as lines:
        for line in lines:
            orders.put(line)
    os._exit(0)  # the parent is gone, or wants no more


def _tell(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def main() -> None:
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:  # noqa: PTH123 - a device
        os.dup2(nothing.fileno(), 0)
    try:
        _serve(channel)
    except AlignError as error:
        told = {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
        _tell(channel, told)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent has to say it
        traceback.print_exc()
        _tell(
            channel,
            {"died": f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"},
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # engines' own threads may hang at exit


if __name__ == "__main__":
    main()
