"""Ensembles on a tiny model: their mean is the single model, a bound acts on answers, folders are whole."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from align.config.training import Lora
from align.errors import ConfigError
from align.store import folder_files, read_json
from align.types import Preference
from reward.ensemble import EnsembleScorer
from reward.load import load_scorer
from reward.members import FUNCTIONS, SUMMARY
from reward.model import ModelScorer
from reward.terms import RewardTerm, rewards_id, scorer_of
from tests.integration.test_train_reward import GOOD, PAIRS, stop_at, train
from tests.tiny import make_tiny_model, make_tiny_reward_model

MEMBERS = 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("ensemble") / "model", vocab_words=GOOD.split())


@pytest.fixture(scope="module")
def judges(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("judges")
    assert train(tiny, at, PAIRS, epochs=6, members=MEMBERS)["reload_score_difference"] < 1e-4
    return at / "out"


def both(folder: Path, rows: list[Preference]) -> list[tuple[list[float], list[float]]]:
    """All members' scores of chosen and rejected."""
    scorer, messages = EnsembleScorer(folder), [row.messages for row in rows]
    found = [scorer.members(messages, [getattr(row, side) for row in rows]) for side in ("chosen", "rejected")]
    assert None not in found[0] + found[1]
    return list(zip(*found, strict=True))  # type: ignore[arg-type]


def test_the_mean_is_the_model_that_is_trained_without_members(tiny: Path, judges: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path, PAIRS, epochs=6)
    messages, answers = [row.messages for row in PAIRS], [row.chosen for row in PAIRS]
    alone = ModelScorer(tmp_path / "out").score(messages, answers)
    assert EnsembleScorer(judges).score(messages, answers) == pytest.approx(alone, abs=1e-5)


def test_a_score_is_the_mean_less_the_bound(judges: Path) -> None:
    messages, answers = [row.messages for row in PAIRS], [row.chosen for row in PAIRS]
    scorers = {bound: load_scorer(judges, dtype="float32", threads=1, bound=bound) for bound in (0.0, 1.0, 2.5)}
    members = EnsembleScorer(judges).members(messages, answers)
    for bound, scorer in scorers.items():
        for found, row in zip(scorer.score(messages, answers), members, strict=True):
            assert row is not None
            assert len(row) == MEMBERS
            assert stdev(row) > 1e-3
            assert found == pytest.approx(fmean(row) - bound * stdev(row), abs=1e-5)
    too_long = EnsembleScorer(judges).members(messages[:1], ["word " * 600])
    assert too_long == [None]
    assert scorers[1.0].score(messages[:1], ["word " * 600]) == [None]
    part = RewardTerm(str(judges), 2.0, 1.0)
    (weighted,) = scorer_of([part], dtype="float32", threads=1).score(messages[:1], answers[:1])
    (alone,) = scorers[1.0].score(messages[:1], answers[:1])
    assert alone is not None
    assert weighted == pytest.approx(2 * alone)
    assert rewards_id([part]) != rewards_id([RewardTerm(str(judges), 2.0)])


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)])
def test_it_learns_and_publishes_one_whole_folder(tiny: Path, tmp_path: Path, lora: Lora | None) -> None:
    from transformers import AutoModelForSequenceClassification

    metrics = train(tiny, tmp_path, PAIRS, epochs=12, lora=lora, members=MEMBERS, held_out=0.2)
    assert metrics["reload_score_difference"] < 1e-4
    assert metrics["held_out"]["accuracy"]["mean"] > 0.9
    assert read_json(tmp_path / "out/config.json")["architectures"] == ["LlamaForSequenceClassification"]
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert model.score.weight.shape == (1, 64)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(len(a) == MEMBERS and fmean(a) - fmean(b) > 1 for a, b in both(tmp_path / "out", PAIRS))
    names = set(folder_files(tmp_path / "out"))
    assert {"members.json", "members/functions.safetensors"} <= names
    assert ("adapter/adapter_model.safetensors" in names) == (lora is not None)


def test_a_stopped_run_ends_with_the_same_bytes(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from align.train import loop

    settings: dict[str, Any] = {"members": MEMBERS, "length_head": True, "epochs": 4, "trainer": {"logging_steps": 1}}
    train(tiny, tmp_path / "whole", PAIRS, **settings)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(loop, "SAVE_SHARE", 1e9)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, tmp_path / "cut", PAIRS, progress=stop_at(7), **settings)
    assert list((tmp_path / "cut/work").glob("checkpoint-*"))
    train(tiny, tmp_path / "cut", PAIRS, **settings)
    for name in ("model.safetensors", "config.json", SUMMARY, FUNCTIONS):
        assert (tmp_path / "cut/out" / name).read_bytes() == (tmp_path / "whole/out" / name).read_bytes(), name


def test_one_score_is_no_ensemble(tiny: Path, judges: Path, tmp_path: Path) -> None:
    train(tiny, tmp_path, PAIRS, epochs=1)
    with pytest.raises(ConfigError, match="is no ensemble: it gives an answer one score"):
        load_scorer(tmp_path / "out", dtype="float32", threads=1, bound=1.0)
    with pytest.raises(ConfigError, match="the bound must be a number from 0 on, found -1"):
        EnsembleScorer(judges, bound=-1.0)
    with pytest.raises(ConfigError, match=r"is no reward model with one score, found .* with 3 labels"):
        ModelScorer(make_tiny_reward_model(tmp_path / "several", labels=3))
    assert isinstance(load_scorer(tmp_path / "out", dtype="float32", threads=1), ModelScorer)


def test_a_critic_begins_as_the_mean_of_the_members(tiny: Path, judges: Path) -> None:
    import torch

    from align.text import encode_answer, encode_prompt, load_tokenizer
    from align.train.checkpoint import load_model
    from align.train.critic import separate_critic

    critic, scorer = separate_critic(judges, load_model(tiny, "float32")).eval(), EnsembleScorer(judges)
    tokenizer = load_tokenizer(judges)
    ids = encode_prompt(tokenizer, PAIRS[0].messages) + encode_answer(tokenizer, PAIRS[0].messages, PAIRS[0].chosen)
    with torch.no_grad():
        values = critic(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    (expected,) = scorer.score([PAIRS[0].messages], [PAIRS[0].chosen])
    assert values[0, -1].item() == pytest.approx(expected, abs=1e-5)
