"""Chat templates of today: what SFT, DPO, rewards and rollouts learn and sample is what transformers renders."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from align.errors import ConfigError, DataError
from align.text import decode_answer, encode_answer, encode_answered, encode_prompt, load_tokenizer, stop_token_ids
from align.train import examples as ex
from align.types import Preference, Prompt, prompt_id
from reward.model import readable
from rollouts.engine import Completion
from rollouts.sample import _encode
from rollouts.shards import candidates_of, sampled_rows
from tests.chat_templates import (
    BROKEN,
    FIXTURES,
    LLAMA3,
    OTHERWISE,
    QWEN3,
    THINK,
    Fixture,
    make_spaced_tokenizer,
    saved_tokenizer,
)

DAY = "2026-01-31"
USER = [{"role": "user", "content": "my order <|im_end|>"}]
CONVERSATIONS = {
    "one turn": USER,
    "a system": [{"role": "system", "content": "Be brief."}, *USER],
    "more turns": [
        *USER,
        {"role": "assistant", "content": THINK + "It is late."},
        {"role": "user", "content": "And now?"},
    ],
}
ANSWERS = {"plain": "Sorry, two\n\nlines.", "thoughts": THINK + "Sorry."}
NO_SYSTEM = {"gemma, no system": "System role not supported", "mistral, alternation": "roles must alternate"}


@cache
def tokenizer_for(name: str, folder: Path) -> Any:
    fixture = FIXTURES[name]
    return load_tokenizer(saved_tokenizer(fixture, folder), chat_template_kwargs=fixture.kwargs, date=DAY)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


def transformers_ids(tokenizer: Any, fixture: Fixture, messages: list[dict[str, str]], answer: str) -> list[int]:
    """transformers' own rendering of the whole conversation, up to the token that ends the answer; the words of a control
    token in the user's message are taken out of both sides."""
    turn = {"role": "assistant", "content": answer}
    if "m.thinking" in fixture.template:
        thoughts = {"thinking": "hm"} if answer.startswith(THINK) else {}
        turn = {"role": "assistant", "content": answer.removeprefix(THINK), **thoughts}
        messages = [{**m, "content": m["content"].replace(THINK, "")} for m in messages]
    ids = list(tokenizer.apply_chat_template([*messages, turn], return_dict=False))
    end = tokenizer.convert_tokens_to_ids(fixture.end)
    if fixture.template == FIXTURES["turns without tokens"].template:  # nothing ends the turn there but our eos
        return [*ids[:-1], end]
    return ids[: len(ids) - ids[::-1].index(end)]


@pytest.mark.parametrize("how", ANSWERS)
@pytest.mark.parametrize("shape", CONVERSATIONS)
@pytest.mark.parametrize("name", FIXTURES)
def test_all_learn_and_sample_what_transformers_renders(name: str, shape: str, how: str, home: Path) -> None:
    fixture, tokenizer = FIXTURES[name], tokenizer_for(name, home / name)
    messages = [{**m, "content": m["content"].replace(" <|im_end|>", "")} for m in CONVERSATIONS[shape]]
    answer, stops = ANSWERS[how], stop_token_ids(tokenizer, None)
    limit, id = ex.Limit(10_000, "too long"), prompt_id(messages)
    pair = Preference("p", id, messages, "c", "r", answer, "Another.", 1.0, 1.0, 0.0, 1, [])
    sft, left_out = ex.encode_demonstrations(tokenizer, [(messages, answer)], stops, limit)
    dpo, dropped = ex.encode_preferences(tokenizer, [pair], stops, limit)
    (read,) = readable(tokenizer, None, [messages], [answer])
    refusal = (NO_SYSTEM.get(name) if shape == "a system" else None) or fixture.refused.get(how)
    if refusal is not None:
        assert [len(sft), len(dpo)] == [0, 0]
        assert [refusal in words for words in (left_out[0].reason, dropped[0].reason, str(read))] == [True] * 3
        return
    requests, _ = _encode(tokenizer, [Prompt(id, messages, "train", "here")], 10_000, 10_000)
    whole = transformers_ids(tokenizer, fixture, messages, answer)
    assert tokenizer.decode(sft[0].prompt_ids + sft[0].answer_ids) == tokenizer.decode(whole)
    assert sft[0].prompt_ids + sft[0].answer_ids == whole
    assert dpo[0].prompt_ids + dpo[0].chosen_ids == whole
    assert [*read[0], *read[1]] == whole
    assert requests[0].token_ids == sft[0].prompt_ids == dpo[0].prompt_ids == whole[: len(sft[0].prompt_ids)]
    assert tokenizer.convert_ids_to_tokens(whole[-1]) == fixture.end
    assert whole[-1] in stops
    assert decode_answer(tokenizer, sft[0].answer_ids) == answer


@pytest.mark.parametrize("name", FIXTURES)
def test_nobody_writes_control_tokens(name: str, home: Path) -> None:
    tokenizer = tokenizer_for(name, home / name)
    attack = " ".join(["<|im_end|>", "<|pad|>", *FIXTURES[name].special])
    special = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(t) for t in FIXTURES[name].special}

    def control(ids: list[int]) -> list[int]:
        return [i for i in ids if i in special]

    honest, attacked = ([{"role": "user", "content": text}] for text in ("hi", attack))
    assert control(encode_prompt(tokenizer, attacked)) == control(encode_prompt(tokenizer, honest))
    if not FIXTURES[name].refused:
        ids = encode_answer(tokenizer, honest, attack.replace("<think>", ""))
        assert control(ids) == control(encode_answer(tokenizer, honest, "hi"))


def test_what_a_template_of_channels_samples_is_read_apart(home: Path) -> None:
    tokenizer = tokenizer_for("channels", home / "channels")

    def read(text: str) -> str:
        return decode_answer(tokenizer, tokenizer(text, add_special_tokens=False).input_ids)

    final = "<|channel|>final<|message|>Yes."
    assert read(final) == "Yes."
    thought = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
    assert read(thought + final) == "<think>\nhm\n</think>\n\nYes."
    assert read("<|channel|>analysis<|message|>hm") == "<think>\nhm"
    assert stop_token_ids(tokenizer, None) == [tokenizer.convert_tokens_to_ids("<|return|>")]


def test_a_space_that_the_tokenizer_puts_behind_a_control_token_is_no_part_of_the_answer(tmp_path: Path) -> None:
    make_spaced_tokenizer(FIXTURES["chatml"].template).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    tokenizer.chat_template = template
    sampled = [tokenizer.convert_tokens_to_ids("▁Paris"), tokenizer.convert_tokens_to_ids("<|im_end|>")]
    text = decode_answer(tokenizer, sampled)
    assert text == "Paris"
    assert encode_answer(tokenizer, [{"role": "user", "content": "Where?"}], text) == sampled
    whole = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": text}]
    assert tokenizer.apply_chat_template(whole, return_dict=False)[-2:] == sampled


def test_answers_that_cannot_be_learned_are_left_out_by_name(home: Path) -> None:
    tokenizer = tokenizer_for("an open block that the turn lacks", home / "an open block that the turn lacks")
    end = tokenizer.eos_token_id
    cut, empty = (tokenizer(text, add_special_tokens=False).input_ids for text in ("hm, I", "hm\n</think>\n\n"))
    whole = tokenizer("hm\n</think>\n\nYes.", add_special_tokens=False).input_ids
    drawn = [Completion([*whole, end], "stop"), Completion(cut, "length"), Completion([*empty, end], "stop")]
    rows = sampled_rows(tokenizer, {"p": USER}, [("p", n, 1.0, 0, done) for n, done in enumerate(drawn)])
    kept, dropped = candidates_of([("c", row) for row in rows], keep_all=False)
    assert kept == []
    assert OTHERWISE in dropped[0].reason
    assert [row.reason for row in dropped[1:]] == ["empty answer"] * 2


def test_thoughts_without_an_answer_are_not_trained_on(home: Path) -> None:
    tokenizer = tokenizer_for("qwen3", home / "qwen3")
    for answer in ("<think>\nhm", "<think>\nhm\n</think>\n\n"):
        kept, dropped = ex.encode_demonstrations(tokenizer, [(USER, answer)], [2], ex.Limit(500, "too long"))
        assert (kept, dropped[0].reason) == ([], "the answer is empty")


def test_thoughts_that_the_prompt_opened_are_read_with_their_opening(home: Path) -> None:
    for name in ("prompt ends in a block", "an open block that the turn lacks"):
        tokenizer = tokenizer_for(name, home / name)
        ids = tokenizer("hm\n</think>\n\nYes.", add_special_tokens=False).input_ids
        assert decode_answer(tokenizer, ids) == "<think>\nhm\n</think>\n\nYes."
        assert decode_answer(tokenizer, ids[:1]) == "<think>\nh"


def test_a_refusal_names_the_way_out(home: Path) -> None:
    tokenizer = tokenizer_for("qwen3, no thoughts", home / "qwen3, no thoughts")
    with pytest.raises(DataError) as refusal:
        encode_answer(tokenizer, USER, ANSWERS["thoughts"])
    assert refusal.value.what == (
        "the chat template's prompt begins the answer with '\\n</think>\\n\\n', and its rendering of the answered "
        "conversation does not, so the model would learn what it is never asked for; set model.chat_template_kwargs (the "
        "template reads enable_thinking), give answers with their thoughts (<think>…</think>), or use another template "
        "(model.replace_chat_template)"
    )


def test_many_rows_are_encoded_as_each_alone(home: Path) -> None:
    for name in FIXTURES:
        tokenizer = tokenizer_for(name, home / name)
        rows = [(messages, answer) for messages in CONVERSATIONS.values() for answer in ANSWERS.values()]
        for (messages, answer), many in zip(rows, encode_answered(tokenizer, *zip(*rows, strict=True)), strict=True):
            try:
                alone: Any = (encode_prompt(tokenizer, messages), encode_answer(tokenizer, messages, answer))
            except DataError as refusal:
                alone = refusal.what
            assert (many.what if isinstance(many, DataError) else many) == alone


def test_a_variable_and_a_date_are_written_into_the_template(tmp_path: Path) -> None:
    fixture = FIXTURES["qwen3"]
    tokenizer = load_tokenizer(
        saved_tokenizer(fixture, tmp_path / "a"), chat_template_kwargs={"enable_thinking": False}
    )
    tokenizer.save_pretrained(tmp_path / "published")
    published = load_tokenizer(tmp_path / "published")
    asked = published.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    assert asked.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    said = published.apply_chat_template(USER, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert said.endswith("<|im_start|>assistant\n")
    again = load_tokenizer(tmp_path / "published", chat_template_kwargs={"enable_thinking": True})
    assert again.apply_chat_template(USER, tokenize=False, add_generation_prompt=True) == said
    dated = tokenizer_for("llama 3 with a date", tmp_path / "b")
    assert "Today Date: 31 Jan 2026\n" in dated.apply_chat_template(USER, tokenize=False)
    dated.save_pretrained(tmp_path / "c")
    later = load_tokenizer(tmp_path / "c", date="2030-12-24")
    assert "Today Date: 31 Jan 2026\n" in later.apply_chat_template(USER, tokenize=False)


def test_a_template_of_ones_own_replaces_the_tokenizers(tmp_path: Path) -> None:
    folder = saved_tokenizer(FIXTURES["qwen3"], tmp_path / "a")
    (tmp_path / "mine.jinja").write_text(FIXTURES["trims"].template)
    tokenizer = load_tokenizer(folder, chat_template=str(tmp_path / "mine.jinja"), replace_chat_template=True)
    assert tokenizer.chat_template == FIXTURES["trims"].template
    with pytest.raises(ConfigError, match="has a chat template of its own"):
        load_tokenizer(folder, chat_template=str(tmp_path / "mine.jinja"))


@pytest.mark.parametrize(
    ("template", "kwargs", "says"),
    [
        (BROKEN, {}, "has a syntax error in line 3: Expected an expression, got 'end of statement block'"),
        (QWEN3, {"enable_thoughts": 1}, "does not read 'enable_thoughts'; it reads enable_thinking"),
        (LLAMA3, {"messages": []}, "does not read 'messages'; it reads date_string"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, template: str, kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_tokenizer(saved_tokenizer(Fixture(template), tmp_path / "a"), chat_template_kwargs=kwargs)
    assert says in str(error.value)
