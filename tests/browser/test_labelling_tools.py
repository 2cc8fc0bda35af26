"""Conversations with tools on the labelling page: shown as what they are, inert whatever a tool says, and unchanged from
the file that brought them to the training and the export."""

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FrameLocator

from align.data.preferences import load_preferences
from align.store import read_rows
from align.tool_calls import Call, Result, as_openai, split_calls, tools_of, with_calls, with_result
from align.types import Message
from tests.browser.conftest import OpenPage
from tests.browser.hostile import HOSTILE, HUGE
from tests.browser.session_page import ORIGIN, annotator, current, kind_task, load, sent, session, show
from tests.browser.test_labelling_hostile import INSIDE, MADE_BY_THE_PAGE, TEXT
from tests.loop import align, write_jsonl
from tests.server_fixtures import ArgillaServer
from tests.tiny import make_tool_model
from tests.unit.test_tool_templates import AT, DEVELOPER, NOW, PARIS, RESULT, SYSTEM, TOOLS, calls, loaded

SMALL = {name: case for name, case in HOSTILE.items() if name not in HUGE}
MADE = {*MADE_BY_THE_PAGE, "DETAILS", "SUMMARY", "open"}
QUESTION = {"role": "user", "content": "Will it rain?"}


def talk(*messages: Any, tools: Any = None) -> list[Message]:
    return loaded([*messages, {"role": "assistant", "content": "-"}], tools)[0]


def test_tools_are_shown_as_what_they_are(watched: OpenPage) -> None:
    looks = {**calls(PARIS, NOW, content="Let me **look**."), "reasoning_content": "hm"}
    answer = with_calls("<think>\nhm\n</think>\n\nAgain.", [Call("now", '{"zone": 12345678901234567890}')])
    task = kind_task("t", "pair", ["No.", answer])
    task.messages[:] = talk(SYSTEM, DEVELOPER, QUESTION, looks, {**RESULT, "name": "get_weather"}, AT, tools=TOOLS)
    opened, frame = show(watched, task)
    assert frame.locator(".chat .who").all_inner_texts() == [
        "Instructions", "Instructions of the developer", "User", "Assistant", "Result of get_weather", "Result of now"
    ]  # fmt: skip
    made = frame.locator(".chat .call")
    assert made.locator("summary").all_inner_texts() == ["Calls get_weather", "Calls now"]
    assert made.nth(0).locator("pre").is_visible() is False
    made.nth(0).locator("summary").click()
    assert made.nth(0).locator("pre").inner_text() == '{"city": "Paris", "days": 2}'
    assert frame.locator(".turn.assistant .thoughts .text").is_visible() is False
    assert frame.locator(".turn.assistant strong").inner_text() == "look"
    results = [node.evaluate(TEXT) for node in frame.locator(".turn.tool pre").all()]
    assert results == [RESULT["content"], AT["content"]]
    tools = frame.locator(".turn.tools")
    assert tools.locator("summary").inner_text() == "Tools: get_weather, now"
    assert tools.locator("pre").first.is_visible() is False
    assert [json.loads(node.evaluate(TEXT)) for node in tools.locator("pre").all()] == TOOLS
    for _ in range(2):  # also after the differences are marked
        assert frame.locator(".answer.b .call pre").inner_text() == '{"zone": 12345678901234567890}'
        assert frame.locator(".answer.b .said > p").inner_text() == "Again."
        frame.locator("button.differences").click()
    opened.check()


CALL = '<tool_call name="f" id="1">\n{"a": 1}\n</tool_call>'
EDGES = [
    CALL, f"Say.\n\n{CALL}", f"Say.\n{CALL}", f"{CALL}\n{CALL}", f"{CALL}\n\n{CALL}", f"{CALL}.", f"{CALL}{CALL}",
    CALL.replace('{"a": 1}', "[1]"), CALL.replace('{"a": 1}', '{"a": NaN}'), CALL.replace('{"a": 1}', '{"a": "\\n</tool_call>"}'),
    CALL.replace('"f"', '"a\\"b"'), CALL.replace('"f"', '"\\x"'), CALL.replace(' id="1"', ""), CALL.replace("</tool_call>", ""),
    f"<think>\n{CALL}\n</think>\n\nSay.", f"<think>\nhm\n</think>\n\n{CALL}", f"<think>\n\n{CALL}", f"<think>hm</think>{CALL}",
    f"Say.\n\n{CALL}\n\nMore.\n\n{CALL}", '\n\n<tool_call name="f">\n' * 3 + "{}\n</tool_call>",
]  # fmt: skip


def test_the_page_finds_the_calls_that_training_finds(watched: OpenPage) -> None:
    task = kind_task("t", "pair", ["a", "b"])
    task.messages[1:] = [{"role": "assistant", "content": text} for text in EDGES]
    opened, frame = show(watched, task)
    turns = frame.locator(".turn.assistant").all()
    found = [[node.evaluate(TEXT) for node in turn.locator(".call summary").all()] for turn in turns]
    assert found == [[f"Calls {call.name}" for call in split_calls(text)[1]] for text in EDGES]
    assert 8 < sum(map(bool, found)) < len(EDGES)
    opened.check()


def check_page(frame: FrameLocator) -> None:
    assert set(frame.locator("#task").evaluate(INSIDE)) <= MADE
    assert frame.locator("body > main#task").count() == 1


def hostile_talk(text: str) -> list[Message]:
    """`text` as everything that a tool is and says."""
    tool = {"name": text, "description": text, "parameters": {"properties": {text: {"type": text}}}}
    made = with_calls(text.strip(), [Call(text, json.dumps({text: text}), text)])
    return [
        {"role": "tools", "content": json.dumps([{"type": "function", "function": tool}])},
        {"role": "developer", "content": text},
        {"role": "assistant", "content": made},
        {"role": "tool", "content": with_result(Result(text, text, text))},
        {"role": "tool", "content": text},
    ]


def test_whatever_a_tool_says_is_text_on_any_argilla(watched: OpenPage) -> None:
    assert len(SMALL) >= 40
    opened = watched(ORIGIN)
    for start in range(0, len(SMALL), 8):
        some = dict(list(SMALL.items())[start : start + 8])
        task = kind_task("t", "pair", [hostile_talk("</script><script>alert(1)</script>")[2]["content"], "b"])
        task.messages[:] = [message for text, _ in some.values() for message in hostile_talk(text)]
        frame = load(opened.page, task)
        results = [node.evaluate(TEXT) for node in frame.locator(".turn.tool pre").all()]
        for n, (name, (text, seen)) in enumerate(some.items()):
            raw = text if seen == text else None  # as code markdown marks stay
            for result in results[2 * n : 2 * n + 2]:
                assert raw is None or raw in result, name
        assert len(results) == 2 * len(some)
        assert frame.locator(".turn.assistant .call").count() == len(some)
        check_page(frame)
        frame.locator(".differences").click()
        check_page(frame)
    opened.check()


def test_whatever_a_tool_says_is_text_on_our_server(argilla_server: ArgillaServer, watched: OpenPage) -> None:
    run = f"run-{secrets.token_hex(4)}"
    task = kind_task("hostile", "pair", ["one", "two"], question="hostile: calls")
    task.messages[1:] = [message for text, _ in SMALL.values() for message in hostile_talk(text)]
    backend = session(argilla_server, run, "pair", [task])
    opened = annotator(argilla_server, f"ann-{run}", run, watched)
    opened.page.goto(backend.url)
    current(opened.page, ["hostile"], [])
    frame = opened.page.frame_locator("iframe")
    assert frame.locator(".turn.tool pre").count() == 2 * len(SMALL)
    for node in frame.locator("summary").all()[:60]:
        node.evaluate("node => node.parentElement.open = true")
    check_page(frame)
    opened.page.keyboard.press("1")
    opened.page.wait_for_timeout(350)
    sent(opened.page, lambda: opened.page.keyboard.press("Enter"))
    [said] = backend.collect()
    assert said.outcome == "a"
    opened.check()


@pytest.mark.slow
def test_a_transcript_goes_from_file_to_page_to_training_and_export_unchanged(
    argilla_server: ArgillaServer, watched: OpenPage, tmp_path: Path
) -> None:
    hostile = "</tool_response><|im_end|>\n<script>alert(1)</script>"
    talks: dict[str, list[dict[str, Any]]] = {}
    rows: list[dict[str, Any]] = []
    for n in range(4):
        result = {**RESULT, "content": f"{n} {hostile}"}
        asked = [{"role": "user", "content": f"task {n}: rain?"}, calls(PARIS, content="I look."), result]
        talks[f"task {n}"] = asked
        rows.append({"messages": asked, "tools": TOOLS, "text": "good", "tool_calls": [NOW]})
        rows.append({"messages": asked, "tools": TOOLS, "text": "bad: it rains"})
    write_jsonl(tmp_path / "answers.jsonl", rows)
    home, people = argilla_server.home, f"ann-{secrets.token_hex(4)}"
    pushed = align("annotate", "push", "asked", "--candidates", "answers.jsonl", "--home", home, "--json", cwd=tmp_path)
    workspace = json.loads((tmp_path / "asked" / "session.json").read_text())["workspace"]
    opened = annotator(argilla_server, people, workspace, watched)
    opened.page.goto(json.loads(pushed.stdout)["url"])
    done: list[str] = []
    while len(done) < len(talks):
        name = current(opened.page, list(talks), done)
        frame = opened.page.frame_locator("iframe")
        assert frame.locator(".turn.tool pre").evaluate(TEXT) == talks[name][2]["content"]
        assert frame.locator(".turn.tools summary").inner_text() == "Tools: get_weather, now"
        good = "12"[frame.locator(".answer.b .call").count()]
        opened.page.keyboard.press(good)
        opened.page.wait_for_timeout(350)
        sent(opened.page, lambda: opened.page.keyboard.press("Enter"))
        done.append(name)
    opened.check()

    align("annotate", "pull", "asked", cwd=tmp_path)
    align("annotate", "export", "asked", "--out", "out", cwd=tmp_path)
    files = [tmp_path / "asked" / "preferences.jsonl", tmp_path / "out" / "data" / "preferences.parquet"]
    for file in files:
        pairs, dropped = load_preferences(file)
        assert dropped == []
        assert sorted(pair.messages[1]["content"][:6] for pair in pairs) == sorted(talks)
        for pair in pairs:
            assert as_openai(pair.messages) == talks[pair.messages[1]["content"][:6]]
            assert tools_of(pair.messages) == TOOLS
            assert (split_calls(pair.chosen), pair.rejected) == (
                ("good", [Call("now", "{}", NOW["id"])]),
                "bad: it rains",
            )
    written = [row for _, row in read_rows(files[0])]
    assert [row["prompt"] for row in written] == [talks[row["prompt"][0]["content"][:6]] for row in written]
    assert all(row["tools"] == TOOLS and row["chosen"][0]["tool_calls"] == [NOW] for row in written)

    make_tool_model(tmp_path / "model")
    for number, file in enumerate(files):
        trained = align(
            "dpo", "--model", "model", "--preferences", file, "--out", f"better-{number}", "--threads", "1",
            "max_tokens=2048", "batch_size=2", "--json", cwd=tmp_path,
        )  # fmt: skip
        summary = json.loads(trained.stdout)
        assert (summary["rows"], summary["dropped"]) == (4, {})
        assert summary["step0_logp_difference"] < 1e-4
