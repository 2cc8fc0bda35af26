"""vLLM's server, given the messages, renders the prompt that we sample from and train on."""

import importlib.util
from pathlib import Path

import pytest

from align.text import encode_prompt, load_tokenizer
from align.train.checkpoint import import_model
from tests.chat_templates import FIXTURES, tokenizer_of
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
MESSAGES = [
    {"role": "user", "content": "my order"},
    {"role": "assistant", "content": "It is late."},
    {"role": "user", "content": "And now?"},
]


def test_the_server_sees_our_prompts(tmp_path: Path) -> None:
    from vllm.config import ModelConfig
    from vllm.renderers.hf import safe_apply_chat_template
    from vllm.tokenizers import get_tokenizer

    for number, fixture in enumerate(FIXTURES.values()):
        given, out = tmp_path / f"given{number}", tmp_path / f"model{number}"
        make_tiny_model(given)
        tokenizer_of(fixture).save_pretrained(given)
        kept = {"chat_template_kwargs": fixture.kwargs, "date": "2026-01-31"}
        import_model(str(given), out, revision=None, dtype="float32", **kept)
        config, theirs = ModelConfig(model=str(out), dtype="float32"), get_tokenizer(str(out))
        seen = safe_apply_chat_template(config, theirs, MESSAGES, add_generation_prompt=True)
        assert seen == encode_prompt(load_tokenizer(out), MESSAGES), fixture
