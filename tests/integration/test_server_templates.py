"""A running vLLM server, given messages, sees the prompt's ids that SFT, DPO and rollouts have, for every template."""

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from align.config.rollouts import Server
from align.text import load_tokenizer, stop_token_ids
from align.train import examples as ex
from align.types import Preference, Prompt, prompt_id
from rollouts import server_process
from rollouts.handover import model_print
from rollouts.sample import _encode
from rollouts.server_engine import server_command
from tests.chat_templates import CHATML, FIXTURES, THINK, Fixture, tokenizer_of
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,  # the server takes half a minute to start
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
DAY = "2026-01-31"
USER = {"role": "user", "content": "my order: é, 注文, 🙂"}
TURNS = [
    USER,
    {"role": "assistant", "content": THINK + "It is late."},
    {"role": "user", "content": "And now?\n\n"},
]
CONVERSATIONS = {
    "one turn": [USER],
    "a system": [{"role": "system", "content": "Be brief."}, USER],
    "more turns": TURNS,
}
REFUSED = {("gemma, no system", "a system"), ("mistral, alternation", "a system")}
"""Templates that raise for these; vLLM answers 400."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer has the control tokens of all fixtures (but not the newline that is one of one's)."""
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tmp_path_factory.mktemp("server") / "model")
    tokens = dict.fromkeys(token for one in FIXTURES.values() for token in (*one.special, *one.added) if token != "\n")
    tokenizer = tokenizer_of(Fixture(CHATML, special=tuple(tokens)))
    tokenizer.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.resize_token_embeddings(len(tokenizer))
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[httpx.Client]:
    """One server for all templates, started as ours are, but with its tokenizer, and templates that requests bring."""
    serves = {
        "model": model_print(model), "tokens": 512, "dtype": "float32", "threads": 1, "cpu": None, "max_lora_rank": 0,
        "gpu_share": Server().gpu_share,
    }  # fmt: skip
    command, environment = server_command(model, serves)
    command = [word for word in command if word != "--skip-tokenizer-init"]
    with server_process.new_home() as home:
        begun = server_process.start(home, [*command, "--trust-request-chat-template"], environment, serves)
        with httpx.Client(base_url=begun.url, headers={"Authorization": f"Bearer {begun.key}"}, timeout=60) as client:
            until = time.monotonic() + 300
            while not _healthy(client):
                assert server_process.alive(home) and time.monotonic() < until, server_process.last_lines(home)
                time.sleep(0.2)
            yield client


def _healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def seen(server: httpx.Client, messages: list[dict[str, str]], template: str, kwargs: dict[str, Any]) -> httpx.Response:
    body = {"model": "policy", "messages": messages, "chat_template": template, "chat_template_kwargs": kwargs}
    return server.post("/tokenize", json=body)


@pytest.mark.parametrize("shape", CONVERSATIONS)
@pytest.mark.parametrize("name", FIXTURES)
def test_the_server_sees_the_prompt_that_is_sampled_from_and_learned(
    name: str, shape: str, model: Path, server: httpx.Client, tmp_path: Path
) -> None:
    fixture, messages = FIXTURES[name], CONVERSATIONS[shape]
    (tmp_path / "template.jinja").write_text(fixture.template, encoding="utf-8")
    tokenizer = load_tokenizer(
        model, chat_template=str(tmp_path / "template.jinja"), replace_chat_template=True,
        chat_template_kwargs=fixture.kwargs, date=DAY,
    )  # fmt: skip
    published: Any = tokenizer.chat_template
    ways = [(published, {})]  # as a checkpoint has it, its variables and its date written in
    if "strftime_now" not in fixture.template:
        ways.append((fixture.template, fixture.kwargs))  # as the request brings it
    asked = messages
    if "m.thinking" in fixture.template:  # a template of channels has thoughts apart from what was said
        asked = [{**m, "content": m["content"].replace(THINK, "")} for m in messages]
    answers = [seen(server, asked, template, kwargs) for template, kwargs in ways]
    if (name, shape) in REFUSED:
        assert [answer.status_code for answer in answers] == [400] * len(ways)
        return
    id, limit, stops = prompt_id(messages), ex.Limit(10_000, "too long"), stop_token_ids(tokenizer, None)
    requests, _ = _encode(tokenizer, [Prompt(id, messages, "train", "here")], 10_000, 10_000)
    sampled = requests[0].token_ids
    assert len(sampled) > 20
    assert [answer.json().get("tokens") for answer in answers] == [sampled] * len(ways), answers[0].text
    if fixture.refused.get("plain") is None:
        pair = Preference("p", id, messages, "c", "r", "Sorry.", "Another.", 1.0, 1.0, 0.0, 1, [])
        sft, _ = ex.encode_demonstrations(tokenizer, [(messages, "Sorry.")], stops, limit)
        dpo, _ = ex.encode_preferences(tokenizer, [pair], stops, limit)
        assert sft[0].prompt_ids == dpo[0].prompt_ids == sampled
