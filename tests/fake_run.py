"""A run's folder without a run: every file as the stages write it, with invented answers and training logs.

Published through `align.pipeline.receipts.publish_stage`, so keys, receipts and pointers are the real ones.
"""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pyarrow as pa
import yaml

from align.evaluation.statistics import clustered_bootstrap
from align.evaluation.winrate import win_rate
from align.ids import content_id, unit_for
from align.labelling.tasks import write_suggestions
from align.pipeline.receipts import Receipt, partial_folder, publish_stage, stage_folder, stage_key
from align.pipeline.stage import Declaration, Job, Ref, Stage
from align.stages import comparison, labels
from align.store import read_json, read_table, write_json, write_rows, write_table
from align.types import (
    SCHEMAS,
    Candidate,
    Dropped,
    Judgement,
    Message,
    Preference,
    Prompt,
    Task,
    as_dict,
    candidate_id,
    from_table,
    judgement_id,
    prompt_id,
    task_id,
    to_table,
)
from annotation.controls import Suggestion, gold_tasks, repeats, suggest
from annotation.journal import append
from reward.drift import drift, warnings
from reward.measure import is_held_out, measure, slices_of

ITEMS = [
    "kettle",
    "lamp",
    "chair",
    "clock",
    "radio",
    "toaster",
    "bicycle",
    "camera",
    "suitcase",
    "umbrella",
    "guitar",
    "telescope",
]
COLOURS = ["red", "blue", "green", "black", "white", "grey"]
TROUBLE = {
    "The {} arrived broken.": "We will send you a new one today.",
    "I was charged twice for my {}.": "The second charge goes back to your card today.",
    "My {} is two weeks late.": "We will trace the parcel and call you tomorrow.",
    "The {} is not for me.": "You get a full refund once it is back with us.",
}
FILLERS = ["Our shop has been open for many years.", "Many people write to us every day."]
HELD_OUT, TRAIN, ASKED = 120, 200, 96
PEOPLE = {"type": "people", "tasks": 60, "overlap": 1}
SECONDS = {
    "blind": 0.1,
    "blind_snapshot": 0.1,
    "blind_result": 0.1,
    "rollouts": 21.4,
    "tasks": 0.3,
    "snapshot": 0.2,
    "preferences": 0.4,
    "reward": 14.2,
    "reward_check": 6.1,
    "policy": 31.7,
    "evaluation": 11.9,
}

Answer = Callable[[int, str, int], str]
"""(round, prompt's text, sample) → answer."""


@dataclass
class FakeRun:
    """Options of `make_run`; `stop_before` names the first stage that is not there ("2/snapshot"), `controls` has gold tasks,
    repeats and suggestions, `people_judge` blind comparisons in place of a function; `method` is dpo or ppo, the latter
    with a reward model or, without `labels`, with a function as reward; `forgets` is how much of what it knows the reward
    model still knows of the next round's answers; where an annotator `speaks`, some labels have all of `SPOKEN`."""

    rounds: int = 3
    seed: int = 0
    judge: bool = True
    people_judge: bool = False
    controls: bool = False
    sft: bool = True
    by: str = "personas"
    shuffled: bool = False
    learns: float = 0.17
    forgets: float = -0.3
    stop_before: str | None = None
    answer: Answer | None = None
    method: str = "dpo"
    labels: bool = True
    speaks: bool = False
    name: str = "support-desk"
    title: str = "The same support desk, three times better"
    receipts: dict[Ref, Receipt] = field(default_factory=dict)


class StopError(Exception):
    """The run ends here."""


def make_run(runs: Path, **options: Any) -> Path:
    """Write a run below `runs` and return its folder."""
    fake = FakeRun(**options)
    run = runs / fake.name
    run.mkdir(parents=True)
    recipe = _recipe(fake)
    (run / "resolved.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (run / "recipe.yaml").write_text(f"# {fake.title}\n" + yaml.safe_dump(recipe, sort_keys=False))
    write_json(run / "env.json", {"align": "0.1.0", "python": "3.11.7", "platform": "Linux-6.1-x86_64", "cores": 2})
    prompts = _prompts(fake.seed)
    try:
        _round_zero(run, fake, prompts)
        for number in range(1, fake.rounds + 1):
            _round(run, fake, number, prompts)
    except StopError:
        pass
    return run


def _recipe(fake: FakeRun) -> dict[str, Any]:
    personas = {
        "type": "personas",
        "utility": "recipes/support-desk/world.py:utility",
        "shuffle_labels": fake.shuffled,
        "personas": [{"name": n} for n in ("ada", "bo", "chi")],
    }
    recipe: dict[str, Any] = {"name": fake.name, "seed": fake.seed, "rounds": fake.rounds}
    recipe["model"] = {"path": "recipes/support-desk/data/model", "dtype": "float32"}
    recipe["sft"] = {"demonstrations": "data/demonstrations.jsonl", "learning_rate": 1e-3} if fake.sft else None
    recipe["rollouts"] = {"type": "vllm", "prompts": ASKED, "samples": 2}
    recipe["annotate"] = {"tasks": ASKED, "overlap": 2, "by": personas if fake.by == "personas" else {"type": "people"}}
    recipe[fake.method] = {"beta": 0.1, "learning_rate": 3e-4, "epochs": 3}
    if fake.method == "ppo":
        recipe["reward"] = {"model": {}} if fake.labels else {"model": None, "functions": [{"path": "score.py:score"}]}
    if not fake.labels:
        recipe["annotate"] = None
    judge = {"type": "function", "path": "recipes/support-desk/world.py:utility", "tie_width": 0.05}
    recipe["evaluate"] = {
        "judge": judge if fake.judge else PEOPLE if fake.people_judge else None,
        "prompts": HELD_OUT,
        "samples": 1,
    }
    return recipe


def _round_zero(run: Path, fake: FakeRun, prompts: list[Prompt]) -> None:
    with _stage(run, fake, 0, "prompts", [], 0.8, files={"prompts": content_id("prompts")}) as (out, done):
        write_table(out / "prompts.parquet", to_table(Prompt, prompts))
        rows = [Dropped("prompt", f"prompts.jsonl:{n}", "the same prompt stands in line 12") for n in (40, 41, 77)]
        write_table(out / "dropped.parquet", to_table(Dropped, rows))
        done |= {"train": TRAIN, "test": HELD_OUT, "dropped": 3}
    with _stage(run, fake, 0, "policy", [Ref(0, "prompts")], 74.2 if fake.sft else 0.9) as (out, done):
        _policy(out, done, 0, fake, 260 if fake.sft else 0)
    _evaluation(run, fake, 0, prompts)


def _round(run: Path, fake: FakeRun, number: int, prompts: list[Prompt]) -> None:
    made_from = [Ref(number - 1, "policy"), *(_asked(run, fake, number, prompts) if fake.labels else [])]
    if fake.method == "ppo" and fake.labels:
        with _stage(run, fake, number, "reward", made_from) as (out, done):
            _reward(out, done, number, fake)
        checked = [Ref(number, "reward"), Ref(number, "preferences")]
        checked += [Ref(number - 1, "reward"), Ref(number - 1, "reward_check")] if number > 1 else []
        with _stage(run, fake, number, "reward_check", checked) as (out, done):
            _reward_check(run, out, done, number, fake)
        made_from = [Ref(number - 1, "policy"), Ref(number, "reward")]
    with _stage(run, fake, number, "policy", made_from) as (out, done):
        _policy(out, done, number, fake, 48)
    _evaluation(run, fake, number, prompts)
    if fake.people_judge:
        _judged(run, fake, number, prompts)


def _asked(run: Path, fake: FakeRun, number: int, prompts: list[Prompt]) -> list[Ref]:
    """From answers to compiled preferences."""
    asked = [p for p in prompts if p.split == "train"][:ASKED]
    parent = fake.receipts[Ref(number - 1, "policy")].summary["checkpoint"]
    with _stage(run, fake, number, "rollouts", [Ref(0, "prompts"), Ref(number - 1, "policy")]) as (out, done):
        rows = [_candidate(fake, number - 1, p, parent, s) for p in asked for s in (0, 1)]
        write_table(out / "candidates.parquet", to_table(Candidate, rows))
        long = [Dropped("prompt", asked[0].id, "the prompt has 530 tokens, more than max_prompt_tokens (512)")]
        write_table(out / "dropped.parquet", to_table(Dropped, long))
        done |= {"candidates": len(rows), "dropped": 1}
    tasks, suggestions = _tasks(asked, rows, number), []
    if fake.controls:
        tasks, suggestions = _controls(tasks, prompts, number)
    with _stage(run, fake, number, "tasks", [Ref(number, "rollouts")]) as (out, done):
        write_table(out / "tasks.parquet", to_table(Task, tasks))
        write_suggestions(out, suggestions)
        done |= {"tasks": len(tasks), "dropped": 0}
    _labelled(run, fake, number, "tasks", "snapshot", [j for t in tasks for j in _judgements(t, fake)])
    made_from = [Ref(number, "tasks"), Ref(number, "snapshot")]
    with _stage(run, fake, number, "preferences", made_from) as (out, done):
        folders = {ref.stage: stage_folder(run, ref) / fake.receipts[ref].key for ref in made_from}
        job = Job(number, "preferences", folders, {"compiler": "bradley_terry"}, {}, out)
        done |= labels.preferences(job, lambda done, total: None)
    return [Ref(number, "preferences")]


def _labelled(run: Path, fake: FakeRun, number: int, tasks: str, name: str, judgements: list[Judgement]) -> None:
    """The journal's lines and the snapshot of them; where the run ends here, half of the labels."""
    if fake.stop_before == f"{number}/{name}":
        judgements = judgements[: len(judgements) // 2]
    append(run / "journal.jsonl", [{"type": "judgement", **as_dict(j)} for j in judgements])
    with _stage(run, fake, number, name, [Ref(number, tasks)], files={"judgements": f"{number}"}) as (out, done):
        write_table(out / "judgements.parquet", to_table(Judgement, judgements))
        skipped = sum(j.outcome == "skipped" for j in judgements)
        done |= {"labels": len(judgements) - skipped, "skipped": skipped, "annotators": 3}


def _controls(tasks: list[Task], prompts: list[Prompt], number: int) -> tuple[list[Task], list[Suggestion]]:
    """Gold, repeats and suggestions beside the pairs."""
    right = "We are sorry about the {}. {}"
    asked = [p for p in prompts if p.split == "train"][-30:]
    known = []
    for prompt in asked:
        text = prompt.messages[-1]["content"]
        item = next(i for i in ITEMS if i in text)
        texts = [right.format(item, r) for r in sorted(TROUBLE.values(), key=lambda r: utility(text, r))]
        ids = [candidate_id(prompt.id, t, "given") for t in (texts[-1], texts[0])]
        known.append(Preference("", prompt.id, prompt.messages, *ids, texts[-1], texts[0], 1.0, 1.0, 0.0, 0, []))
    gold, _ = gold_tasks(known, tasks, kind="pair", share=0.15, round=number, overlap=2, seed=0)
    whole = [*tasks, *repeats(tasks, share=0.2, seed=0), *gold]
    scores = {t.id: [unit_for("suggest", c) for c in t.candidates] for t in whole}
    return suggest(whole, scores, share=0.5, seed=0)


def _judged(run: Path, fake: FakeRun, number: int, prompts: list[Prompt]) -> None:
    """People compare the round with the first policy, through the stages' own functions."""
    held_out = {"prompts": Ref(0, "prompts"), "new": Ref(number, "evaluation"), "first": Ref(0, "evaluation")}
    folders = {name: stage_folder(run, ref) / fake.receipts[ref].key for name, ref in held_out.items()}
    with _stage(run, fake, number, "blind", list(held_out.values())) as (out, done):
        settings = {"seed": fake.seed, "count": 60, "overlap": 1}
        done |= comparison.blind(Job(number, "blind", folders, settings, {}, out), lambda done, total: None)
        tasks = from_table(Task, read_table(out / "tasks.parquet"))
    _labelled(run, fake, number, "blind", "blind_snapshot", [j for t in tasks for j in _judgements(t, fake)])
    made_from = {"blind": Ref(number, "blind"), "snapshot": Ref(number, "blind_snapshot"), "new": held_out["new"]}
    folders = {name: stage_folder(run, ref) / fake.receipts[ref].key for name, ref in made_from.items()}
    with _stage(run, fake, number, "blind_result", list(made_from.values())) as (out, done):
        job = Job(number, "blind_result", folders, {"seed": fake.seed}, {}, out)
        done |= comparison.blind_result(job, lambda done, total: None)


@contextmanager
def _stage(
    run: Path,
    fake: FakeRun,
    number: int,
    name: str,
    inputs: list[Ref],
    seconds: float | None = None,
    files: dict[str, str] | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A stage's working folder and the summary to fill; sealed at the end."""
    if fake.stop_before == f"{number}/{name}":
        raise StopError
    stage = Stage(
        Ref(number, name), Declaration(name, ""), {str(r): r for r in inputs}, {"seed": fake.seed}, files or {}
    )
    sources = {str(r): fake.receipts[r] for r in inputs}
    key = stage_key(stage, sources)
    out, summary_ = partial_folder(run, stage.ref, key), {}
    yield out, summary_
    took = (SECONDS[name] if seconds is None else seconds) * (1 + 0.1 * unit_for(number, name))
    clock = f"2026-11-0{number + 1}T10:{len(fake.receipts):02d}:00+00:00"
    fake.receipts[stage.ref] = publish_stage(run, stage, key, sources, summary_, clock, clock, took)


def _policy(out: Path, done: dict[str, Any], number: int, fake: FakeRun, steps: int) -> None:
    write_json(out / "config.json", {"round": number, "seed": fake.seed})
    (out / "logs").mkdir()
    rng, rows = random.Random(f"{fake.seed} {number}"), []
    for step in range(1, steps + 1, 1 if number else 5):
        part, noise = step / steps, rng.gauss(0, 1)
        row: dict[str, Any] = {"step": step, "epoch": part, "learning_rate": 1e-3 * (1 - part)}
        if number == 0:
            row["loss"] = 1.1 + 5.2 * 0.97**step + 0.04 * noise
        elif fake.method == "ppo":
            row |= {"loss": 0.1 * noise, "reward": 0.25 + 1.25 * part, "kl": 0.0625 * part}
        else:
            row["loss"] = 0.693 - 0.25 * part + 0.03 * noise
            row["rewards/accuracies"] = min(1.0, max(0.0, 0.5 + 0.3 * part + 0.06 * noise))
            row["rewards/margins"] = 0.9 * part + 0.05 * noise
        rows.append(row)
    write_rows(out / "logs" / "metrics.jsonl", [*rows, {"step": steps, "train_runtime": 31.0}] if rows else [])
    done["checkpoint"] = content_id(["checkpoint", number, fake.seed])
    if number and fake.method == "ppo":
        done |= {"mean_score_first": 0.25, "mean_score_last": 1.5, "kl_last": 0.0625}


def _reward(out: Path, done: dict[str, Any], number: int, fake: FakeRun) -> None:
    (out / "logs").mkdir()
    rows = [{"step": step, "loss": 0.7 - 0.01 * step, "accuracy": 0.5 + 0.01 * step} for step in range(1, 20)]
    write_rows(out / "logs" / "metrics.jsonl", rows)
    done["checkpoint"] = content_id(["reward", number, fake.seed])


def _reward_check(run: Path, out: Path, done: dict[str, Any], number: int, fake: FakeRun) -> None:
    """As `align.stages.reward` does it, with scores that follow the utility and lose touch with it from round to round."""
    held_out = [
        row for n in range(1, number + 1) for row in _preferences(run, fake, n) if is_held_out(row.prompt_id, 0.5)
    ]
    write_json(out / "held_out.json", _measured(held_out, number, fake))
    done |= {"held_out": None, "fresh": None, "drift": None, "warnings": []}
    if number > 1:
        fresh = _measured(_preferences(run, fake, number), number - 1, fake)
        write_json(out / "fresh.json", fresh)
        before = fake.receipts[Ref(number - 1, "reward_check")]
        change = drift(fresh, read_json(stage_folder(run, before.ref) / before.key / "held_out.json"))
        done["drift"] = change
        done["warnings"] = warnings(fresh, change, round=number, against="on the pairs held out from its training")


def _preferences(run: Path, fake: FakeRun, number: int) -> list[Preference]:
    receipt = fake.receipts[Ref(number, "preferences")]
    path = stage_folder(run, receipt.ref) / receipt.key / "preferences.parquet"
    return from_table(Preference, read_table(path))


def _measured(rows: list[Preference], model: int, fake: FakeRun) -> dict[str, Any]:
    """What round `model`'s reward model makes of pairs: it knows its own rounds' better than a later one's."""
    differences = []
    for row in rows:
        gain = utility(row.messages[-1]["content"], row.chosen) - utility(row.messages[-1]["content"], row.rejected)
        luck = NormalDist().inv_cdf(unit_for("luck", model, row.id))
        differences.append(2 * gain * (1 if row.round <= model else fake.forgets) + 2 * luck)
    return measure(rows, differences, seed=fake.seed, slices=slices_of(rows))


def _evaluation(run: Path, fake: FakeRun, number: int, prompts: list[Prompt]) -> None:
    earlier = [Ref(0, "evaluation"), Ref(number - 1, "evaluation")] if number else []
    with _stage(run, fake, number, "evaluation", [Ref(number, "policy"), *dict.fromkeys(earlier)]) as (out, done):
        checkpoint = fake.receipts[Ref(number, "policy")].summary["checkpoint"]
        held_out = [p for p in prompts if p.split == "test"]
        rows = [_candidate(fake, number, p, checkpoint, 0) for p in held_out]
        scores = [
            utility(p.messages[-1]["content"], r.text) if fake.judge else None
            for p, r in zip(held_out, rows, strict=True)
        ]
        schema = SCHEMAS[Candidate].append(pa.field("score", pa.float64()))
        table = [{**as_dict(r), "score": s} for r, s in zip(rows, scores, strict=True)]
        write_table(out / "samples.parquet", pa.Table.from_pylist(table, schema=schema))
        done |= _result(run, fake, number, checkpoint, rows, scores)
        write_json(out / "result.json", done)


def _result(
    run: Path, fake: FakeRun, number: int, checkpoint: str, rows: list[Candidate], scores: list[float | None]
) -> dict[str, Any]:
    ids = [r.prompt_id for r in rows]
    result: dict[str, Any] = {"checkpoint": checkpoint, "prompts": len(rows), "mean_score": None}
    if fake.judge:
        mean = clustered_bootstrap([s for s in scores if s is not None], ids, seed=0, draws=500)
        result["mean_score"] = {"mean": mean.mean, "low": mean.low, "high": mean.high}
    result["mean_tokens"] = sum(r.tokens for r in rows) / len(rows)
    result["mean_characters"] = sum(len(r.text) for r in rows) / len(rows)
    result["truncated"] = sum(r.finish == "length" for r in rows) / len(rows)
    for name, other in (("win_rate_vs_parent", number - 1), ("win_rate_vs_sft", 0)):
        result[name] = None
        if fake.judge and number:
            receipt = fake.receipts[Ref(other, "evaluation")]
            old = (
                read_table(stage_folder(run, receipt.ref) / receipt.key / "samples.parquet").column("score").to_pylist()
            )
            result[name] = win_rate([[s] for s in scores], [[s] for s in old], ids, tie_width=0.05, seed=0).as_dict()
    demonstrations = {"mean": 0.71, "sd": 1.32, "n": 12000}
    result["demonstrations"] = demonstrations if number == 0 and fake.judge and fake.sft else None
    return result


def _prompts(seed: int) -> list[Prompt]:
    rng, rows = random.Random(seed), {}
    while len(rows) < HELD_OUT + TRAIN:
        text = rng.choice(list(TROUBLE)).format(f"{rng.choice(COLOURS)} {rng.choice(ITEMS)}")
        text = (
            rng.choice(["", "Hello,\n", "Good morning,\n"])
            + text
            + rng.choice(["", " Please help.", " What can you do?"])
        )
        messages: list[Message] = [{"role": "user", "content": text}]
        rows[prompt_id(messages)] = messages
    split = ["test"] * HELD_OUT + ["train"] * TRAIN
    return [
        Prompt(i, m, s, f"prompts.jsonl:{n}") for n, ((i, m), s) in enumerate(zip(rows.items(), split, strict=True), 1)
    ]  # type: ignore[arg-type]


def _candidate(fake: FakeRun, number: int, prompt: Prompt, checkpoint: str, sample: int) -> Candidate:
    asked = prompt.messages[-1]["content"]
    text = (fake.answer or _answer(fake.learns))(number, asked, sample)
    tokens = len(text.split()) + 2
    return Candidate(
        candidate_id(prompt.id, text, checkpoint),
        prompt.id,
        text,
        checkpoint,
        sample,
        tokens,
        "length" if tokens > 42 else "stop",
    )


def _answer(learns: float) -> Answer:
    def answer(number: int, asked: str, sample: int) -> str:
        rng = random.Random(f"{number} {asked} {sample}")
        good = 0.45 + learns * number
        item = next(i for i in ITEMS if i in asked)
        right = next(r for t, r in TROUBLE.items() if t.split("{}")[-1] in asked)
        parts = ["Hello!"] if rng.random() < good else []
        parts.append(f"We are sorry about the {item if rng.random() < good else rng.choice(ITEMS)}.")
        parts += rng.sample(FILLERS, rng.choice([0, 1, 2]) if rng.random() > good else 0)
        parts.append(right if rng.random() < good else rng.choice(list(TROUBLE.values())))
        return " ".join(parts)

    return answer


def utility(asked: str, answer: str) -> float:
    right = next((r for t, r in TROUBLE.items() if t.split("{}")[-1] in asked), "-")
    item = next((i for i in ITEMS if i in asked), "-")
    found = 0.3 * answer.startswith("Hello") + 1.0 * (item in answer) + 1.5 * (right in answer)
    return found - 0.3 * sum(f in answer for f in FILLERS)


def _tasks(prompts: list[Prompt], rows: list[Candidate], number: int) -> list[Task]:
    tasks = []
    for prompt, first, second in zip(prompts, rows[::2], rows[1::2], strict=True):
        pair = sorted([first, second], key=lambda c: c.id)
        ids, texts = [c.id for c in pair], [c.text for c in pair]
        if len(set(ids)) == 2:
            shown = [0, 1] if unit_for(prompt.id) < 0.5 else [1, 0]
            identity = task_id("pair", prompt.id, ids, "train", 0, number)
            tasks.append(Task(identity, "pair", number, "train", 0, prompt.id, prompt.messages, ids, texts, shown, 2))
    return tasks


def _judgements(task: Task, fake: FakeRun) -> Iterator[Judgement]:
    a, b = (utility(task.messages[-1]["content"], t) for t in task.texts)
    for number, name in enumerate(("ada", "bo", "chi")):
        luck = unit_for("luck", task.id, name)
        if luck < 1 / 3:
            continue
        outcome = "tie" if abs(a - b) < 0.05 else "a" if (a > b) != (luck > 0.88 + 0.04 * number) else "b"
        outcome = "skipped" if luck > 0.98 else "both_bad" if luck > 0.965 else outcome
        if task.suggested and unit_for("swayed", task.id, name) < 0.3:
            outcome = task.suggested
        said = Judgement(
            judgement_id(task.id, name, 0), task.id, task.kind, name, 0, outcome, time="2026-11-02T10:00:00+00:00"
        )
        speaks = fake.speaks and outcome == "a" and unit_for("speaks", task.id, name) < 0.5
        yield replace(said, **SPOKEN) if speaks else said


SPOKEN: dict[str, Any] = {
    "reason": "Warmer.\nbo: [cafe] is better \x1b[31m<script>hit()</script>\u202e",
    "edit": "We are sorry about the lamp, and we <b>refund</b> it.",
    "flags": ["b:unsafe", "b:off_topic"],
    "strength": 2,
}
"""What a person who says more than a choice says, in half of the preferences for the first answer."""


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
