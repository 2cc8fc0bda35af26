"""People as the judge: they compare a round's policy with the first one, blind."""

from align.config.recipe import PeopleJudge
from align.evaluation.compare import SAMPLES
from align.pipeline.stage import Declaration, Job, Ref, Step, Wait
from align.progress import Progress
from align.stages.labels import JUDGEMENT_TABLE, TASK_TABLE
from align.stages.names import BLIND, BLIND_LABELLING, BLIND_RESULT, BLIND_SNAPSHOT, EVALUATION, PROMPTS
from align.stages.planning import Planning
from align.stages.stage_io import prompts_of, write_part
from align.store import read_json, read_table, write_json
from align.types import Candidate, Judgement, Summary, Task, from_table

_BLIND = Declaration(BLIND, "align.stages.comparison:blind", tables={TASK_TABLE: Task})
_SNAPSHOT = Declaration(
    BLIND_SNAPSHOT,
    "align.stages.labels:snapshot",
    tables={JUDGEMENT_TABLE: Judgement},
    freeze="align.stages.labels:frozen",
)
_RESULT = Declaration(BLIND_RESULT, "align.stages.comparison:blind_result")
STAGES = (_BLIND, _SNAPSHOT, _RESULT)


def plan(planning: Planning, number: int) -> list[Step]:
    judge, seed = planning.recipe.evaluate.judge, planning.recipe.seed
    if number == 0 or not isinstance(judge, PeopleJudge):
        return []
    tasks, new = Ref(number, BLIND), Ref(number, EVALUATION)
    return [
        _BLIND.stage(
            number,
            inputs={"prompts": Ref(0, PROMPTS), "new": new, "first": Ref(0, EVALUATION)},
            settings={
                "seed": seed,
                "count": judge.tasks,
                "overlap": judge.overlap,
                **planning.hidden("annotators"),
            },
        ),
        Wait(Ref(number, BLIND_LABELLING), tasks=tasks),
        _SNAPSHOT.stage(number, inputs={"tasks": tasks}),
        _RESULT.stage(
            number,
            inputs={"blind": tasks, "snapshot": Ref(number, BLIND_SNAPSHOT), "new": new},
            settings={"seed": seed},
        ),
    ]


def blind(job: Job, progress: Progress) -> Summary:
    """Choose the held-out prompts on which people compare the new policy with the first one."""
    from annotation.tasks import TIED, blind_tasks, shortfall

    new, old = (from_table(Candidate, read_table(job.inputs[name] / SAMPLES)) for name in ("new", "first"))
    tasks, same = blind_tasks(prompts_of(job, "test"), new, old, round=job.round, **job.settings)
    write_part(job, "tasks", Task, tasks)
    write_json(job.out / "same.json", same)
    fewer = shortfall(len(tasks), job.settings["count"], "blind comparisons", len(tasks) + len(same), {TIED: len(same)})
    notes = {"notes": [f"{fewer}; raise evaluate.prompts or prompts.test_share"]} if fewer else {}
    return {"tasks": len(tasks), "same": len(same), **notes}


def blind_result(job: Job, progress: Progress) -> Summary:
    """How often people preferred the new policy's answer."""
    from align.evaluation.blind import blind_win_rate

    new = read_table(job.inputs["new"] / SAMPLES).column("id").to_pylist()
    tasks = from_table(Task, read_table(job.inputs["blind"] / TASK_TABLE))
    judgements = from_table(Judgement, read_table(job.inputs["snapshot"] / JUDGEMENT_TABLE))
    same = read_json(job.inputs["blind"] / "same.json")
    result = blind_win_rate(tasks, judgements, set(new), same, seed=job.settings["seed"])
    write_json(job.out / "result.json", {"win_rate_vs_sft": result})
    return {"win_rate_vs_sft": result}
