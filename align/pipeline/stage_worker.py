"""Heavy stages run in a process of their own, so that memory, threads and crashes stay apart from the runner.

Stages that train may run in several, which share `job.scratch`; all but the first write into a folder of their own
that nobody keeps.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path

from align.pipeline.stage import JOB, Job, function_of
from align.pipeline.subprocess_runner import run_subprocess, serve
from align.progress import Progress
from align.store import LOGS, disk_errors, read_json, write_json
from align.train.launch import accelerate_file, launch_environment
from align.train.world import rank
from align.types import Summary
from rollouts.machine import cores


def run_here(function: str, job: Job, progress: Progress) -> Summary:
    """Run a light stage in this process; `function` is "module:function"."""
    return dict(function_of(function)(job, progress))


def run_apart(function: str, job: Job, progress: Progress) -> Summary:
    """Run a heavy stage in a child process, or in `nproc` of them, and return its summary.

    Raises the AlignError that the stage raised, or StageError with the log's path when it failed otherwise.
    """
    logs = job.out / LOGS
    order, log = job.scratch / JOB, logs / "stage.log"
    with disk_errors(log):
        logs.mkdir(exist_ok=True)
    write_json(order, {"function": function, "job": asdict(job)})
    nproc, threads = job.runtime.get("nproc", 1), job.runtime.get("threads")
    accelerate = job.runtime.get("accelerate")
    file = accelerate_file(accelerate, nproc) if accelerate is not None else None
    return run_subprocess(
        __name__,
        order,
        nproc=nproc,
        named=f"the stage {job.round}/{job.stage}",
        environment={
            **thread_settings(threads), **launch_environment(file, nproc=nproc, threads=threads), "PYTHONUNBUFFERED": "1",
        },
        log=log,
        progress=progress,
    )  # fmt: skip


def thread_settings(threads: int | None) -> dict[str, str]:
    """Environment variables that numeric libraries read when they are loaded; None means all cores that are ours."""
    count = str(threads or cores())
    return {
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin take the cores from everybody else
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
    }


def _do(order: Path, progress: Progress) -> Summary:
    """The child: do the job of the file `order`."""
    asked = read_json(order)
    given = asked["job"]
    folders = {name: Path(folder) for name, folder in given["inputs"].items()}
    job = Job(**{**given, "inputs": folders, "out": Path(given["out"])})
    if rank() > 0:
        aside = job.scratch / f"process-{rank()}"
        aside.mkdir(exist_ok=True)
        job = replace(job, out=aside, shared=job.scratch)
    return dict(function_of(asked["function"])(job, progress))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    serve(lambda progress: _do(path, progress), path.with_name("lock"))
