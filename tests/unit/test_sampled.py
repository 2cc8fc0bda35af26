"""Sampled tokens: kept beside the candidates, passed on with what people were asked about, and trained on where they say
what the text says."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from align.pipeline.stage import Job
from align.sampled import TOKENS, as_sampled, pass_tokens_on, read_tokens, sampled_by, tokenizer_id
from align.stages.stage_io import tokens_of
from align.text import decode_answer, encode_answer, load_tokenizer
from align.train import examples as ex
from align.train.split import encoded_apart, is_held_out
from align.types import BinaryLabel, Preference
from tests.chat_templates import CHATML, FIXTURES, make_spaced_tokenizer, saved_tokenizer
from tests.tiny import make_tokenizer

ASK = [{"role": "user", "content": "Where?"}]
WIDE = ex.Limit(500, "too long")
END = 2  # <|im_end|> in all tokenizers here
NO_HEADER = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def spaced(folder: Path) -> Any:
    """A `▁` tokenizer."""
    make_spaced_tokenizer(NO_HEADER).save_pretrained(folder)
    return load_tokenizer(folder)


def byte_level(folder: Path) -> Any:
    """A byte-level BPE that knows "Paris" as one token and its parts too."""
    make_tokenizer(["Paris", "Par", "is"], chat_template=CHATML).save_pretrained(folder)
    return load_tokenizer(folder)


def ids(tokenizer: Any, *tokens: str) -> list[int]:
    return [*tokenizer.convert_tokens_to_ids(list(tokens)), END]


def table(tokenizer: Any, rows: dict[str, list[int]]) -> pa.Table:
    known = tokenizer_id(tokenizer)
    return pa.Table.from_pylist(
        [{"candidate": name, "tokenizer": known, "token_ids": drawn} for name, drawn in rows.items()], schema=TOKENS
    )


def pair(**changes: Any) -> Preference:
    return replace(Preference("p1", "q", ASK, "a", "b", "Paris", "Pa", 1.0, 1.0, 0.0, 1, []), **changes)


@pytest.mark.parametrize("make", [spaced, byte_level])
def test_a_pair_has_the_ids_that_were_sampled_and_not_the_encoding_of_its_text(make: Any, tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    begin = "▁" if make is spaced else ""
    drawn = ids(tokenizer, f"{begin}Par", "i", "s")
    text = decode_answer(tokenizer, drawn[:-1])
    assert text == "Paris"
    assert encode_answer(tokenizer, ASK, text) == ids(tokenizer, f"{begin}Paris") != drawn
    sampled = sampled_by(tokenizer, table(tokenizer, {"a": drawn}))
    (row,), dropped = ex.encode_preferences(tokenizer, [pair()], [END], WIDE, sampled)
    assert dropped == []
    assert row.chosen_ids == drawn
    assert row.rejected_ids == ids(tokenizer, f"{begin}Pa")
    assert sampled.counts == {"answers": {"as_sampled": 1, "encoded": 1}}


def test_held_out_answers_are_not_counted_as_trained_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = byte_level(tmp_path)
    drawn, prompts = ids(tokenizer, "Par", "is"), [f"prompt {n}" for n in range(20)]
    sampled = sampled_by(tokenizer, table(tokenizer, {"a": drawn}))
    encode = partial(ex.encode_preferences, tokenizer, stops=[END], limit=WIDE, sampled=sampled)
    held = sum(is_held_out(prompt, 0.4) for prompt in prompts)
    apart = encoded_apart(encode, [pair()] * 20, prompts, 0.4, "dpo.held_out", sampled)
    assert (held, len(apart.learned), len(apart.measured)) == (7, 13, 7)
    assert {tuple(row.chosen_ids) for row in apart.measured} == {tuple(drawn)}, "measured as they were sampled too"
    assert sampled.counts == {"answers": {"as_sampled": 13, "encoded": 13}}
    sampled.say()
    assert capfd.readouterr().err == (
        "of 26 answers 13 are trained on as they were sampled, 13 by the encoding of their text\n"
    )


def test_binary_labels_and_demonstrations_have_them_too(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    drawn = ids(tokenizer, "Par", "is")
    assert len(drawn) == 3
    label = BinaryLabel("t", "q", ASK, "a", "Paris", 1.0, 1.0, 1, [])
    sampled = sampled_by(tokenizer, table(tokenizer, {"a": drawn}))
    (example,), _ = ex.encode_binary(tokenizer, [label], [END], WIDE, sampled)
    rows = [(ASK, "Paris"), (ASK, "Paris"), (ASK, "")]
    shown, _ = ex.encode_demonstrations(tokenizer, rows, [END], WIDE, candidates=["a", "b", "c"], sampled=sampled)
    assert example.answer_ids == shown[0].answer_ids == shown[0].labels[-3:] == drawn
    assert shown[1].answer_ids == ids(tokenizer, "Paris")
    assert sampled.counts == {"answers": {"as_sampled": 2, "encoded": 1}}


def test_a_cut_answer_ends_as_the_template_ends_it(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    written = ids(tokenizer, "Paris")
    assert as_sampled(tokenizer, written, ids(tokenizer, "Par", "is")[:-1]) == ids(tokenizer, "Par", "is")


@pytest.mark.parametrize(
    "drawn",
    [
        ["Par", "is", "is"],  # another text, as of an edited answer
        ["<|im_start|>", "Par", "is"],  # a token that decoding takes out of the text
        ["Par", "is", "<|endoftext|>"],  # ended by another stop token than the template's
        [],
    ],
)
def test_tokens_that_say_something_else_are_not_taken(tmp_path: Path, drawn: list[str]) -> None:
    tokenizer = byte_level(tmp_path)
    given = tokenizer.convert_tokens_to_ids(drawn) + ([END] if drawn and drawn[-1] != "<|endoftext|>" else [])
    sampled = sampled_by(tokenizer, table(tokenizer, {"a": given}))
    (row,), _ = ex.encode_preferences(tokenizer, [pair()], [END], WIDE, sampled)
    assert row.chosen_ids == ids(tokenizer, "Paris")
    assert sampled.counts == {"answers": {"as_sampled": 0, "encoded": 2}}


def test_tokens_of_another_tokenizer_are_not_taken(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "one")
    make_tokenizer(["Paris", "Par", "is", "order"], chat_template=CHATML).save_pretrained(tmp_path / "other")
    other = load_tokenizer(tmp_path / "other")
    assert tokenizer_id(tokenizer) == tokenizer_id(byte_level(tmp_path / "again")) != tokenizer_id(other)
    sampled = sampled_by(tokenizer, table(other, {"a": ids(other, "Par", "is")}))
    (row,), _ = ex.encode_preferences(tokenizer, [pair()], [END], WIDE, sampled)
    assert row.chosen_ids == ids(tokenizer, "Paris")


def test_tokens_stand_only_where_the_template_puts_the_answer(tmp_path: Path) -> None:
    """A template that writes an empty block of thoughts teaches it, and what was sampled has none."""
    tokenizer = load_tokenizer(saved_tokenizer(FIXTURES["writes an empty block"], tmp_path))
    written = encode_answer(tokenizer, ASK, "order")
    bare = [*tokenizer("order", add_special_tokens=False).input_ids, written[-1]]
    assert len(written) > len(bare)
    assert as_sampled(tokenizer, written, bare) is None


def test_without_tokens_rows_are_what_they_were(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    alone, _ = ex.encode_preferences(tokenizer, [pair()], [END], WIDE)
    sampled = sampled_by(tokenizer, None)
    assert ex.encode_preferences(tokenizer, [pair()], [END], WIDE, sampled)[0] == alone
    assert sampled.counts == {"answers": {"as_sampled": 0, "encoded": 2}}


def test_tokens_go_with_the_candidates_that_are_passed_on(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path / "t")
    rollouts, selection, labels, earlier = (tmp_path / name for name in ("rollouts", "tasks", "labels", "earlier"))
    for folder in (rollouts, selection, labels, earlier):
        folder.mkdir()
    pass_tokens_on(rollouts, selection, [pa.array(["a"])])
    assert list(selection.iterdir()) == []  # a run of a version that kept no tokens
    drawn = {name: ids(tokenizer, name) for name in "abc"}
    import pyarrow.parquet as pq

    more = table(tokenizer, drawn).append_column("logprobs", pa.array([[-1.0], None, None], pa.list_(pa.float32())))
    pq.write_table(more, rollouts / "tokens.parquet")
    pass_tokens_on(rollouts, selection, [pa.array(["b", "a", "b"])])
    pass_tokens_on(selection, labels, [pa.chunked_array([["a"], ["x"]])])
    assert read_tokens([selection]).to_pylist() == table(tokenizer, {"a": drawn["a"], "b": drawn["b"]}).to_pylist()
    job = Job(2, "policy", {"preferences": labels, "earlier_001": earlier}, {}, {}, tmp_path / "out")
    assert tokens_of(job).to_pylist() == table(tokenizer, {"a": drawn["a"]}).to_pylist()
    pass_tokens_on(selection, earlier, [pa.array(["b"])])
    assert tokens_of(job)["candidate"].to_pylist() == ["a", "b"]
    sampled = sampled_by(tokenizer, tokens_of(job))
    assert (sampled.ids_of("b"), sampled.ids_of("c")) == (drawn["b"], None)
    assert tokens_of(replace(job, inputs={"preferences": rollouts / "no"})) is None


def test_answers_of_a_file_are_found_in_the_folder_that_they_come_from(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from align.data.candidates import load_tokens
    from align.data.preferences import load_preferences
    from align.errors import DataError
    from align.store import write_rows
    from align.types import candidate_id, prompt_id

    tokenizer = byte_level(tmp_path / "t")
    drawn, text = ids(tokenizer, "Par", "is"), "Paris"
    rolled = tmp_path / "rolled"
    rolled.mkdir()
    with pytest.raises(DataError, match=r"there is no tokens\.parquet"):
        load_tokens(rolled)
    write_rows(rolled / "candidates.jsonl", [{"messages": ASK, "text": text, "checkpoint": "c1"}])
    pq.write_table(
        table(tokenizer, {candidate_id(prompt_id(ASK), text, "c1"): drawn, "x": drawn}), rolled / "tokens.parquet"
    )
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Where?", "chosen": "Paris", "rejected": "Pa"}])
    rows, _ = load_preferences(tmp_path / "pairs.jsonl")
    (row,), _ = ex.encode_preferences(tokenizer, rows, [END], WIDE, sampled_by(tokenizer, load_tokens(rolled)))
    assert (row.chosen_ids, row.rejected_ids) == (drawn, ids(tokenizer, "Pa"))
