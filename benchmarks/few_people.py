"""Few people: what DPO makes of the label compiler's default and of smoothed majority, on recipes/support-desk.

    python benchmarks/few_people.py [--short] [--folder F] [--seeds A..B]

`one` is one careful person who labels each pair once, as five of six recipes with annotators ask; `three` are three
people of mixed reliability, two on each pair. The SFT policy answers train prompts, two answers each, and DPO with the
recipe's settings learns from the same judgements as each of the two compiles them, for three epochs over the pairs that
each keeps: majority drops those on which two people disagree. (--steps N: as many steps for both.) What counts is the
win rate on held-out prompts, by the hidden utility, of the one policy over the other, less one half: 0 is no
difference.

Intervals are over seeds. With --folder each seed's numbers stay there, so that the whole may be done in parts.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.config.recipe import Persona
from align.config.training import Dpo
from align.evaluation.statistics import clustered_bootstrap
from align.types import Preference
from annotation.compile import compile_preferences
from benchmarks import support_desk
from benchmarks.noise import THREADS, is_right, utilities

PAIRS, PROMPTS = 256, 160
CAREFUL = Persona(name="ann", temperature=0.4, error_rate=0.05, standard=2.5)
MIXED = (
    CAREFUL,
    Persona(name="bob", temperature=1.0, error_rate=0.2, standard=2.5, position_bias=0.3),
    Persona(name="cyd", temperature=2.0, error_rate=0.4, standard=2.5, position_bias=0.5),
)
WORLDS: dict[str, tuple[Sequence[Persona], int, float]] = {"one": ((CAREFUL,), 1, -0.03), "three": (MIXED, 2, 0.0)}
"""People, how many of them judge each pair, and the bound that the interval has to stay above."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one seed, few pairs: shows that it runs")
    parser.add_argument("--folder", type=Path, help="keep the policy and each seed's numbers here")
    parser.add_argument(
        "--steps", type=int, help="DPO's steps, in place of the recipe's three epochs over what is kept"
    )
    parser.add_argument("--seeds", default="0..10", help="from..to, the last one left out (default 0..10)")
    asked = parser.parse_args()
    first, last = (0, 1) if asked.short else map(int, asked.seeds.split(".."))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        policy = support_desk.sft_policy(folder / "policy")
        kind = f"few.{'short' if asked.short else 'full'}.{asked.steps or 'epochs'}"
        every = support_desk.each_seed(
            folder, kind, range(first, last),
            lambda seed, work: one_seed(policy, seed, work, short=asked.short, steps=asked.steps), json.dumps,
        )  # fmt: skip
    if every:
        summarise(list(every.values()))


def one_seed(policy: Path, seed: int, work: Path, *, short: bool, steps: int | None) -> dict[str, Any]:
    """For each world the win rate of the default over majority less one half, and both over SFT."""
    pairs, prompts = (64, 16) if short else (PAIRS, PROMPTS)
    start = utilities(policy, prompts, seed, work / "sft")
    found: dict[str, Any] = {}
    for world, (people, overlap, _) in WORLDS.items():
        asked = support_desk.tasks(policy, pairs, seed=seed, folder=work / world, overlap=overlap)
        said = support_desk.judgements(asked, people, seed)
        scores, numbers = {}, {}
        for model in ("auto", "majority"):
            rows, _ = compile_preferences(asked, said, model)
            trained = train(policy, rows, seed, steps, work / world / model)
            scores[model] = utilities(trained, prompts, seed, work / world / model)
            numbers[model] = {
                "pairs": len(rows),
                "wrong": round(sum(not is_right(row) for row in rows) / len(rows), 3),
                "over_sft": round(wins(scores[model], start), 4),
            }
        found[world] = {"gain": round(wins(scores["auto"], scores["majority"]), 4), **numbers}
    return found


def train(policy: Path, rows: Sequence[Preference], seed: int, steps: int | None, at: Path) -> Path:
    """DPO by the recipe's settings, for its epochs or a number of steps."""
    from align.train.dpo import train_dpo

    dpo = support_desk.recipe().dpo
    assert dpo is not None
    config = dpo if steps is None else Dpo(**{**dpo.model_dump(), "trainer": {"max_steps": steps}})
    train_dpo(
        policy,
        rows,
        config,
        seed=seed,
        dtype="float32",
        report_to=[],
        threads=THREADS,
        out=at / "out",
        work=at / "work",
    )
    return at / "out"


def wins(ours: dict[str, list[float]], theirs: dict[str, list[float]]) -> float:
    """The win rate less one half, each answer against each, the mean over prompts."""
    rates = []
    for prompt, mine in ours.items():
        pairs = [(m > t) + 0.5 * (m == t) - 0.5 for m in mine for t in theirs[prompt]]
        rates.append(sum(pairs) / len(pairs))
    return sum(rates) / len(rates)


def summarise(every: Sequence[dict[str, Any]]) -> None:
    good, lows = [], {}
    for world, (_, _, bound) in WORLDS.items():
        gains = [found[world]["gain"] for found in every]
        for model in ("auto", "majority"):
            over = [found[world][model]["over_sft"] for found in every]
            wrong = [found[world][model]["wrong"] for found in every]
            count = [found[world][model]["pairs"] for found in every]
            print(
                f"{world} {model}: {sum(count) / len(count):.0f} pairs, {sum(wrong) / len(wrong):.3f} of them wrong; "
                f"win rate over SFT {0.5 + sum(over) / len(over):.3f}"
            )
        if len(gains) == 1:
            print(f"{world}: win rate of auto over majority − 1/2: {gains[0]:+.4f}, one seed and so no interval")
            continue
        d = clustered_bootstrap(gains, list(range(len(gains))), seed=0)
        said = f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        print(f"{world}: win rate of auto over majority − 1/2: {said}, {len(gains)} seeds")
        good.append(d.low > bound)
        lows[world] = round(d.low, 4)
    line = {
        "name": "few people: win rate of DPO on the default's labels over DPO on majority's, less one half",
        "value": lows.get("one"), "baseline": 0.0, "ratio": None, "lowest_bounds": lows, "threads": THREADS,
        "goal": "10 seeds: one careful person above -0.03, three of mixed reliability above 0",
        "ok": len(every) >= 10 and all(good),
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()
