"""Engines in processes of their own: deaths cost a batch, kills change nothing."""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.config.rollouts import Engine, Rollouts
from align.errors import ConfigError, StageError
from align.types import Prompt, prompt_id
from rollouts.engine import Request
from rollouts.engines import open_generator
from rollouts.process import engine_process
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
REQUESTS = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in (5, 1, 17, 3, 9)]
SAMPLING = Sampling(max_tokens=12, temperature=0.8, logprobs=True)
TRANSFORMERS = Engine(type="transformers")
NO_VLLM = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def opened(checkpoint: Path, *, tokens: int = 64, retries: int = 1):
    section = Rollouts(type="transformers")  # a recipe's: it says more than the engine takes
    return engine_process(
        section, checkpoint, dtype="float32", max_tokens_total=tokens, threads=1, retries=retries
    )  # fmt: skip


def test_an_engine_that_is_killed_is_replaced_and_nothing_changes(checkpoint: Path, caplog):
    with open_generator(TRANSFORMERS, checkpoint, dtype="float32", max_tokens_total=64, threads=1) as generator:
        expected = generator.generate(REQUESTS, SAMPLING, samples=2, seed=4)
    with opened(checkpoint) as process:
        first, second = (process.submit(REQUESTS, SAMPLING, samples=2, seed=seed) for seed in (4, 5))
        assert first() == expected
        assert caplog.records == []
        pid = process._child.pid
        process._child.send_signal(signal.SIGKILL)
        third = process.submit(REQUESTS, SAMPLING, samples=2, seed=4)
        assert third() == expected
        assert second() != expected
        assert process._child.pid != pid
        assert [r.getMessage() for r in caplog.records] == [
            "the engine died (its process was ended by SIGKILL, perhaps for want of memory); a fresh one takes its batch again"
        ]
    with pytest.raises(ProcessLookupError):
        os.kill(process._child.pid, 0)


def test_a_batch_that_kills_every_engine_is_an_error_with_its_reason(checkpoint: Path):
    poison = [Request("poison", [10_000])]  # no such token
    with opened(checkpoint, retries=0) as process:
        before = process.submit(REQUESTS[:1], SAMPLING, samples=1, seed=4)
        dies = process.submit(poison, SAMPLING, samples=1, seed=4)
        assert len(before()[0][0].token_ids) == 12
        with pytest.raises(StageError, match=r"died of the same batch 1 times: IndexError: .*; lower rollouts\.cpu"):
            dies()


def test_what_the_engine_refuses_is_said_here(checkpoint: Path):
    says = "may take 513 tokens, but the model's context holds 512"
    with opened(checkpoint, tokens=513) as process, pytest.raises(ConfigError, match=says):
        process.generate(REQUESTS, SAMPLING, samples=1, seed=4)


CHILD = "import sys; from tests.integration.test_rollouts_process import child; child(*sys.argv[1:])"
SHARDS = 8


def child(kind: str, checkpoint: str, out: str) -> None:
    """Sample eight shards; each costs some forward passes."""
    from align.store import write_rows
    from align.types import as_dict
    from rollouts.sample import sample_candidates

    messages = [[{"role": "user", "content": f"{n} prompt"}] for n in range(SHARDS * 4)]
    rows, _ = sample_candidates(
        [Prompt(prompt_id(m), m, "train", "made") for m in messages], Path(checkpoint), "model",
        sampling=Sampling(max_tokens=64), samples=4, engine=Engine(type=kind, shard=4), dtype="float32",
        max_prompt_tokens=128, shard=4, seed=7, threads=1, max_resamples=1, logprobs=True, tokens=Path(out) / "tokens.parquet",
        out=Path(out),
    )  # fmt: skip
    write_rows(Path(out) / "candidates.jsonl", map(as_dict, rows))


def start(kind: str, checkpoint: Path, out: Path) -> subprocess.Popen:
    out.mkdir(exist_ok=True)
    order = [sys.executable, "-c", CHILD, kind, str(checkpoint), str(out)]
    with (out / "log").open("a") as log:
        return subprocess.Popen(order, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def shards(out: Path) -> dict[str, tuple[int, int]]:
    """Name → inode and time, which a shard that is written again cannot keep."""
    found = {f.name: f.stat() for f in out.rglob("0*.parquet")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


def same(out: Path, whole: Path) -> None:
    names = {f.relative_to(whole) for f in whole.rglob("*.parquet")} | {Path("candidates.jsonl")}
    assert names == {f.relative_to(out) for f in out.rglob("*.parquet")} | {Path("candidates.jsonl")}
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def kill_at_random(kind: str, checkpoint: Path, folder: Path, kills: int) -> None:
    """Kill runs `kills` times at random moments, most of them while they draw, and let each go on until it is whole."""
    whole, began, draw = folder / "whole", time.time(), random.Random(kills)
    assert start(kind, checkpoint, whole).wait() == 0, (whole / "log").read_text()
    times = sorted(time for _, time in shards(whole).values())
    assert len(times) == SHARDS
    first, last = times[0] / 1e9 - began, times[-1] / 1e9 - began
    done, run = 0, 0
    while done < kills:
        out, process = folder / f"run-{run}", start(kind, checkpoint, folder / f"run-{run}")
        there, began = shards(out), time.time()
        try:
            code = process.wait(draw.uniform(first / 2, last))
            if not there:  # it drew every shard, sooner than the first run did: this machine has less to do than it had
                last = max(first, time.time() - began)
        except subprocess.TimeoutExpired:
            process.kill()  # its engine's process ends by itself
            code = process.wait()
            done += 1
        assert there.items() <= shards(out).items(), "a shard was done twice"
        if code == 0:
            same(out, whole)
            run += 1
    assert start(kind, checkpoint, folder / f"run-{run}").wait() == 0
    same(folder / f"run-{run}", whole)


def test_kills_at_random_moments(checkpoint: Path, tmp_path: Path):
    kill_at_random("transformers", checkpoint, tmp_path, kills=2)


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=NO_VLLM)])
def test_twenty_kills_at_random_moments(checkpoint: Path, tmp_path: Path, kind: str):
    kill_at_random(kind, checkpoint, tmp_path, kills=20)
