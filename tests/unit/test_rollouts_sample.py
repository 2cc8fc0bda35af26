"""Shards and what is left out of them, with an engine that answers from a list."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from align.config.base import Sampling
from align.errors import ConfigError
from align.sampled import tokenizer_id
from align.store import read_table, write_table
from align.sync import Agreement
from align.types import Prompt, candidate_id, prompt_id
from rollouts import sample
from rollouts.engine import Completion
from tests.tiny import make_tiny_model, make_tokenizer

END = 2
TOKENIZER = make_tokenizer([])


def prompt(text: str) -> Prompt:
    messages = [{"role": "user", "content": text}]
    return Prompt(prompt_id(messages), messages, "train", f"prompts.jsonl:{text[:3]}")


def says(text: str) -> Completion:
    return Completion([*TOKENIZER(text).input_ids, END], "stop")


class FakeGenerator:
    """Gives `answers` of a prompt's turn, and counts what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked, self.opened, self.die_after = answers, Counter(), [], None

    def generate(self, requests, sampling, *, samples, seed):
        if self.die_after is not None and sum(self.asked.values()) >= self.die_after:
            raise KeyboardInterrupt
        self.asked.update(r.prompt_id for r in requests)
        return [self.answers(r.prompt_id)[:samples] for r in requests]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(monkeypatch):
    fake = FakeGenerator(lambda id: [says(f"yes {id}"), says(f"no {id}"), says("maybe")])

    @contextmanager
    def open_fake(type, checkpoint, **options):
        fake.opened.append(options)
        yield fake

    monkeypatch.setattr(sample, "open_generator", open_fake)
    monkeypatch.setattr(sample, "check_sync", lambda *_, **__: Agreement(0.0, 0.0, 1))  # its answers come from no model
    return fake


def run(checkpoint: Path, out: Path, prompts: list[Prompt], **changes):
    order = {
        "sampling": Sampling(max_tokens=20), "samples": 2, "engine": "transformers", "dtype": "float32",
        "max_prompt_tokens": 100, "shard": 2, "seed": 7, "threads": 1, "out": out,
    }  # fmt: skip
    return sample.sample_candidates(prompts, checkpoint, "the-checkpoint", **{**order, **changes})


PROMPTS = [prompt(f"{i} prompt") for i in range(5)]


def test_candidates_of_every_prompt_in_order(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    told: list[tuple[int, int]] = []
    rows, dropped = run(checkpoint, tmp_path, PROMPTS, progress=lambda *at: told.append(at))
    assert dropped == []
    assert [r.prompt_id for r in rows] == [p.id for p in PROMPTS for _ in range(2)]
    assert [r.sample for r in rows] == [0, 1] * 5
    assert rows[0].text == f"yes {PROMPTS[0].id}"
    assert rows[0].id == candidate_id(PROMPTS[0].id, rows[0].text, "the-checkpoint")
    assert rows[0].tokens == len(TOKENIZER(rows[0].text).input_ids) + 1
    assert (rows[0].checkpoint, rows[0].finish) == ("the-checkpoint", "stop")
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert engine.opened[0]["max_tokens_total"] == len(TOKENIZER.apply_chat_template(
        PROMPTS[0].messages, add_generation_prompt=True, return_dict=False)) + 20  # fmt: skip


def test_a_killed_run_goes_on_with_the_missing_shards(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    engine.die_after = 2
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, tmp_path / "a", PROMPTS)
    assert [f.name for f in sorted((tmp_path / "a").rglob("*.parquet"))] == ["00000.parquet"]
    engine.die_after = None
    told: list[tuple[int, int]] = []
    rows = run(checkpoint, tmp_path / "a", PROMPTS, progress=lambda *at: told.append(at))
    assert rows == run(checkpoint, tmp_path / "b", PROMPTS)
    assert engine.asked == Counter({p.id: 2 for p in PROMPTS})  # once for each folder
    assert told[0] == (2, 5)
    opened = len(engine.opened)
    assert run(checkpoint, tmp_path / "a", PROMPTS) == rows
    assert len(engine.opened) == opened, "no engine is started where nothing is missing"


def test_a_half_written_shard_is_no_shard(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    rows = run(checkpoint, tmp_path, PROMPTS)
    (whole,) = (tmp_path / "shards").glob("*/00001.parquet")
    partial = whole.rename(whole.with_name(".00001.parquet.partial"))
    partial.write_bytes(b"PAR1 half")
    assert run(checkpoint, tmp_path, PROMPTS) == rows
    assert read_table(whole).num_rows == 4


def test_samples_of_another_order_are_not_mixed(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    run(checkpoint, tmp_path, PROMPTS)
    run(checkpoint, tmp_path, PROMPTS, threads=2)
    assert len(engine.opened) == 1
    for number, change in enumerate(({"seed": 8}, {"samples": 3}, {"sampling": Sampling(max_tokens=21)}), 2):
        run(checkpoint, tmp_path, PROMPTS, **change)
        assert len(engine.opened) == number


def test_what_people_cannot_be_asked_about(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    answers = [
        says("one"),
        says(" \n"),
        says("one"),
        Completion([END], "stop"),
        Completion(says("on").token_ids[:-1], "length"),
    ]
    engine.answers = lambda id: answers
    rows, dropped = run(checkpoint, tmp_path / "a", PROMPTS[:1], samples=5)
    assert [(r.text, r.sample, r.tokens, r.finish) for r in rows] == [("one", 0, 4, "stop"), ("on", 4, 2, "length")]
    assert [(d.what, d.where.split(", ")[1], d.reason) for d in dropped] == [
        ("answer", "sample 1", "empty answer"),
        ("answer", "sample 2", "the same answer as sample 0"),
        ("answer", "sample 3", "empty answer"),
    ]
    rows, dropped = run(checkpoint, tmp_path / "b", PROMPTS[:1], samples=5, keep_all=True)
    assert [r.text for r in rows] == ["one", " \n", "one", "", "on"]
    assert dropped == []


def test_an_answer_that_cannot_be_written_again_is_dropped(checkpoint, engine, tmp_path, monkeypatch):
    from align import text

    monkeypatch.setattr(text, "encode_answered", lambda tokenizer, prompts, answers: [([], [END]) for _ in answers])
    rows, dropped = run(checkpoint, tmp_path, PROMPTS[:1], samples=1)
    assert rows == []
    assert [d.reason for d in dropped] == ["the tokenizer cannot reproduce the answer"]


def test_long_prompts_are_dropped_with_a_reason(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    long = prompt("word " * 90)
    rows, dropped = run(checkpoint, tmp_path / "a", [PROMPTS[0], long], samples=1)
    assert [r.prompt_id for r in rows] == [PROMPTS[0].id]
    assert [(d.what, d.where) for d in dropped] == [("prompt", "prompts.jsonl:wor")]
    assert dropped[0].reason == "the prompt has 469 tokens; max_prompt_tokens is 100"
    settings = {"max_prompt_tokens": 1000, "sampling": Sampling(max_tokens=100)}
    _, dropped = run(checkpoint, tmp_path / "b", [PROMPTS[0], long], samples=1, **settings)
    assert dropped[0].reason == "the prompt has 469 tokens; beside an answer, the model's context has room for 412"
    with pytest.raises(ConfigError, match="an answer may take 512 tokens, but the model's context holds 512"):
        run(checkpoint, tmp_path / "c", [PROMPTS[0]], sampling=Sampling(max_tokens=512))


def test_nothing_to_sample(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    assert run(checkpoint, tmp_path, []) == ([], [])
    assert engine.opened == []


def test_tokens_lie_beside_the_candidates_in_their_order(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    file = tmp_path / "tokens.parquet"
    rows, _ = run(checkpoint, tmp_path, PROMPTS, tokens=file)
    kept = read_table(file).to_pylist()
    assert [k["candidate"] for k in kept] == [r.id for r in rows]
    assert [k["token_ids"] for k in kept] == [says(r.text).token_ids for r in rows]
    assert {k["tokenizer"] for k in kept} == {tokenizer_id(TOKENIZER)}
    assert {k["logprobs"] for k in kept} == {None}


def test_shards_that_an_earlier_version_left_are_gone_on_with(checkpoint: Path, engine: FakeGenerator, tmp_path: Path):
    """They have no tokens; their candidates are the same, and what is drawn from now on has its tokens."""
    rows, _ = run(checkpoint, tmp_path, PROMPTS)
    first, second = sorted((tmp_path / "shards").glob("*/0000[01].parquet"))
    old = read_table(first)
    place = old.column_names.index("token_ids")
    old = old.set_column(place, old.schema.field(place), pa.nulls(old.num_rows, old.schema.field(place).type))
    write_table(first, old)
    second.unlink()
    file = tmp_path / "tokens.parquet"
    assert run(checkpoint, tmp_path, PROMPTS, tokens=file)[0] == rows
    assert [k["candidate"] for k in read_table(file).to_pylist()] == [r.id for r in rows[4:]]
