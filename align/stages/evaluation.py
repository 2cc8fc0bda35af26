"""What a policy is worth: its answers to held-out prompts, scored and compared with earlier policies'."""

from pathlib import Path

from align.config.recipe import Evaluate, FunctionJudge, Personas, Recipe
from align.config.rollouts import Rollouts
from align.evaluation.compare import SAMPLES
from align.pipeline.stage import Declaration, Job, Ref, Step
from align.progress import Progress
from align.stages.names import DEMONSTRATIONS, EVALUATION, POLICY, PROMPTS
from align.stages.planning import Planning
from align.stages.rollouts import how, sample
from align.stages.stage_io import checkpoint_of, demonstrations_of, prompts_of, write_part
from align.types import Candidate, Dropped, Summary
from reward.functions import function_id

_EVALUATION = Declaration(
    EVALUATION,
    "align.stages.evaluation:evaluation",
    tables={SAMPLES: Candidate, "dropped.parquet": Dropped},
    subprocess=True,
)
STAGES = (_EVALUATION,)


def plan(planning: Planning, number: int) -> list[Step]:
    recipe = planning.recipe
    inputs = {"prompts": Ref(0, PROMPTS), "policy": Ref(number, POLICY)}
    if number == 0 and recipe.sft is not None:
        inputs["demonstrations"] = Ref(0, DEMONSTRATIONS)
    if number > 0:
        inputs |= {"first": Ref(0, EVALUATION), "parent": Ref(number - 1, EVALUATION)}
    judge = judge_of(recipe)
    return [
        _EVALUATION.stage(
            number,
            inputs=inputs,
            settings={
                "seed": recipe.seed,
                "dtype": recipe.model.dtype,
                "evaluate": recipe.evaluate.model_dump(exclude={"judge"}),
                "engine": recipe.rollouts.model_dump(include={"type", "shard", "max_prompt_tokens"}),
                "tie_width": judge.tie_width if judge else None,
            },
            files={"judge": function_id(judge.path, Path())} if judge else {},
            runtime={**planning.engine, "how": how(recipe.rollouts), "judge": judge.path if judge else None},
        )
    ]


def judge_of(recipe: Recipe) -> FunctionJudge | None:
    """The scoring function that the recipe names; with simulated annotators and none named, their own hidden
    utility."""
    judge = recipe.evaluate.judge
    if judge is None and recipe.annotate is not None and isinstance(recipe.annotate.by, Personas):
        return FunctionJudge(path=recipe.annotate.by.utility)
    return judge if isinstance(judge, FunctionJudge) else None


def evaluation(job: Job, progress: Progress) -> Summary:
    """Sample and score answers to held-out prompts; compare with the first policy and with the parent."""
    from align.data.prompts import held_out_prompts
    from align.evaluation.compare import evaluate_policy
    from reward.functions import FunctionScorer, load_function

    config, seed = Evaluate(**job.settings["evaluate"]), job.settings["seed"]
    engine = Rollouts(**job.settings["engine"], **job.runtime["how"])
    held_out = held_out_prompts(prompts_of(job, "test"), config.prompts)
    # every policy answers with the same seeds, so that comparisons are paired where they can be
    rows, dropped = sample(job, held_out, config, engine, "evaluation", progress, keep_all=True)
    write_part(job, "dropped", Dropped, dropped)
    shown = demonstrations_of(job)
    result = evaluate_policy(
        held_out,
        rows,
        score=FunctionScorer(load_function(job.runtime["judge"], Path())).score if job.runtime["judge"] else None,
        tie_width=job.settings["tie_width"] or 0.0,
        seed=seed,
        out=job.out,
        first=job.inputs.get("first"),
        parent=job.inputs.get("parent"),
        demonstrations=[(row.messages, row.answer) for row in shown],
    )
    return {"checkpoint": checkpoint_of(job.inputs["policy"]), **result}
