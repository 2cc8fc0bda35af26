"""Heavy stages run in a process of their own, so that memory, threads and crashes stay apart from the runner.

Stages that train may run in several, which share `job.scratch`; all but the first write into a folder of their own
that nobody keeps.
"""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from align.progress import Progress
from align.rounds.child import run_child, serve
from align.rounds.stage import Job
from align.store import LOGS, disk_errors, read_json, write_json
from align.train.launch import accelerate_file, launch_command, launch_environment
from align.train.world import rank
from rollouts.machine import cores

__all__ = ["Progress", "run_apart", "run_here", "thread_settings"]


def run_here(work: str, job: Job, progress: Progress) -> dict[str, Any]:
    """Run a light stage in this process."""
    from align.rounds.work import WORK

    return WORK[work](job, progress)


def run_apart(work: str, job: Job, progress: Progress) -> dict[str, Any]:
    """Run a heavy stage in a child process, or in `nproc` of them, and return its summary.

    Raises the AlignError that the stage raised, or StageError with the log's path when it failed otherwise.
    """
    logs = job.out / LOGS
    order, log = job.scratch / "job.json", logs / "stage.log"
    with disk_errors(log):
        logs.mkdir(exist_ok=True)
    write_json(order, {"work": work, "job": asdict(job)})
    nproc, threads = job.tuning.get("nproc", 1), job.tuning.get("threads")
    accelerate = job.tuning.get("accelerate")
    file = accelerate_file(accelerate, nproc) if accelerate is not None else None
    return run_child(
        launch_command("align.rounds.worker", str(order), nproc=nproc),
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


def _do(order: Path, progress: Progress) -> dict[str, Any]:
    """The child: do the job of the file `order`."""
    from align.rounds.work import WORK

    asked = read_json(order)
    given = asked["job"]
    folders = {name: Path(folder) for name, folder in given["inputs"].items()}
    job = Job(**{**given, "inputs": folders, "out": Path(given["out"])})
    if rank() > 0:
        aside = job.scratch / f"process-{rank()}"
        aside.mkdir(exist_ok=True)
        job = replace(job, out=aside, shared=job.scratch)
    return WORK[asked["work"]](job, progress)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    serve(lambda progress: _do(path, progress), path.with_name("lock"))
