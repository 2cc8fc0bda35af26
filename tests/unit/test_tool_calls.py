"""Calls, results and lists of tools in rows, as texts of messages, and in OpenAI's form again."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.data.binary import load_binary
from align.data.candidates import load_candidates
from align.data.demonstrations import load_demonstrations
from align.data.preferences import load_preferences
from align.data.prompts import read_prompts
from align.tool_calls import (
    Call,
    Result,
    arguments_of,
    as_openai,
    beside,
    split_calls,
    split_result,
    tools_of,
    with_calls,
    with_result,
)
from align.types import MESSAGES, Prompt, prompt_id, to_table
from tests.loop import write_jsonl
from tests.unit.test_tool_templates import AT, CONVERSATIONS, DEVELOPER, NOW, PARIS, RESULT, SAID, SYSTEM, TOOLS, calls

ASK = {"role": "user", "content": "Will it rain?"}
USED = [ASK, calls(PARIS), RESULT]
NO = {"role": "assistant", "content": "No."}


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    write_jsonl(folder / "rows.jsonl", list(rows))
    return folder / "rows.jsonl"


# The text of a turn

texts = st.text(max_size=20) | st.sampled_from(["\n\n", "</tool_call>", "<think>\nhm\n</think>\n\n", "\n<", '"', "\\"])
names = st.text(min_size=1, max_size=8) | st.sampled_from(['a"b', "a\nb", "\\", "x>"])
arguments = st.dictionaries(texts, texts | st.integers() | st.lists(texts, max_size=2), max_size=3).map(json.dumps)
made = st.lists(st.builds(Call, names, arguments, st.none() | names), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(said=st.lists(texts, max_size=3).map("".join), given=made)
def test_what_a_turn_says_and_calls_comes_apart_again(said: str, given: list[Call]) -> None:
    said = said.strip()
    if said.startswith("<think>") and "</think>" not in said:
        return  # it still thinks, and what it thinks calls nothing
    assert split_calls(with_calls(said, given)) == (said, given)


@settings(max_examples=200, deadline=None)
@given(text=texts, name=st.none() | names, id=st.none() | names)
def test_a_result_comes_back_exactly(text: str, name: str | None, id: str | None) -> None:
    assert split_result(with_result(Result(text, name, id))) == Result(text, name, id)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call name="f">\n{}\n</tool_call> and more',
        'Look: <tool_call name="f">\n{}\n</tool_call>',
        '<tool_call name="f">\n[1]\n</tool_call>',
        '<tool_call name="f">\n{"a": NaN}\n</tool_call>',
        '<tool_call name="f">\n{"a": 1, "a": 2}\n</tool_call>',
        '<tool_call name="f">\n{}</tool_call>',
        '<tool_call name="f">\n{}\n</tool_call><tool_call name="f">\n{}\n</tool_call>',
        "<tool_call name=f>\n{}\n</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
        '<think>\n\n<tool_call name="f">\n{}\n</tool_call>',
    ],
)
def test_a_text_that_is_written_otherwise_is_a_text(text: str) -> None:
    assert split_calls(text) == (text, [])


def test_a_hostile_text_takes_no_long_time() -> None:
    head = '\n\n<tool_call name="f">\n'
    for text in (head * 50_000, head * 50_000 + "{}\n</tool_call>", '<tool_call name="' * 100_000, "<think>" * 50_000):
        assert len(split_calls(text)[1]) < 2
    assert arguments_of("[" * 100_000) is None and arguments_of('{"a":' * 100_000) is None


# Ids and tables of before


def test_ids_of_conversations_without_tools_are_those_of_before() -> None:
    talk = [SYSTEM, ASK, {"role": "assistant", "content": "No."}, {"role": "user", "content": "Sure?"}]
    assert prompt_id(talk) == "3a66667937d308cf95fe559585297651"
    assert prompt_id([ASK]) == "33ac3fd2a84147e4833c110763971419"


def test_ids_cover_calls_results_and_tools(tmp_path: Path) -> None:
    other = [ASK, calls(NOW), {**RESULT, "tool_call_id": NOW["id"]}]
    said = [ASK, calls(PARIS), {**RESULT, "content": "rain"}]
    rows = [{"messages": USED}, {"messages": USED, "tools": TOOLS}, {"messages": USED, "tools": TOOLS[:1]}]
    prompts, dropped = read_prompts(write(tmp_path, *rows, {"messages": other}, {"messages": said}))
    assert (len({prompt.id for prompt in prompts}), dropped) == (5, [])


def test_tables_keep_their_schema(tmp_path: Path) -> None:
    prompts, _ = read_prompts(write(tmp_path, {"messages": USED, "tools": TOOLS}, {"prompt": "Hi"}))
    table = to_table(Prompt, prompts)
    assert (
        table.schema.field("messages").type
        == MESSAGES
        == pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    )
    assert [m["role"] for m in table["messages"][0].as_py()] == ["tools", "user", "assistant", "tool"]


# Rows


def test_every_loader_reads_tools(tmp_path: Path) -> None:
    row = {"messages": [*USED, SAID], "tools": json.dumps(TOOLS)}
    (shown,), _ = load_demonstrations(write(tmp_path, row))
    assert (as_openai(shown.messages), shown.answer, tools_of(shown.messages)) == (USED, SAID["content"], TOOLS)
    assert beside(shown.messages) == {"messages": USED, "tools": TOOLS}
    (label,), _ = load_binary(write(tmp_path, {**row, "label": True}))
    (pair,), _ = load_preferences(
        write(tmp_path, {"prompt": USED, "chosen": [SAID], "rejected": [calls(NOW)], "tools": TOOLS})
    )
    assert label.messages == pair.messages == shown.messages
    assert split_calls(pair.rejected) == ("", [Call("now", "{}", "abcdefgh2")])
    (asked,), candidates = load_candidates(
        write(tmp_path, {"messages": USED, "tools": TOOLS, "text": "Hm.", "tool_calls": [NOW]})
    )
    assert asked.messages == shown.messages
    assert candidates[0].text == 'Hm.\n\n<tool_call name="now" id="abcdefgh2">\n{}\n</tool_call>'


def test_answers_that_go_on_from_the_prompt(tmp_path: Path) -> None:
    """TRL's form: what the assistant and the tools did stands in the completion."""
    went = [calls(PARIS), RESULT, SAID]
    (shown,), _ = load_demonstrations(write(tmp_path, {"prompt": [ASK], "completion": went}))
    (pair,), _ = load_preferences(write(tmp_path, {"prompt": [ASK], "chosen": went, "rejected": [*went[:2], NO]}))
    assert as_openai(pair.messages) == as_openai(shown.messages) == USED
    assert (pair.chosen, pair.rejected) == (SAID["content"], "No.")
    for rejected in ([calls(NOW), AT, NO], [NO]):
        good = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
        _, dropped = load_preferences(write(tmp_path, {"prompt": [ASK], "chosen": went, "rejected": rejected}, good))
        assert dropped[0].reason.startswith("prompts differ: `chosen` and `rejected` go different ways")


def test_what_our_own_files_hold_is_read_again(tmp_path: Path) -> None:
    (prompt,), _ = read_prompts(write(tmp_path, {"messages": USED, "tools": TOOLS}))
    for row in ({"messages": prompt.messages}, beside(prompt.messages), {"prompt": json.dumps(prompt.messages)}):
        (again,), dropped = read_prompts(write(tmp_path, row))
        assert (again.messages, again.id, dropped) == (prompt.messages, prompt.id, [])


def test_parts_and_thoughts_become_one_text(tmp_path: Path) -> None:
    parts = [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "No, "},
        {"type": "text", "text": "dry."},
    ]
    mistral = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, parts[1], parts[2]]
    for content in (parts, mistral):
        row = {"messages": [DEVELOPER, {**ASK, "content": [{"type": "text", "text": "Rain?", "image_url": None}]},
                            {"role": "assistant", "content": content}]}  # fmt: skip
        (shown,), _ = load_demonstrations(write(tmp_path, row))
        assert shown.messages == [DEVELOPER, {"role": "user", "content": "Rain?"}]
        assert shown.answer == "<think>\nHm.\n</think>\n\nNo, dry."


def test_arguments_are_json_text(tmp_path: Path) -> None:
    """As OpenAI writes them: an object becomes its text, none become an empty object; a text stays as it is."""
    given = [{"city": "Łódź"}, '{"city":\n"x"}', "", None]
    row = {"messages": [ASK, calls(*({"function": {"name": "f", "arguments": one}} for one in given))]}
    (shown,), _ = load_demonstrations(write(tmp_path, row))
    assert [c.arguments for c in split_calls(shown.answer)[1]] == ['{"city": "Łódź"}', '{"city":\n"x"}', "{}", "{}"]


PICTURE = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
CALLED = {"role": "assistant", "content": "Hm.", "tool_calls": [PARIS]}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "user", "content": PICTURE}],
         "unusable field: `messages[0].content[1]` is a picture (image_url), and the text alone would mean another thing"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}],
         "unusable field: `messages[0].content[0]` is a sound (input_audio), and the text alone would mean another thing"),
        ([{"role": "user", "content": [{"type": "tool_use"}]}],
         "unusable field: `messages[0].content[0]` is a part of the type 'tool_use', not of text; write calls as "
         "`tool_calls`, and results as messages of the role tool, as OpenAI does"),
        ([{**ASK, "tool_calls": [PARIS]}],
         "unusable field: `messages[0].tool_calls` are of user, and only an assistant calls tools"),
        ([ASK, CALLED, ASK], "roles out of turn: `messages[2]` is of user, expected tool: the call of 'get_weather' waits"),
        ([ASK, RESULT], "roles out of turn: `messages[1]` is of tool, and no call waits for it"),
        ([ASK, CALLED, {**RESULT, "tool_call_id": "other"}],
         "roles out of turn: `messages[2]` answers the call 'other', which nobody made"),
        ([ASK, calls(PARIS, NOW), RESULT], "roles out of turn: `messages` ends, and the call of 'now' waits"),
        ([ASK, calls({"function": {"arguments": "{}"}}), RESULT],
         "not a call: `messages[1].tool_calls[0]` is {'function': {'arguments': '{}'}}, without a `function` that has a `name`"),
        ([ASK, calls({"function": {"name": "f", "arguments": "x"}}), RESULT],
         "not a call: `messages[1].tool_calls[0].arguments` is 'x', not a JSON object"),
        ([ASK, calls({"type": "custom", "function": {"name": "f"}}), RESULT],
         "unusable field: `messages[1].tool_calls[0].type` is 'custom', and only functions are called"),
        ([ASK, {"role": "assistant", "content": None, "function_call": {"name": "f"}}],
         "unusable field: `messages[1].function_call` is of an old form; write it as `tool_calls`"),
    ],
)  # fmt: skip
def test_rows_with_tools_that_cannot_be_used(tmp_path: Path, messages: list[Any], reason: str) -> None:
    _, dropped = read_prompts(write(tmp_path, {"prompt": "fine"}, {"messages": messages}))
    assert [row.reason for row in dropped] == [reason]


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("no JSON", "not a tool: `tools` is 'no JSON', not a list of tools"),
        (
            [{"type": "function"}],
            "not a tool: `tools[0]` is {'type': 'function'}, without a `function` that has a `name`",
        ),
    ],
)
def test_lists_of_tools_that_cannot_be_used(tmp_path: Path, tools: Any, reason: str) -> None:
    _, dropped = read_prompts(write(tmp_path, {"prompt": "fine"}, {"prompt": "Hi", "tools": tools}))
    assert [row.reason for row in dropped] == [reason]


def test_a_field_of_a_result_is_known_there_and_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_prompts(
        write(tmp_path, {"messages": [{**ASK, "name": "kim"}, calls(PARIS), {**RESULT, "name": "get_weather"}]})
    )
    assert "ignored fields: messages[].name (1 of 1 rows)" in caplog.text
    caplog.clear()
    read_prompts(write(tmp_path, {"messages": [ASK, calls(PARIS), {**RESULT, "name": "get_weather"}], "tools": TOOLS}))
    assert caplog.text == ""


@pytest.mark.parametrize("shape", CONVERSATIONS)
def test_what_is_loaded_is_written_as_it_was(tmp_path: Path, shape: str) -> None:
    (shown,), _ = load_demonstrations(write(tmp_path, {"messages": CONVERSATIONS[shape], "tools": TOOLS}))
    answer = as_openai([{"role": "assistant", "content": shown.answer}])
    assert [*as_openai(shown.messages), *answer] == CONVERSATIONS[shape]
    table = pa.Table.from_pylist([{"messages": [*as_openai(shown.messages), *answer], "tools": json.dumps(TOOLS)}])
    pq.write_table(table, tmp_path / "rows.parquet")  # every field in every turn
    (again,), dropped = load_demonstrations(tmp_path / "rows.parquet")
    assert (again.messages, again.answer, dropped) == (shown.messages, shown.answer, [])


def test_nulls_of_a_table_are_no_arguments_and_no_tools(tmp_path: Path) -> None:
    def function(**properties: Any) -> dict[str, Any]:
        return {"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}

    tools = [function(city={"type": "string"}), function(days={"type": "integer", "minimum": 1})]
    objects = [{"function": {"name": "f", "arguments": one}} for one in ({"city": "Paris"}, {"days": 2})]
    row = {"messages": [ASK, calls(*objects)], "tools": tools}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    (shown,), dropped = load_demonstrations(tmp_path / "rows.parquet")
    assert (tools_of(shown.messages), dropped) == (tools, [])
    assert [c.arguments for c in split_calls(shown.answer)[1]] == ['{"city": "Paris"}', '{"days": 2}']
    (shown,), _ = load_demonstrations(
        write(tmp_path, {"messages": [ASK, calls({"function": {"name": "f", "arguments": {"a": None}}})]})
    )
    assert split_calls(shown.answer)[1][0].arguments == '{"a": null}', "in JSON a null was meant"


def test_what_lies_too_deep_in_itself_is_refused(tmp_path: Path) -> None:
    deep = '{"a":' * 70 + "1" + "}" * 70
    messages = [ASK, calls({"function": {"name": "f", "arguments": deep}}), {"role": "tool", "content": "x"}]
    tools = json.dumps([{"name": "f", "parameters": json.loads(deep)}])
    _, dropped = read_prompts(
        write(tmp_path, {"prompt": "1"}, {"prompt": "2"}, {"messages": messages}, {"prompt": "3", "tools": tools})
    )
    assert [row.reason.partition(":")[0] for row in dropped] == ["not a call", "not a tool"]
    assert arguments_of('{"a":' * 60 + "{}" + "}" * 60) is not None
    assert split_calls(f'<tool_call name="f">\n{deep}\n</tool_call>')[1] == []
