"""Sampling spread over a Ray cluster: each worker is a process with one of our other engines in it.

Requests go out in batches of a fixed number of prompts. A batch is sampled by itself, by whichever worker is free, so
the answers depend neither on how many workers there are nor on which of them dies. A worker that dies costs the batch
that it had: another one does it again.
"""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from align.config.base import Sampling
from align.config.rollouts import Engine, Ray
from align.errors import AlignError, ConfigError, ServiceError, StageError
from align.store import checkpoint_id
from rollouts.engine import Completion, Generator, Request, resolve_engine
from rollouts.ray_cluster import cluster, inventory, nodes, places, this_node

CLOSING_SECONDS = 20
"""How long free workers may take to put their engine away before they are ended."""

Opener = Callable[..., AbstractContextManager[Generator]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Model:
    """What a worker opens, with `opener`. `known_on` is the node whose checkpoint has the id `id`, where other nodes
    must agree."""

    checkpoint: Path
    engine: Engine
    dtype: str
    max_tokens_total: int
    threads: int
    gpus: int
    known_on: str
    id: str | None
    opener: Opener


class _Engine:
    """In a worker's process: the engine."""

    def __init__(self) -> None:
        self._opened = ExitStack()

    def place(self) -> None:
        """Answered as soon as the cluster has found room for the worker and our code runs there."""

    def open(self, model: _Model) -> None:
        if model.gpus == 0:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves a node's GPUs visible to those who asked for none
        _require_same_checkpoint(model)
        opening = model.opener(
            model.engine,
            model.checkpoint,
            dtype=model.dtype,
            max_tokens_total=model.max_tokens_total,
            threads=model.threads,
            gpus=max(1, model.gpus),
        )
        self._generator: Generator = self._opened.enter_context(opening)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, samples: int, seed: int
    ) -> list[list[Completion]]:
        return self._generator.generate(requests, sampling, samples=samples, seed=seed)

    def close(self) -> None:
        self._opened.close()


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker was last asked for; `batch` is its number where it is one of the current call."""

    worker: Any
    what: Literal["place", "open", "generate"]
    batch: int | None = None


class RayGenerator:
    """`rollouts.Generator` over a Ray cluster. `redone` counts the batches that were done again, as their worker
    died."""

    def __init__(self, checkpoint: Path, engine: Engine, *, dtype: str, max_tokens_total: int, opener: Opener) -> None:
        """`opener` is `rollouts.engines.open_generator`, by which each worker opens an engine of its own."""
        options = engine.ray or Ray()
        self._options, self._retries, self.redone = options, engine.retries, 0
        self._free: list[Any] = []
        self._jobs: dict[Any, _Job] = {}
        self._failed_starts = 0
        self._stack = ExitStack()
        try:
            own = self._stack.enter_context(cluster(options.address, options.patience))
            gpus = options.gpus if options.gpus is not None else min(1, places(0, 1))
            self._model = _describe(checkpoint, engine, gpus, dtype, max_tokens_total, opener)
            if own and places(options.cpus, gpus) < options.workers:  # it cannot grow, so waiting is of no use
                raise _no_room(options, gpus, placed=0)
            self._start()
        except BaseException:
            self.close()
            raise

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, samples: int, seed: int
    ) -> list[list[Completion]]:
        size = self._options.batch
        batches = [requests[i : i + size] for i in range(0, len(requests), size)]
        waiting, tries = deque(range(len(batches))), Counter[int]()
        done: dict[int, list[list[Completion]]] = {}
        self._forget_batches()
        while len(done) < len(batches):
            while waiting and self._free:
                worker, number = self._free.pop(), waiting.popleft()
                job = _Job(worker, "generate", number)
                self._jobs[worker.generate.remote(batches[number], sampling, samples, seed)] = job
            job, result, death = self._next()
            if job.batch is None:
                continue
            if death is None:
                done[job.batch] = result
                continue
            tries[job.batch] += 1
            if tries[job.batch] > self._retries:
                what = f"a batch of {len(batches[job.batch])} prompts ended {tries[job.batch]} Ray workers: {death}"
                raise StageError(what, where="rollouts.ray", hint="Ray keeps the workers' logs; try a smaller `batch`")
            self.redone += 1
            waiting.appendleft(job.batch)
        return [several for number in range(len(batches)) for several in done[number]]

    def close(self) -> None:
        """End the workers, and the cluster where it is one of our own."""
        if self._free:
            import ray

            # a model on several GPUs has processes of its own, which the engine ends
            closing = [worker.close.remote() for worker in self._free]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSING_SECONDS)
        for worker in self._free + [job.worker for job in self._jobs.values()]:
            _kill(worker)
        self._free, self._jobs = [], {}
        self._stack.close()

    def _start(self) -> None:
        """Hire all workers, and once each has a place, wait until each has its model."""
        import ray

        for _ in range(self._options.workers):
            self._hire()
        placed, without = ray.wait(
            list(self._jobs), num_returns=self._options.workers, timeout=self._options.patience, fetch_local=False
        )
        if without:
            raise _no_room(self._options, self._model.gpus, placed=len(placed))
        while self._jobs:
            self._next()

    def _hire(self) -> None:
        import ray

        actor = ray.remote(_Engine).options(
            num_cpus=self._options.cpus, num_gpus=self._model.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        worker = actor.remote()
        self._jobs[worker.place.remote()] = _Job(worker, "place")

    def _next(self) -> tuple[_Job, Any, str | None]:
        """Wait until a worker has done its job: the job, its result, and what the worker died of where it died.

        A worker that found its place opens the model, one that did anything else is free, and a dead one is replaced.
        Raises the AlignError that was raised in the worker, and ServiceError where all that is left to wait for is room
        and none is found within `options.patience`, or where workers die while they start.
        """
        import ray

        only_room = all(job.what == "place" for job in self._jobs.values())
        ready, _ = ray.wait(list(self._jobs), timeout=self._options.patience if only_room else None)
        if not ready:
            raise _no_room(self._options, self._model.gpus, placed=len(self._free))
        job = self._jobs.pop(ready[0])
        try:
            result = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            return job, None, self._replace(job, error)
        if job.what == "place":
            self._jobs[job.worker.open.remote(self._model)] = _Job(job.worker, "open")
        else:
            self._failed_starts = 0
            self._free.append(job.worker)
        return job, result, None

    def _replace(self, job: _Job, error: Exception) -> str:
        """Hire another worker in the place of one that died or failed, and say in a line what happened to it."""
        _kill(job.worker)
        cause = getattr(error, "cause", None)
        if isinstance(cause, AlignError):
            raise cause
        reason = _in_a_line(error, cause)
        if job.what != "generate":
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                what = f"{self._failed_starts} Ray workers in a row ended while they started, the last one: {reason}"
                hint = "each node needs this package, the engine, and memory for the model; Ray keeps the workers' logs"
                raise ServiceError(what, where="rollouts.ray", hint=hint)
        _log.warning("a Ray worker ended and is replaced: %s", reason)
        self._hire()
        return reason

    def _forget_batches(self) -> None:
        """Batches of a call that was broken off are of no use any more when they are done."""
        self._jobs = {ref: replace(job, batch=None) for ref, job in self._jobs.items()}


def _describe(checkpoint: Path, engine: Engine, gpus: int, dtype: str, max_tokens_total: int, opener: Opener) -> _Model:
    """What each worker opens; nodes that may not share this one's files are told what the checkpoint has to be."""
    options, here = engine.ray or Ray(), this_node()
    type = resolve_engine(options.engine)
    if type == "transformers" and gpus > 1:
        what = f"transformers runs on one GPU, and each worker has {gpus}"
        raise ConfigError(what, where="rollouts.ray.gpus", hint="use 1, or `engine: vllm`")
    return _Model(
        checkpoint=checkpoint.absolute(),
        engine=Engine(type=type, cpu=engine.cpu),
        dtype=dtype,
        max_tokens_total=max_tokens_total,
        threads=options.cpus,
        gpus=gpus,
        known_on=here,
        id=checkpoint_id(checkpoint) if any(node["NodeID"] != here for node in nodes()) else None,
        opener=opener,
    )


def _require_same_checkpoint(model: _Model) -> None:
    """Another node may have no such folder, or an older one under the same path."""
    if model.id is None or this_node() == model.known_on:
        return
    node, hint = socket.gethostname(), "let the run lie where every node finds it under the same path"
    if not model.checkpoint.is_dir():
        raise ConfigError(f"the Ray node {node} has no such folder", where=str(model.checkpoint), hint=hint)
    if checkpoint_id(model.checkpoint) != model.id:
        raise ConfigError(f"the Ray node {node} has another checkpoint there", where=str(model.checkpoint), hint=hint)


def _no_room(options: Ray, gpus: int, *, placed: int) -> ServiceError:
    each = f"{options.cpus} CPU and {gpus} GPU"
    what = f"{options.workers} workers of {each} were asked for, and {placed} found room; the cluster has {inventory()}"
    hint = "ask for less with `workers`, `cpus` or `gpus`, or wait until others leave it"
    return ServiceError(what, where="rollouts.ray", hint=hint)


def _kill(worker: Any) -> None:
    import ray

    ray.kill(worker)


def _in_a_line(error: Exception, cause: Any) -> str:
    """The cause of a worker's end; Ray's own texts have it in their last line, before advice."""
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {cause}".splitlines()[0]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split(" Some common causes")[0] if lines else type(error).__name__
