"""The gate: after people compared a round's policy with the first one, whether the run goes on."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from align.config.rewards import read_function
from align.errors import DataError
from align.evaluation.blind import comparisons
from align.evaluation.compare import SAMPLES
from align.evaluation.gate import Check, Decision, decide, evidence_over_labels, sentence
from align.pipeline.stage import Declaration, Job, Ref, Step
from align.progress import Progress
from align.stages.labels import JUDGEMENT_TABLE, TASK_TABLE
from align.stages.names import BLIND, BLIND_SNAPSHOT, EVALUATION, GATE, PROMPTS
from align.stages.planning import Planning
from align.stages.stage_io import prompts_of
from align.store import read_table, write_json
from align.types import Candidate, Judgement, Prompt, Summary, Task, from_table
from reward.build import identity
from reward.terms import RewardTerm, scorer_of

DECISION = "decision.json"
_GATE = Declaration(GATE, "align.stages.gate:gate", subprocess=True)
STAGES = (_GATE,)


def plan(planning: Planning, number: int) -> list[Step]:
    gate = planning.recipe.gate
    if gate is None or number == 0:
        return []
    return [
        _GATE.stage(
            number,
            inputs={
                "prompts": Ref(0, PROMPTS),
                "blind": Ref(number, BLIND),
                "snapshot": Ref(number, BLIND_SNAPSHOT),
                "new": Ref(number, EVALUATION),
                "first": Ref(0, EVALUATION),
            },
            settings={
                "effect": gate.effect,
                "alpha": gate.alpha,
                "checks": [[check.name, check.margin] for check in gate.checks],
            },
            files={f"check_{index}": identity(check.score) for index, check in enumerate(gate.checks)},
            runtime={**planning.engine, "scores": [c.score.model_dump(mode="json") for c in gate.checks]},
        )
    ]


def gate(job: Job, progress: Progress) -> Summary:
    """Decide, and block the run unless the verdict is go."""
    new, first = (job.inputs[name] for name in ("new", "first"))
    judgements = from_table(Judgement, read_table(job.inputs["snapshot"] / JUDGEMENT_TABLE))
    tasks = from_table(Task, read_table(job.inputs["blind"] / TASK_TABLE))
    ours = set(read_table(new / SAMPLES).column("id").to_pylist())
    functions = [read_function(dumped) for dumped in job.runtime["scores"]]
    prompts = prompts_of(job, "test")
    checks = [
        Check(name, differences(RewardTerm(function), prompts, new, first, name), margin)
        for (name, margin), function in zip(job.settings["checks"], functions, strict=True)
    ]
    given = {name: job.settings[name] for name in ("effect", "alpha")}
    found = comparisons(tasks, judgements, ours)
    decision = decide(found, checks, **given)
    told = {**decision.as_dict(), **given, "said": sentence(decision), "curve": evidence_over_labels(found)}
    write_json(job.out / DECISION, told)
    return summary_of(decision)


def summary_of(decision: Decision) -> Summary:
    """What the receipt says: the verdict, and why the run is blocked where it is."""
    said = sentence(decision)
    told: dict[str, Any] = {"verdict": decision.verdict, "evidence": decision.evidence}
    if decision.verdict == "go":
        return {**told, "notes": [said]}
    return {**told, "blocked": f"{said}; {WAYS_OUT[decision.verdict]}"}


WAYS_OUT = {
    "stop": "change the recipe and train again, or take the gate out of it",
    "labels": "raise evaluate.judge.tasks (and evaluate.prompts), then run again; labels that are there count",
    "people": "let more people in (`align server users add`), raise evaluate.judge.tasks, then run again",
}
"""What to do where the verdict is not go."""


def differences(part: RewardTerm, prompts: Sequence[Prompt], new: Path, first: Path, name: str) -> list[float]:
    """For each prompt that both evaluations answer, the new policy's mean score less the first one's, in [−1, 1].

    Raises DataError for scores outside [0, 1], and where no prompt has a score on both sides.
    """
    scorer = scorer_of([part], dtype="float32", threads=None)
    messages = {prompt.id: prompt.messages for prompt in prompts}
    means: list[dict[str, float]] = []
    for folder in (new, first):
        answers = [row for row in from_table(Candidate, read_table(folder / SAMPLES)) if row.prompt_id in messages]
        scores = scorer.score([messages[row.prompt_id] for row in answers], [row.text for row in answers])
        found: dict[str, list[float]] = {}
        for row, score in zip(answers, scores, strict=True):
            if score is None:
                continue
            if not 0 <= score <= 1:
                raise DataError(f"the check {name!r} needs scores from 0 to 1, found {score}", where="gate.checks")
            found.setdefault(row.prompt_id, []).append(score)
        means.append({prompt: fmean(some) for prompt, some in found.items()})
    ours, theirs = means
    if not (shared := sorted(ours.keys() & theirs.keys())):
        raise DataError(f"the check {name!r} could score no prompt for both policies", where="gate.checks")
    return [ours[prompt] - theirs[prompt] for prompt in shared]
