"""What a report says, as plain data: read from a run's folder, whatever part of the run is there.

A number that is not there is None, and `missing` beside it says why.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from align.config.recipe import METHODS
from align.evaluation.compare import RESULT
from align.labelling.session import late_text
from align.pipeline.receipts import stage_folder
from align.provenance.forget import tainted
from align.report.gates import gates
from align.report.people import annotators, compilers, conflicts
from align.report.provenance import changed_versions, outside_files, recipe_text, versions
from align.report.reading import RunFolder, read_run
from align.report.reward_models import reward_models
from align.report.said import said_besides
from align.report.samples import choose_samples
from align.stages.labels import AGREEMENT, TASK_TABLE
from align.stages.names import (
    BLIND,
    BLIND_RESULT,
    BLIND_SNAPSHOT,
    EVALUATION,
    GATE,
    LABELS,
    POLICY,
    REWARD,
    SNAPSHOT,
    TASKS,
)
from align.stages.stage_io import measured_outcome
from align.store import read_table
from annotation.journal import read_journal

COMPARED = ("win_rate_vs_sft", "win_rate_vs_parent")
MEASURED = ("mean_score", "mean_tokens", "mean_characters", "truncated")
CURVES = {
    "loss": "loss",
    "rewards/accuracies": "pairs ranked right",
    "rewards/margins": "reward margin",
    "accuracy": "pairs ranked right",
    "margin": "reward margin",
    "reward": "mean reward of the policy's answers",
    "kl": "KL divergence to the parent, nats per token",
}
"""TRL's metrics that are drawn, and what they are called in the report."""
SHARES = ("rewards/accuracies", "accuracy")
"""Those that lie between 0 and 1."""


def report_data(run: Path) -> dict[str, Any]:
    """The report of the run in folder `run`. All values are JSON-able; shares lie in [0, 1], times are in seconds.

    Raises ConfigError where there is no run, DataError where a file of it is damaged.
    """
    found = read_run(run)
    planned = int(found.recipe.get("rounds", 1))
    rounds = [_round(found, n) for n in range(1, planned + 1) if any(ref.round == n for ref in found.receipts)]
    state, state_text = _state(found, planned)
    compiled = compilers(found)
    by = (found.recipe.get("annotate") or {}).get("by") or {}
    return {
        "name": found.recipe.get("name", run.name),
        "state": state,
        "state_text": state_text,
        "seed": found.recipe.get("seed"),
        "rounds_planned": planned,
        "first_policy": "SFT" if found.recipe.get("sft") else "the given model",
        "labels_from": by.get("type", "file") if _needs_labels(found) else None,
        "method": _method(found),
        "shuffled_labels": bool(by.get("shuffle_labels")),
        "judge": _judge(found),
        "kind": (found.recipe.get("annotate") or {}).get("kind"),
        "sft": _first(found),
        "rounds": rounds,
        "model": _model(found),
        "stages": [
            {"round": r.round, "stage": r.stage, "seconds": r.seconds, "key": r.key, "output": r.output}
            for r in found.receipts.values()
        ],
        "annotators": annotators(found),
        "compilers": compiled,
        "reward_models": reward_models(found),
        "said": said_besides(found),
        "gates": gates(found, planned),
        "learning_curves": _curves(found),
        "samples": choose_samples(found),
        "versions": versions(found),
        "files": outside_files(found),
        "recipe": recipe_text(found.text),
        "notes": [
            *_forgotten(run),
            *_late(found),
            *_stale(found),
            *changed_versions(found),
            *_of_labels(compiled),
            *_of_trainings(found),
        ],
    }


def _of_labels(compiled: list[dict[str, Any]]) -> list[str]:
    """What the latest round's labels want people to know."""
    return [f"Round {last['round']}: {note}" for last in compiled[-1:] for note in last["notes"]]


def _of_trainings(run: RunFolder) -> list[str]:
    """Which policies are not those of their training's last step."""
    ended = [(ref.round, measured_outcome(receipt.summary)) for ref, receipt in run.receipts.items()]
    return [f"Round {number}: {text}." for number, text in sorted(ended, key=lambda row: row[0]) if text]


def _model(run: RunFolder) -> dict[str, Any] | None:
    """The newest policy that this run trained: its round, its folder and the run's. None where it has trained none."""
    trained = [r for ref, r in run.receipts.items() if ref.stage == POLICY and (ref.round or run.recipe.get("sft"))]
    if not trained:
        return None
    last = max(trained, key=lambda receipt: receipt.round)
    folder = stage_folder(run.path, last.ref) / last.key
    return {"round": last.round, "folder": str(folder), "run": str(run.path)}


def _round(run: RunFolder, number: int) -> dict[str, Any]:
    missing: dict[str, str] = {}
    snapshot, compiled = run.summary(number, SNAPSHOT), run.summary(number, LABELS)
    values: dict[str, Any] = {"round": number, "labels": snapshot.get("labels"), "skipped": snapshot.get("skipped")}
    values["preferences"] = compiled.get("preferences")
    values["binary"] = compiled.get("binary")
    asked = run.recipe.get("annotate") is not None
    if not _needs_labels(run):
        missing |= dict.fromkeys(("labels", "preferences", "binary"), "scoring functions alone say what is good")
    elif values["labels"] is None:
        missing["labels"] = _not_yet(number, SNAPSHOT) if asked else "they came from a file"
    for name in ("preferences", "binary"):
        if values[name] is None:
            missing.setdefault(name, "the file has none" if compiled else _not_yet(number, LABELS))
    agreement = run.json(number, LABELS, AGREEMENT) or {}
    for name, key in (("agreement", "percent_agreement"), ("alpha", "alpha"), ("fleiss", "fleiss"), ("left", "left")):
        measured = agreement.get(key) or {
            "value": None,
            "reason": missing.get("labels", _not_yet(number, LABELS)),
        }
        values[name] = measured["value"]
        values[f"{name}_interval"] = None if measured["value"] is None else [measured["low"], measured["high"]]
        if measured["value"] is None:
            missing[name] = measured["reason"]
    values["contradictory_pairs"] = agreement.get("contradictory_pairs")
    values["conflicts"], values["suggestion_effect"] = conflicts(agreement), agreement.get("suggestion_effect")
    result = run.json(number, EVALUATION, RESULT)
    values |= {name: (result or {}).get(name) for name in (*COMPARED, *MEASURED)}
    for name in (*COMPARED, *MEASURED):
        if values[name] is None:
            missing[name] = _not_yet(number, EVALUATION) if result is None else _unjudged(run)
    if _people_judge(run):
        found = (run.json(number, BLIND_RESULT, RESULT) or {}).get("win_rate_vs_sft")
        values["win_rate_vs_sft"] = found if found and found["mean"] is not None else None
        if values["win_rate_vs_sft"] is None:
            missing["win_rate_vs_sft"] = found["reason"] if found else _not_yet(number, BLIND_RESULT)
        else:
            del missing["win_rate_vs_sft"]
    policy = run.summary(number, POLICY)
    values["checkpoint"], values["reward"] = policy.get("checkpoint"), _reward(policy)
    values["reward_model"] = run.summary(number, REWARD).get("checkpoint")
    return {**values, "dropped": _dropped(run, number), "seconds": _seconds(run, number), "missing": missing}


def _first(run: RunFolder) -> dict[str, Any]:
    """Round 0: SFT or the given model."""
    result = run.json(0, EVALUATION, RESULT)
    values = {name: (result or {}).get(name) for name in (*MEASURED, "demonstrations")}
    values |= {"checkpoint": run.summary(0, POLICY).get("checkpoint"), "dropped": _dropped(run, 0)}
    missing = {} if result is not None else dict.fromkeys(MEASURED, _not_yet(0, EVALUATION))
    if result is not None and values["mean_score"] is None:
        missing["mean_score"] = _unjudged(run)
    return {"round": 0, **values, "seconds": _seconds(run, 0), "missing": missing}


def _method(run: RunFolder) -> str:
    return next((name for name in METHODS if run.recipe.get(name) is not None), "dpo")


def _needs_labels(run: RunFolder) -> bool:
    """Whether training needs what people say; scoring functions alone do not."""
    reward = run.recipe.get("reward")
    return reward is None or reward.get("model") is not None


def _reward(policy: dict[str, Any]) -> dict[str, Any] | None:
    """How far an online method raised its reward: mean of the first and last steps' answers, KL at the end; of
    best-of-n the means of all its answers and of those that it learned."""
    if "mean_score_first" in policy:
        return {"first": policy["mean_score_first"], "last": policy["mean_score_last"], "kl": policy.get("kl_last")}
    if "mean_score_best" in policy:
        return {"all": policy["mean_score_all"], "best": policy["mean_score_best"]}
    return None


def _people_judge(run: RunFolder) -> bool:
    return ((run.recipe.get("evaluate") or {}).get("judge") or {}).get("type") == "people"


def _unjudged(run: RunFolder) -> str:
    """Why there is no score, nor what follows from scores."""
    if _people_judge(run):
        return "people compare answers with the first policy's; they give no score"
    return "the recipe names no judge"


def _not_yet(round: int, stage: str) -> str:
    return f"the stage {round}/{stage} has not run yet"


def _dropped(run: RunFolder, round: int) -> dict[str, int]:
    """Reason → rows, over all stages of a round, the most frequent first."""
    counts: Counter[str] = Counter()
    for ref in run.receipts:
        if ref.round == round:
            for row in run.rows(round, ref.stage, "dropped.parquet") or ():
                counts[f"{row['what']}: {row['reason']}"] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _seconds(run: RunFolder, round: int) -> float:
    """Wall time of the round's stages; the time in which people label is not in it."""
    return float(sum(r.seconds for ref, r in run.receipts.items() if ref.round == round))


def _state(run: RunFolder, planned: int) -> tuple[str, str]:
    """`finished`, `waiting` (for labels), `blocked` (by a stage) or `unfinished`, and a sentence about it."""
    for ref, receipt in run.receipts.items():
        if why := receipt.summary.get("blocked"):
            return "blocked", f"{ref} stops the run: {why}."
    last_stage = GATE if run.recipe.get("gate") else BLIND_RESULT if _people_judge(run) else EVALUATION
    for number in range(planned + 1):
        if run.has(number, last_stage if number else EVALUATION):
            continue
        for asked, taken, why in (
            (TASKS, SNAPSHOT, ""),
            (BLIND, BLIND_SNAPSHOT, " of its comparison with the first policy"),
        ):
            if run.has(number, asked) and not run.has(number, taken):
                given, wanted = _progress(run, number, asked)
                return "waiting", f"Round {number} is waiting for labels{why}: {given} of {wanted} are given."
        last = next(reversed(run.receipts), None)
        return "unfinished", f"The last finished stage is {last}." if last else "No stage is finished yet."
    return "finished", f"All {planned} rounds are done." if planned > 1 else "Its one round is done."


def _progress(run: RunFolder, round: int, stage: str) -> tuple[int, int]:
    """Labels given and wanted for the tasks of a stage; more than wanted on one task count as wanted."""
    tasks = run.rows(round, stage, TASK_TABLE) or []
    given: Counter[str] = Counter()
    journal = read_journal(run.path / "journal.jsonl", {t["id"] for t in tasks})
    for judgement in journal.judgements(t["id"] for t in tasks):
        given[judgement.task_id] += judgement.outcome != "skipped"
    return sum(min(given[t["id"]], t["wanted"]) for t in tasks), sum(t["wanted"] for t in tasks)


def _judge(run: RunFolder) -> dict[str, Any] | None:
    """Who compares answers: {"type": "people"}, or a function {"type", "name", "tie_width", "hidden_preference"}; the
    last where simulated annotators follow the same function."""
    judge = (run.recipe.get("evaluate") or {}).get("judge")
    if judge is None or _people_judge(run):
        return judge and {"type": "people"}
    utility = ((run.recipe.get("annotate") or {}).get("by") or {}).get("utility")
    # only the file's own name: a report travels, and the folders of this machine are nobody's business
    name = Path(judge["path"]).name
    return {
        "type": "function",
        "name": name,
        "tie_width": judge.get("tie_width", 0.0),
        "hidden_preference": judge["path"] == utility,
    }


def _curves(run: RunFolder) -> list[dict[str, Any]]:
    """Learning curves of every policy and reward model: points are [step, value], values finite; of a `share` in [0,
    1]."""
    curves = []
    for ref in run.receipts:
        if ref.stage not in (POLICY, REWARD):
            continue
        log = run.log(ref.round, ref.stage, "metrics.jsonl")
        for metric, title in CURVES.items():
            points = [[row["step"], row[metric]] for row in log if _is_number(row.get(metric))]
            if len(points) > 1:
                about = {"round": ref.round, "stage": ref.stage, "metric": metric, "title": title}
                curves.append({**about, "share": metric in SHARES, "points": points})
    return curves


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _late(run: RunFolder) -> list[str]:
    """What people said about a round's tasks after its labelling was closed."""
    notes = []
    for ref, receipt in run.receipts.items():
        path = run.file(ref.round, ref.stage, TASK_TABLE) if ref.stage in (TASKS, BLIND) else None
        if path is not None:
            tasks = set(read_table(path, columns=["id"])["id"].to_pylist())
            if late := read_journal(run.path / "journal.jsonl", tasks).late(tasks, receipt.output):
                notes.append(f"Round {ref.round}: {late_text(len(late))}.")
    return notes


def _stale(run: RunFolder) -> list[str]:
    if not run.stale:
        return []
    names = ", ".join(str(ref) for ref in run.stale)
    return [f"Left out, because an earlier stage has changed since: {names}. The next `align run` does them again."]


def _forgotten(run: Path) -> list[str]:
    models = tainted(run)
    if not models:
        return []
    names = ", ".join(f"{model['stage']} ({model['id'][:12]})" for model in models)
    return [f"Made with judgements that are forgotten since: {names}. The next `align run` trains without them."]


def latest_round(data: dict[str, Any]) -> dict[str, Any] | None:
    """The last round of `report_data` that is evaluated, or None."""
    return next((r for r in reversed(data["rounds"]) if r["mean_tokens"] is not None), None)
