"""What reaches the trainer: tokens with one stop token at the end; everything else is dropped by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from align.errors import ConfigError, DataError, StageError
from align.store import read_table
from align.train import examples as ex
from align.types import BinaryLabel, Dropped, Preference, from_table
from tests.tiny import CHATML, make_tokenizer

END, STOPS = 2, [2, 3]
ASK = [{"role": "user", "content": "Where is my kettle?"}]
WIDE = ex.Limit(400, "longer than max_tokens (400)")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer([])


def preference(**changes: object) -> Preference:
    base = Preference("p1", "q", ASK, "a", "b", "It is on its way.", "No idea.", 1.0, 1.0, 0.0, 1, [])
    return replace(base, **changes)  # type: ignore[arg-type]


def test_a_demonstration_is_the_template_and_the_answer_with_one_stop_token(tokenizer) -> None:
    (row,), dropped = ex.encode_demonstrations(tokenizer, [(ASK, "On its way.")], STOPS, WIDE)
    assert dropped == []
    whole = "<|im_start|>user\nWhere is my kettle?<|im_end|>\n<|im_start|>assistant\nOn its way.<|im_end|>"
    assert tokenizer.decode(row.prompt_ids + row.answer_ids, skip_special_tokens=False) == whole
    assert tokenizer.decode(row.answer_ids[:-1]) == "On its way."
    assert row.answer_ids.index(END) == len(row.answer_ids) - 1
    assert row.tokens == len(row.prompt_ids) + len(row.answer_ids)


def test_demonstrations_are_dropped_with_place_and_reason(tokenizer) -> None:
    rows = [(ASK, "Fine."), (ASK, "  \n"), (ASK, "word " * 200), (ASK, "")]
    kept, dropped = ex.encode_demonstrations(tokenizer, rows, STOPS, WIDE)
    assert len(kept) == 1
    assert dropped == [
        Dropped("demonstration", "row 2", "the answer is empty"),
        Dropped("demonstration", "row 3", "longer than max_tokens (400)"),
        Dropped("demonstration", "row 4", "the answer is empty"),
    ]
    assert ex.reasons(dropped) == {"the answer is empty": 2, "longer than max_tokens (400)": 1}


def test_a_conversation_that_the_template_refuses_is_dropped_with_its_words() -> None:
    strict = "{% if messages|length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + CHATML
    tokenizer = make_tokenizer([], chat_template=strict)
    talk = [*ASK, {"role": "assistant", "content": "Here."}, {"role": "user", "content": "Where?"}]
    kept, dropped = ex.encode_demonstrations(tokenizer, [(ASK, "Here."), (talk, "There.")], STOPS, WIDE)
    assert len(kept) == 1
    assert "one question only" in dropped[0].reason
    kept, dropped = ex.encode_preferences(tokenizer, [preference(messages=talk)], STOPS, WIDE)
    assert "one question only" in dropped[0].reason


def test_a_stop_token_written_out_in_an_answer_is_text(tokenizer) -> None:
    (row,), dropped = ex.encode_demonstrations(tokenizer, [(ASK, "Fine.<|im_end|> Or not.<|endoftext|>")], STOPS, WIDE)
    assert dropped == []
    assert [token for token in row.answer_ids if token in STOPS] == [END]


def test_the_limit_counts_prompt_and_answer_to_the_last_token(tokenizer) -> None:
    (row,), _ = ex.encode_demonstrations(tokenizer, [(ASK, "Fine.")], STOPS, WIDE)
    for tokens, kept_rows in ((row.tokens, 1), (row.tokens - 1, 0)):
        kept, dropped = ex.encode_demonstrations(tokenizer, [(ASK, "Fine.")], STOPS, ex.Limit(tokens, "too long"))
        assert (len(kept), len(dropped)) == (kept_rows, 1 - kept_rows)


def test_the_models_context_is_a_limit_of_its_own() -> None:
    assert ex.limit_of(1024, None) == ex.Limit(1024, "longer than max_tokens (1024)")
    assert ex.limit_of(1024, 512) == ex.Limit(512, "longer than the model's context (512 tokens)")
    assert ex.limit_of(256, 512).tokens == 256


def test_preferences_are_dropped_with_id_and_reason(tokenizer) -> None:
    rows = [
        preference(),
        preference(id="same", rejected="It is on its way."),
        preference(id="empty", chosen=" "),
        preference(id="weightless", weight=0.0),
        preference(id="long", rejected="word " * 200),
    ]
    kept, dropped = ex.encode_preferences(tokenizer, rows, STOPS, WIDE)
    assert [len(kept), [(row.where, row.reason) for row in dropped]] == [
        1,
        [
            ("same", "chosen and rejected are the same"),
            ("empty", "the answer is empty"),
            ("weightless", "its weight is 0"),
            ("long", "longer than max_tokens (400)"),
        ],
    ]
    assert kept[0].chosen_ids[-1] == kept[0].rejected_ids[-1] == END


def test_an_empty_answer_is_learned_from_where_it_is_the_worse_one(tokenizer) -> None:
    kept, dropped = ex.encode_preferences(tokenizer, [preference(rejected="")], STOPS, WIDE)
    assert ([pair.rejected_ids for pair in kept], dropped) == ([[END]], [])
    binary = [BinaryLabel("t", "q", ASK, "a", "", target, 1.0, 1, []) for target in (0.2, 0.5)]
    examples, dropped = ex.encode_binary(tokenizer, binary, STOPS, WIDE)
    assert [example.answer_ids for example in examples] == [[END]]
    assert [row.reason for row in dropped] == ["the answer is empty"]


def test_answers_that_the_tokenizer_does_not_tell_apart_are_not_called_the_same(tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(
        ex, "encode_answered", lambda _, prompts, __: [([1], [9, END]) for _ in prompts]
    )  # both unknown
    _, dropped = ex.encode_preferences(tokenizer, [preference(chosen="はい", rejected="いいえ")], STOPS, WIDE)
    assert [row.reason for row in dropped] == [
        "the tokenizer gives chosen and rejected the same tokens, though they differ"
    ]


@pytest.mark.parametrize("changes", [{"target": 0.4}, {"target": 1.1}, {"weight": -1.0}, {"weight": float("nan")}])
def test_a_target_or_weight_that_cannot_be_is_an_error(tokenizer, changes: dict[str, float]) -> None:
    with pytest.raises(DataError, match=r"preference p1: the (target|weight)"):
        ex.encode_preferences(tokenizer, [preference(**changes)], STOPS, WIDE)


def test_an_answer_that_does_not_end_with_a_stop_token_is_our_failure(tokenizer) -> None:
    with pytest.raises(StageError, match="does not end with a stop token"):
        ex.encode_demonstrations(tokenizer, [(ASK, "Fine.")], [9999], WIDE)


def test_nothing_left_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match=r"no demonstration is left to train on: 2 × too long"):
        ex.require_rows([], [Dropped("demonstration", "row 1", "too long")] * 2, "demonstration")


def test_a_tokenizer_of_another_model_is_noticed() -> None:
    ex.require_vocabulary([[0, 9]], 10)
    with pytest.raises(ConfigError, match="gives token 10, but the model has only 10"):
        ex.require_vocabulary([[0, 9], [10]], 10)


def test_dropped_rows_are_written_even_when_there_are_none(tmp_path: Path) -> None:
    ex.write_dropped(tmp_path / "out", [])
    assert from_table(Dropped, read_table(tmp_path / "out" / "dropped.parquet")) == []


def test_spread_is_even_and_never_repeats() -> None:
    assert ex.spread(list(range(100)), 4) == [0, 25, 50, 75]
    assert ex.spread([1, 2, 3], 8) == [1, 2, 3]
    assert ex.spread([], 8) == []


TALK = [*ASK, {"role": "assistant", "content": "On its way."}, {"role": "user", "content": "Since when?"}]
GENERATION = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, GENERATION])
def test_all_assistant_turns_are_learned_and_nothing_else(template: str) -> None:
    tokenizer = make_tokenizer([], chat_template=template)
    (row,), _ = ex.encode_demonstrations(tokenizer, [(TALK, "Monday.")], STOPS, WIDE, turns="all")
    learned = tokenizer.decode(
        [i for i, label in zip(row.prompt_ids + row.answer_ids, row.labels, strict=True) if label != -100]
    )
    assert learned == "On its way.<|im_end|>Monday.<|im_end|>"
    assert [label for label in row.labels if label != -100] == [
        i for i, label in zip(row.prompt_ids + row.answer_ids, row.labels, strict=True) if label != -100
    ]
    (row,), _ = ex.encode_demonstrations(tokenizer, [(TALK, "Monday.")], STOPS, WIDE, turns="last")
    assert tokenizer.decode([label for label in row.labels if label != -100]) == "Monday.<|im_end|>"


def test_the_mask_is_that_of_a_template_with_generation_marks() -> None:
    tokenizer = make_tokenizer([], chat_template=GENERATION)
    (row,), _ = ex.encode_demonstrations(tokenizer, [(TALK, "Monday.")], STOPS, WIDE, turns="all")
    whole = tokenizer.apply_chat_template(
        [*TALK, {"role": "assistant", "content": "Monday."}], return_assistant_tokens_mask=True, return_dict=True
    )
    ids = row.prompt_ids + row.answer_ids
    assert whole["input_ids"][: len(ids)] == ids  # behind it the template puts a line break
    assert whole["assistant_masks"][: len(ids)] == [int(label != -100) for label in row.labels]


def test_turns_that_the_template_writes_otherwise_are_learned_as_they_were_asked() -> None:
    """As templates do that leave the thoughts of earlier turns out."""
    trims = CHATML.replace(
        "{{ message['content'] }}", "{{ message['content'] if loop.last or message['role'] != 'assistant' else '…' }}"
    )
    tokenizer = make_tokenizer([], chat_template=trims)
    rows, dropped = ex.encode_demonstrations(tokenizer, [(TALK, "Monday.")], STOPS, WIDE, turns="all")
    assert dropped == []
    said = [tokenizer.decode([label for label in row.labels if label != -100]) for row in rows]
    assert said == ["On its way.<|im_end|>", "Monday.<|im_end|>"]
    assert "On its way" not in tokenizer.decode(rows[1].prompt_ids)


def test_many_rows_are_a_few_calls_of_the_tokenizer_whatever_their_number(tokenizer, monkeypatch) -> None:
    """Each call costs more than a row's words; and the same prompt is encoded once."""
    calls: list[int] = []
    ask = type(tokenizer).__call__

    def counted(self, text, **how):
        calls.append(len(text) if isinstance(text, list) else 1)
        return ask(self, text, **how)

    asked = [[{"role": "user", "content": f"Where is kettle {n // 2}?"}] for n in range(60)]
    pairs = [preference(id=str(n), messages=m, chosen=f"It is at {n}.") for n, m in enumerate(asked)]
    binary = [BinaryLabel(str(n), "q", m, "a", f"It is at {n}.", 1.0, 1.0, 1, []) for n, m in enumerate(asked)]
    rows = [(m, f"It is at {n}.") for n, m in enumerate(asked)]
    ex.encode_preferences(tokenizer, pairs[:2], STOPS, WIDE)  # what is known of a tokenizer is kept
    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    for encode, given, texts in (
        (ex.encode_preferences, pairs, 30 + 1 + 120),
        (ex.encode_binary, binary, 30 + 1 + 60),
        (ex.encode_demonstrations, rows, 30 + 1 + 60),
    ):
        calls.clear()
        assert len(encode(tokenizer, given, STOPS, WIDE)[0]) == 60
        assert (len(calls), sum(calls)) == (3, texts)


def test_two_prompts_that_the_template_writes_alike_are_both_encoded() -> None:
    tokenizer = make_tokenizer([], chat_template=CHATML.replace("message['content']", "message['content']|trim"))
    alike = [[{"role": "user", "content": text}] for text in ("Where?", " Where?")]
    kept, dropped = ex.encode_demonstrations(tokenizer, [(m, "Here.") for m in alike], STOPS, WIDE)
    assert dropped == []
    assert kept[0] == kept[1]
