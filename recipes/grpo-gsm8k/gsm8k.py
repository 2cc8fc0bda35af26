"""GSM8K's word problems as prompts with solutions, for the recipe's reward (`type: math`).

    python gsm8k.py ~/train.jsonl     # GSM8K's file of `question` and `answer` (also .gz), which you download
    python gsm8k.py --sample          # 64 sums made by code, to see that everything runs

Either writes data/prompts.jsonl, each line with `messages` and `solution`.
"""

import argparse
import gzip
import json
import random
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from align.config.rewards import Math
from align.types import Message
from reward.build import build
from reward.scorer import Scorer

DATA = Path(__file__).resolve().parent / "data"
PROMPTS = DATA / "prompts.jsonl"
ASKED = "Think step by step, and end with a line that has #### and the number alone, such as: #### 42"
SOLVED = re.compile(r"####\s*(-?[\d,]*\.?\d+)\s*$")
"""How GSM8K's own answers end."""


@cache
def by_solutions() -> Scorer:
    return build(Math(solutions=PROMPTS, after="####"))


def correct(messages: list[Message], answer: str) -> float | None:
    """What the recipe's `type: math` says, as a judge: 1 for the right number behind ####, else 0."""
    return by_solutions().score([messages], [answer])[0]


def read(path: Path) -> dict[str, str]:
    """Question → number of GSM8K's own file; leaves with a sentence where a line is not of its form."""
    found = {}
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text)
                question, solved = row["question"].strip(), SOLVED.search(row["answer"])
            except (ValueError, KeyError, TypeError, AttributeError):
                question, solved = "", None
            if not question or solved is None:
                sys.exit(f"{path}:{line}: needs `question`, and `answer` that ends with #### and a number")
            found[question] = solved[1].replace(",", "")
    return found


def sample(count: int, seed: int) -> dict[str, str]:
    """Sums that code makes: nothing about GSM8K follows from them."""
    rng, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
        name, thing = rng.choice(["Ada", "Ben", "Chi"]), rng.choice(["pens", "eggs", "books"])
        found[f"{name} has {a} {thing}, buys {b} more and packs {c} bags of 10. How many {thing} are not packed?"] = (
            str(a + b - 10 * c)
        )
    return found


def write(rows: Iterable[tuple[str, str]]) -> None:
    DATA.mkdir(exist_ok=True)
    made = [
        {
            "messages": [{"role": "system", "content": ASKED}, {"role": "user", "content": question}],
            "solution": solution,
        }
        for question, solution in rows
    ]
    PROMPTS.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    print(f"{DATA}: {len(made)} prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write GSM8K's problems, or sums made by code, into data/.")
    parser.add_argument("file", type=Path, nargs="?", help="GSM8K's train.jsonl")
    parser.add_argument("--sample", action="store_true", help="64 sums made by code instead")
    options = parser.parse_args()
    if (options.file is None) != options.sample:
        parser.error("give either GSM8K's file or --sample")
    if options.file is not None and not options.file.is_file():
        parser.error(f"there is no file {options.file}")
    write((sample(64, seed=0) if options.sample else read(options.file)).items())


if __name__ == "__main__":
    main()
