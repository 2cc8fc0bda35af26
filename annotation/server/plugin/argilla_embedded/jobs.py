"""Argilla's background jobs in the server's own event loop, where Argilla would want Redis and a second process.

Of the three, the one that recomputes statuses only announces what triggers have done already (see `status`), so a kill
costs nothing; the two that talk to the Hugging Face hub need the network, which this server does not use.
"""

import asyncio
import contextlib
import logging
import types
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import argilla_server._app as argilla_app
from argilla_server.api.handlers.v1 import jobs as jobs_api
from argilla_server.jobs import dataset_jobs, hub_jobs
from fastapi import HTTPException

log = logging.getLogger("uvicorn.error")

REMEMBERED = 1000


@dataclass
class Job:
    """As much of an rq job as Argilla's API reads."""

    status: str = "queued"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def get_status(self, refresh: bool = True) -> str:
        return self.status


_jobs: OrderedDict[str, Job] = OrderedDict()
_tasks: set[asyncio.Task[None]] = set()


def install() -> None:
    argilla_app.REDIS_CONNECTION = types.SimpleNamespace(ping=lambda: True)  # pinged once, at start
    jobs_api._get_job = _find
    for function in (
        dataset_jobs.update_dataset_records_status_job,
        hub_jobs.import_dataset_from_hub_job,
        hub_jobs.export_dataset_to_hub_job,
    ):
        function.delay = _starter(function)


def _find(job_id: str) -> Job:
    if job_id not in _jobs:
        raise HTTPException(status_code=404, detail=f"Job with id `{job_id}` not found")
    return _jobs[job_id]


def _starter(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Job]:
    def delay(*args: Any, **kwargs: Any) -> Job:
        job = Job()
        _jobs[job.id] = job
        while len(_jobs) > REMEMBERED:
            _jobs.popitem(last=False)
        task = asyncio.get_running_loop().create_task(_run(job, function(*args, **kwargs), function.__name__))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
        return job

    return delay


async def _run(job: Job, work: Coroutine[Any, Any, None], name: str) -> None:
    job.status = "started"
    try:
        await work
        job.status = "finished"
    except Exception:  # whatever it was, it is one job's failure: in the log, and in the job's status for who asked
        job.status = "failed"
        log.exception("background job %s failed", name)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[None]:
    """At shutdown, jobs that still run have a few seconds to end."""
    yield
    if _tasks:
        await asyncio.wait(_tasks, timeout=5)
