"""Who answers how often, and what is drawn again, with an engine that answers by a rule."""

from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from align.config.base import Sampling
from align.config.rollouts import SamplingConfig
from align.errors import ConfigError
from align.store import read_table
from align.sync import Agreement
from align.types import Prompt, prompt_id
from rollouts import sample
from rollouts.engine import Completion
from rollouts.mixture import Policy, Source, counts, require_named, sources_of
from tests.tiny import make_tiny_model, make_tokenizer

END = 2
TOKENIZER = make_tokenizer([])
PROMPTS = [
    Prompt(prompt_id(messages), messages, "train", "made")
    for messages in ([{"role": "user", "content": f"{i} prompt"}] for i in range(6))
]
NEW, OLD = Policy(Path("new"), "new"), Policy(Path("old"), "old")


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(1, 20), st.integers())
def test_counts_are_shares_rounded_down_or_up(shares: list[float], samples: int, key: int):
    found, total = counts(shares, samples, key), sum(shares)
    assert sum(found) == samples
    for count, share in zip(found, shares, strict=True):
        assert abs(count - samples * share / total) < 1 + 1e-6


def test_counts_hold_over_prompts():
    assert {tuple(counts([2, 1, 1], 4, key)) for key in range(50)} == {(2, 1, 1)}, "whole numbers are met exactly"
    seen = Counter(tuple(counts([0.9, 0.1], 2, key)) for key in range(4000))
    assert set(seen) == {(2, 0), (1, 1)}
    assert abs(seen[1, 1] / 4000 - 0.2) < 0.03  # 0.1 of 2 answers; five standard deviations


def test_sources_of_a_recipe():
    config = SamplingConfig(samples=4, mixture=[
        {"share": 2}, {"checkpoint": "parent", "temperature": 0.5}, {"checkpoint": "sft"}, {"temperature": 0.3},
    ])  # fmt: skip
    three = {"current": NEW, "parent": OLD, "sft": Policy(Path("first"), "first")}
    assert sources_of(config, three) == [
        Source(NEW, 1.0, 2), Source(NEW, 0.3, 1), Source(OLD, 0.5, 1), Source(three["sft"], 1.0, 1),
    ]  # fmt: skip
    first_round = dict.fromkeys(three, NEW)
    assert sources_of(config, first_round) == [Source(NEW, 1.0, 3), Source(NEW, 0.5, 1), Source(NEW, 0.3, 1)]
    assert sources_of(SamplingConfig(temperature=0.7), {"current": NEW}) == [Source(NEW, 0.7)]


def test_what_a_mixture_may_not_be():
    with pytest.raises(ValidationError, match="names one checkpoint with one temperature twice"):
        SamplingConfig(mixture=[{}, {"temperature": 1.0}])
    SamplingConfig(samples=2, mixture=[{"temperature": 0}, {}])
    with pytest.raises(ValidationError, match=r"every time, and 1\.5 are asked for to each prompt"):
        SamplingConfig(samples=2, mixture=[{"temperature": 0, "share": 3}, {}])
    parent = SamplingConfig(mixture=[{"checkpoint": "parent"}])
    with pytest.raises(ConfigError, match=r"the mixture has answers of `parent`, .*; name it with --parent"):
        require_named(parent, {"current"})
    with pytest.raises(ConfigError, match="--sft: this model has no use here"):
        require_named(parent, {"current", "parent", "sft"})


class Engine:
    """Says what `rule(checkpoint, name, sample, temperature, seed)` says."""

    def __init__(self, rule):
        self.rule, self.asked, self.die_after = rule, [], None

    def opened(self, checkpoint):
        @contextmanager
        def opening():
            yield self

        self.checkpoint = checkpoint
        return opening()

    def generate(self, requests, sampling, *, samples, seed):
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise KeyboardInterrupt
        self.asked.append((self.checkpoint.name, [r.prompt_id for r in requests], sampling.temperature, samples))
        logprobs = [-1.0, -0.5] if sampling.logprobs else None

        def completion(name, number):
            text = self.rule(self.checkpoint.name, name, number, sampling.temperature, seed)
            ids = [*TOKENIZER(text).input_ids, END]
            return Completion(ids, "stop", logprobs and [logprobs[i % 2] for i in range(len(ids))])

        return [[completion(r.prompt_id, number) for number in range(samples)] for r in requests]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Policy]:
    base = tmp_path_factory.mktemp("policies")
    return {name: Policy(make_tiny_model(base / name, seed=n), name) for n, name in enumerate(("new", "old"))}


def run(monkeypatch, folders, out: Path, engine: Engine, **changes):
    monkeypatch.setattr(sample, "check_sync", lambda *_, **__: Agreement(0.0, 0.0, 1))
    monkeypatch.setattr(sample, "open_generator", lambda kind, checkpoint, **_: engine.opened(checkpoint))
    order = {
        "sampling": Sampling(max_tokens=20), "samples": 3, "engine": "transformers", "dtype": "float32",
        "max_prompt_tokens": 100, "shard": 2, "seed": 7, "threads": 1, "out": out,
        "sources": [Source(folders["new"], 1.0, 1), Source(folders["new"], 0.5, 1), Source(folders["old"], 0.5, 1)],
    }  # fmt: skip
    return sample.sample_candidates(PROMPTS, folders["new"].path, "new", **{**order, **changes})


def test_each_candidate_knows_its_checkpoint_and_temperature(monkeypatch, folders, tmp_path: Path):
    engine = Engine(lambda checkpoint, name, number, temperature, seed: f"{checkpoint} {temperature} {name}")
    rows, dropped = run(monkeypatch, folders, tmp_path, engine)
    assert dropped == []
    assert [(r.prompt_id, r.sample, r.checkpoint, r.temperature, r.redrawn) for r in rows] == [
        (p.id, *kind, 0)
        for p in PROMPTS
        for kind in ((0, "new", 1.0), (1, "new", 0.5), (2, "old", 0.5))
    ]  # fmt: skip
    assert [asked[0] for asked in engine.asked] == ["new"] * 6 + ["old"] * 3, "each checkpoint is loaded once"


def test_shares_that_are_no_whole_numbers(monkeypatch, folders, tmp_path: Path):
    engine = Engine(lambda checkpoint, name, number, temperature, seed: f"{checkpoint} {number} {name}")
    sources = [Source(folders["new"], 1.0, 3), Source(folders["old"], 1.0, 1)]
    rows, _ = run(monkeypatch, folders, tmp_path, engine, sources=sources, samples=2)
    by_prompt = [[r.checkpoint for r in rows if r.prompt_id == p.id] for p in PROMPTS]
    assert {tuple(kinds) for kinds in by_prompt} == {("new", "new"), ("new", "old")}
    assert [r.sample for r in rows] == [0, 1] * len(PROMPTS)


def says_little(checkpoint, name, number, temperature, seed):
    """Repeats itself at first; the second draw of an answer is a new one, but for the prompt that always says yes."""
    words = name.split()
    return "yes" if len(words) == 1 or words[0] == PROMPTS[0].id or int(words[2]) < 2 else f"no {words[1]}"


def test_repeated_answers_are_drawn_again_up_to_a_limit(monkeypatch, folders, tmp_path: Path):
    rows, dropped = run(monkeypatch, folders, tmp_path / "a", Engine(says_little), max_resamples=3)
    of = {p.id: [(r.sample, r.text, r.redrawn) for r in rows if r.prompt_id == p.id] for p in PROMPTS}
    assert of[PROMPTS[0].id] == [(0, "yes", 0)]
    assert all(of[p.id] == [(0, "yes", 0), (1, "no 1", 2), (2, "no 2", 2)] for p in PROMPTS[1:])
    assert [d.reason for d in dropped] == ["the same answer as sample 0, also after 3 more draws"] * 2
    rows, dropped = run(monkeypatch, folders, tmp_path / "b", Engine(says_little))
    assert len(rows) == len(PROMPTS), "no answer is drawn again where nobody asks for it"
    assert {d.reason for d in dropped} == {"the same answer as sample 0"}


def test_the_likeliest_answer_is_not_drawn_again(monkeypatch, folders, tmp_path: Path):
    engine = Engine(lambda *_: "yes")
    sources = [Source(folders["new"], 1.0), Source(folders["old"], 0.0)]
    run(monkeypatch, folders, tmp_path, engine, sources=sources, samples=2, max_resamples=2)
    assert [asked for asked in engine.asked if len(asked[1][0].split()) > 1] == []


@pytest.mark.parametrize("die_after", range(1, 12, 2))
def test_a_kill_changes_nothing(monkeypatch, folders, tmp_path: Path, die_after: int):
    expected = run(monkeypatch, folders, tmp_path / "whole", Engine(says_little), max_resamples=2)
    engine = Engine(says_little)
    engine.die_after = die_after
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, folders, tmp_path / "killed", engine, max_resamples=2)
    there = {f: f.read_bytes() for f in (tmp_path / "killed").rglob("*.parquet")}
    engine.die_after = None
    assert run(monkeypatch, folders, tmp_path / "killed", engine, max_resamples=2) == expected
    assert all(f.read_bytes() == data for f, data in there.items())


def test_logprobs_of_the_kept_candidates(monkeypatch, folders, tmp_path: Path):
    engine = Engine(lambda checkpoint, name, number, temperature, seed: "yes" if number else f"{checkpoint}")
    file = tmp_path / "tokens.parquet"
    rows, _ = run(monkeypatch, folders, tmp_path, engine, tokens=file, logprobs=True)
    kept = read_table(file).to_pylist()
    assert [(k["candidate"], k["sample"], k["checkpoint"]) for k in kept] == [
        (r.id, r.sample, r.checkpoint) for r in rows
    ]
    assert kept[0]["token_ids"] == [*TOKENIZER("new").input_ids, END]
    assert kept[0]["logprobs"] == [-1.0, -0.5, -1.0, -0.5]
