"""Every form of row that docs/files.md lists, and what becomes of the ones that are none."""

import gzip
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from align.cli.command_output import keep_dropped
from align.config.recipe import Prompts
from align.data.binary import load_binary
from align.data.candidates import load_candidates
from align.data.contamination import drop_held_out_binary, drop_held_out_demonstrations, drop_held_out_preferences
from align.data.demonstrations import load_demonstrations, read_demonstrations, write_demonstrations
from align.data.preferences import is_number, load_preferences
from align.data.prompts import load_prompts, read_prompts, split_of
from align.dropped import count_reasons
from align.errors import DataError
from align.store import read_rows
from align.train.examples import write_dropped
from align.types import Dropped, Message, Preference, Prompt, as_dict, from_table, prompt_id, to_table

HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: A joke?\n\nAssistant:"


def user(*texts: str) -> list[Message]:
    """Turns of user and assistant, the user first."""
    return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


PROMPT_FORMS: list[tuple[dict[str, Any], list[Message]]] = [
    ({"prompt": " Why? \n"}, user("Why?")),
    ({"prompt": user("a", "b", "c")}, user("a", "b", "c")),
    ({"prompt": HH}, user("Hi", "Hello", "A joke?")),
    ({"messages": user("Why?"), "id": 3}, user("Why?")),
    ({"messages": [{"role": "system", "content": "Be short."}, *user("Why?")]},
     [{"role": "system", "content": "Be short."}, *user("Why?")]),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]},
     user("a", "b", "c")),
    ({"instruction": "Add.", "input": "1 2", "output": "3"}, user("Add.\n1 2")),
    ({"instruction": "Add.", "input": ""}, user("Add.")),
    ({"instruction": "Add.", "input": " \n"}, user("Add.")),
    ({"instruction": "Sort.", "input": "[]"}, user("Sort.\n[]")),
    ({"instruction": "c", "system": "s", "history": [["a", "b"]]},
     [{"role": "system", "content": "s"}, *user("a", "b", "c")]),
    ({"chosen": HH + " Knock knock.", "rejected": HH + " No."}, user("Hi", "Hello", "A joke?")),
    ({"chosen": HH}, user("Hi", "Hello", "A joke?")),
    ({"prompt": None, "messages": user("Why?")}, user("Why?")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), PROMPT_FORMS)
def test_forms_of_prompts(tmp_path: Path, row: dict[str, Any], messages: list[Message]) -> None:
    prompts, dropped = read_prompts(write(tmp_path / "p.jsonl", row))
    assert prompts == [Prompt(prompt_id(messages), messages, "train", "p.jsonl:1")]
    assert dropped == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "x"}, "missing field: needs `prompt`, `messages`, `conversations`, `instruction` or HH text in "
         "`chosen`, found question"),
        ({}, "missing field: needs `prompt`, `messages`, `conversations`, `instruction` or HH text in `chosen`, found "
         "no field at all"),
        ({"prompt": "  "}, "empty: `prompt` is '  '"),
        ({"prompt": 3}, "not a conversation: `prompt` is 3"),
        ({"prompt": "\ud800"}, "not text: `prompt` holds a lone surrogate at character 0"),
        ({"messages": []}, "empty: `messages` is []"),
        ({"messages": ["x"]}, "not a message: `messages[0]` is 'x'"),
        ({"messages": user("a", "b")}, "no question: `messages` ends with assistant 'b', not user"),
        ({"messages": [*user("a"), *user("b")]}, "roles out of turn: `messages[1]` is of user, expected assistant"),
        ({"messages": [{"role": "system", "content": "s"}]}, "roles out of turn: `messages` has a system turn only"),
        ({"messages": [*user("a", "b", "c"), {"role": "system", "content": "s"}]},
         "no question: `messages` ends with system 's', not user"),
        ({"messages": [{"role": "critic", "content": "a"}]},
         "unknown role: `messages[0]` has the role 'critic', not one of system, user, human, assistant, gpt, developer, tool"),
        ({"messages": [{"content": "a"}]},
         "unknown role: `messages[0]` has the role None, not one of system, user, human, assistant, gpt, developer, tool"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "not text: `messages[0].content[0].text` is None"),
        ({"instruction": "a", "history": [["x"]]}, "not a message: `history[0]` is ['x'], not a pair"),
        ({"chosen": "\n\nHuman: a\n\nHuman: b\n\nAssistant: c"},
         "roles out of turn: `chosen[1]` is of user, expected assistant"),
    ],
)  # fmt: skip
def test_rows_that_are_no_prompts(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    good = {"prompt": "fine"}
    _, dropped = read_prompts(write(tmp_path / "p.jsonl", good, row))
    assert dropped == [Dropped("prompt", "p.jsonl:2", reason)]


def test_duplicates_are_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"}, {"messages": user(" a")}, {"prompt": ""})
    prompts, dropped = read_prompts(path)
    assert [p.source for p in prompts] == ["p.jsonl:1", "p.jsonl:2"]
    assert count_reasons(dropped) == {"empty": 1, "duplicate": 1}
    assert dropped[1] == Dropped("prompt", "p.jsonl:3", "duplicate: the same prompt as p.jsonl:1")


def test_more_bad_rows_than_good_are_an_error(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": ""}, {"prompt": ""}]
    assert len(read_prompts(write(tmp_path / "p.jsonl", *rows[:2]))[0]) == 1
    with pytest.raises(DataError) as caught:
        read_prompts(write(tmp_path / "p.jsonl", *rows))
    said = "2 of 3 rows are no prompts, the first: p.jsonl:2: empty: `prompt` is ''; docs/files.md lists the forms"
    assert str(caught.value) == f"{tmp_path}/p.jsonl: {said}"
    with pytest.raises(DataError, match="the file has no rows"):
        read_prompts(write(tmp_path / "p.jsonl"))


def test_a_side_that_stays_empty_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "a"})
    with pytest.raises(DataError, match=r"none of the 1 prompts falls on the test side at test_share 0.01"):
        load_prompts(Prompts(path=path, test_share=0.01))
    with pytest.raises(DataError, match=r"none of the 1 prompts falls on the train side at test_share 0.99"):
        load_prompts(Prompts(path=path, test_share=0.99))


def test_the_split_is_written_in_stone() -> None:
    """Literal sides: a change here would move prompts across in every existing run."""
    sides = {text: split_of(prompt_id(user(text)), 0.3) for text in "abcdefgh"}
    assert "".join(text for text, side in sides.items() if side == "test") == "abdeg"


def test_the_split_grows_and_never_moves(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}"} for n in range(400)]
    few, _ = load_prompts(Prompts(path=write(tmp_path / "p.jsonl", *rows[:200]), test_share=0.2))
    many, _ = load_prompts(Prompts(path=write(tmp_path / "p.jsonl", *reversed(rows)), test_share=0.2))
    more, _ = load_prompts(Prompts(path=write(tmp_path / "p.jsonl", *rows), test_share=0.4, limit=300))
    sides = {p.id: p.split for p in many}
    assert all(sides[p.id] == p.split for p in few)
    assert {p.id for p in few if p.split == "test"} <= {p.id for p in more if p.split == "test"}
    assert len(more) == 300
    assert sum(p.split == "test" for p in many) == 73


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations([f"question {n}" for n in range(12)]))
def test_the_split_does_not_see_the_order(tmp_path: Path, texts: list[str]) -> None:
    prompts, _ = read_prompts(write(tmp_path / "p.jsonl", *({"prompt": t} for t in texts)), test_share=0.5)
    assert {p.messages[0]["content"] for p in prompts if p.split == "test"} == {
        f"question {n}" for n in range(12) if split_of(prompt_id(user(f"question {n}")), 0.5) == "test"
    }


@pytest.mark.parametrize(
    ("row", "messages", "answer"),
    [
        ({"messages": user("a", "b", "c", "d")}, user("a", "b", "c"), "d"),
        ({"prompt": "a", "completion": " b"}, user("a"), "b"),
        ({"prompt": user("a"), "completion": [{"role": "assistant", "content": "b"}]}, user("a"), "b"),
        ({"prompt": "a", "response": "b"}, user("a"), "b"),
        ({"prompt": HH, "completion": "b"}, user("Hi", "Hello", "A joke?"), "b"),
        ({"instruction": "a", "input": "x", "output": "b"}, user("a\nx"), "b"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, user("a"), "b"),
    ],
)
def test_forms_of_demonstrations(tmp_path: Path, row: Any, messages: list[Message], answer: str) -> None:
    rows, dropped = load_demonstrations(write(tmp_path / "d.jsonl", row, row))
    assert [tuple(r) for r in rows] == [(messages, answer, "d.jsonl:1"), (messages, answer, "d.jsonl:2")]
    assert dropped == []
    write_demonstrations(tmp_path / "d.parquet", rows)
    assert read_demonstrations(tmp_path / "d.parquet") == rows


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": user("a")}, "no answer: `messages` ends with user 'a', not assistant"),
        ({"messages": user("a", "b")[1:]}, "no question: `messages` is an answer only"),
        ({"messages": user("a", " ")}, "empty: `messages[1]` is ' '"),
        ({"prompt": "a", "completion": ""}, "empty: `completion` is ''"),
        ({"prompt": "a", "completion": 1}, "not a message: `completion` is 1"),
        (
            {"prompt": "a", "completion": [{"role": "user", "content": "b"}]},
            "no answer: `completion` ends with user 'b'",
        ),
        ({"prompt": "a", "completion": user("x", "b")}, "prompts differ: `completion` holds a conversation of its own"),
        ({"prompt": "a", "chosen": "b"}, "missing field: needs `messages`, `conversations`, `prompt` and `completion`"),
        ({"completion": "b"}, "missing field: needs"),
    ],
)
def test_rows_that_are_no_demonstrations(tmp_path: Path, row: Any, reason: str) -> None:
    _, dropped = load_demonstrations(write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "b"}, row))
    assert [(d.what, d.where) for d in dropped] == [("demonstration", "d.jsonl:2")]
    assert dropped[0].reason.startswith(reason)


GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (GOOD, user("a")),
        ({"prompt": user("a"), "chosen": user("", "b")[1:], "rejected": {"role": "assistant", "content": "c"}}, user("a")),
        ({"chosen": user("a", "b"), "rejected": user("a", "c")}, user("a")),
        ({"prompt": "a", "chosen": user("a", "b"), "rejected": user("a", "c"), "messages": user("a", "b")}, user("a")),
        ({"chosen": HH + " b", "rejected": HH + " c"}, user("Hi", "Hello", "A joke?")),
        ({"prompt": HH, "chosen": " b", "rejected": " c"}, user("Hi", "Hello", "A joke?")),
        ({"instruction": "a", "input": "x", "chosen": "b", "rejected": "c"}, user("a\nx")),
        ({"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"},
          "rejected": {"from": "gpt", "value": "c"}}, user("a")),
    ],
)  # fmt: skip
def test_forms_of_preferences(tmp_path: Path, row: Any, messages: list[Message]) -> None:
    rows, dropped = load_preferences(write(tmp_path / "q.jsonl", row))
    assert dropped == []
    assert [(p.messages, p.prompt_id, p.chosen, p.rejected) for p in rows] == [
        (messages, prompt_id(messages), "b", "c")
    ]
    assert [(p.target, p.weight, p.margin, p.round, p.judgements) for p in rows] == [(1.0, 1.0, 0.0, 0, [])]
    assert from_table(Preference, to_table(Preference, rows)) == rows


def test_target_weight_and_margin(tmp_path: Path) -> None:
    row = {**GOOD, "target": 0.75, "weight": 2, "margin": -0.5}
    assert [(p.target, p.weight, p.margin) for p in load_preferences(write(tmp_path / "q.jsonl", row))[0]] == [
        (0.75, 2.0, -0.5)
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, "missing field: needs `chosen` and `rejected`, found prompt, chosen"),
        ({"chosen": "b", "rejected": "c"}, "missing field: needs a prompt (`prompt`, "),
        ({**GOOD, "rejected": "b"}, "no difference: `chosen` and `rejected` are both 'b'"),
        ({**GOOD, "rejected": "b "}, "no difference: `chosen` and `rejected` are both 'b'"),
        ({**GOOD, "chosen": ""}, "empty: `chosen` is ''"),
        ({**GOOD, "prompt": user("a", "b")}, "no question: `prompt` ends with assistant 'b'"),
        ({"chosen": user("a", "b"), "rejected": user("x", "c")},
         "prompts differ: they have 1 and 1 turns and end with 'a' and 'x'"),
        ({"prompt": "x", "chosen": user("a", "b"), "rejected": user("a", "c")}, "prompts differ: they have 1 and 1"),
        ({"chosen": HH + " b", "rejected": "\n\nHuman: Hi\n\nAssistant: c"},
         "prompts differ: `chosen` and `rejected` differ before their last assistant turn"),
        ({"chosen": HH, "rejected": HH + " b"}, "empty: `chosen[3]` is ''"),
        ({"chosen": HH + " b", "rejected": 3}, "not a message: `rejected` is 3"),
        ({**GOOD, "chosen": user("b")}, "no answer: `chosen` ends with user 'b', not assistant"),
        ({**GOOD, "target": 0.4}, "out of range: `target` is 0.4, not in [0.5, 1.0]"),
        ({**GOOD, "target": True}, "not a number: `target` is True"),
        ({**GOOD, "weight": -1}, "out of range: `weight` is -1, not in [0.0, inf]"),
        ({**GOOD, "margin": "x"}, "not a number: `margin` is 'x'"),
    ],
)  # fmt: skip
def test_rows_that_are_no_preferences(tmp_path: Path, row: Any, reason: str) -> None:
    rows, dropped = load_preferences(write(tmp_path / "q.jsonl", GOOD, row))
    assert (len(rows), [(d.what, d.where) for d in dropped]) == (1, [("preference", "q.jsonl:2")])
    assert dropped[0].reason.startswith(reason)


def assistant(text: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": user("a"), "chosen": "b", "rejected": " \u200b"},
        {"prompt": "a", "chosen": [assistant("b")], "rejected": [assistant("")]},
        {"chosen": [*user("a"), assistant("b")], "rejected": [*user("a"), assistant("")]},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"},
    ],
)
def test_an_empty_answer_that_was_rejected_is_a_preference(tmp_path: Path, row: Any) -> None:
    rows, dropped = load_preferences(write(tmp_path / "q.jsonl", row))
    assert ([(p.messages, p.chosen, p.rejected) for p in rows], dropped) == ([(user("a"), "b", "")], [])


@pytest.mark.parametrize("field", ["chosen", "prompt"])
def test_a_system_turn_may_stand_in_one_part_of_a_pair_alone(tmp_path: Path, field: str) -> None:
    system, other = {"role": "system", "content": "s"}, {"role": "system", "content": "t"}
    row: dict[str, Any] = {"prompt": user("a"), "chosen": user("a", "b"), "rejected": user("a", "c")}
    rows, dropped = load_preferences(write(tmp_path / "q.jsonl", {**row, field: [system, *row[field]]}))
    assert ([p.messages for p in rows], dropped) == ([[system, *user("a")]], [])
    two = {**row, "prompt": [system, *user("a")], "chosen": [other, *user("a", "b")]}
    _, dropped = load_preferences(write(tmp_path / "q.jsonl", GOOD, two))
    assert dropped[0].reason == "prompts differ: they have 2 and 2 turns and end with 'a' and 'a'"


def test_numbers_of_tables(tmp_path: Path) -> None:
    """Decimals, and messages that hold each other's fields."""
    number = pa.decimal128(10, 2)
    turns = [{"role": None, "content": None, "from": "human", "value": "a"}, {**assistant("b"), "from": None}]
    table = {
        "messages": [turns],
        "label": pa.array([Decimal("1.00")], number),
        "weight": pa.array([Decimal("0.25")], number),
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    binary, dropped = load_binary(tmp_path / "t.parquet")
    assert ([(t.messages, t.text, t.target, t.weight) for t in binary], dropped) == ([(user("a"), "b", 1.0, 0.25)], [])
    rows = [{"prompt": "a", "text": "b", "sample": 1.0, "tokens": 4.0}]
    assert [(c.sample, c.tokens) for c in load_candidates(write(tmp_path / "c.jsonl", *rows))[1]] == [(1, 4)]


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), float("nan"), True, 10**400])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)


def test_a_folder_is_called_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_preferences(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder; and it holds no file of rows (.jsonl, .jsonl.gz or .parquet)"


def test_all_that_was_dropped_stands_in_one_file(tmp_path: Path) -> None:
    """Of a verb that trains: duplicates are not unreadable, and what is too long is found beside them."""
    _, dropped = load_preferences(write(tmp_path / "q.jsonl", GOOD, GOOD))
    keep_dropped(tmp_path, dropped)
    assert [row["reason"] for _, row in read_rows(tmp_path / "dropped.jsonl")] == [
        "duplicate: the same pair as q.jsonl:1"
    ]
    write_dropped(tmp_path, [Dropped("preference", "a", "too long")])
    keep_dropped(tmp_path, dropped)
    assert [row["reason"] for _, row in read_rows(tmp_path / "dropped.jsonl")] == [
        "duplicate: the same pair as q.jsonl:1",
        "too long",
    ]
    assert not (tmp_path / "unreadable.jsonl").exists()


def test_exported_preferences_load_again(tmp_path: Path) -> None:
    rows, _ = load_preferences(write(tmp_path / "q.jsonl", {**GOOD, "target": 0.75, "weight": 2}))
    again, dropped = load_preferences(write(tmp_path / "q.jsonl", *map(as_dict, rows)))
    assert (again, dropped) == (rows, [])


def test_equal_pairs_are_one_and_opposite_pairs_are_two(tmp_path: Path) -> None:
    turned = {"prompt": "a", "chosen": "c", "rejected": "b"}
    rows, dropped = load_preferences(write(tmp_path / "q.jsonl", GOOD, turned, GOOD))
    assert [p.chosen for p in rows] == ["b", "c"]
    assert dropped == [Dropped("preference", "q.jsonl:3", "duplicate: the same pair as q.jsonl:1")]


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    prompts, _ = read_prompts(write(tmp_path / "p.jsonl", {"prompt": "a"}))
    demonstrations, _ = load_demonstrations(
        write(tmp_path / "d.jsonl", {"prompt": " a", "completion": "x"}, {"prompt": "b", "completion": "x"})
    )
    kept, dropped = drop_held_out_demonstrations(demonstrations, prompts)
    assert [d.messages for d in kept] == [user("b")]
    assert dropped == [Dropped("demonstration", "d.jsonl:1", "held out: the prompt is used for evaluation")]
    preferences, _ = load_preferences(write(tmp_path / "q.jsonl", GOOD, {**GOOD, "prompt": "b"}))
    left, gone = drop_held_out_preferences(preferences, prompts)
    assert [p.messages for p in left] == [user("b")]
    assert gone == [Dropped("preference", preferences[0].id, "held out: the prompt is used for evaluation")]
    up = {"completion": "x", "label": True}
    binary, _ = load_binary(write(tmp_path / "t.jsonl", {"prompt": "a", **up}, {"prompt": "b", **up}))
    good, out = drop_held_out_binary(binary, prompts)
    assert [t.messages for t in good] == [user("b")]
    assert out == [Dropped("binary label", binary[0].id, "held out: the prompt is used for evaluation")]


def test_candidates(tmp_path: Path) -> None:
    row = {"prompt": "a", "text": "", "checkpoint": "c", "sample": 1, "tokens": 4, "finish": "length"}
    prompts, candidates = load_candidates(write(tmp_path / "c.jsonl", row, {"messages": user("a"), "text": "x"}))
    assert [p.messages for p in prompts] == [user("a")]
    assert [(c.text, c.checkpoint, c.sample, c.tokens, c.finish) for c in candidates] == [
        ("", "c", 1, 4, "length"),
        ("x", "given", 0, 0, "stop"),
    ]
    for bad, said in (
        ({"prompt": "a"}, "c.jsonl:1: missing field: needs `messages` (or `prompt`) and `text`, found prompt"),
        ({"prompt": "a", "text": 3}, "c.jsonl:1: not text: `text` is 3"),
        ({"prompt": "a", "text": "x", "tokens": "4"}, "c.jsonl:1: not a count: `tokens` is '4'"),
        ({"prompt": "a", "text": "x", "finish": "lenght"}, "c.jsonl:1: unknown finish: `finish` is 'lenght'"),
    ):
        with pytest.raises(DataError) as caught:
            load_candidates(write(tmp_path / "c.jsonl", bad))
        assert str(caught.value).startswith(said)


QUOTED = json.dumps(user("a", "b"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.sampled_from([HH, HH + " x", HH.strip(), "user", "gpt", QUOTED, QUOTED[:-2], repr(json.loads(QUOTED))]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "tool_calls", "weight", "thinking", "type", "text"]), inner, max_size=3)
    | st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant", "tool", "tools"]), inner)
    | st.builds(lambda text: {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]}, inner),
    max_leaves=8,
)  # fmt: skip
FIELDS = ["prompt", "messages", "conversations", "instruction", "input", "system", "history", "completion", "output"]
FIELDS += ["chosen", "rejected", "target", "weight", "text", "tokens", "finish", "label"]
FIELDS += ["system_prompt", "context", "tools", "reasoning_content", "response"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[{"instruction": "Sum up.", "history": True}])  # was a TypeError
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4), max_size=3))
def test_no_row_crashes_a_loader(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = write(tmp_path / "any.jsonl", *rows)
    for load in (read_prompts, load_demonstrations, load_preferences, load_binary, load_candidates):
        try:
            good, other = load(path)  # type: ignore[operator]
        except DataError:
            continue
        if load is not load_candidates:
            assert len(good) + len(other) == len(rows)
        for row in good:
            assert row.messages[-1]["role"] in ("user", "tool")
            assert all(turn["content"] == turn["content"].strip() != "" for turn in row.messages)


def test_gzip(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "p.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"prompt": "é"}\n\n{"prompt": "b"}\n')
    prompts, _ = read_prompts(tmp_path / "p.jsonl.gz")
    assert [(p.messages[0]["content"], p.source) for p in prompts] == [("é", "p.jsonl.gz:1"), ("b", "p.jsonl.gz:3")]


@pytest.mark.parametrize(
    ("heading", "load"),
    [
        ("Prompts", read_prompts),
        ("Demonstrations", load_demonstrations),
        ("Preferences", load_preferences),
        ("Binary labels", load_binary),
        ("Candidates", load_candidates),
    ],
)
def test_every_example_in_the_docs_loads(tmp_path: Path, heading: str, load: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    examples = page.split(f"\n## {heading}\n")[1].split("```json\n")[1].split("```")[0]
    (tmp_path / "docs.jsonl").write_text(examples, encoding="utf-8")
    good, other = load(tmp_path / "docs.jsonl")
    if load is load_candidates:
        assert (len(good), len(other)) == (1, len(examples.splitlines()))
    else:
        assert (len(good), other) == (len(examples.splitlines()), [])


def test_every_kind_of_reason_is_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "files.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in (root / "align" / "data").glob("*.py"))
    kinds = set(re.findall(r'BadRowError\(\s*"([a-z ]+)"', code))
    assert len(kinds) >= 12
    assert not {kind for kind in kinds - {"unknown finish", "not a count"} if f"`{kind}`" not in page}


def test_a_mixture_has_its_shares() -> None:
    from align.data.demonstrations import mixed

    main, few, many = [f"m{n}" for n in range(50)], ["a", "b", "c"], [f"x{n}" for n in range(90)]
    rows = mixed(main, [(few, 0.2), (many, 0.3)], seed=4)
    assert rows[:50] == main  # all of them, once
    assert len(rows) == 100
    assert [sum(row in part for row in rows) for part in (few, many)] == [20, 30]
    assert {rows.count(row) for row in few} == {6, 7}  # 20 rows of 3: nobody a third time before all came twice
    assert max(rows.count(row) for row in many) == 1
    assert rows == mixed(main, [(few, 0.2), (many, 0.3)], seed=4) != mixed(main, [(few, 0.2), (many, 0.3)], seed=5)
    assert mixed(main, [], seed=4) == main
    with pytest.raises(DataError, match="part 0 of the mixture has no rows"):
        mixed(main, [([], 0.5)], seed=0)
