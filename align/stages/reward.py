"""Reward models: trained from the round's parent, and what each is worth on pairs that it did not learn from.

The check is a stage of its own, which no other reads: another way to measure must not train a policy again.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from align.config.training import RewardModel
from align.pipeline.stage import Declaration, Job, Ref, Step
from align.progress import Progress
from align.stages.labels import JUDGEMENT_TABLE, TASK_TABLE
from align.stages.names import POLICY, REWARD, REWARD_CHECK, SNAPSHOT, TASKS
from align.stages.planning import Planning, labels_up_to
from align.stages.stage_io import labels_of, some, tokens_of, trained, training_of
from align.store import read_json, read_table, write_json, write_table
from align.types import Dropped, Judgement, Preference, Summary, Task, from_table

HELD_OUT, FRESH, PAIRS = "held_out.json", "fresh.json", "pairs.parquet"
_REWARD = Declaration(
    REWARD,
    "align.stages.reward:reward_model",
    tables={"dropped.parquet": Dropped},
    model="reward models",
    subprocess=True,
)
_CHECK = Declaration(REWARD_CHECK, "align.stages.reward:reward_check", subprocess=True)
STAGES = (_REWARD, _CHECK)


def plan(planning: Planning, number: int) -> list[Step]:
    recipe = planning.recipe
    if number == 0 or recipe.reward is None or recipe.reward.model is None:
        return []
    model = recipe.reward.model
    trained_here = _REWARD.stage(
        number,
        inputs={"parent": Ref(number - 1, POLICY), **labels_up_to(number, model.replay)},
        settings={
            "seed": recipe.seed,
            "dtype": recipe.model.dtype,
            "reward": model.model_dump(mode="json"),
            **planning.hidden("loss"),
        },
        runtime=planning.training,
    )
    # only where there are pairs that it, or the one before it, did not learn from
    checks = number > 1 or model.held_out > 0
    return [trained_here, *([_check(planning, model, number)] if checks else [])]


def _check(planning: Planning, model: RewardModel, number: int) -> Step:
    recipe = planning.recipe
    known = range(1, number + 1) if planning.asks else ()
    inputs = {
        "reward": Ref(number, REWARD),
        **labels_up_to(number, 1.0),
        **{f"asked_{n:03d}": Ref(n, TASKS) for n in known},
        **{f"said_{n:03d}": Ref(n, SNAPSHOT) for n in known},
    }
    if number > 1:
        inputs["before"] = Ref(number - 1, REWARD)
    if number > 2 or (number > 1 and model.held_out > 0):
        inputs["checked"] = Ref(number - 1, REWARD_CHECK)
    measured = model.model_dump(include={"held_out", "replay"})
    return _CHECK.stage(
        number,
        inputs=inputs,
        settings={"seed": recipe.seed, "dtype": recipe.model.dtype, **measured},
        runtime=planning.engine,
    )


def reward_model(job: Job, progress: Progress) -> Summary:
    """Train a reward model, the parent policy with a scalar head, on this round's preferences and earlier ones."""
    from reward.train import train_reward

    config = RewardModel(**job.settings["reward"])
    rows = some(labels_of(job, "preferences", Preference, config.replay), job, "preference")
    metrics = train_reward(job.inputs["parent"], rows, config, tokens=tokens_of(job), **training_of(job, progress))
    return trained(job, metrics, pairs=len(rows))


def reward_check(job: Job, progress: Progress) -> Summary:
    """Measure the round's reward model on its held-out pairs, and the one of the round before on this round's labels.

    Writes `held_out.json` and `fresh.json`, where there is something to measure (`reward.measure.measure`), and
    `pairs.parquet`: of each pair that was measured the difference of its scores.
    """
    from reward.measure import is_held_out

    share, replay = job.settings["held_out"], job.settings["replay"]
    measured: list[tuple[str, Preference, float | None]] = []
    found: Summary = {"held_out": None, "fresh": None, "drift": None, "warnings": []}
    if share > 0:
        rows = [r for r in labels_of(job, "preferences", Preference, replay) if is_held_out(r.prompt_id, share)]
        found["held_out"] = _measure(job, "reward", rows, measured, HELD_OUT)
    if "before" in job.inputs:
        found |= _fresh(job, share, measured)
    _write_pairs(job.out / PAIRS, measured)
    return found


def _fresh(job: Job, share: float, measured: list[tuple[str, Preference, float | None]]) -> Summary:
    """This round's labels, scored by the reward model that has not learned from them."""
    from reward.drift import drift, warnings
    from reward.measure import is_held_out

    new = labels_of(job, "preferences", Preference, 0.0)
    earlier = labels_of(job, "preferences", Preference, 1.0)[len(new) :]
    learned = {row.prompt_id for row in earlier if not is_held_out(row.prompt_id, share)}
    rows = [row for row in new if row.prompt_id not in learned]
    held_out = _earlier(job, HELD_OUT)
    told = (held_out or {}).get("calibration")
    result = _measure(job, "before", rows, measured, FRESH, temperature=(told["temperature"] or 1.0) if told else None)
    baseline = held_out or _earlier(job, FRESH)
    change = drift(read_json(job.out / FRESH), baseline) if baseline else None
    against = "on the pairs held out from its training" if held_out else "the model before it did on the labels before"
    said = warnings(result, change, round=job.round, against=against)
    counts = {"seen": len(new) - len(rows)}
    return {"fresh": result | counts, "drift": change and {**change, "against": against}, "warnings": said}


def _measure(
    job: Job,
    model: str,
    rows: list[Preference],
    measured: list[tuple[str, Preference, float | None]],
    name: str,
    *,
    temperature: float | None = None,
) -> Summary:
    """Measure one reward model on `rows`; the whole goes into the file `name`, and the summary is returned."""
    from reward.load import load_scorer
    from reward.measure import measure, score_pairs, slices_of, summary

    scorer = load_scorer(job.inputs[model], dtype=job.settings["dtype"], threads=job.runtime["threads"])
    differences, reasons, doubt = score_pairs(rows, scorer)
    scorer.close()  # the other model is next
    slices = {**slices_of(rows), "agreement": _agreement(job, rows), **doubt}
    result = measure(
        rows, differences, seed=job.settings["seed"], slices=slices, temperature=temperature, reasons=reasons
    )
    write_json(job.out / name, result)
    measured += [(name.partition(".")[0], row, d) for row, d in zip(rows, differences, strict=True)]
    return summary(result)


def _agreement(job: Job, rows: list[Preference]) -> list[str | None]:
    """How far people agreed about each pair, where people were asked."""
    from annotation.unanimity import unanimity

    tasks, judgements = list[Task](), list[Judgement]()
    for name, folder in job.inputs.items():
        if name.startswith("asked_"):
            tasks += from_table(Task, read_table(folder / TASK_TABLE))
        if name.startswith("said_"):
            judgements += from_table(Judgement, read_table(folder / JUDGEMENT_TABLE))
    return list(unanimity(rows, tasks, judgements))


def _earlier(job: Job, name: str) -> Any:
    """A result of the round before, or None where it has none."""
    path = job.inputs["checked"] / name if "checked" in job.inputs else None
    return read_json(path) if path is not None and path.is_file() else None


def _write_pairs(path: Path, measured: list[tuple[str, Preference, float | None]]) -> None:
    columns = {
        "part": pa.array([part for part, _, _ in measured], pa.string()),
        "preference": pa.array([row.id for _, row, _ in measured], pa.string()),
        "prompt_id": pa.array([row.prompt_id for _, row, _ in measured], pa.string()),
        "difference": pa.array([difference for _, _, difference in measured], pa.float64()),
    }
    write_table(path, pa.table(columns))
