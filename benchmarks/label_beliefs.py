"""What the label compiler believes of one word: of one person, of two, of many. The table of docs/label-compiler.md.

    python benchmarks/label_beliefs.py [--short]

Each row is a small labelling without any luck in it; what is printed is the target and the weight of pairs that one
person alone judged, and the reliability on a difference of one standard deviation, with its interval. It takes seconds;
--short is the same.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.types import Judgement, Task, judgement_id, to_table
from annotation.compile import compile_labels

HEAD = "| who said what | target | weight | reliability |"


def pair(n: int, name: str = "t", *, turned: bool | None = None, repeat: int = 0) -> Task:
    """Half of the pairs are turned on the screen."""
    turned = n % 2 == 1 if turned is None else turned
    shown = [1, 0] if turned else [0, 1]
    ids = [f"{name}a{n:05d}", f"{name}b{n:05d}"]
    return Task(
        f"{name}{n:05d}{'r' * repeat}", "pair", 1, "train", repeat, f"{name}{n:05d}", [], ids, ["a", "b"], shown, 1
    )


def label(n: int) -> Task:
    return replace(pair(n, "s"), kind="single", candidates=[f"s{n:05d}"], texts=["a"], shown=[0])


def word(task: Task, who: str, outcome: str) -> Judgement:
    return Judgement(judgement_id(task.id, who, 0), task.id, task.kind, who, 0, outcome)


def left(task: Task, yes: bool) -> str:
    return "ab"[task.shown[0] if yes else task.shown[1]]


def alone(count: int, share: float = 0.5) -> list[tuple[Task, Judgement]]:
    """Ann judges pairs once each, and chooses the left answer in a share of them, evenly spread."""
    chosen = [int((n // 2 + 1) * share) > int(n // 2 * share) for n in range(count)]
    return [
        (task, word(task, "ann", left(task, yes))) for task, yes in zip(map(pair, range(count)), chosen, strict=True)
    ]


def again(count: int, alike: int) -> list[tuple[Task, Judgement]]:
    """Ann judges `count` further pairs twice, turned round, and `alike` of them alike."""
    found = []
    for n in range(count):
        first, second = pair(n, "u"), pair(n, "u", turned=n % 2 == 0, repeat=1)
        said = "ab"[n // 2 % 2]
        other = said if n < alike else "ba"[n // 2 % 2]
        found += [(first, word(first, "ann", said)), (second, word(second, "ann", other))]
    return found


def gold(count: int, right: int) -> list[tuple[Task, Judgement]]:
    """Ann judges `count` control items, and `right` of them as expected."""
    found = []
    for n in range(count):
        expected = "ab"[n // 2 % 2]
        task = replace(pair(n, "w"), purpose="gold", expected=expected)
        found.append((task, word(task, "ann", expected if n < right else "ba"[n // 2 % 2])))
    return found


def shared(count: int, alike: int, people: tuple[str, ...]) -> list[tuple[Task, Judgement]]:
    """`people` judge `count` further pairs, and the last of them says the opposite on all but `alike`."""
    found = []
    for n in range(count):
        task, said = pair(n, "v"), "ab"[n // 2 % 2]
        for who in people:
            turned = who == people[-1] and n >= alike
            found.append((task, word(task, who, "ba"[n // 2 % 2] if turned else said)))
    return found


def binary(count: int, good: int) -> list[tuple[Task, Judgement]]:
    return [(label(n), word(label(n), "ann", "good" if n < good else "bad")) for n in range(count)]


FIVE = ("ann", "bob", "cyd", "dan", "eve")
ROWS: dict[str, list[tuple[Task, Judgement]]] = {
    "one person, 24 pairs": alone(24),
    "one person, 200 pairs": alone(200),
    "one person, 2,000 pairs": alone(2000),
    "one person, 200 pairs, left 60 times of 100": alone(200, 0.6),
    "one person, 200 pairs, left 90 times of 100": alone(200, 0.9),
    "one person, 200 pairs, always left": alone(200, 1.0),
    "one person, 200 pairs and 20 repeats, all alike": alone(200) + again(20, 20),
    "one person, 200 pairs and 20 repeats, 15 alike": alone(200) + again(20, 15),
    "one person, 200 pairs and 20 repeats, 10 alike": alone(200) + again(20, 10),
    "one person, 200 pairs and 20 control items, all right": alone(200) + gold(20, 20),
    "one person, 200 pairs and 20 control items, 10 right": alone(200) + gold(20, 10),
    "one person, 40 answers, 20 of them good": binary(40, 20),
    "one person, 40 answers, 2 of them good": binary(40, 2),
    "two people, 40 shared pairs, all alike": alone(200) + shared(40, 40, ("ann", "bob")),
    "two people, 40 shared pairs, 30 alike": alone(200) + shared(40, 30, ("ann", "bob")),
    "two people, 40 shared pairs, 20 alike": alone(200) + shared(40, 20, ("ann", "bob")),
    "five people, 40 shared pairs, all alike": alone(200) + shared(40, 40, FIVE),
    "five people, 40 shared pairs, she differs on 10": alone(200) + shared(40, 30, FIVE[::-1]),
    "five people, 40 shared pairs, she differs on 20": alone(200) + shared(40, 20, FIVE[::-1]),
}


def rows() -> list[str]:
    """The table's lines, without its head."""
    found = []
    for name, said in ROWS.items():
        tasks = list({task.id: task for task, _ in said}.values())
        done = compile_labels(
            to_table(Task, tasks),
            to_table(Judgement, [judgement for _, judgement in said]),
            model="bradley_terry",
            sides_drawn=True,
        )
        preferences, marks = done.preferences.to_pylist(), done.binary.to_pylist()
        mine = marks or [row for row in preferences if row["prompt_id"].startswith("t")]
        values = sorted({(round(max(row["target"], 1 - row["target"]), 2), round(row["weight"], 2)) for row in mine})
        target, weight = (
            (" or ".join(dict.fromkeys(f"{v[k]:.2f}" for v in values)) for k in (0, 1))
            if values
            else ("none kept", "–")
        )
        sure = done.annotators["ann"]["reliability"]
        found.append(f"| {name} | {target} | {weight} | {sure['value']:.2f} [{sure['low']:.2f}, {sure['high']:.2f}] |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="the same")
    parser.parse_args()
    found = rows()
    print(HEAD)
    print("\n".join(found))
    first = float(found[0].split("|")[2])
    row = {
        "name": "label_beliefs: one person's word among 24",
        "value": first,
        "baseline": 0.75,
        "ratio": round(first / 0.75, 3),
    }
    print(json.dumps(row | {"goal": "between 0.7 and 0.8", "ok": 0.7 <= first <= 0.8}))


if __name__ == "__main__":
    main()
