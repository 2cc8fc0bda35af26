"""How much narrower people's win rate gets with the help of a judge, and whether its interval still holds the truth.

    python benchmarks/judge.py [--short] [--experiments 1000]

Each experiment has 10,000 prompts that a judge judges and 300, drawn at random, that people judge as well. The judge's
verdicts correlate by 0.8 with people's (or by what the row says) and are five points too kind to the new policy. The
value is the width of the interval of `align.evaluation.powered` over that of people alone, with a correlation of 0.8;
`ok` if it is at most 0.7 and each row's intervals hold the truth in at least 93%. `--short` is 100 experiments, and allows
two points less.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from align.evaluation.powered import powered

PROMPTS, JUDGED_BY_PEOPLE, RATE, BIAS, GOAL, LEAST = 10_000, 300, 0.55, 0.05, 0.7, 0.93
CORRELATIONS = (0.0, 0.4, 0.6, 0.8, 0.9)


def drawn(rng: np.random.Generator, correlation: float) -> tuple[dict[str, float], dict[str, float]]:
    shared, own = rng.normal(size=(2, PROMPTS))
    people = RATE + 0.1 * shared
    judge = RATE + BIAS + 0.1 * (correlation * shared + math.sqrt(1 - correlation**2) * own)
    names = [f"p{n}" for n in range(PROMPTS)]
    judged = rng.choice(PROMPTS, JUDGED_BY_PEOPLE, replace=False)
    return {names[n]: float(people[n]) for n in judged}, dict(zip(names, judge.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--experiments", type=int, default=1000)
    given = parser.parse_args()
    count, slack = (100, 0.02) if given.short else (given.experiments, 0.0)
    rows, ok = {}, True
    print("| correlation | width over people's own | holds the truth | named useless |")
    print("|---|---|---|---|")
    for number, correlation in enumerate(CORRELATIONS):
        rng = np.random.default_rng([number, 20261201])
        found = [powered(*drawn(rng, correlation)) for _ in range(count)]
        width = sum(one.width for one in found) / count
        held = sum(one.low <= RATE <= one.high for one in found) / count
        useless = sum(one.useless is not None for one in found) / count
        print(f"| {correlation} | {width:.3f} | {held:.3f} | {useless:.0%} |", flush=True)
        rows[str(correlation)] = {"width": width, "held": held, "useless": useless}
        ok = ok and held >= LEAST - slack
    value = rows["0.8"]["width"]
    told = {"name": "judge", "value": value, "baseline": 1.0, "ratio": 1 / value, "goal": GOAL}
    print(json.dumps({**told, "ok": ok and value <= GOAL, "experiments": count, "rows": rows}))


if __name__ == "__main__":
    main()
