"""Prompts from a file, split into train and test once and for all."""

from pathlib import Path
from typing import Any

from align.config.recipe import Prompts
from align.data.messages import asks, conversation_of, hh_question, in_full, is_hh, prompt_of
from align.data.rows import lacking, parse_rows, say_dropped
from align.errors import DataError
from align.ids import unit_for
from align.types import Dropped, Message, Prompt, Split, prompt_id

KNOWN = ("id", "solution", "tests", "cases")
"""Fields of a prompt's row that reward functions read, and one that means nothing here."""


def split_of(prompt: str, test_share: float) -> Split:
    """`test` for the share `test_share` of all prompt ids: by a hash of the id and by nothing else."""
    return "test" if unit_for("split", prompt) < test_share else "train"


def load_prompts(config: Prompts) -> tuple[list[Prompt], list[Dropped]]:
    """The first `config.limit` distinct prompts of `config.path`, split, and all rows that were dropped.

    Raises DataError where a side of the split stays empty.
    """
    prompts, dropped = read_prompts(config.path, config.test_share)
    prompts = prompts[: config.limit]
    for side in ("train", "test"):
        if all(prompt.split != side for prompt in prompts):
            raise DataError(
                f"none of the {len(prompts)} prompts falls on the {side} side at test_share {config.test_share}",
                where=str(config.path),
                hint="give more prompts or change prompts.test_share",
            )
    return prompts, dropped


def read_prompts(path: Path, test_share: float = 0.0) -> tuple[list[Prompt], list[Dropped]]:
    """The distinct prompts of a file in its order, and the rows that were dropped.

    A prompt's side of the split depends on its own messages and on `test_share` only: not on its place, on other
    rows or on a seed. So it never crosses, whatever is added later.
    """
    good, dropped = parse_rows(path, "prompt", lambda row, _: prompt_in(row), known=KNOWN)
    prompts: dict[str, Prompt] = {}
    for where, messages in good:
        identity = prompt_id(messages)
        if identity in prompts:
            dropped.append(Dropped("prompt", where, f"duplicate: the same prompt as {prompts[identity].source}"))
        else:
            prompts[identity] = Prompt(identity, messages, split_of(identity, test_share), where)
    say_dropped(path, "prompt", len(prompts), dropped)
    return list(prompts.values()), dropped


def prompts_of_round(prompts: list[Prompt], *, round: int, count: int, seed: int) -> list[Prompt]:
    """The train prompts that round `round` (from 1) asks: the next `count` of one seeded order, so that none comes a
    second time before all came once; all of them where there are fewer."""
    order = sorted((p for p in prompts if p.split == "train"), key=lambda p: unit_for("rollouts", seed, p.id))
    start = (round - 1) * count
    return [order[(start + i) % len(order)] for i in range(min(count, len(order)))]


def held_out_prompts(prompts: list[Prompt], count: int) -> list[Prompt]:
    """At most `count` test prompts: the same ones for every policy, round and seed."""
    return sorted((p for p in prompts if p.split == "test"), key=lambda p: unit_for("evaluation", p.id))[:count]


def prompt_in(row: dict[str, Any]) -> list[Message]:
    """The conversation that a row asks. Raises BadRowError where it has none."""
    messages = prompt_of(row, ("prompt", "messages", "conversations", "instruction"))
    if messages is not None:
        return in_full(row, messages)
    if not is_hh(row.get("chosen")):
        expected = "`prompt`, `messages`, `conversations`, `instruction` or HH text in `chosen`"
        raise lacking(row, expected)
    return in_full(row, asks(conversation_of(hh_question(row["chosen"]), "chosen"), "chosen"))
