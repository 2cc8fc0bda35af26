"""A program for `launch_command`: one training in several processes, as a test asks for it; see `run_together`.

`fsdp` makes FSDP2 of accelerate run on CPU, which accelerate itself refuses: our part of it is tested, not theirs.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from align.train.launch import SHIPPED, _variables, launch_command, launch_environment

ROOT = Path(__file__).parents[1]


def run_together(folder: Path, nproc: int, **asked: Any) -> "subprocess.Popen[str]":
    """Start a training of `asked` (see `main`) in `nproc` processes; its result goes to `folder/out`."""
    folder.mkdir(parents=True, exist_ok=True)
    order = folder / "order.json"
    order.write_text(json.dumps({"folder": str(folder), **asked}, default=str))
    log = (folder / "log").open("w")
    return subprocess.Popen(
        launch_command("tests.ranks", str(order), nproc=nproc), cwd=ROOT, text=True, stdout=log,
        stderr=subprocess.STDOUT, env={**os.environ, **launch_environment(None, nproc=nproc, threads=nproc)},
    )  # fmt: skip


def _fsdp_on_cpu() -> None:
    from accelerate.state import DistributedType, PartialState

    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_XPU)  # a kind that it makes FSDP of
    os.environ.update(_variables(SHIPPED / "fsdp2.yaml"))


def main(
    folder: str, model: str, method: str, rows: int, settings: dict[str, Any], fsdp: bool = False, kill: int = 0
) -> None:
    """Train `method` on the first `rows` rows of the tests of SFT or DPO, or on so many prompts; kill -9 at step `kill`."""
    from align.config.training import Dpo, Sft
    from align.train import loop, world
    from align.train.dpo import train_dpo
    from align.train.sft import train_sft
    from tests.integration.test_train_dpo import SOFT
    from tests.integration.test_train_sft import ROWS

    if fsdp:
        _fsdp_on_cpu()
    loop.SAVE_SECONDS, loop.SAVE_SHARE = 0.0, math.inf
    out = Path(folder) / ("out" if world.rank() == 0 else f"process-{world.rank()}")
    out.mkdir(exist_ok=True)

    def progress(done: int, total: int, said: str = "") -> None:
        print("step", done, flush=True)
        if done == kill:
            os.kill(os.getppid(), signal.SIGKILL)  # torchrun, and then this process; the others lose their company
            os.kill(os.getpid(), signal.SIGKILL)

    given: dict[str, Any] = {
        "seed": 1, "dtype": "float32", "report_to": [], "threads": world.world_size(), "out": out,
        "work": Path(folder) / "work", "progress": progress if world.rank() == 0 else None,
    }  # fmt: skip
    if method in ("rloo", "grpo", "ppo"):
        metrics = _online(method, Path(model), rows, settings, given)
    elif method == "dpo":
        metrics = train_dpo(Path(model), SOFT[:rows], Dpo(**settings), **given)
    else:
        metrics = train_sft(Path(model), ROWS[:rows], Sft(demonstrations=Path("d"), **settings), **given)
    (out / "metrics.json").write_text(json.dumps(metrics))


def _online(method: str, model: Path, rows: int, settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    from align.config.training import Grpo, Ppo, Rloo
    from align.train.grpo import train_grpo
    from align.train.ppo import train_ppo
    from align.train.rloo import train_rloo
    from align.types import Prompt

    train, section = {"rloo": (train_rloo, Rloo), "grpo": (train_grpo, Grpo), "ppo": (train_ppo, Ppo)}[method]
    prompts = [Prompt(f"p{n}", [{"role": "user", "content": f"Case {n}?"}], "train", f"row {n}") for n in range(rows)]
    config: Any = section(**settings)

    def score(prompts: Any, answers: Any) -> list[float | None]:
        return [sum(map(ord, answer)) % 11 / 10 for answer in answers]

    return train(model, prompts, config, score=score, **given)  # type: ignore[operator, no-any-return]


if __name__ == "__main__":
    main(**json.loads(Path(sys.argv[1]).read_text()))
    os._exit(0)
