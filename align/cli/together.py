"""A training verb in several processes. Each reads the same order; the first one writes the result and tells of it."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align.cli.workplace import PRINTED
from align.progress import Progress
from align.rounds.child import run_child, serve
from align.store import LOGS, read_json, write_json
from align.train.launch import launch_command, launch_environment
from align.train.world import rank


def learn_together(
    order: Any, model: Path, *, nproc: int, accelerate: Path | None, out: Path, work: Path, progress: Progress
) -> dict[str, Any]:
    """`align.cli.train.learn` in `nproc` processes of this machine."""
    paper = work / "order.json"
    write_json(paper, {"order": asdict(order), "model": str(model), "out": str(out), "work": str(work)})
    return run_child(
        launch_command(__name__, str(paper), nproc=nproc),
        named="the training",
        environment=launch_environment(accelerate, nproc=nproc, threads=order.threads),
        log=out / LOGS / PRINTED,
        progress=progress,
    )


def _learn(paper: Path, progress: Progress) -> dict[str, Any]:
    from align.cli.train import Order, learn, read_order

    asked = read_json(paper)
    out, work = Path(asked["out"]), Path(asked["work"])
    if rank() > 0:
        out = work / f"process-{rank()}"
        out.mkdir(exist_ok=True)
    return learn(read_order(Order(**asked["order"])), Path(asked["model"]), out=out, work=work, progress=progress)


if __name__ == "__main__":
    given = Path(sys.argv[1])
    serve(lambda progress: _learn(given, progress), given.with_name("training.lock"))
