"""How two people should be asked: what a fixed number of judgements teaches, by how they are spread.

    python benchmarks/label_design.py [--short]

Two people give 240 judgements about pairs with normal differences: each pair once; nine in ten of them on new pairs and
one repeated, turned round, to the same person; or each pair to both. `value` is the sum of what each preference says,
weight · (2·target − 1), counted up where it is right and down where it is wrong, over the root of the sum of squares:
how far what is learned points towards the truth, in standard deviations of its noise. Intervals are 95%, over crowds.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.types import Judgement, Task, judgement_id
from annotation.compile import compile_preferences
from benchmarks.crowds import davidson, logit
from benchmarks.label_compiler import interval

JUDGEMENTS = 240
PEOPLE = ((0.85, 0.85), (0.9, 0.7), (0.9, 0.5))
"""How often each of the two is right on a difference of one standard deviation."""
DESIGNS = ("once", "repeats", "both")
SHIPPED = "repeats"
TIES = 0.15


def task(n: int, turned: bool, repeat: int = 0) -> Task:
    shown = [1, 0] if turned else [0, 1]
    name = f"t{n:04d}{'r' * repeat}"
    return Task(name, "pair", 1, "train", repeat, f"p{n}", [], [f"a{n}", f"b{n}"], ["a", "b"], shown, 1)


def one_crowd(draw: np.random.Generator, people: tuple[float, float], design: str) -> float:
    count = {"once": JUDGEMENTS, "repeats": round(JUDGEMENTS / 1.1), "both": JUDGEMENTS // 2}[design]
    difference = draw.normal(size=count)
    tasks = [task(n, bool(n // 2 % 2)) for n in range(count)]
    asked = [(t, n % 2) for n, t in enumerate(tasks)]
    if design == "both":
        asked += [(t, 1 - n % 2) for n, t in enumerate(tasks)]
    if design == "repeats":
        again = [(task(n, not n // 2 % 2, 1), n % 2) for n in range(0, count, 9)]  # of both people alike
        asked += again[: JUDGEMENTS - count]
    said = []
    for t, who in asked:
        slope = logit(np.array(people[who]))
        word = davidson(draw, np.array([slope * difference[int(t.prompt_id[1:])]]), TIES)[0]
        name = ("ann", "bob")[who]
        said.append(Judgement(judgement_id(t.id, name, 0), t.id, "pair", name, 0, ("a", "b", "tie")[word]))
    everything = list({t.id: replace(t) for t, _ in asked}.values())
    rows, _ = compile_preferences(everything, said)
    says = np.array([row.weight * (2 * row.target - 1) for row in rows])
    right = np.array([(row.chosen_id[0] == "a") == (difference[int(row.prompt_id[1:])] > 0) for row in rows])
    return float((says * np.where(right, 1, -1)).sum() / np.sqrt((says**2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="10 crowds instead of 60")
    crowds = 10 if parser.parse_args().short else 60
    shares = []
    print(f"{'people':12}" + "".join(f"{design:>24}" for design in DESIGNS))
    for people in PEOPLE:
        means, cells = {}, []
        for design in DESIGNS:
            values = np.array([one_crowd(np.random.default_rng([seed, 3]), people, design) for seed in range(crowds)])
            means[design] = values.mean()
            low, high = interval(values)
            cells.append(f"{values.mean():.2f} [{low:.2f}, {high:.2f}]")
        print(f"{people[0]:.2f}, {people[1]:.2f}  " + "".join(f"{cell:>24}" for cell in cells), flush=True)
        shares.append(means[SHIPPED] / max(means.values()))
    line = {"name": "label_design: the shipped design over the best", "value": round(min(shares), 3), "baseline": 1.0}
    print(
        json.dumps(
            line
            | {"ratio": round(min(shares), 3), "goal": "at least 0.9 with all people", "ok": bool(min(shares) >= 0.9)}
        )
    )


if __name__ == "__main__":
    main()
