"""HH's pairs as two files, and a second reward model as the judge of the answers that the first one raised.

    python helpful.py ~/train.jsonl.gz ~/test.jsonl.gz   # HH's own files (also unpacked), which you download
    python helpful.py --sample                           # 240 pairs made by code, to see that everything runs

Either writes data/pairs.jsonl, which the reward model learns from and whose prompts the policy answers, and
data/judge.jsonl, a quarter of the prompts, which only the judge learns from. A prompt is in one of the two.
"""

import argparse
import gzip
import hashlib
import json
import random
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent / "data"
JUDGE = DATA / "judge"
"""The judge's folder, which `align reward train --preferences data/judge.jsonl --out data/judge` makes."""
ANSWER = "\n\nAssistant:"


def judge(messages: list[dict[str, str]], answer: str) -> float | None:
    """The score of a reward model that has seen none of the pairs that the policy's own reward model learned from.

    None for an answer that is too long for it.
    """
    (score,) = _judge().score([messages], [answer])
    return score


@cache
def _judge() -> Any:
    from reward.load import load_scorer

    if not JUDGE.is_dir():
        raise FileNotFoundError(f"there is no {JUDGE}; `align reward train` makes it, see README.md")
    return load_scorer(JUDGE, dtype="float32", threads=None)


def read(path: Path) -> Iterator[dict[str, str]]:
    """The rows of one of HH's files; leaves with a sentence where a line is not of its form."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text)
                whole = all(ANSWER in row[side] for side in ("chosen", "rejected"))
            except (ValueError, KeyError, TypeError):
                whole = False
            if not whole:
                sys.exit(f"{path}:{line}: needs `chosen` and `rejected`, conversations of Human and Assistant")
            yield {"chosen": row["chosen"], "rejected": row["rejected"]}


def sample(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Pairs that code makes, whose better answer is the one that helps: nothing about HH follows from them."""
    rng = random.Random(seed)
    for number in range(count):
        thing, place = rng.choice(["soup", "kites", "chess", "moss"]), rng.choice(["at home", "in spring", "for two"])
        asked = f"\n\nHuman: What should I know about {thing} {place}? (question {number})"
        good = f"Here are {rng.randint(2, 9)} things about {thing} that will help."
        bad = rng.choice(["I do not know.", "Why do you ask?", f"Nobody likes {thing}."])
        yield {"chosen": f"{asked}{ANSWER} {good}", "rejected": f"{asked}{ANSWER} {bad}"}


def for_the_judge(row: dict[str, str]) -> bool:
    """Whether a row's prompt, all before its last answer, is the judge's: by a hash, a quarter of them."""
    prompt = row["chosen"].rpartition(ANSWER)[0]
    return hashlib.blake2b(prompt.encode()).digest()[0] < 64


def write(rows: Iterable[dict[str, str]]) -> None:
    DATA.mkdir(exist_ok=True)
    kept = list(rows)
    for name, mine in (("pairs", False), ("judge", True)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept if for_the_judge(row) is mine]
        (DATA / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{DATA / f'{name}.jsonl'}: {len(lines)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write HH's pairs, or pairs made by code, into data/.")
    parser.add_argument("files", type=Path, nargs="*", help="HH's train.jsonl.gz, test.jsonl.gz or both")
    parser.add_argument("--sample", action="store_true", help="240 pairs made by code instead")
    options = parser.parse_args()
    if bool(options.files) == options.sample:
        parser.error("give either HH's files or --sample")
    for path in options.files:
        if not path.is_file():
            parser.error(f"there is no file {path}")
    write(sample(240, seed=0) if options.sample else (row for path in options.files for row in read(path)))


if __name__ == "__main__":
    main()
