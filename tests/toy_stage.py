"""A stage that somebody adds: all that it takes is this file and its name in the plan."""

from align.pipeline.stage import Declaration, Job, Ref, Step
from align.progress import Progress
from align.stages.names import PROMPTS
from align.stages.planning import Planning
from align.stages.stage_io import prompts_of, write_part
from align.types import Candidate, Summary, candidate_id

TOY = Declaration("echo", "tests.toy_stage:echo", tables={"answers.parquet": Candidate})
STAGES = (TOY,)


def plan(planning: Planning, number: int) -> list[Step]:
    if number > 0:
        return []
    settings = {"seed": planning.recipe.seed}
    return [TOY.stage(0, inputs={"prompts": Ref(0, PROMPTS)}, settings=settings)]


def echo(job: Job, progress: Progress) -> Summary:
    """An answer to each held-out prompt: its own words."""
    rows = []
    for prompt in prompts_of(job, "test"):
        text = prompt.messages[-1]["content"]
        rows.append(Candidate(candidate_id(prompt.id, text, "echo"), prompt.id, text, "echo", 0, 1, "stop"))
    write_part(job, "answers", Candidate, rows)
    return {"answers": len(rows), **({"blocked": "the echo is too loud"} if job.settings["seed"] == 13 else {})}
