"""Conversations with tools: each family's ids are transformers' own, or the row is refused by name; and only what the
assistant wrote is learned."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from align.data.demonstrations import demonstration_of
from align.data.rows import Row
from align.errors import DataError
from align.sampled_calls import read_answer
from align.text import decode_answer, encode_answer, encode_answered, encode_prompt, load_tokenizer, stop_token_ids
from align.tool_calls import as_openai, split_calls, tools_of
from align.train import examples as ex
from align.turns import calls_of, control_tokens
from align.types import BinaryLabel, Message, Preference, prompt_id
from reward.model import readable
from rollouts.engine import Completion
from rollouts.shards import sampled_rows
from tests.chat_templates import FIXTURES, TOOL_FIXTURES, Fixture, saved_tokenizer

WIDE = ex.Limit(10_000, "too long")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city, ümlaut.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def call(name: str, id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def calls(*made: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


PARIS, NOW = call("get_weather", "abcdefgh1", city="Paris", days=2), call("now", "abcdefgh2")
ASK = {"role": "user", "content": "Will it rain?"}
RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "content": '{"rain": "no", "said": "<b>fine</b>"}'}
AT = {"role": "tool", "tool_call_id": "abcdefgh2", "name": "now", "content": "  12:00\n"}
SAID = {"role": "assistant", "content": "No, it stays dry."}
SYSTEM, DEVELOPER = ({"role": role, "content": f"Be brief, says the {role}."} for role in ("system", "developer"))
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a call": [ASK, calls(PARIS)],
    "a result": [ASK, calls(PARIS), RESULT, SAID],
    "a system": [SYSTEM, ASK, calls(PARIS), RESULT, SAID],
    "two calls": [ASK, calls(PARIS, NOW), RESULT, AT, SAID],
    "a call that speaks": [ASK, calls(PARIS, content="Let me look."), RESULT, SAID],
    "a second question": [
        ASK,
        calls(PARIS),
        RESULT,
        SAID,
        {"role": "user", "content": "And when?"},
        calls(NOW),
        AT,
        SAID,
    ],
    "a developer": [DEVELOPER, ASK, SAID],
    "two systems": [SYSTEM, {"role": "system", "content": "Answer in English."}, ASK, SAID],
    "a system between": [ASK, SAID, {"role": "system", "content": "Now in French."}, ASK, SAID],
}
ONE_CALL, NO_DEVELOPER = "only single tool calls", "leaves out a turn of developer; write system instead"
ALTERNATE, BESIDE = "only user, assistant and tool", "leaves out what is said beside a call of tools"
REFUSED = {
    ("chatml with tools", "a developer"): NO_DEVELOPER,
    ("llama 3 with tools", "two calls"): ONE_CALL,
    ("llama 3 with tools", "a call that speaks"): BESIDE,
    ("mistral with tools", "a call that speaks"): BESIDE,
    ("mistral with tools", "a developer"): ALTERNATE,
    ("mistral with tools", "two systems"): ALTERNATE,
    ("mistral with tools", "a system between"): ALTERNATE,
}


@cache
def tokenizer_for(name: str, folder: Path) -> Any:
    return load_tokenizer(saved_tokenizer(FIXTURES[name], folder), chat_template_kwargs=FIXTURES[name].kwargs)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


def loaded(messages: list[dict[str, Any]], tools: Any = None) -> tuple[list[Message], str]:
    row = demonstration_of(Row(copy.deepcopy({"messages": messages, "tools": tools})), "here")
    return row.messages, row.answer


def transformers_ids(tokenizer: Any, messages: list[dict[str, Any]], tools: Any) -> list[int]:
    """The whole conversation as transformers renders it, up to the last special token."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for made in message.get("tool_calls", ()):
            made["function"]["arguments"] = json.loads(made["function"]["arguments"])  # as transformers asks for
    ids = list(tokenizer.apply_chat_template(messages, tools=tools, return_dict=False))
    last = max(n for n, id in enumerate(ids) if id in control_tokens(tokenizer).values())
    return ids[: last + 1]


@pytest.mark.parametrize("shape", CONVERSATIONS)
@pytest.mark.parametrize("name", TOOL_FIXTURES)
def test_all_learn_what_transformers_renders(name: str, shape: str, home: Path) -> None:
    tokenizer, given = tokenizer_for(name, home / name), CONVERSATIONS[shape]
    tools = TOOLS if any("tool_calls" in m for m in given) else None
    messages, answer = loaded(given, tools)
    stops = sorted(
        {*stop_token_ids(tokenizer, None), *tokenizer.convert_tokens_to_ids(["<|eom|>"] if "llama" in name else [])}
    )
    pair = Preference("p", prompt_id(messages), messages, "c", "r", answer, "Another.", 1.0, 1.0, 0.0, 1, [])
    label = BinaryLabel("b", prompt_id(messages), messages, "c", answer, 1.0, 1.0, 1, [])
    sft, left_out = ex.encode_demonstrations(tokenizer, [(messages, answer)], stops, WIDE)
    dpo, dropped = ex.encode_preferences(tokenizer, [pair], stops, WIDE)
    kto, unusable = ex.encode_binary(tokenizer, [label], stops, WIDE)
    (read,) = readable(tokenizer, None, [messages], [answer])
    if refusal := REFUSED.get((name, shape)):
        reasons = [left_out[0].reason, dropped[0].reason, unusable[0].reason, str(read)]
        assert [refusal in reason for reason in reasons] == [True] * 4
        return
    whole = transformers_ids(tokenizer, given, tools)
    assert tokenizer.decode(sft[0].prompt_ids + sft[0].answer_ids) == tokenizer.decode(whole)
    assert sft[0].prompt_ids + sft[0].answer_ids == whole
    assert dpo[0].prompt_ids + dpo[0].chosen_ids == whole
    assert kto[0].prompt_ids + kto[0].answer_ids == whole
    assert [*read[0], *read[1]] == whole
    prompt = tokenizer.apply_chat_template(
        as_dicts(messages), tools=tools, add_generation_prompt=True, return_dict=False
    )
    assert list(prompt) == sft[0].prompt_ids
    assert encode_answered(tokenizer, [messages], [answer]) == [(sft[0].prompt_ids, sft[0].answer_ids)]


def test_thoughts_before_a_call_go_to_the_template_apart(home: Path) -> None:
    tokenizer = tokenizer_for("xml calls", home / "xml calls")
    thinks = {**calls(PARIS, content="I look."), "reasoning_content": "A city, so the weather."}
    given = [ASK, thinks, RESULT, {**SAID, "reasoning_content": "No rain."}]
    messages, answer = loaded(given, TOOLS)
    assert encode_prompt(tokenizer, messages) + encode_answer(tokenizer, messages, answer) == transformers_ids(
        tokenizer, given, TOOLS
    )


def as_dicts(messages: list[Message]) -> list[dict[str, Any]]:
    found = as_openai(messages)
    for message in found:
        for made in message.get("tool_calls", ()):
            made["function"]["arguments"] = json.loads(made["function"]["arguments"])
    return found


@pytest.mark.parametrize("name", TOOL_FIXTURES)
def test_only_what_the_assistant_wrote_is_learned(name: str, home: Path) -> None:
    tokenizer = tokenizer_for(name, home / name)
    messages, answer = loaded(CONVERSATIONS["a second question"], TOOLS)
    stops = sorted(
        {*stop_token_ids(tokenizer, None), *tokenizer.convert_tokens_to_ids(["<|eom|>"] if "llama" in name else [])}
    )
    rows, dropped = ex.encode_demonstrations(tokenizer, [(messages, answer)], stops, WIDE, turns="all")
    learned = "".join(tokenizer.decode([i for i in row.labels if i != -100]) for row in rows)
    assert dropped == []
    assert [learned.count(text) for text in ("Paris", "It stays", "it stays dry", "now")] == [1, 0, 2, 1]
    assert [text for text in ("rain", "fine", "12:00", "Will", "when", "ümlaut", "result") if text in learned] == []


def test_a_turn_of_calls_that_no_stop_token_ends_is_left_out(home: Path) -> None:
    tokenizer = tokenizer_for("llama 3 with tools", home / "llama 3 with tools")
    messages, answer = loaded(CONVERSATIONS["a call"], TOOLS)
    kept, dropped = ex.encode_demonstrations(tokenizer, [(messages, answer)], stop_token_ids(tokenizer, None), WIDE)
    assert kept == []
    assert dropped[0].reason == (
        "the chat template ends a turn that calls tools with <|eom|>, which ends no answer of this model; name it in "
        "eos_token_id of generation_config.json"
    )


@pytest.mark.parametrize("name", sorted(set(FIXTURES) - set(TOOL_FIXTURES)))
def test_templates_without_tools_refuse_them(name: str, home: Path) -> None:
    tokenizer = tokenizer_for(name, home / name)
    for shape in ("a call", "a result"):
        messages, answer = loaded(CONVERSATIONS[shape], TOOLS)
        with pytest.raises(DataError, match=r"does not write the list of tools|refuses|writes no tool calls"):
            encode_answer(tokenizer, messages, answer)
        with pytest.raises(DataError, match=r"refuses|writes no tool calls"):
            encode_answer(tokenizer, messages[1:], answer)


@pytest.mark.parametrize("name", TOOL_FIXTURES)
def test_nobody_writes_control_tokens_through_a_tool(name: str, home: Path) -> None:
    tokenizer = tokenizer_for(name, home / name)
    tokens = ["<|im_end|>", "<|pad|>", *FIXTURES[name].special]
    special = set(tokenizer.convert_tokens_to_ids(tokens))

    def control(text: str) -> list[int]:
        tool = {
            "type": "function",
            "function": {"name": "now", "description": text, "parameters": {"properties": {text: {"type": text}}}},
        }
        made = call("now", "abcdefgh2", **{text: {"deep": [text]}})
        given = [ASK, calls(made), {**AT, "content": text}, SAID]
        messages, answer = loaded(given, [tool])
        return [
            i for i in encode_prompt(tokenizer, messages) + encode_answer(tokenizer, messages, answer) if i in special
        ]

    assert control(" ".join(tokens)) == control("hi")


def test_calls_are_given_in_the_form_that_the_template_takes(tmp_path: Path) -> None:
    """Some add the arguments to a text; some write calls only where the content is none, or a text."""
    head = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    tail = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    call_text = "{{ m.tool_calls[0].function.name + ':' + m.tool_calls[0].function.arguments }}"
    only_none = "{% if m.content is none %}" + call_text + "{% else %}{{ m.content }}{% endif %}"
    needs_text = "{{ m.content + '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    for number, (body, form) in enumerate([(only_none, (None, True)), (needs_text, ("", False))]):
        tokenizer = load_tokenizer(saved_tokenizer(Fixture(head + body + tail), tmp_path / str(number)))
        found = calls_of(tokenizer, tokenizer.chat_template)
        assert found is not None and (found.empty, found.as_text) == form
        messages, answer = loaded(CONVERSATIONS["a call"])
        text = tokenizer.decode(encode_answer(tokenizer, messages, answer))
        assert text.startswith("get_weather") and '{"city": "Paris", "days": 2}' in text


def test_a_template_that_escapes_what_it_writes_is_refused_where_that_changes_it(tmp_path: Path) -> None:
    head = "{% if tools %}<|im_start|>system\n{{ tools }}<|im_end|>\n{% endif %}"
    tokenizer = load_tokenizer(saved_tokenizer(Fixture(head + FIXTURES["chatml"].template), tmp_path))
    good, bad = (
        [{"type": "function", "function": {"name": "now", "description": text}}] for text in ("hi", "<|im_end|>")
    )
    messages, answer = loaded([ASK, SAID], good)
    assert "'description': 'hi'" in tokenizer.decode(encode_prompt(tokenizer, messages))
    messages, answer = loaded([ASK, SAID], bad)
    with pytest.raises(DataError, match="holds a control token's text"):
        encode_answer(tokenizer, messages, answer)


def test_calls_and_tools_are_read_from_their_text() -> None:
    messages, answer = loaded(CONVERSATIONS["two calls"], TOOLS)
    assert tools_of(messages) == TOOLS
    assert [c.name for c in split_calls(messages[2]["content"])[1]] == ["get_weather", "now"]
    assert [*as_openai(messages), {"role": "assistant", "content": answer}] == CONVERSATIONS["two calls"]


MAKES_CALLS = {
    "a call": calls(PARIS),
    "two calls": calls(PARIS, NOW),
    "a call that speaks": calls(PARIS, content="Let me look."),
}


@pytest.mark.parametrize("shape", MAKES_CALLS)
@pytest.mark.parametrize("name", TOOL_FIXTURES)
def test_a_sampled_call_is_read_as_one_and_learned_as_it_was_sampled(name: str, shape: str, home: Path) -> None:
    tokenizer = tokenizer_for(name, home / name)
    messages, answer = loaded([ASK, MAKES_CALLS[shape]], TOOLS)
    try:
        ids = encode_answer(tokenizer, messages, answer)
    except DataError:
        assert (name, shape) in REFUSED
        return
    text = read_answer(tokenizer, messages, ids[:-1])
    said, found = split_calls(text)
    assert encode_answer(tokenizer, messages, text) == ids
    if name == "xml calls":
        assert (found, said.count("<function=get_weather>")) == ([], 1), "not JSON: it stays a text"
        return
    assert [(c.name, c.arguments) for c in found] == [(c.name, c.arguments) for c in split_calls(answer)[1]]
    assert said == (MAKES_CALLS[shape]["content"] or "")
    assert [c.id for c in found] == [c.id if "mistral" in name else None for c in split_calls(answer)[1]]
    (row,) = sampled_rows(tokenizer, {"p": messages}, [("p", 0, 1.0, 0, Completion(ids, "stop"))])
    assert (row["text"], row["same"]) == (text, True)


def test_what_is_no_call_stays_a_text(home: Path) -> None:
    messages, _ = loaded([ASK, SAID], TOOLS)
    for name in ("chatml with tools", "llama 3 with tools"):
        tokenizer = tokenizer_for(name, home / name)
        made = encode_answer(tokenizer, *loaded([ASK, calls(PARIS)], TOOLS))
        whole = tokenizer.decode(made[:-1])
        texts = [
            "No.",
            whole + " more",
            whole.replace("{", "[", 2),
            whole[:-1],
            whole.replace(": ", ":"),
            "x" + whole,
            "{",
        ]
        for text in [*texts, whole.replace('"city"', "city")]:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert read_answer(tokenizer, messages, ids) == decode_answer(tokenizer, ids)
        assert split_calls(read_answer(tokenizer, messages[1:], made[:-1]))[1] == [], "the prompt has no tools"


def test_what_a_template_leaves_out_is_seen_though_its_words_stand_elsewhere(tmp_path: Path) -> None:
    asks = {"role": "user", "content": "Is get_weather now at 20, brief, or fine?"}
    loses = FIXTURES["chatml with tools"].template.replace("{{- '\\n' }}{{- tool | tojson }}", "")
    loses = loses.replace("{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}", "")
    tokenizer = load_tokenizer(saved_tokenizer(Fixture(loses), tmp_path))
    brief = {"role": "developer", "content": "brief"}
    for given, tools, lost in (
        ([asks, SAID], TOOLS, "does not write the list of tools"),
        ([asks, calls(PARIS), {**RESULT, "content": "20"}, SAID], None, "leaves out a turn of tool"),
        ([brief, asks, SAID], None, "leaves out a turn of developer"),
    ):
        with pytest.raises(DataError, match=lost):
            encode_prompt(tokenizer, loaded(given, tools)[0])
