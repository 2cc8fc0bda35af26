"""Scoring in vLLM's pooling runner: the numbers of transformers, for one score and for an ensemble's; no traces left."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from align.errors import ConfigError
from reward.load import load_scorer
from reward.model import ModelScorer
from reward.scoring import KeptScorer
from reward.vllm_scorer import VllmModel, cpu_options
from tests.tiny import make_tiny_model, make_tiny_reward_model

ROOT = Path(__file__).parents[2]
INSTALLED = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def answers(count: int, most: int) -> tuple[list[list[dict[str, str]]], list[str]]:
    """Four to each prompt, of up to `most` words of several tokens."""
    draw = random.Random(0)
    prompts = [
        [{"role": "user", "content": f"Where is parcel {n // 4}, {'please ' * (n // 8)}?"}] for n in range(count)
    ]
    return prompts, [" ".join(str(draw.random())[:6] for _ in range(draw.randint(0, most))) for _ in range(count)]


def child(folder: str) -> None:
    """Score in this process by both engines, and write down what was seen."""
    import torch

    torch.set_num_threads(1)
    environment, seen = dict(os.environ), {}
    for members in (1, 5):
        judge, found = Path(folder, str(members)), {}
        for engine in ("transformers", "vllm"):
            scorer = ModelScorer(judge, threads=1, engine=engine)
            short = scorer.outputs(*answers(40, 9))
            long = scorer.outputs(*answers(3, 200))  # some are longer than vLLM was started for, some than it can read
            found[engine] = [short, long, scorer.outputs([], []), scorer.outputs(*answers(1, 0))]
            scorer.close()
        seen[str(members)] = found
    scorer = load_scorer(Path(folder, "5"), engine="vllm", dtype="float32", threads=1)
    seen["mean"] = scorer.score(*answers(40, 9))
    kept = KeptScorer(
        Path(folder, "1"), engine="vllm", dtype="float32", threads=1, cache=Path(folder, "kept"), shard=16
    )
    seen["kept"] = kept.outputs(*answers(40, 9))
    changed = [k for k in environment | os.environ if environment.get(k) != os.environ.get(k)]
    seen |= {"changed": changed, "threads": torch.get_num_threads()}
    Path(folder, "seen.json").write_text(json.dumps(seen))


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("judges")
    for members in (1, 5):
        make_tiny_reward_model(folder / str(members), members=members)
    code = "import sys; from tests.integration.test_vllm_scorer import child; child(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "seen.json").read_text())


@INSTALLED
@pytest.mark.slow
@pytest.mark.parametrize("members", [1, 5])
def test_the_numbers_are_those_of_transformers(seen: dict, members: int) -> None:
    ours, theirs = (seen[str(members)][engine] for engine in ("vllm", "transformers"))
    for mine, other in zip(ours, theirs, strict=True):
        assert [len(row) for row in mine if isinstance(row, list)] == [members] * sum(
            isinstance(r, list) for r in other
        )
        for a, b in zip(mine, other, strict=True):
            assert a == (b if isinstance(b, str) else pytest.approx(b, abs=1e-4))
    assert ours[2] == []
    firsts = [row[0] for row in ours[0]]
    assert any(not 0 <= score <= 1 for score in firsts), "neither a sigmoid nor a softmax"
    spread = [max(row) - min(row) for row in seen["5"]["vllm"][0]]
    assert min(spread) > 0.1, "five different scores"


@INSTALLED
@pytest.mark.slow
def test_through_the_doors(seen: dict) -> None:
    means = [sum(row) / 5 for row in seen["5"]["transformers"][0]]
    assert seen["mean"] == pytest.approx(means, abs=1e-4)
    assert [row[0] for row in seen["kept"]] == pytest.approx([row[0] for row in seen["1"]["transformers"][0]], abs=1e-4)


@INSTALLED
@pytest.mark.slow
def test_nothing_is_left_behind(seen: dict) -> None:
    assert (seen["changed"], seen["threads"]) == ([], 1)


def test_folders_without_such_a_head_are_refused_before_anything_starts(tmp_path: Path) -> None:
    policy = make_tiny_model(tmp_path / "policy")
    with pytest.raises(ConfigError, match=r"is no reward model with one score, found no weights score\.weight"):
        VllmModel(policy, dtype="float32", threads=1)
    judge = make_tiny_reward_model(tmp_path / "judge", labels=2)
    with pytest.raises(ConfigError, match="found a head with 2"):
        VllmModel(judge, dtype="float32", threads=1)


def test_a_head_dim_that_vllm_cannot_do_on_cpu(tmp_path: Path) -> None:
    judge = make_tiny_reward_model(tmp_path / "judge", head_dim=8)
    with pytest.raises(ConfigError, match="head_dim is 8") as raised:
        VllmModel(judge, dtype="float32", threads=1)
    assert raised.value.hint == "score with the engine transformers"


def test_memory_on_cpu_is_that_of_one_pass() -> None:
    config = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    block = 2 * 2 * 2 * 32 * 4 * 32
    small = cpu_options(config, "float32", 512)
    assert (small["max_num_batched_tokens"], small["max_num_seqs"]) == (4096, 256)
    assert small["kv_cache_memory_bytes"] == (128 + 256 + 1) * block
    assert cpu_options(config, "float32", 8192)["max_num_batched_tokens"] == 8192
    large = cpu_options({**config, "num_hidden_layers": 32, "num_key_value_heads": 32, "head_dim": 128}, "float32", 512)
    assert large["max_num_seqs"] == 1
    assert large["kv_cache_memory_bytes"] <= 5 << 30
