"""Heavy stages run in a process of their own, so that memory, threads and crashes stay apart from the runner.

The runner holds the other end of the child's standard input: when the runner dies, by whatever signal, the child sees
the end of that pipe and leaves too, so that two processes never write into one folder. Progress, and in the end the
summary or the error, come back as JSON lines through a second pipe (a full disk must not swallow them); everything that
libraries print goes to `logs/stage.log`.
"""

import fcntl
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align.errors import KINDS, AlignError, StageError
from align.rounds.stage import Job
from align.store import LOGS, disk_errors, disk_refusal, read_json, write_json

Progress = Callable[[int, int], None]
RUNNER_FD = "ALIGN_RUNNER_FD"


def run_here(work: str, job: Job, progress: Progress) -> dict[str, Any]:
    """Run a light stage in this process."""
    from align.rounds.work import WORK

    return WORK[work](job, progress)


def run_apart(work: str, job: Job, progress: Progress) -> dict[str, Any]:
    """Run a heavy stage in a child process and return its summary.

    Raises the AlignError that the stage raised, or StageError with the log's path when it failed otherwise.
    """
    logs = job.out / LOGS
    order, log = job.scratch / "job.json", logs / "stage.log"
    with disk_errors(log):
        logs.mkdir(exist_ok=True)
        output = log.open("ab")
    write_json(order, {"work": work, "job": asdict(job)})
    reader, writer = os.pipe()
    result: dict[str, Any] | None = None
    with output, os.fdopen(reader, encoding="utf-8") as lines:
        child = subprocess.Popen(
            [sys.executable, "-m", "align.rounds.worker", str(order)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[writer],
            env=_environment(job) | {RUNNER_FD: str(writer)},
        )
        os.close(writer)
        try:
            for line in lines:
                told = json.loads(line)
                if isinstance(told, list):
                    progress(*told)
                else:
                    result = told
            code = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
    return _outcome(code, result, log, job)


def _outcome(code: int, result: dict[str, Any] | None, log: Path, job: Job) -> dict[str, Any]:
    if result is not None and "summary" in result:
        return dict(result["summary"])
    name = f"the stage {job.round}/{job.stage}"
    if result is not None and result["kind"] in KINDS:
        raise KINDS[result["kind"]](result["what"], where=result["where"], hint=result["hint"])
    what = result["what"] if result is not None else f"its process ended with code {code}"
    if code == -9 and result is None:
        what += " (killed, perhaps for want of memory)"
    raise StageError(
        f"{name} failed: {what}", where=str(log), hint="the log has the details; the same command goes on from here"
    )


def thread_settings(threads: int | None) -> dict[str, str]:
    """Environment variables that numeric libraries read when they are loaded; None means all cores."""
    count = str(threads or os.cpu_count() or 1)
    return {
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads that spin take the cores from everybody else
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
    }


def _environment(job: Job) -> dict[str, str]:
    return dict(os.environ) | thread_settings(job.tuning.get("threads")) | {"PYTHONUNBUFFERED": "1"}


def main(order: Path) -> int:
    """The child: do the job and tell the runner the summary or the error."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with (order.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a child of a killed runner may need a moment to leave
        from align.rounds.work import WORK

        asked = read_json(order)
        job = Job(
            **{
                **asked["job"],
                "inputs": {k: Path(v) for k, v in asked["job"]["inputs"].items()},
                "out": Path(asked["job"]["out"]),
            }
        )
        try:
            _tell({"summary": WORK[asked["work"]](job, lambda done, total: _tell([done, total]))})
            return 0
        except Exception as error:  # noqa: BLE001 - whatever it is, the runner has to say it
            _tell(_describe(error))
            with suppress(OSError):  # a full disk takes no log either, and the runner knows already
                traceback.print_exc()
            return 1


def _describe(error: Exception) -> dict[str, str | None]:
    if not isinstance(error, AlignError):
        error = disk_refusal(error) or error
    if isinstance(error, AlignError):
        return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    return {"kind": "other", "what": f"{type(error).__name__}: {error}", "where": None, "hint": None}


def _tell(message: list[int] | dict[str, Any]) -> None:
    """A line to the runner: progress, the summary or the error."""
    with os.fdopen(int(os.environ[RUNNER_FD]), "w", encoding="utf-8", closefd=False) as runner:
        runner.write(json.dumps(message, default=str) + "\n")


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        continue
    os._exit(3)


if __name__ == "__main__":
    # `os._exit` would skip open files, but everything is flushed by now and engines' own threads may hang at exit
    code = main(Path(sys.argv[1]))
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
