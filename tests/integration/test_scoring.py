"""Scores of many answers: in order, kept by content, the same after any kill."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from align.errors import ConfigError
from reward import scoring
from reward.load import load_scorer
from reward.members import member_count
from reward.model import ModelScorer
from reward.scoring import KeptScorer, engine_for
from reward.terms import RewardTerm, scorer_of
from tests.tiny import make_tiny_model, make_tiny_reward_model

ROOT = Path(__file__).parents[2]
PROMPTS = [[{"role": "user", "content": f"Where is parcel {n % 7}?"}] for n in range(40)]
ANSWERS = [f"late {'very ' * (n % 11)}{n // 2}" for n in range(40)]


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Path:
    return make_tiny_reward_model(tmp_path_factory.mktemp("judge") / "model")


class Counting(ModelScorer):
    """Keeps what every model of the test was asked."""

    asked: list[list[str]] = []

    def outputs(self, prompts, answers):
        self.asked.append(list(answers))
        return super().outputs(prompts, answers)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    monkeypatch.setattr(scoring, "ModelScorer", Counting)
    monkeypatch.setattr(Counting, "asked", [])
    return Counting.asked


def kept(judge: Path, cache: Path, **changes) -> KeptScorer:
    return KeptScorer(judge, **{"dtype": "float32", "threads": 1, "cache": cache, "shard": 16} | changes)


def test_scores_in_order_and_those_of_the_model(judge: Path, tmp_path: Path, asked: list[list[str]]) -> None:
    told: list[tuple[int, int]] = []
    found = kept(judge, tmp_path, progress=lambda *at: told.append(at)).score(PROMPTS, ANSWERS)
    assert found == pytest.approx(ModelScorer(judge, threads=1).score(PROMPTS, ANSWERS), abs=1e-5)
    assert len({round(score, 4) for score in found if score is not None}) > 30
    assert [len(answers) for answers in asked] == [16, 16, 8]
    assert [answer for answers in asked for answer in answers] == ANSWERS
    assert told == [(0, 40), (16, 40), (32, 40), (40, 40)]


def test_nobody_scores_an_answer_twice(judge: Path, tmp_path: Path, asked: list[list[str]]) -> None:
    first = kept(judge, tmp_path).score(PROMPTS[:20], ANSWERS[:20])
    assert kept(judge, tmp_path).score(PROMPTS[:20], ANSWERS[:20]) == first
    assert sum(map(len, asked)) == 20
    more = kept(judge, tmp_path).score([*PROMPTS, PROMPTS[0]], [*ANSWERS, ANSWERS[0]])
    assert more[:20] == first
    assert more[40] == first[0]
    assert sorted(a for answers in asked for a in answers) == sorted(ANSWERS)
    assert kept(judge, tmp_path, shard=5).score(PROMPTS[::-1], ANSWERS[::-1]) == more[:40][::-1]
    assert sum(map(len, asked)) == 40


def test_other_models_and_number_types_are_kept_apart(judge: Path, tmp_path: Path, asked: list[list[str]]) -> None:
    other = make_tiny_reward_model(tmp_path / "other", seed=1)
    here = tmp_path / "kept"
    found = [kept(model, here, dtype=dtype).score(PROMPTS[:3], ANSWERS[:3])
             for model, dtype in ((judge, "float32"), (other, "float32"), (judge, "bfloat16"))]  # fmt: skip
    assert len(asked) == 3
    assert found[0] != found[1]
    assert found[0] == pytest.approx(found[2], abs=0.05)
    assert sorted(str(p.relative_to(here)).count("/") for p in here.rglob("*.parquet")) == [2, 2, 2]


def test_what_the_model_cannot_read_has_a_reason_and_is_kept_too(judge: Path, tmp_path: Path, asked) -> None:
    for _ in range(2):
        long, fine = kept(judge, tmp_path).outputs(PROMPTS[:2], ["word " * 600, "fine"])
        assert isinstance(long, str)
        assert long.startswith("longer than the reward model's context (")
        assert isinstance(fine, list)
        assert kept(judge, tmp_path).score(PROMPTS[:2], ["word " * 600, "fine"]) == [None, fine[0]]
    assert len(asked) == 1
    assert kept(judge, tmp_path).score([], []) == []


def test_an_answer_differs_by_its_prompt(judge: Path, tmp_path: Path) -> None:
    one, other = kept(judge, tmp_path).score(PROMPTS[:2], ["late", "late"])
    assert one != other


def test_a_file_that_is_not_whole_is_scored_again(judge: Path, tmp_path: Path) -> None:
    before = kept(judge, tmp_path).score(PROMPTS[:2], ANSWERS[:2])
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:40])
    assert kept(judge, tmp_path).score(PROMPTS[:2], ANSWERS[:2]) == before
    assert list(tmp_path.rglob("*.parquet")) == [file]


def test_parts_that_a_killed_process_left_are_removed(judge: Path, tmp_path: Path) -> None:
    kept(judge, tmp_path).score(PROMPTS[:2], ANSWERS[:2])
    (file,) = tmp_path.rglob("*.parquet")
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, living = (file.with_name(f".x.{pid}.partial") for pid in (ended.pid, os.getpid()))
    for part in (dead, living):
        part.touch()
    kept(judge, tmp_path).score(PROMPTS[:3], ANSWERS[:3])
    assert (dead.exists(), living.exists()) == (False, True)


def test_where_scores_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ALIGN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert scoring.scores_folder() == tmp_path / "align" / "scores"
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "mine"))
    assert scoring.scores_folder() == tmp_path / "mine" / "scores"


def test_a_folder_says_what_it_is(judge: Path, tmp_path: Path) -> None:
    assert [member_count(make_tiny_reward_model(tmp_path / str(n), members=n)) for n in (2, 5)] == [2, 5]
    assert member_count(judge) == 1
    assert isinstance(load_scorer(judge, dtype="float32", threads=1), ModelScorer)
    policy = make_tiny_model(tmp_path / "policy")
    assert member_count(policy) == 1
    with pytest.raises(ConfigError, match="is no reward model with one score, found no weights"):
        kept(policy, tmp_path)
    with pytest.raises(ConfigError, match="is no ensemble"):
        kept(judge, tmp_path, bound=1.0)


def test_an_ensemble_is_the_mean_of_its_members_less_the_bound(tmp_path: Path) -> None:
    ensemble = make_tiny_reward_model(tmp_path / "ensemble", members=3)
    rows = kept(ensemble, tmp_path).outputs(PROMPTS[:4], ANSWERS[:4])
    means = [statistics.fmean(row) for row in rows]
    assert kept(ensemble, tmp_path).score(PROMPTS[:4], ANSWERS[:4]) == pytest.approx(means)
    bounded = [mean - 2 * statistics.stdev(row) for mean, row in zip(means, rows, strict=True)]
    assert kept(ensemble, tmp_path, bound=2.0).score(PROMPTS[:4], ANSWERS[:4]) == pytest.approx(bounded)


def test_best_of_n_keeps_its_scores(judge: Path, asked: list[list[str]]) -> None:
    parts = [RewardTerm(str(judge), 2.0)]
    found = [scorer_of(parts, dtype="float32", threads=1, keep=True).score(PROMPTS[:6], ANSWERS[:6]) for _ in range(2)]
    assert found[0] == found[1]
    assert sum(map(len, asked)) == 6
    at_once = scorer_of(parts, dtype="float32", threads=1).score(PROMPTS[:6], ANSWERS[:6])
    assert found[0] == pytest.approx(at_once, abs=1e-5)
    assert sum(map(len, asked)) == 6, "without `keep` nothing is looked up"


def test_which_engine_is_worth_its_start(judge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert [engine_for(judge, count) for count in (1, 10**6)] == ["transformers", "vllm"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert engine_for(judge, 10**6) == "transformers"
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        kept(judge, judge, engine="vllm")


def test_what_vllm_refuses_is_scored_by_transformers_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = make_tiny_reward_model(tmp_path / "narrow", head_dim=8)
    monkeypatch.setattr(scoring, "engine_for", lambda folder, answers: "vllm")
    assert None not in kept(narrow, tmp_path).score(PROMPTS[:3], ANSWERS[:3])
    assert "head_dim is 8" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="head_dim is 8"):
        kept(narrow, tmp_path, engine="vllm").score(PROMPTS[:3], ANSWERS[:3])


# Kills: a process that has all libraries starts the ones that score, and kills them.

MANY = 400


def many() -> tuple[list[list[dict[str, str]]], list[str]]:
    draw = random.Random(0)
    prompts = [[{"role": "user", "content": f"Where is parcel {n // 4}?"}] for n in range(MANY)]
    return prompts, [" ".join(str(draw.random()) for _ in range(draw.randint(1, 6))) for _ in range(MANY)]


def score_many(judge: Path, cache: Path) -> None:
    KeptScorer(judge, dtype="float32", threads=1, cache=cache, shard=16).score(*many())


def tables(cache: Path) -> dict[str, tuple[int, int]]:
    """Each shard with what a second writing would change."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in cache.rglob("*.parquet")}


def killed_at_random(judge: str, folder: str, kills: str) -> None:
    """Score with `kills` kills in all, from the start again whenever everything is scored; then to the end."""
    import torch

    torch.set_num_threads(1)
    draw, done, number = random.Random(1), 0, 0
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(_child(judge, Path(folder, "whole"))()) == 0
    whole, expected = time.monotonic() - began, _contents(Path(folder, "whole"))
    while done < int(kills):
        cache, seen, ended = Path(folder, str(number)), dict[str, tuple[int, int]](), False
        while not ended:
            wait = _child(judge, cache)
            if done < int(kills):
                time.sleep(draw.uniform(0, 0.5 * whole))
                os.kill(_child.pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(wait())
            done += code == -signal.SIGKILL
            ended = code == 0
            now = tables(cache)
            assert seen.items() <= now.items(), "a shard was done twice"
            seen = now
        assert _contents(cache) == expected
        number += 1
    print(f"{done} kills, {number} times scored to the end")


def _child(judge: str, cache: Path):
    """Fork a process that scores; gives what waits for its status."""
    pid = os.fork()
    if pid == 0:
        score_many(Path(judge), cache)
        os._exit(0)
    _child.pid = pid
    return lambda: os.waitpid(pid, 0)[1]


def _contents(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.rglob("*.parquet")}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.full)])
def test_kills_at_random_moments_change_nothing(judge: Path, tmp_path: Path, kills: int) -> None:
    code = "import sys; from tests.integration.test_scoring import killed_at_random as f; f(*sys.argv[1:])"
    command: Sequence[str] = [sys.executable, "-c", code, str(judge), str(tmp_path), str(kills)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{kills} kills")
