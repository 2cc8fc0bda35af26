"""How often 95% intervals of a win rate hold the truth about people like those who judged.

    python benchmarks/intervals.py [--short] [--experiments 2000]

Each experiment is 300 blind comparisons with a fifth of ties, by 3 to 10 raters whose leanings are drawn from a normal
distribution of the given spread (points of the win rate), about prompts of which some favour the new policy and some the
old one (a spread of 15 points); each prompt has one, two or three raters. The truth is the rate over all such raters and
prompts. Beside `align.evaluation.raters.rater_interval` stands the interval over prompts alone.

The value is the least share of intervals that hold the truth; `ok` if it is at least 0.93, and from five raters up no
share is over 0.98. The baseline is the least share of intervals over prompts alone. `--short` is 200 experiments a world
and allows two points more either way.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from align.evaluation.raters import FEW, rater_interval, t_quantile

LABELS, RATE, TIES, OF_PROMPTS = 300, 0.55, 0.2, 0.15
LEAST, MOST = 0.93, 0.98


def drawn(
    rng: np.random.Generator, raters: int, spread: float, overlap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, prompts, raters."""
    many = LABELS // overlap
    prompts = np.repeat(np.arange(many), overlap)
    who = np.concatenate([rng.permutation(raters)[:overlap] for _ in range(many)])
    rate = RATE + rng.normal(0, spread, raters)[who] + rng.normal(0, OF_PROMPTS, many)[prompts]
    wins = np.clip((rate - TIES / 2) / (1 - TIES), 0, 1)
    values = np.where(rng.random(many * overlap) < TIES, 0.5, (rng.random(many * overlap) < wins).astype(float))
    return values, prompts, who


def over_prompts(values: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    means = np.bincount(prompts, weights=values) / np.bincount(prompts)
    half = t_quantile(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
    return means.mean() - half, means.mean() + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--experiments", type=int, default=2000)
    given = parser.parse_args()
    count, slack = (200, 0.02) if given.short else (given.experiments, 0.0)
    least, alone, ok, rows = 1.0, 1.0, True, {}
    print("| raters | spread | raters of a prompt | holds the truth | width | over prompts alone |")
    print("|---|---|---|---|---|---|")
    worlds = [(r, s, o) for r in (3, 4, 5, 10) for s in (0.0, 0.05, 0.1) for o in (1, 2, 3)]
    for number, (raters, spread, overlap) in enumerate(worlds):
        rng = np.random.default_rng([number, 20261201])
        held = narrow = 0
        width = 0.0
        for _ in range(count):
            values, prompts, who = drawn(rng, raters, spread, overlap)
            found = rater_interval(values.tolist(), prompts.tolist(), who.tolist())
            held += found.low <= RATE <= found.high
            width += found.high - found.low
            low, high = over_prompts(values, prompts)
            narrow += low <= RATE <= high
        share, other = held / count, narrow / count
        print(
            f"| {raters} | {100 * spread:.0f} | {overlap} | {share:.3f} | {width / count:.3f} | {other:.3f} |",
            flush=True,
        )
        rows[f"{raters} raters, spread {100 * spread:.0f}, {overlap} a prompt"] = [share, other]
        least, alone = min(least, share), min(alone, other)
        ok = ok and share >= LEAST - slack and (raters < FEW or share <= MOST + slack)
    told = {"name": "intervals", "value": least, "baseline": alone, "ratio": least / alone, "goal": LEAST}
    print(json.dumps({**told, "ok": ok, "experiments": count, "worlds": rows}))


if __name__ == "__main__":
    main()
