"""vLLM itself on a tiny model: the same samples in every process, no traces left, the same model as transformers'."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.errors import ConfigError
from rollouts.engine import Completion, Request
from rollouts.engines import open_generator
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
ROOT = Path(__file__).parents[2]
RAGGED = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in (5, 1, 170, 3, 9)]
# together far more tokens than one forward pass takes
LONG = [Request(f"long{n}", [10 + (n * i) % 240 for i in range(150 + n)]) for n in range(40)]
SAMPLING = Sampling(max_tokens=24)
CHILD = "import sys; from tests.integration.test_vllm_engine import child; child(*sys.argv[1:])"


def child(checkpoint: str, first_too: str, result: str) -> None:
    """Sample in this process, with or without an earlier shard, and write down what was seen."""
    import torch

    torch.set_num_threads(2)
    environment, seen = dict(os.environ), {}
    for name in ("once", "again"):
        with open_generator("vllm", Path(checkpoint), dtype="float32", max_tokens_total=224, threads=1) as generator:
            if first_too == "yes":
                generator.generate(RAGGED, SAMPLING, samples=2, seed=4)
                seen["greedy"] = _plain(
                    generator.generate(RAGGED, Sampling(max_tokens=8, temperature=0), samples=1, seed=0)
                )
            seen[name] = _plain(generator.generate(LONG, SAMPLING, samples=3, seed=4))
            seen["ragged"] = _plain(generator.generate(RAGGED, SAMPLING, samples=2, seed=4))
            seen["children"] = _children(os.getpid())
            if result == "hang":
                print("generating", flush=True)
                generator.generate(LONG * 1000, Sampling(max_tokens=32), samples=1, seed=0)
    try:
        strange = Path(checkpoint).with_name("strange")
        with open_generator("vllm", strange, dtype="float32", max_tokens_total=224, threads=1):
            pass
    except ConfigError as refusal:
        seen["refused"] = str(refusal)
    changed = {k for k in environment | os.environ if environment.get(k) != os.environ.get(k)}
    seen |= {"changed": sorted(changed), "threads": torch.get_num_threads()}
    Path(result).write_text(json.dumps(seen))


def _plain(rows: list[list[Completion]]) -> list[list[list[object]]]:
    return [[[c.token_ids, c.finish] for c in several] for several in rows]


def _children(pid: int) -> list[str]:
    return [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    defaults = {"do_sample": True, "temperature": 0.01, "top_k": 1, "max_new_tokens": 2}  # must not act
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(0, 260, 20)), **defaults}))
    strange = shutil.copytree(folder, folder.with_name("strange"))
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchForCausalLM"]}))
    return folder


@pytest.fixture(scope="module")
def runs(checkpoint: Path, tmp_path_factory) -> list[dict]:
    """What two processes saw; the second one did not sample an earlier shard."""
    files = [tmp_path_factory.mktemp("result") / "seen.json" for _ in range(2)]
    for file, first_too in zip(files, ("yes", "no"), strict=True):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(checkpoint), first_too, str(file)],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "ERROR" not in done.stderr
    return [json.loads(file.read_text()) for file in files]


def test_samples_are_the_same_in_every_process_and_after_any_shard(runs: list[dict]):
    one, other = runs
    assert one["once"] == one["again"] == other["once"]
    assert one["ragged"] == other["ragged"]
    texts = [json.dumps(sample) for several in one["once"] for sample in several]
    assert len(set(texts)) > 100, "samples of one prompt have different seeds"


def test_answers_end_with_one_stop_token(runs: list[dict]):
    stops = {*range(0, 260, 20), 2}
    samples = [sample for several in runs[0]["once"] for sample in several]
    assert {finish for _, finish in samples} == {"stop", "length"}
    for ids, finish in samples:
        assert not stops & set(ids[:-1])
        assert (ids[-1] in stops) == (finish == "stop")
        assert len(ids) == 24 or finish == "stop"


def test_transformers_gives_the_same_samples(runs: list[dict], checkpoint: Path):
    with open_generator("transformers", checkpoint, dtype="float32", max_tokens_total=224, threads=1) as generator:
        greedy = generator.generate(RAGGED, Sampling(max_tokens=8, temperature=0), samples=1, seed=0)
        sampled = generator.generate(RAGGED, SAMPLING, samples=2, seed=4)
    assert runs[0]["greedy"] == _plain(greedy)
    assert runs[0]["ragged"] == _plain(sampled)  # on CPU both draw alike: largest probability / exponential noise


def test_a_model_that_vllm_does_not_know_is_refused_in_a_sentence(runs: list[dict]):
    says = (
        "vLLM cannot serve this model (Model architectures ['NoSuchForCausalLM'] are not supported for now); "
        "use `rollouts.type: transformers`"
    )
    for seen in runs:
        assert seen["refused"].endswith(f"strange/config.json: {says}")


def test_nothing_is_left_behind(runs: list[dict]):
    for seen in runs:
        assert seen["children"] == []
        assert seen["changed"] == []
        assert seen["threads"] == 2


def test_a_kill_leaves_no_process(checkpoint: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(checkpoint), "no", "hang"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "generating\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ProcessLookupError):  # its session is empty
        os.killpg(process.pid, 0)
