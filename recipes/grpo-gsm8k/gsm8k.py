"""GSM8K's word problems as prompts, and a reward that can be checked: the number behind `####`.

    python gsm8k.py ~/train.jsonl     # GSM8K's file of `question` and `answer` (also .gz), which you download
    python gsm8k.py --sample          # 64 sums made by code, to see that everything runs

Either writes data/prompts.jsonl for the recipe and data/solutions.json for `correct`.
"""

import argparse
import gzip
import json
import random
import re
import sys
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
ASKED = "Think step by step, and end with a line that has #### and the number alone, such as: #### 42"
NUMBER = r"-?[$€£]?\s?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
LAST = re.compile(rf"####\s*({NUMBER})\s*\.?\s*$")
"""The number of an answer that ends as it was asked to."""


def number(text: str) -> Decimal | None:
    """`text` as a number, without currency and thousands' commas; None where it is none."""
    try:
        return Decimal(re.sub(r"[,$€£\s]", "", text))
    except InvalidOperation:
        return None


def final(answer: str) -> Decimal | None:
    """The number that an answer ends with, behind `####`; None where it does not end so."""
    found = LAST.search(answer.strip())
    return number(found[1]) if found else None


@cache
def solutions() -> dict[str, str]:
    """Question → number, as data/solutions.json has them."""
    return dict(json.loads((DATA / "solutions.json").read_text(encoding="utf-8")))


def correct(messages: list[dict[str, str]], answer: str) -> float:
    """1 for an answer that ends with the right number, else 0. KeyError for a question that is not in data/."""
    return float(final(answer) == number(solutions()[messages[-1]["content"]]))


def form(messages: list[dict[str, str]], answer: str) -> float:
    """1 for an answer that ends as it was asked to, whatever the number; this is learned first."""
    return float(final(answer) is not None)


def read(path: Path) -> dict[str, str]:
    """Question → number of GSM8K's own file; leaves with a sentence where a line is not of its form."""
    found = {}
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text)
                question, solved = row["question"].strip(), final(row["answer"])
            except (ValueError, KeyError, TypeError, AttributeError):
                question, solved = "", None
            if not question or solved is None:
                sys.exit(f"{path}:{line}: needs `question`, and `answer` that ends with #### and a number")
            found[question] = str(solved)
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
    kept = dict(rows)
    prompts = ([{"role": "system", "content": ASKED}, {"role": "user", "content": question}] for question in kept)
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in prompts]
    (DATA / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    (DATA / "solutions.json").write_text(json.dumps(kept, ensure_ascii=False, indent=0), encoding="utf-8")
    print(f"{DATA}: {len(kept)} prompts")


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
