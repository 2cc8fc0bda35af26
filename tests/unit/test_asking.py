"""All that a round asks: tasks, gold, repeats and suggestions together."""

from pathlib import Path
from typing import Any

import pytest

from align.config.recipe import Annotate
from align.errors import DataError
from align.labelling.tasks import ask, read_suggestions, write_suggestions
from align.types import Prompt
from tests.labelling import make_candidate, make_prompt, world
from tests.loop import write_jsonl

SCORE = "def score(messages, answer):\n    return float(len(answer))\n"


def settings(**given: Any) -> Annotate:
    return Annotate.model_validate({"tasks": 40, **given})


def gold_file(folder: Path, prompts: list[str]) -> dict[str, str]:
    rows = [{"prompt": text, "chosen": f"right {text}", "rejected": f"wrong {text}"} for text in prompts]
    write_jsonl(folder / "gold.jsonl", rows)
    return {"path": str(folder / "gold.jsonl")}


def held_out(text: str) -> Prompt:
    return make_prompt(text, split="test")


def test_gold_and_repeats_come_on_top_and_stand_in_no_telling_place(tmp_path: Path) -> None:
    gold = {**gold_file(tmp_path, [f"gold {n}" for n in range(30)]), "share": 0.2}
    prompts, candidates = world(40)
    asked = ask(prompts, candidates, settings(gold=gold, repeats=0.25), round=1, seed=0)
    kinds = [(t.purpose, t.repeat) for t in asked.tasks]
    assert {kind: kinds.count(kind) for kind in kinds} == {("train", 0): 40, ("train", 1): 10, ("gold", 0): 10}
    places = [n for n, kind in enumerate(kinds) if kind != ("train", 0)]
    assert min(places) < 15 and max(places) > 45 and asked.suggestions == []
    mixed = ask(prompts[::-1], candidates[::-1], settings(gold=gold, repeats=0.25), round=1, seed=0)
    assert mixed == asked, "the order of the inputs does not matter"


def test_gold_on_a_held_out_prompt_is_dropped_with_the_reason(tmp_path: Path) -> None:
    prompts, candidates = world(10)
    secret = held_out("used for evaluation")
    gold = {**gold_file(tmp_path, ["used for evaluation", "free"]), "share": 0.5}
    asked = ask([*prompts, secret], candidates, settings(gold=gold), round=1, seed=0)
    assert [t.messages[0]["content"] for t in asked.tasks if t.purpose == "gold"] == ["free"]
    assert [(d.what, d.reason) for d in asked.dropped] == [("gold", "held out: the prompt is used for evaluation")]
    only = gold_file(tmp_path, ["used for evaluation"])
    with pytest.raises(DataError, match=r"gold\.jsonl: no gold pair is left: held out"):
        ask([*prompts, secret], candidates, settings(gold=only), round=1, seed=0)


def test_no_task_about_a_held_out_prompt() -> None:
    secret = held_out("used for evaluation")
    with pytest.raises(DataError, match="unknown prompt"):
        ask([secret], [make_candidate(secret, "a"), make_candidate(secret, "b")], settings(), round=1, seed=0)


def test_suggestions_are_shown_on_a_share_and_kept_for_all(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCORE)
    prompts = [make_prompt(f"question {n}") for n in range(60)]
    candidates = [make_candidate(p, "long" * k) for p in prompts for k in (1, 2)]
    suggest = {"path": f"{tmp_path}/score.py:score", "share": 0.5}
    asked = ask(prompts, candidates, settings(tasks=60, suggest=suggest, repeats=0.1), round=1, seed=0)
    assert len(asked.tasks) == 66 and len(asked.suggestions) == 60, "a repeat has none"
    by_id = {t.id: t for t in asked.tasks}
    assert all(by_id[s.task_id].texts["ab".index(s.outcome)] == "longlong" for s in asked.suggestions)
    assert {t.id for t in asked.tasks if t.suggested} == {s.task_id for s in asked.suggestions if s.shown}
    assert 18 < sum(s.shown for s in asked.suggestions) < 42
    write_suggestions(tmp_path, asked.suggestions)
    assert read_suggestions(tmp_path) == asked.suggestions


def test_nothing_to_ask_says_what_to_do() -> None:
    prompt = make_prompt("one answer")
    with pytest.raises(DataError, match=r"nothing to compare; raise rollouts\.temperature"):
        ask([prompt], [make_candidate(prompt, "yes")], settings(), round=1, seed=0)
    with pytest.raises(DataError, match=r"^mine\.jsonl: no prompt has two different answers"):
        ask([prompt], [make_candidate(prompt, "yes")], settings(), round=1, seed=0, source=Path("mine.jsonl"))
    assert ask([prompt], [make_candidate(prompt, "yes")], settings(kind="single"), round=1, seed=0).tasks
