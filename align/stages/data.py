"""Round 0's data: the prompts, split, and the demonstrations for SFT."""

from pathlib import Path

from align.config.recipe import Prompts
from align.pipeline.stage import Declaration, Job, Ref, Step
from align.progress import Progress
from align.stages.names import DEMONSTRATIONS, PROMPTS
from align.stages.planning import Planning
from align.stages.stage_io import note_of_dropped, prompts_of, write_part
from align.types import Dropped, Prompt, Summary

_PROMPTS = Declaration(
    PROMPTS, "align.stages.data:prompts", tables={"prompts.parquet": Prompt, "dropped.parquet": Dropped}
)
_DEMONSTRATIONS = Declaration(DEMONSTRATIONS, "align.stages.data:demonstrations", tables={"dropped.parquet": Dropped})
STAGES = (_PROMPTS, _DEMONSTRATIONS)


def plan(planning: Planning, number: int) -> list[Step]:
    recipe = planning.recipe
    if number > 0:
        return []
    given = recipe.prompts
    steps: list[Step] = [
        _PROMPTS.stage(
            0,
            settings=given.model_dump(exclude={"path"}),
            files={"prompts": planning.file(given.path, "prompts.path")},
            runtime={"path": str(given.path)},
        )
    ]
    if (sft := recipe.sft) is not None:
        files = {"demonstrations": planning.file(sft.demonstrations, "sft.demonstrations")}
        files |= {f"mix_{n}": planning.file(part.path, f"sft.mix.{n}.path") for n, part in enumerate(sft.mix)}
        steps.append(
            _DEMONSTRATIONS.stage(
                0,
                inputs={"prompts": Ref(0, PROMPTS)},
                settings={"seed": recipe.seed, "mix": [part.share for part in sft.mix]} if sft.mix else {},
                files=files,
                runtime={"path": str(sft.demonstrations), "mix": [str(part.path) for part in sft.mix]},
            )
        )
    return steps


def prompts(job: Job, progress: Progress) -> Summary:
    """Load, clean and split the prompts."""
    from align.data.prompts import load_prompts

    rows, dropped = load_prompts(Prompts(path=Path(job.runtime["path"]), **job.settings))
    write_part(job, "prompts", Prompt, rows)
    write_part(job, "dropped", Dropped, dropped)
    return {
        "train": sum(p.split == "train" for p in rows),
        "test": sum(p.split == "test" for p in rows),
        "dropped": len(dropped),
    }


def demonstrations(job: Job, progress: Progress) -> Summary:
    """Load the demonstrations, without those whose prompt is held out for evaluation."""
    from align.data.demonstrations import write_demonstrations
    from align.data.mixture import load_mixture

    paths = [Path(path) for path in (job.runtime["path"], *job.runtime["mix"])]
    shares, seed = job.settings.get("mix", []), job.settings.get("seed", 0)
    kept, left_out, read = load_mixture(paths, shares, prompts_of(job, "test"), seed=seed)
    write_demonstrations(job.out / "demonstrations.parquet", kept)
    write_part(job, "dropped", Dropped, left_out)
    return {"rows": len(kept), "dropped": len(left_out), **note_of_dropped("demonstration", read, left_out)}
