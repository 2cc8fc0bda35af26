"""One training on a file of the user's: asked for, read, and done in this process or in several that train together."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.progress import Progress
from align.stages.methods import HEAVY, METHODS

if TYPE_CHECKING:
    from reward.compose import Weighted


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What decides a training's result beside the model: enough to do it in another process. `config` is a YAML file of
    settings, over which `settings` (key=value) win."""

    method: str
    settings: list[str]
    config: str | None
    file: str
    rewards: list[str]
    dtype: Literal["float32", "bfloat16"]
    seed: int
    threads: int | None
    mask_thinking: bool = False
    rollouts: str | None = None


@dataclass(frozen=True, slots=True)
class TrainJob:
    """A request, read: what trains, on which rows."""

    request: TrainRequest
    config: Any
    train: Callable[..., dict[str, Any]]
    rows: list[Any]
    dropped: list[Any]


def read_request(request: TrainRequest) -> TrainJob:
    """Read the settings and the file. Raises ConfigError and DataError for what cannot be meant."""
    from align.config.section import load_section
    from reward.terms import parse_reward

    method = METHODS[request.method]
    for reward in request.rewards:
        parse_reward(reward)
    named = {"demonstrations": request.file} if method.name == "sft" else {}
    config = load_section(
        method.settings,
        request.settings,
        file=Path(request.config) if request.config is not None else None,
        keys=method.keys,
        no_use=method.no_use,
        **named,
    )
    load, train = method.parts()
    rows, dropped = load(Path(request.file))
    if method.name == "sft" and config.mix:
        from align.data.demonstrations import mixed

        others = [load(part.path) for part in config.mix]
        parts = [(more, part.share) for (more, _), part in zip(others, config.mix, strict=True)]
        rows = mixed(rows, parts, request.seed)
        dropped = [row for part in [dropped, *(bad for _, bad in others)] for row in part]
    return TrainJob(request, config, train, rows, dropped)


def train_job(job: TrainJob, model: Path, *, out: Path, work: Path, progress: Progress) -> dict[str, Any]:
    """Train the checkpoint `model`, in this process, into `out`."""
    from align.data.candidates import load_tokens
    from align.python import import_for_good

    import_for_good(*HEAVY)
    request = job.request
    scorer, critic = _scored(request, job.config)
    metrics = job.train(
        model,
        job.rows,
        job.config,
        **({"score": scorer.score} if scorer is not None else {}),
        **critic,
        seed=request.seed,
        dtype=request.dtype,
        report_to=[],
        threads=request.threads,
        mask_thinking=request.mask_thinking,
        **({"tokens": load_tokens(Path(request.rollouts))} if request.rollouts is not None else {}),
        out=out,
        work=_work_of(request, work),
        progress=progress,
    )
    return {**metrics, **(scorer.why_unscored() if scorer is not None else {})}


def train_together(
    request: TrainRequest,
    model: Path,
    *,
    nproc: int,
    accelerate: Path | None,
    out: Path,
    work: Path,
    log: Path,
    progress: Progress,
) -> dict[str, Any]:
    """`train_job` in `nproc` processes of this machine. Each reads the same request; the first one writes the result
    and tells of it."""
    from align.pipeline.subprocess_runner import run_subprocess
    from align.store import write_json
    from align.train.launch import launch_environment

    paper = work / "request.json"
    write_json(paper, {"request": asdict(request), "model": str(model), "out": str(out), "work": str(work)})
    return run_subprocess(
        __name__,
        paper,
        nproc=nproc,
        named="the training",
        environment=launch_environment(accelerate, nproc=nproc, threads=request.threads),
        log=log,
        progress=progress,
    )


def _one_of_several(paper: Path, progress: Progress) -> dict[str, Any]:
    from align.store import read_json
    from align.train.world import rank

    asked = read_json(paper)
    out, work = Path(asked["out"]), Path(asked["work"])
    if rank() > 0:
        out = work / f"process-{rank()}"
        out.mkdir(exist_ok=True)
    job = read_request(TrainRequest(**asked["request"]))
    return train_job(job, Path(asked["model"]), out=out, work=work, progress=progress)


def _work_of(request: TrainRequest, work: Path) -> Path:
    """Where a killed training goes on from: never from one that raised another reward."""
    from reward.terms import parse_reward, rewards_id

    return work / f"reward-{rewards_id([parse_reward(r) for r in request.rewards])}" if request.rewards else work


def _scored(request: TrainRequest, config: Any) -> "tuple[Weighted | None, dict[str, Any]]":
    """What the online methods take too: what scores answers, and for PPO a model that a critic of its own starts
    from."""
    from reward.terms import parse_reward, scorer_of

    if not request.rewards:
        return None, {}
    parsed = [parse_reward(text) for text in request.rewards]
    models = [part.folder for part in parsed if part.is_model]
    critic = {"critic": models[0]} if request.method == "ppo" and models and config.critic == "separate" else {}
    keep = request.method == "best-of-n"
    return scorer_of(parsed, dtype=request.dtype, threads=request.threads, keep=keep), critic


if __name__ == "__main__":
    from align.pipeline.subprocess_runner import serve

    given = Path(sys.argv[1])
    serve(lambda progress: _one_of_several(given, progress), given.with_name("training.lock"))
