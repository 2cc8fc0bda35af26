"""The invented world of `tests.fake_run`: what customers write, what a policy answers, and which answer is better.

A recipe names functions of this file, which is copied beside it; so it imports the standard library alone.
"""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

ITEMS = [
    "kettle",
    "lamp",
    "chair",
    "clock",
    "radio",
    "toaster",
    "bicycle",
    "camera",
    "suitcase",
    "umbrella",
    "guitar",
    "telescope",
]
COLOURS = ["red", "blue", "green", "black", "white", "grey"]
TROUBLE = {
    "The {} arrived broken.": "We will send you a new one today.",
    "I was charged twice for my {}.": "The second charge goes back to your card today.",
    "My {} is two weeks late.": "We will trace the parcel and call you tomorrow.",
    "The {} is not for me.": "You get a full refund once it is back with us.",
}
FILLERS = ["Our shop has been open for many years.", "Many people write to us every day."]
GREETING, SORRY = "Hello!", "We are sorry about the {}."


def questions(seed: int, count: int) -> list[str]:
    """So many different ones; fewer are the beginning of more."""
    rng, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        text = rng.choice(list(TROUBLE)).format(f"{rng.choice(COLOURS)} {rng.choice(ITEMS)}")
        text = rng.choice(["", "Hello,\n", "Good morning,\n"]) + text
        found[text + rng.choice(["", " Please help.", " What can you do?"])] = None
    return list(found)


def right_item(asked: str) -> str | None:
    return next((item for item in ITEMS if item in asked), None)


def right_remedy(asked: str) -> str | None:
    return next((r for trouble, r in TROUBLE.items() if all(part in asked for part in trouble.split("{}"))), None)


def answer(good: float, asked: str, *draw: Any) -> str:
    """A policy's answer: each part of it is right with probability `good`, by what `draw` names."""
    rng = random.Random(f"{draw} {asked}")
    item, remedy = right_item(asked), right_remedy(asked)
    parts = [GREETING] if rng.random() < good else []
    parts.append(SORRY.format(item if item and rng.random() < good else rng.choice(ITEMS)))
    parts += rng.sample(FILLERS, rng.choice([0, 1, 2]) if rng.random() > good else 0)
    parts.append(remedy if remedy and rng.random() < good else rng.choice(list(TROUBLE.values())))
    return " ".join(parts)


def utility(messages: list[Any], answer: str) -> float:
    """The hidden preference, from −0.6 to 2.8."""
    asked = messages[-1]["content"]
    found = 0.3 * answer.startswith("Hello") + 1.0 * ((right_item(asked) or "-") in answer)
    return found + 1.5 * ((right_remedy(asked) or "-") in answer) - 0.3 * sum(f in answer for f in FILLERS)


def guess(messages: list[Any], answer: str) -> float:
    """What suggests answers to people: it knows nothing."""
    said = f"{messages[-1]['content']} {answer}"
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=4).digest())


def known_pairs(count: int) -> Iterator[dict[str, str]]:
    """Pairs whose better answer is known."""
    for asked in questions(2, count):
        said = sorted(
            (f"{SORRY.format(right_item(asked))} {r}" for r in TROUBLE.values()), key=lambda r: _utility(asked, r)
        )
        yield {"prompt": asked, "chosen": said[-1], "rejected": said[0]}


def _utility(asked: str, answer: str) -> float:
    return utility([{"role": "user", "content": asked}], answer)
