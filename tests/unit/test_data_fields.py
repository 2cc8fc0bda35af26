"""What stands beside a conversation, and conversations as text: used, refused, or ignored and said by name."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from align.data.binary import load_binary
from align.data.candidates import load_candidates
from align.data.demonstrations import load_demonstrations
from align.data.preferences import load_preferences
from align.data.prompts import read_prompts
from align.types import Dropped, Message

CHAT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
SYSTEM: Message = {"role": "system", "content": "Be short."}
USER: Message = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}
OTHER = {"role": "assistant", "content": "No."}


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("load", "row"),
    [
        (read_prompts, {"prompt": "Why?"}),
        (read_prompts, {"messages": [USER]}),
        (read_prompts, {"messages": [SYSTEM, USER]}),
        (read_prompts, {"instruction": "Why?"}),
        (read_prompts, {"chosen": "\n\nHuman: Why?\n\nAssistant: So."}),
        (load_demonstrations, {"conversations": CHAT}),
        (load_demonstrations, {"prompt": "Why?", "completion": "So."}),
        (load_preferences, {"prompt": "Why?", "chosen": "So.", "rejected": "No."}),
        (load_preferences, {"chosen": [USER, ANSWER], "rejected": [USER, {**ANSWER, "content": "No."}]}),
        (load_binary, {"conversations": CHAT, "label": True}),
        (load_candidates, {"prompt": "Why?", "text": "So."}),
    ],
)
@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_turn_beside_any_form_is_the_first_turn(tmp_path: Path, load: Any, row: Any, name: str) -> None:
    rows, other = load(write(tmp_path, {**row, name: " Be short."}))
    assert [r.messages for r in rows] == [[SYSTEM, USER]]
    assert other == [] or load is load_candidates


def test_two_system_turns_that_differ_are_refused(tmp_path: Path) -> None:
    good = {"prompt": "Hi"}
    row = {"messages": [SYSTEM, USER], "system": "Be long."}
    _, dropped = read_prompts(write(tmp_path, good, row))
    said = "prompts differ: `system` is 'Be long.', and the system turn is 'Be short.'"
    assert dropped == [Dropped("prompt", "rows.jsonl:2", said)]


def test_what_an_instruction_is_about(tmp_path: Path) -> None:
    dolly = {"instruction": "Made of what?", "context": "Bread is made of flour.", "response": "Flour."}
    seed = {"instruction": "Translate.", "instances": [{"input": "ja", "output": "yes"}, {"input": "", "output": "no"}]}
    rows, dropped = load_demonstrations(write(tmp_path, dolly, seed))
    assert [(r.messages[0]["content"], r.answer, r.where) for r in rows] == [
        ("Made of what?\nBread is made of flour.", "Flour.", "rows.jsonl:1"),
        ("Translate.\nja", "yes", "rows.jsonl:2"),
        ("Translate.", "no", "rows.jsonl:2"),
    ]
    assert dropped == []


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, {**ANSWER, "reasoning_content": "Hm.\n"}]},
        {"messages": [USER, {**ANSWER, "thinking": "Hm."}]},
        {"messages": [USER, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nSo.", "reasoning": "Hm."}]},
        {"prompt": "Why?", "response": "So.", "reasoning_content": "Hm."},
        {"instruction": "Why?", "output": "So.", "thinking": "Hm."},
    ],
)
def test_thoughts_stand_in_front_of_their_answer(tmp_path: Path, row: Any) -> None:
    rows, _ = load_demonstrations(write(tmp_path, row))
    assert [r.answer for r in rows] == ["<think>\nHm.\n</think>\n\nSo."]


def test_thoughts_of_pairs(tmp_path: Path) -> None:
    row = {
        "prompt": "Why?",
        "chosen": [{**ANSWER, "thinking": "Hm."}],
        "rejected": {"role": "assistant", "content": "No."},
    }
    assert [(p.chosen, p.rejected) for p in load_preferences(write(tmp_path, row))[0]] == [
        ("<think>\nHm.\n</think>\n\nSo.", "No.")
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"functions": [{"name": "search"}]},
         "`functions` is [{'name': 'search'}], and the text alone would mean another thing"),
        ({"images": ["a.png"]}, "`images` is ['a.png'], and the text alone would mean another thing"),
        ({"messages": [{**USER, "images": ["a.png"]}, ANSWER]},
         "`messages[0].images` is ['a.png'], and the text alone would mean another thing"),
        ({"messages": [{**USER, "thinking": "Hm."}, ANSWER]},
         "`messages[0].thinking` gives thoughts to user, not to assistant"),
        ({"messages": [USER, {"role": "assistant", "content": "<think>\nAh.\n</think>\n\nSo.", "thinking": "Hm."}]},
         "`messages[1].thinking` and the answer's <think> hold two different thoughts"),
        ({"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]},
         "`messages[1].weight` is 0, and every turn is learned alike; take it out, and set sft.turns: last where only "
         "the last turn is to be learned"),
        ({"messages": None, "prompt": "Why?", "completion": {**ANSWER, "train": False}},
         "`completion.train` is False, and every turn is learned alike; take it out, and set sft.turns: last where "
         "only the last turn is to be learned"),
        ({"messages": None, "instruction": "a", "input": "b", "context": "c", "output": "d"},
         "`input` and `context` both say what the instruction is about"),
        ({"messages": None, "instruction": "a", "instances": ["b"]}, "`instances` is ['b'], not a list of objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"messages": [USER, {**ANSWER, "weight": 1}], "tools": [], "images": None}
    rows, dropped = load_demonstrations(write(tmp_path, good, {**good, **row}))
    assert len(rows) == 1
    assert dropped == [Dropped("demonstration", "rows.jsonl:2", f"unusable field: {reason}")]


WHOLE = "and an answer is whole; take it out, and give the row a `weight` where it counts less than others"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": {**ANSWER, "weight": 0}}, f"`chosen.weight` is 0, {WHOLE}"),
        ({"rejected": [{**OTHER, "weight": 0.5}]}, f"`rejected[0].weight` is 0.5, {WHOLE}"),
        ({"rejected": [USER, {**OTHER, "train": False}]}, f"`rejected[1].train` is False, {WHOLE}"),
        ({"chosen": json.dumps([USER, {**ANSWER, "weight": 0}])}, f"`chosen[1].weight` is 0, {WHOLE}"),
    ],
)
def test_an_answer_of_a_pair_is_not_weighed_by_its_turn(tmp_path: Path, row: Any, reason: str) -> None:
    """Nobody learns what stands before it, so there a weight of 0 says what is so."""
    before = [USER, {**ANSWER, "weight": 0}, {"role": "user", "content": "And?"}]
    good = {"prompt": before, "chosen": {**ANSWER, "weight": 1}, "rejected": {**OTHER, "train": True}}
    pairs, dropped = load_preferences(
        write(tmp_path, good, {"prompt": [USER], "chosen": ANSWER, "rejected": OTHER} | row)
    )
    assert [p.weight for p in pairs] == [1.0]
    assert dropped == [Dropped("preference", "rows.jsonl:2", f"unusable field: {reason}")]


def test_an_answer_of_a_binary_label_is_not_weighed_by_its_turn(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "completion": ANSWER, "label": True}]
    rows += [{"messages": [USER, {**OTHER, "weight": 0}], "label": True}]
    binary, dropped = load_binary(write(tmp_path, *rows))
    assert len(binary) == 1
    assert dropped == [Dropped("binary label", "rows.jsonl:2", f"unusable field: `messages[1].weight` is 0, {WHOLE}")]


def test_other_fields_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turn = {**USER, "name": "kim"}
    rows = [
        {"prompt": "a", "topic": "x", "id": 1},
        {"messages": json.dumps([turn, ANSWER, turn]), "topic": "y", "note": ""},
    ]
    rows += [{"prompt": "b", "solution": "3", "topic": None, "say\x1b[31m": True}]
    assert len(read_prompts(write(tmp_path, *rows))[0]) == 3
    said = "topic (2 of 3 rows), messages[].name (1 of 3 rows), 'say\\x1b[31m' (1 of 3 rows)"
    assert [r.getMessage() for r in caplog.records] == [
        f"rows.jsonl: ignored fields: {said}; docs/files.md says which are read"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_what_we_write_ourselves_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = {"prompt": [USER], "chosen": [ANSWER], "rejected": "No.", "target": 0.75, "weight": 1.0, "margin": 0.0}
    load_preferences(write(tmp_path, {**pair, "round": 1, "id": "a", "prompt_id": "b", "judgements": ["c"]}))
    row = {"messages": [USER], "text": "So.", "checkpoint": "c", "sample": 0, "tokens": 1, "finish": "stop"}
    load_candidates(
        write(tmp_path, {**row, "id": "a", "prompt_id": "b", "temperature": 1.0, "redrawn": 0, "score": 1.5})
    )
    assert caplog.records == []


TURNS: list[Message] = [USER, {"role": "assistant", "content": "So."}, {"role": "user", "content": 'it\'s "ok"?'}]


@pytest.mark.parametrize(
    "prompt",
    [
        json.dumps(TURNS),
        json.dumps(TURNS, indent=1) + "\n",
        repr(TURNS),
        json.dumps([{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}, TURNS[2]]),
        'Human: Why?\n\nAssistant: So.\n\nHuman: it\'s "ok"?',
        'Human: Why?\n\nAssistant: So.\n\nHuman: it\'s "ok"?\n\nAssistant:',
        '\n\n\nHuman: Why?\n\nAssistant: So.\n\nHuman: it\'s "ok"?\n\nAssistant: ',
    ],
)
def test_a_conversation_as_text_is_a_conversation(tmp_path: Path, prompt: str) -> None:
    rows, dropped = read_prompts(write(tmp_path, {"prompt": prompt}))
    assert ([r.messages for r in rows], dropped) == ([TURNS], [])
    pairs, dropped = load_preferences(write(tmp_path, {"prompt": prompt, "chosen": "a", "rejected": "b"}))
    assert ([r.messages for r in pairs], dropped) == ([TURNS], [])


@pytest.mark.parametrize("quote", [json.dumps, repr])
def test_answers_as_text_of_messages(tmp_path: Path, quote: Any) -> None:
    bad = {"role": "assistant", "content": "No."}
    rows = [{"prompt": "Why?", "chosen": quote([ANSWER]), "rejected": quote(bad)}]
    rows += [{"chosen": quote([TURNS[2], ANSWER]), "rejected": quote([TURNS[2], bad])}]
    rows += [{"chosen": "Human: Hi\n\nAssistant: So.", "rejected": "Human: Hi\n\nAssistant: No."}]
    pairs, dropped = load_preferences(write(tmp_path, *rows))
    assert dropped == []
    assert [(p.messages[0]["content"], p.chosen, p.rejected) for p in pairs] == [
        ("Why?", "So.", "No."), ("it's \"ok\"?", "So.", "No."), ("Hi", "So.", "No."),
    ]  # fmt: skip
    turn = quote([USER, {**ANSWER, "weight": 0}, USER, ANSWER])
    _, dropped = load_demonstrations(write(tmp_path, {"messages": quote([USER, ANSWER])}, {"messages": turn}))
    assert [row.reason[:38] for row in dropped] == ["unusable field: `messages[1].weight` is"[:38]]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]",  # as numpy prints it
         "`prompt` begins as a list of messages does, and is neither JSON nor Python: "
         "\"[{'role': 'user', 'content': 'a'}\\n {'role': 'assistant'…; "
         "write messages, or the text as the content of one"),
        ("Human: Why?\nAssistant:", "`prompt` begins with 'Human:', and no blank line and 'Assistant:' follow; "
         "put two line ends before it, or take it out"),
    ],
)  # fmt: skip
def test_what_may_be_a_conversation_is_no_user_turn(tmp_path: Path, prompt: str, reason: str) -> None:
    rows, dropped = read_prompts(write(tmp_path, {"prompt": "Hi"}, {"prompt": prompt}))
    assert [r.messages for r in rows] == [[{"role": "user", "content": "Hi"}]]
    assert dropped == [Dropped("prompt", "rows.jsonl:2", f"not a conversation: {reason}")]


@pytest.mark.parametrize(
    "words",
    [
        *("[1, 2] or [3]?", "Humans: why?", '{"a": 1}', 'Mend: [{"role": "user"}]', '[{"role": "user"}] is what?'),
        *('{"role": "cook", "content": "eggs"}', '[{"role": "cook", "name": "Kim"}]'),
    ],
)
def test_other_text_is_somebodys_words(tmp_path: Path, words: str) -> None:
    rows, dropped = load_demonstrations(write(tmp_path, {"prompt": words, "completion": words}))
    assert ([(r.messages, r.answer) for r in rows], dropped) == ([([{"role": "user", "content": words}], words)], [])
