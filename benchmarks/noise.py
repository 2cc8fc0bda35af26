"""Noise: compiled targets and weights against majority labels, when annotators differ in reliability.

    python benchmarks/noise.py [--short] [--folder F] [--seeds A..B]

On recipes/support-desk: the SFT policy answers train prompts, two answers each; half of the pairs are judged once, half
three times, by a crowd whose members turn around between 2% and 50% of their judgements, 30% on average. DPO with the
recipe's settings learns from what the label compiler makes of that; and from each pair's majority: by itself, with
cDPO and with rDPO, which are told the rate at which these very majorities are wrong (better than the crowd's average
rate, which they are told as well with --crowd-rate). All see the same pairs in each step. What counts
is the hidden utility of answers to held-out prompts. `clean` is the same with a crowd that makes no mistakes.

Intervals are over seeds and over prompts, each as clusters. With --folder each seed's numbers stay there, so that the
whole may be done in parts; the last call prints all that lie there.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.config.base import Sampling
from align.config.recipe import Persona
from align.config.training import Dpo
from align.evaluation.statistics import Interval, clustered_bootstrap
from align.types import Judgement, Preference, Task, preference_id
from annotation.compile import compile_preferences
from benchmarks import support_desk
from rollouts.sample import sample_candidates

ERRORS = (0.02, 0.05, 0.08, 0.12, 0.20, 0.30, 0.40, 0.45, 0.48, 0.50, 0.50, 0.50)
"""The share of judgements that each of the twelve annotators turns around; 0.30 on average."""
PAIRS, STEPS, PROMPTS, ANSWERS = 512, 48, 160, 4
THREADS = 1
"""Runs of equal seeds are then equal on every machine."""
SFT = "sft"
Utilities = dict[str, list[float]]
"""A held-out prompt → the hidden utility of each answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one seed, few pairs: shows that it runs")
    parser.add_argument("--folder", type=Path, help="keep the policy and each seed's numbers here")
    parser.add_argument("--seeds", default="0..10", help="from..to, the last one left out (default 0..10)")
    parser.add_argument("--crowd-rate", action="store_true", help="tell cDPO and rDPO the crowd's rate, 0.30, instead")
    asked = parser.parse_args()
    first, last = (0, 1) if asked.short else map(int, asked.seeds.split(".."))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        policy = support_desk.sft_policy(folder / "policy")
        kind = ("short" if asked.short else "full") + (".crowd" if asked.crowd_rate else "")
        every = support_desk.each_seed(
            folder, kind, range(first, last),
            lambda seed, work: one_seed(policy, seed, work, short=asked.short, crowd_rate=asked.crowd_rate), told,
        )  # fmt: skip
    summarise(every)


def one_seed(policy: Path, seed: int, work: Path, *, short: bool, crowd_rate: bool) -> dict[str, Any]:
    """The utilities that each way of learning ends with, and what its labels were like."""
    pairs, steps, prompts = (64, 8, 16) if short else (PAIRS, STEPS, PROMPTS)
    asked = support_desk.tasks(policy, pairs, seed=seed, folder=work)
    asked = [replace(task, wanted=1 if n % 2 else 3) for n, task in enumerate(asked)]
    found: dict[str, Any] = {"utilities": {}, "labels": {}}
    for world in ("noisy", "clean"):
        said = support_desk.judgements(asked, crowd(world), seed)
        compiled = compile_preferences(asked, said)[0]
        votes = majority(asked, said)
        wrong = sum(not is_right(row) for row in votes) / len(votes)
        found["labels"][world] = {
            "pairs": len(votes), "majorities_wrong": wrong, "compiled": len(compiled),
            "compiled_wrong": sum(not is_right(row) for row in compiled) / len(compiled),
            "judgements_wrong": sum(flipped(asked, said)) / len(said),
        }  # fmt: skip
        rate = min(0.30 if crowd_rate else wrong, 0.48)
        ways: dict[str, tuple[list[Preference], dict[str, Any]]] = {"compiled": (compiled, {}), "dpo": (votes, {})}
        if world == "noisy":
            ways["cdpo"] = votes, {"label_noise": rate}
            ways["rdpo"] = votes, {"label_noise": rate, "loss": "robust"}
        for way, (rows, changes) in ways.items():
            trained = train(policy, rows, seed, steps, work / world / way, changes)
            found["utilities"][f"{world} {way}"] = utilities(trained, prompts, seed, work / world / way)
    found["utilities"][SFT] = utilities(policy, prompts, seed, work / SFT)
    return found


def crowd(world: str) -> list[Persona]:
    """The annotators; they see the hidden utility itself, and slip."""
    return [Persona(name=f"a{n:02d}", error_rate=error if world == "noisy" else 0) for n, error in enumerate(ERRORS)]


def majority(asked: Sequence[Task], said: Sequence[Judgement]) -> list[Preference]:
    """Each pair with the answer that more people called better; its votes are odd, so that there is one.

    In the compiler's order, so that what is trained on these rows meets the same pairs in each step: another order
    alone moves a seed's win rate by 0.02.
    """
    votes: dict[str, list[str]] = defaultdict(list)
    for judgement in said:
        votes[judgement.task_id].append(judgement.outcome)
    rows = []
    for task in asked:
        outcomes = votes[task.id]
        a, b = outcomes.count("a"), outcomes.count("b")
        if a == b:
            continue
        good, bad = (0, 1) if a > b else (1, 0)
        ids, texts = task.candidates, task.texts
        rows.append(
            Preference(
                preference_id(task.prompt_id, ids[good], ids[bad]),
                task.prompt_id,
                task.messages,
                ids[good],
                ids[bad],
                texts[good],
                texts[bad],
                1.0,
                1.0,
                0.0,
                task.round,
                [],
            )
        )
    return sorted(rows, key=lambda row: row.id)


def is_right(row: Preference) -> bool:
    return support_desk.utility(row.messages, row.chosen) >= support_desk.utility(row.messages, row.rejected)


def flipped(asked: Sequence[Task], said: Sequence[Judgement]) -> list[bool]:
    """For each judgement whether it says the opposite of the hidden utility."""
    of = {
        t.id: support_desk.utility(t.messages, t.texts[0]) - support_desk.utility(t.messages, t.texts[1]) for t in asked
    }
    return [(of[j.task_id] < 0 and j.outcome == "a") or (of[j.task_id] > 0 and j.outcome == "b") for j in said]


def train(policy: Path, rows: Sequence[Preference], seed: int, steps: int, at: Path, changes: dict[str, Any]) -> Path:
    """DPO by the recipe's settings, for a number of steps that is the same for all."""
    from align.train.dpo import train_dpo

    dpo = support_desk.recipe().dpo
    assert dpo is not None
    config = Dpo(**{**dpo.model_dump(), "trainer": {"max_steps": steps}, **changes})
    train_dpo(
        policy, rows, config, seed=seed, dtype="float32", report_to=[], threads=THREADS, out=at / "out", work=at / "work",
        reference_cache=at.parent.parent / "reference",
    )  # fmt: skip
    return at / "out"


def utilities(policy: Path, count: int, seed: int, at: Path) -> Utilities:
    """The hidden utility of the policy's answers to `count` held-out prompts, drawn again for each seed."""
    prompts = random.Random(seed).sample(support_desk.prompts("test"), count)
    answers, _ = sample_candidates(
        prompts, policy, policy.name, sampling=Sampling(temperature=0.7, max_tokens=64), samples=ANSWERS,
        engine="transformers", dtype="float32", max_prompt_tokens=96, shard=256, seed=seed, threads=THREADS, out=at,
        keep_all=True,
    )  # fmt: skip
    messages = {prompt.id: prompt.messages for prompt in prompts}
    scored: Utilities = defaultdict(list)
    for answer in answers:
        scored[answer.prompt_id].append(support_desk.utility(messages[answer.prompt_id], answer.text))
    return scored


def told(found: dict[str, Any]) -> str:
    means = {way: sum(map(sum, u.values())) / sum(map(len, u.values())) for way, u in found["utilities"].items()}
    return ", ".join(f"{way} {mean:.3f}" for way, mean in means.items())


def difference(every: dict[int, Any], way: str, other: str, *, by: str, wins: bool = False) -> Interval:
    """Of mean utility, prompt by prompt within each seed; or, with `wins`, the win rate less one half."""
    values, clusters = [], []
    for seed, found in every.items():
        ours, theirs = found["utilities"][way], found["utilities"][other]
        for prompt, mine in ours.items():
            against = theirs[prompt]
            if wins:
                pairs = [(m > t) + 0.5 * (m == t) - 0.5 for m in mine for t in against]
                values.append(sum(pairs) / len(pairs))
            else:
                values.append(sum(mine) / len(mine) - sum(against) / len(against))
            clusters.append(seed if by == "seed" else prompt)
    return clustered_bootstrap(values, clusters, seed=0)


def summarise(every: dict[int, Any]) -> None:
    """The table, and the line that says whether the goal is reached: every interval that counts above its bound."""
    first = next(iter(every.values()))
    for world, numbers in first["labels"].items():
        shown = {name: sum(f["labels"][world][name] for f in every.values()) / len(every) for name in numbers}
        print(f"{world}: " + ", ".join(f"{name} {value:.3f}" for name, value in shown.items()))
    lows, means = [], []
    grouped = ("prompt",) if len(every) == 1 else ("seed", "prompt")
    for other in ("noisy dpo", "noisy cdpo", "noisy rdpo", SFT):
        for by in grouped:
            d = difference(every, "noisy compiled", other, by=by)
            print(f"utility, compiled − {other}, by {by}: {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], {d.n} prompts")
            if other != SFT:
                lows.append(d.low)
                means.append(d.mean)
    clean = [difference(every, "clean compiled", "clean dpo", by=by, wins=True) for by in grouped]
    for by, d in zip(grouped, clean, strict=True):
        print(f"win rate − 1/2 without noise, by {by}: {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]")
    line = {
        "name": "noise: hidden utility of compiled labels over the best of DPO, cDPO and rDPO on majorities",
        "value": round(min(means), 4), "baseline": 0.0, "ratio": None, "lowest_bound": round(min(lows), 4),
        "clean_win_rate_bound": round(min(d.low for d in clean), 4), "seeds": sorted(every),
        "goal": "10 seeds, every interval above 0; without noise the bound above -0.02",
        "ok": len(every) >= 10 and min(lows) > 0 and min(d.low for d in clean) > -0.02,
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
