"""What was sampled is what is trained on: the trainer's first log-probabilities are those that the engine reported."""

from pathlib import Path
from typing import Any

import pytest

from align.config.base import Sampling
from align.config.training import BestOfN, Dpo, Kto, RewardModel
from align.ids import content_id
from align.sampled import read_tokens
from align.stages.best_of_n import train_best_of_n
from align.store import read_table
from align.text import encode_prompt, load_tokenizer
from align.train import dpo
from align.train.kto import train_kto
from align.types import BinaryLabel, Candidate, Preference, Prompt, preference_id, prompt_id
from reward.train import train_reward
from rollouts.sample import sample_candidates
from tests.tiny import make_tiny_model

END, CONTROL = 2, {0, 1, 3}
WORDS = ["Paris", "order", "sorry", "kettle", "thank you", "delivery"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("sampled") / "model", vocab_words=WORDS)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    asked = [[{"role": "user", "content": f"The order number {n}?"}] for n in range(6)]
    return [Prompt(prompt_id(m), m, "train", "made") for m in asked]


@pytest.fixture(scope="module")
def drawn(model: Path, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Candidate]]:
    folder = tmp_path_factory.mktemp("rollouts")
    rows, _ = sample_candidates(
        prompts, model, "m", sampling=Sampling(max_tokens=12), samples=2, engine="transformers", dtype="float32",
        max_prompt_tokens=100, shard=4, seed=1, threads=1, out=folder / "work", tokens=folder / "tokens.parquet",
        logprobs=True,
    )  # fmt: skip
    return folder, rows


def pairs_of(prompts: list[Prompt], rows: list[Candidate]) -> list[Preference]:
    by_prompt = {p.id: [c for c in rows if c.prompt_id == p.id] for p in prompts}
    return [
        Preference(preference_id(p.id, a.id, b.id), p.id, p.messages, a.id, b.id, a.text, b.text, 0.9, 1.0, 0.0, 1, [])
        for p in prompts
        for a, b in [by_prompt[p.id]]
    ]


def train(model: Path, rows: list[Preference], at: Path, **given: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """The metrics, and each pair's log-probabilities before the first step, by its place in the cache."""
    told = dpo.train_dpo(
        model, rows, Dpo(learning_rate=1e-3, batch_size=4, epochs=1), seed=1, dtype="float32", report_to=[], threads=1,
        out=at / "out", work=at / "work", reference_cache=at / "kept", **given,
    )  # fmt: skip
    (file,) = (at / "kept").rglob("*.parquet")
    table = read_table(file).to_pydict()
    return told, dict(zip(table["pair"], zip(table["chosen"], table["rejected"], strict=True), strict=True))


def test_the_first_log_probabilities_are_the_engines(
    model: Path, prompts: list[Prompt], drawn: tuple[Path, list[Candidate]], tmp_path: Path
) -> None:
    folder, rows = drawn
    reported = {row["candidate"]: row for row in read_table(folder / "tokens.parquet").to_pylist()}
    tokenizer, pairs = load_tokenizer(model), pairs_of(prompts, rows)
    told, first = train(model, pairs, tmp_path / "sampled", tokens=read_tokens([folder]))
    tainted = {name for name, row in reported.items() if set(row["token_ids"][:-1]) & CONTROL}
    assert told["answers"] == {"as_sampled": len(rows) - len(tainted), "encoded": len(tainted)}
    compared = 0
    for pair in pairs:
        names = (pair.chosen_id, pair.rejected_id)
        if tainted & set(names):
            continue
        drawn_ids = [reported[name]["token_ids"] for name in names]
        ended = [ids if ids[-1] == END else [*ids, END] for ids in drawn_ids]
        asked = encode_prompt(tokenizer, pair.messages)
        both = first[content_id([asked, *ended])]  # the pair has these ids and no others
        for name, logp, ids in zip(names, both, ended, strict=True):
            expected = sum(reported[name]["logprobs"])
            if len(ids) > len(reported[name]["token_ids"]):  # the limit cut it; its end was never drawn
                expected += end_logp(model, asked + ids)
            assert logp == pytest.approx(expected, abs=1e-3)
            compared += 1
    assert compared >= 8


def end_logp(model: Path, ids: list[int]) -> float:
    from align.train.checkpoint import load_model
    from align.train.verifying import sequence_logps

    return float(sequence_logps(load_model(model, "float32"), [(ids[:-1], ids[-1:])])[0])


def test_encoding_again_would_have_given_others_and_still_does_without_tokens(
    model: Path, prompts: list[Prompt], drawn: tuple[Path, list[Candidate]], tmp_path: Path
) -> None:
    folder, rows = drawn
    pairs = pairs_of(prompts, rows)
    told, first = train(model, pairs, tmp_path / "old")
    assert told["answers"] == {"as_sampled": 0, "encoded": len(rows)}
    _, sampled = train(model, pairs, tmp_path / "sampled", tokens=read_tokens([folder]))
    assert not first.keys() & sampled.keys(), "a model of random weights does not draw a text's usual tokens"


def test_best_of_n_learns_the_tokens_that_it_drew(model: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    config = BestOfN(samples=4, max_tokens=60, max_prompt_tokens=100, type="transformers", learning_rate=1e-3, epochs=1)
    told = train_best_of_n(
        model, prompts, config, score=lambda _, answers: [float(len(a)) for a in answers], seed=3, dtype="float32",
        report_to=[], threads=1, out=tmp_path / "out", work=tmp_path / "work",
    )  # fmt: skip
    answers = read_table(tmp_path / "out/candidates.parquet").to_pylist()
    kept = read_tokens([tmp_path / "out"])
    assert kept["candidate"].to_pylist() == [answer["id"] for answer in answers]
    whole = {a["id"]: len(a["text"]) for a in answers if a["finish"] == "stop"}
    ids = dict(zip(kept["candidate"].to_pylist(), kept["token_ids"].to_pylist(), strict=True))
    best = [
        max((a["id"] for a in answers if a["id"] in whole and a["prompt_id"] == p.id), key=whole.get, default=None)
        for p in prompts
    ]
    clean = [name for name in best if name is not None and ids[name][-1] == END and not set(ids[name][:-1]) & CONTROL]
    assert told["answers"] == {"as_sampled": len(clean), "encoded": told["rows"] - len(clean)}
    assert clean


def test_kto_and_reward_models_train_on_them_too(
    model: Path, prompts: list[Prompt], drawn: tuple[Path, list[Candidate]], tmp_path: Path
) -> None:
    folder, rows = drawn
    tokens, messages = read_tokens([folder]), {p.id: p.messages for p in prompts}
    binary = [
        BinaryLabel(c.id, c.prompt_id, messages[c.prompt_id], c.id, c.text, n % 2, 1.0, 1, [])
        for n, c in enumerate(rows)
    ]
    common: dict[str, Any] = {"seed": 1, "dtype": "float32", "report_to": [], "threads": 1, "tokens": tokens}
    kto = train_kto(model, binary, Kto(batch_size=4), out=tmp_path / "k", work=tmp_path / "kw", **common)
    told = train_reward(
        model, pairs_of(prompts, rows), RewardModel(batch_size=4), out=tmp_path / "r", work=tmp_path / "rw", **common
    )
    clean = sum(not set(ids[:-1]) & CONTROL for ids in tokens["token_ids"].to_pylist())
    assert kto["answers"] == told["answers"] == {"as_sampled": clean, "encoded": len(rows) - clean}
    assert clean > len(rows) / 2
