"""Reward ensembles: does their deviation predict error at equal margin, and what do they cost beside one model?

    python benchmarks/ensemble.py [--short] [--folder DIR] [--worlds desk hh cost] [--ways members lora separate]
        [--seeds 0 1 2 3 4] [--threads N]

Ways to have several opinions on an answer:

  members   what `members` gives: one model, and functions of what an answer says that are drawn from what the pairs
  leave
            open; MEMBERS of them, and the first five of these alone
  lora      five LoRA adapters on one frozen trunk, each with an order and a bootstrap of the pairs of its own
  separate  five whole models, each with an order and a bootstrap of the pairs of its own
  splits    on HH: the models of all seeds, each with an order and four fifths of the pairs of its own (costs no more)

A seed has pairs of its own, on which all ways learn, and is asked about the same held-out pairs. On support-desk the
pairs to learn from are judged by the recipe's annotators, and the held-out ones by the hidden utility. On HH (trunk:
`../shared/models/stories260k`, whose context of 512 tokens has room for the last question and the answer) a seed splits
the prompts into five folds in its own way, and each pair is asked about where its fold is held out.

Held-out pairs of a model are matched by the mean difference of their scores: sorted by it, and cut into strata of
STRATUM. The certain third of a stratum is that with the smallest standard deviation of the members' differences. What
is reported is the accuracy of the certain thirds less that of the uncertain ones, in points, with a 95% interval by a
bootstrap over seeds and prompts together (pigeonhole bootstrap: Owen 2007); `random`, the control, takes thirds at
random.

The cost is that of training and of scoring, each in a process of its own, one way after the other, several times: time
by the clock and of processors, and peak memory above that of a process that has imported everything. The settings were
chosen with --pilot, which takes other seeds, other pairs and other held-out prompts. Parts stay in DIR.
"""

import argparse
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.config.base import Sampling
from align.config.training import Lora, RewardModel
from align.ids import content_id, unit_for
from align.store import read_json, write_json
from align.types import Message, Preference
from benchmarks import support_desk
from benchmarks.memory import peak_bytes
from rollouts.sample import sample_candidates

MEMBERS, FEW, GOAL, COST_GOAL = 64, 5, 8.0, 1.5
STRATUM, DRAWS = 30, 10_000
WAYS = ("members", "lora", "separate")
"""Those that `--ways` chooses from; `splits` come with HH's `members`."""
SEEDS, PILOT_SEEDS = range(5), range(20, 25)
PAIRS, PROMPTS, SAMPLES = 2048, 400, 4
"""Pairs to learn from on support-desk; its held-out prompts, and answers to each."""
COST_PAIRS = 512
"""Pairs of support-desk that the cost is measured on."""
DESK = RewardModel(learning_rate=1e-3, epochs=4, batch_size=16, max_tokens=160)
HH = RewardModel(learning_rate=3e-4, epochs=1, batch_size=16, max_tokens=500)
FOLDS = 5
LORA, LORA_RATE = Lora(r=16, alpha=32), 3e-3
SHARED = Path(__file__).parents[2] / "shared"
RUNS = 3


@dataclass(frozen=True)
class Task:
    """What one model of a world learns, and what it is asked then: held-out pairs, the better answer first."""

    name: str
    seed: int
    parent: Path
    config: RewardModel
    learned: list[Preference]
    asked: list[tuple[str, list[Message], str, str]]


# The two worlds


def desk_task(folder: Path, seed: int, *, pilot: bool, short: bool, threads: int | None) -> Task:
    policy = support_desk.sft_policy(folder / "policy")
    learned = support_desk.pairs(policy, 64 if short else PAIRS, seed=seed, folder=folder / f"answers-{seed}")
    prompts = support_desk.prompts("test")
    prompts = prompts[PROMPTS : 2 * PROMPTS] if pilot else prompts[: 40 if short else PROMPTS]
    found, _ = sample_candidates(
        prompts, policy, policy.name, sampling=Sampling(max_tokens=64), samples=SAMPLES, engine="transformers",
        dtype="float32", max_prompt_tokens=96, shard=256, seed=1, threads=threads,
        out=folder / ("held-out-pilot" if pilot else f"held-out-{len(prompts)}"),
    )  # fmt: skip
    by_prompt: dict[str, list[str]] = {}
    for candidate in found:
        by_prompt.setdefault(candidate.prompt_id, []).append(candidate.text)
    asked = []
    for prompt in prompts:
        known = sorted({(support_desk.utility(prompt.messages, text), text) for text in by_prompt[prompt.id]})
        asked += [
            (prompt.id, prompt.messages, better, worse)
            for n, (good, better) in enumerate(known)
            for bad, worse in known[:n]
            if good > bad
        ]
    return Task(f"desk-{seed}", seed, policy, DESK, learned, asked)


def hh_tasks(folder: Path, seed: int, *, short: bool) -> list[Task]:
    from align.data.preferences import load_preferences
    from align.train.checkpoint import import_model

    parent = folder / "stories260k"
    if not parent.is_dir():
        given = SHARED / "models/stories260k"
        import_model(str(given), parent, revision=None, chat_template="plain", dtype="float32")
    rows, _ = load_preferences(SHARED / "data/hh_helpful_base_test.jsonl.gz")
    rows = [replace(row, messages=row.messages[-1:]) for row in (rows[:200] if short else rows)]
    folds = [int(unit_for("fold", seed, row.prompt_id) * FOLDS) for row in rows]
    tasks = []
    for fold in range(FOLDS):
        learned = [row for row, of in zip(rows, folds, strict=True) if of != fold]
        held = [row for row, of in zip(rows, folds, strict=True) if of == fold]
        asked = [(row.prompt_id, row.messages, row.chosen, row.rejected) for row in held]
        tasks.append(Task(f"hh-{seed}-{fold}", seed, parent, HH, learned, asked))
    return tasks


# The ways


def differences(task: Task, way: str, folder: Path, threads: int | None) -> dict[str, Any]:
    """For each held-out pair its prompt, and by how much each member prefers the better answer; made once and kept.

    Pairs that the model cannot read are left out, and counted.
    """
    at = folder / f"{way}-{task.name}"
    file = at.with_suffix(".json")
    if not file.is_file():
        began = time.monotonic()
        scores = members_of(task, way, at, threads)
        known = [
            (content_id(asked), asked[0], (np.array(a) - np.array(b)).tolist())
            for asked, (a, b) in zip(task.asked, scores, strict=True)
            if a is not None and b is not None
        ]
        pairs, prompts, found = (list(column) for column in zip(*known, strict=True))
        write_json(file, {
            "pairs": pairs, "prompts": prompts, "differences": found, "left out": len(task.asked) - len(known),
            "seconds": time.monotonic() - began,
        })  # fmt: skip
    return dict(read_json(file))


def members_of(
    task: Task, way: str, at: Path, threads: int | None
) -> list[tuple[list[float] | None, list[float] | None]]:
    """The scores of all members for the better and the worse answer of each held-out pair."""
    from reward.ensemble import EnsembleScorer
    from reward.model import ModelScorer

    texts = {(prompt, text): (m, text) for prompt, m, *both in task.asked for text in both}
    messages, answers = [m for m, _ in texts.values()], [text for _, text in texts.values()]
    if way == "members":
        learn(task, task.config.model_copy(update={"members": MEMBERS}), task.learned, task.seed, at, threads)
        found = EnsembleScorer(at / "out", threads=threads).members(messages, answers)
    else:
        columns = []
        changes = {"lora": LORA, "learning_rate": LORA_RATE} if way == "lora" else {}
        for k in range(FEW):
            place, seed = at / str(k), 1000 * (task.seed + 1) + k
            learn(task, task.config.model_copy(update=changes), resampled(task.learned, seed), seed, place, threads)
            columns.append(ModelScorer(place / "out", threads=threads).score(messages, answers))
        found = [None if None in row else list(row) for row in zip(*columns, strict=True)]  # type: ignore[arg-type]
    known = dict(zip(texts, found, strict=True))
    return [(known[prompt, better], known[prompt, worse]) for prompt, _, better, worse in task.asked]


def resampled(rows: Sequence[Preference], seed: int) -> list[Preference]:
    """The pairs as one of several models sees them: a Bayesian bootstrap of the prompts (Rubin 1981)."""
    drawn = [-math.log1p(-unit_for("bootstrap", seed, row.prompt_id)) for row in rows]
    return [replace(row, weight=row.weight * weight) for row, weight in zip(rows, drawn, strict=True)]


def learn(
    task: Task, config: RewardModel, rows: Sequence[Preference], seed: int, at: Path, threads: int | None
) -> None:
    from reward.train import train_reward

    metrics = train_reward(
        task.parent, rows, config, seed=seed, dtype="float32", report_to=[], threads=threads, out=at / "out",
        work=at / "work",
    )  # fmt: skip
    print(f"{at.name}: {metrics}", file=sys.stderr)


# What the deviation says


def first(part: dict[str, Any]) -> dict[str, Any]:
    """The part as an ensemble of FEW members has it: the first draws, around the same mean."""
    all_PK = np.array(part["differences"])
    few_PK = all_PK[:, :FEW]
    few_PK = few_PK - few_PK.mean(axis=1, keepdims=True) + all_PK.mean(axis=1, keepdims=True)
    return {**part, "differences": few_PK.tolist()}


def together(seeds: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The parts of several seeds as one ensemble's, of which each seed's model is a member; pairs that all were
    asked."""
    of_seeds = [
        {pair: (prompt, float(np.mean(d))) for part in models for pair, prompt, d in zip(part["pairs"], part["prompts"], part["differences"], strict=True)}
        for models in seeds
    ]  # fmt: skip
    shared = [pair for pair in of_seeds[0] if all(pair in known for known in of_seeds)]
    return {
        "prompts": [of_seeds[0][pair][0] for pair in shared],
        "differences": [[known[pair][1] for known in of_seeds] for pair in shared],
        "left out": len(of_seeds[0]) - len(shared),
    }


def contrast(differences_PK: NDArray, *, by: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """For each pair a value whose mean is the accuracy of the certain thirds less that of the uncertain ones, and the
    side that it is on: 1 certain, −1 uncertain, 0 neither, or in the last stratum, which is not full.

    Certain is what has a small standard deviation over members, or a small `by`.
    """
    mean_P = differences_PK.mean(axis=1)
    right_P = (mean_P > 0) + 0.5 * (mean_P == 0)
    doubt_P = differences_PK.std(axis=1, ddof=1) if by is None else by
    third, side_P, value_P = STRATUM // 3, np.zeros(len(mean_P)), np.zeros(len(mean_P))
    order = np.argsort(np.abs(mean_P), kind="stable")
    whole = len(order) - len(order) % STRATUM
    for start in range(0, whole, STRATUM):
        stratum = order[start : start + STRATUM]
        ranked = stratum[np.argsort(doubt_P[stratum], kind="stable")]
        side_P[ranked[:third]], side_P[ranked[-third:]] = 1, -1
        value_P[stratum] = 3 * side_P[stratum] * (right_P[stratum] - right_P[stratum].mean())
    return value_P, side_P


def pooled(values: Sequence[NDArray], prompts: Sequence[Sequence[str]], seed: int = 0) -> tuple[float, float, float]:
    """The mean over seeds of the mean over pairs, with its 95% interval over drawn seeds and drawn prompts."""
    names = {name: n for n, name in enumerate(sorted({name for some in prompts for name in some}))}
    sums, counts = (np.zeros((len(values), len(names))) for _ in range(2))
    for s, (some, ids) in enumerate(zip(values, prompts, strict=True)):
        np.add.at(sums[s], [names[name] for name in ids], some)
        np.add.at(counts[s], [names[name] for name in ids], 1)
    rng = np.random.default_rng(seed)
    of_seeds = rng.multinomial(len(values), [1 / len(values)] * len(values), size=DRAWS)
    of_prompts = rng.multinomial(len(names), [1 / len(names)] * len(names), size=DRAWS)
    drawn = [(of_seeds * (of_prompts @ part.T)).sum(axis=1) for part in (sums, counts)]
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return float(np.mean([v.mean() for v in values])), float(low), float(high)


def judged(world: str, way: str, seeds: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """All seeds of a way, each of one model or more: accuracy, and what certain pairs are ahead by, in points."""
    parts = [part for models in seeds for part in models]
    arrays = [np.array(part["differences"]) for part in parts]
    by_deviation = [contrast(d) for d in arrays]
    rng = random.Random(0)
    by_chance = [contrast(d, by=np.array([rng.random() for _ in d]))[0] for d in arrays]

    def by_seed(values: Sequence[NDArray]) -> list[NDArray]:
        each = iter(values)
        return [np.concatenate([next(each) for _ in models]) for models in seeds]

    prompts = [[prompt for part in models for prompt in part["prompts"]] for models in seeds]
    values = by_seed([value for value, _ in by_deviation])
    mean, low, high = pooled(values, prompts)
    margins = [
        float(np.mean([np.abs(d.mean(axis=1))[side == which].mean() for d, (_, side) in zip(arrays, by_deviation, strict=True)]))
        for which in (1, -1)
    ]  # fmt: skip
    found = {
        "points": round(100 * mean, 1), "interval": [round(100 * low, 1), round(100 * high, 1)],
        "each seed": [round(100 * float(value.mean()), 1) for value in values],
        "random": [round(100 * x, 1) for x in pooled(by_seed(by_chance), prompts)],
        "accuracy": round(100 * float(np.mean([(d.mean(axis=1) > 0).mean() for d in arrays])), 1),
        "of one member": round(100 * float(np.mean([(d > 0).mean() for d in arrays])), 1),
        "margin of certain and uncertain": [round(x, 3) for x in margins],
        "pairs": [len(d) for d in arrays], "left out": sum(part["left out"] for part in parts),
    }  # fmt: skip
    print(f"{world}, {way}: {found}", flush=True)
    return found


# What it costs


def one_run(what: str, members: int, folder: Path, threads: int) -> dict[str, float]:
    """One training or scoring of support-desk, in this process: seconds, processor seconds, MiB above the imports."""
    from reward import trainer  # noqa: F401 - what is measured begins after the imports
    from reward.load import load_scorer
    from reward.train import train_reward

    policy = support_desk.sft_policy(folder / "policy")
    pairs = support_desk.pairs(policy, COST_PAIRS, seed=0, folder=folder / "answers-cost")
    out, work = folder / f"cost-{members}", folder / f"cost-work-{members}"
    if what == "train":
        shutil.rmtree(work, ignore_errors=True)  # else it would go on from the run before
    config = DESK.model_copy(update={"members": members})
    before = peak_bytes()
    began, spent = time.monotonic(), time.process_time()
    if what == "train":
        train_reward(
            policy, pairs, config, seed=0, dtype="float32", report_to=[], threads=threads, out=out,
            work=work,
        )  # fmt: skip
    else:
        scorer = load_scorer(out, engine="transformers", dtype="float32", threads=threads)
        for _ in range(4):
            scorer.score([p.messages for p in pairs] * 2, [p.chosen for p in pairs] + [p.rejected for p in pairs])
    seconds, cpu = time.monotonic() - began, time.process_time() - spent
    peak = peak_bytes()
    return {"seconds": seconds, "cpu": cpu, "peak": peak / 2**20, "grown": (peak - before) / 2**20}


def cost(folder: Path, runs: int, threads: int) -> dict[str, Any]:
    """MEMBERS beside one, each in a process of its own and in turn; ratios at the median."""
    policy = support_desk.sft_policy(folder / "policy")
    support_desk.pairs(
        policy, COST_PAIRS, seed=0, folder=folder / "answers-cost"
    )  # sampled here, so that no run does it
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(runs):
        for what in ("train", "score"):
            for members in (1, MEMBERS):
                command = [sys.executable, __file__, "--one", what, str(members), "--folder", str(folder)]
                said = subprocess.run([*command, "--threads", str(threads)], stdout=subprocess.PIPE, check=True)
                found.setdefault((what, members), []).append(json.loads(said.stdout.splitlines()[-1]))
    result: dict[str, Any] = {}
    for what in ("train", "score"):
        for name in ("seconds", "cpu", "peak", "grown"):
            one, all_ = ([round(run[name], 2) for run in found[what, members]] for members in (1, MEMBERS))
            result[f"{what} {name}"] = round(statistics.median(all_) / statistics.median(one), 3)
            print(f"cost, {what}, {name}: one {one}, {MEMBERS} members {all_}: {result[f'{what} {name}']}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two seeds, few pairs: does it run?")
    parser.add_argument("--pilot", action="store_true", help="the seeds and prompts that the settings were chosen on")
    parser.add_argument("--folder", type=Path, help="where parts stay; a temporary folder if not given")
    parser.add_argument("--worlds", nargs="+", choices=("desk", "hh", "cost"), default=["desk", "hh", "cost"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", nargs="+", type=int, help=f"{SEEDS[0]} to {SEEDS[-1]} if not given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "MEMBERS"), help="one run of the cost, in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_run(given.one[0], int(given.one[1]), given.folder, given.threads)))
        return
    seeds = given.seeds or list(PILOT_SEEDS if given.pilot else SEEDS)[: 2 if given.short else None]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, dict[str, Any]] = {}
        for world in [w for w in given.worlds if w != "cost"]:
            if world == "hh" and not SHARED.is_dir():
                print(f"hh: left out, for the real data is not at {SHARED}", flush=True)
                continue
            tasks = [
                hh_tasks(folder, seed, short=given.short) if world == "hh"
                else [desk_task(folder, seed, pilot=given.pilot, short=given.short, threads=given.threads)]
                for seed in seeds
            ]  # fmt: skip
            for way in given.ways:
                parts = [[differences(task, way, folder, given.threads) for task in models] for models in tasks]
                found[f"{world} {way}"] = judged(world, way, parts)
                if way == "members":
                    few = [[first(part) for part in models] for models in parts]
                    found[f"{world} few"] = judged(world, f"{way}, the first {FEW}", few)
                if way == "members" and world == "hh" and len(seeds) > 1:
                    found["hh splits"] = judged(world, "splits", [[together(parts)]])
        ratios = cost(folder, 1 if given.short else RUNS, given.threads) if "cost" in given.worlds else {}
    report(found, ratios, seeds)


def report(found: dict[str, dict[str, Any]], ratios: dict[str, float], seeds: Sequence[int]) -> None:
    ours, few = found.get("desk members", {}), found.get("desk few", {})
    held = [ratios[f"{what} {name}"] for what in ("train", "score") for name in ("seconds", "peak") if ratios]
    result = {
        "name": f"ensemble of {MEMBERS}: accuracy of the most certain third less the least certain, at equal margin, support-desk (points)",
        "value": ours.get("points"), "interval": ours.get("interval"), "baseline": (ours.get("random") or [None])[0],
        f"of {FEW}": few.get("points"), f"interval of {FEW}": few.get("interval"),
        **{f"hh, {way}": (part["points"], *part["interval"]) for way in (*WAYS, "splits") if (part := found.get(f"hh {way}"))},
        "ratio": max(held, default=None), "ratios": ratios, "seeds": list(seeds),
        "goal": f"at least {GOAL} points over 5 seeds; time and memory at most {COST_GOAL} times those of one member",
        "ok": bool(ours and held and len(seeds) >= 5 and ours["points"] >= GOAL and max(held) <= COST_GOAL),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
