"""Ray's workers on a cluster of two nodes, on this machine: the same candidates as one process, whatever dies."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from align.config.base import Decoding, Sampling
from align.config.rollouts import Engine, Ray
from align.errors import ConfigError, ServiceError, StageError
from align.ids import content_id
from align.types import Prompt
from rollouts import ray_cluster, ray_engine
from rollouts.engine import Completion, Request
from rollouts.engines import open_generator
from rollouts.sample import sample_candidates
from tests.tiny import make_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
]
ROOT = Path(__file__).parents[2]
REQUESTS = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(1 + n)]) for n in range(24)]
OPENING = {"dtype": "float32", "max_tokens_total": 200, "threads": 1}
LONG = Sampling(max_tokens=160)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with one CPU each, on loopback."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "include_log_monitor": False}
    with ray_cluster._kept_environment(), ray_cluster._loopback():
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False, "no_monitor": True})
        cluster.add_node(**node)
        yield cluster.address
        cluster.shutdown()


def on_ray(address: str | None, *, engine: str = "transformers", **options) -> Engine:
    return Engine(type="ray", ray=Ray(**{"address": address, "engine": engine, "batch": 4, **options}))


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[list[Completion]]:
    with open_generator("transformers", checkpoint, **OPENING) as generator:
        return generator.generate(REQUESTS, LONG, samples=2, seed=4)


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.full)])
def test_two_nodes_give_the_same_candidates_as_one_process(engine: str, checkpoint: Path, address: str, tmp_path: Path):
    texts = [f"Where is order {n}?" for n in range(40)]
    messages = [[{"role": "user", "content": text}] for text in texts]
    prompts = [Prompt(content_id(m), m, "train", f"f:{n}") for n, m in enumerate(messages)]
    order = {
        "sampling": Decoding(max_tokens=24), "samples": 3, "dtype": "float32", "max_prompt_tokens": 100, "shard": 16,
        "seed": 5, "threads": 1,
    }  # fmt: skip
    one = sample_candidates(prompts, checkpoint, "c", engine=engine, out=tmp_path / "one", **order)
    two = sample_candidates(
        prompts, checkpoint, "c", engine=on_ray(address, engine=engine), out=tmp_path / "two", **order
    )
    assert one == two
    assert len(two[0]) > 100


def test_a_worker_that_dies_costs_its_batch_alone(checkpoint: Path, address: str, expected, caplog):
    with open_generator(on_ray(address), checkpoint, **OPENING) as generator:
        first = set(_workers())
        assert len(first) == 2
        threading.Timer(0.15, os.kill, (max(first), signal.SIGKILL)).start()
        assert generator.generate(REQUESTS, LONG, samples=2, seed=4) == expected
        assert generator.redone == 1
        assert (
            "a Ray worker ended and is replaced: The actor is dead because its worker process has died" in caplog.text
        )
        assert generator.generate(REQUESTS, LONG, samples=2, seed=4) == expected
        assert generator.redone == 1
    assert _until(lambda: not _workers())


@pytest.mark.full
def test_a_batch_that_ends_every_worker_ends_the_run(checkpoint: Path, address: str):
    engine = on_ray(address, workers=1).model_copy(update={"retries": 1})
    impossible = Sampling.model_construct(temperature=1.0, top_p=1.0, max_tokens=-1, logprobs=False)
    with open_generator(engine, checkpoint, **OPENING) as generator:
        with pytest.raises(
            StageError, match=r"rollouts\.ray: a batch of 4 prompts ended 2 Ray workers: ValueError"
        ) as e:
            generator.generate(REQUESTS, impossible, samples=1, seed=0)
        assert "lower" in str(e.value) or "smaller" in str(e.value)
        assert generator.generate(REQUESTS[:1], Sampling(max_tokens=2), samples=1, seed=0)[0][0].token_ids  # goes on


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_a_worker_splits_its_model_over_its_gpus(checkpoint: Path, expected):
    """The node says that it has two GPUs; as it has none, vLLM splits over two processes on CPU."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 2, "node_ip_address": "127.0.0.1", "include_log_monitor": False}
    with ray_cluster._kept_environment(), ray_cluster._loopback():
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False, "no_monitor": True})
        try:
            engine = on_ray(cluster.address, engine="vllm", workers=1, gpus=2)
            with open_generator(engine, checkpoint, **OPENING) as generator:
                assert {name.split()[0] for name in _running("VLLM::Worker_TP")} == {
                    "VLLM::Worker_TP0",
                    "VLLM::Worker_TP1",
                }
                short = Sampling(max_tokens=16)
                found = generator.generate(REQUESTS[:8], short, samples=2, seed=4)
            assert _until(lambda: not _running("VLLM::Worker_TP"))
        finally:
            cluster.shutdown()
    for several, longer in zip(found, expected[:8], strict=True):
        assert [c.token_ids for c in several] == [c.token_ids[:16] for c in longer]


def test_another_checkpoint_on_another_node_is_found(checkpoint: Path, address: str, monkeypatch):
    monkeypatch.setattr(ray_engine, "checkpoint_id", lambda folder: "what it was")
    with pytest.raises(
        ConfigError, match=r"the Ray node \S+ has another checkpoint there; let the run lie where every"
    ):
        open_generator(on_ray(address), checkpoint, **OPENING).__enter__()
    assert _until(lambda: not _workers())


def test_too_little_room_is_said_with_what_there_is(checkpoint: Path, address: str):
    says = (
        r"3 workers of 1 CPU and 0 GPU were asked for, and [0-2] found room; "
        r"the cluster has 127\.0\.0\.1: 1 CPU, 0 GPU; 127\.0\.0\.1: 1 CPU, 0 GPU; ask for less"
    )
    with pytest.raises(ServiceError, match=says):
        open_generator(on_ray(address, workers=3, patience=4), checkpoint, **OPENING).__enter__()
    assert _until(lambda: not _workers())


def test_no_cluster_at_the_address(checkpoint: Path):
    with pytest.raises(ServiceError, match=r"at 127\.0\.0\.1:1: .*refused; run on one of its nodes"):
        open_generator(on_ray("127.0.0.1:1"), checkpoint, **OPENING).__enter__()


def test_something_else_at_the_address():
    """Ray would ask it for a quarter of an hour; the process can leave all the same."""
    code = "import sys; from rollouts.ray_cluster import cluster; cluster(sys.argv[1], 2).__enter__()"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", code, address], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert f"no Ray cluster answers at {address}: nothing after 2 s" in done.stderr


def test_a_cluster_of_our_own_is_ours_alone():
    """On loopback, with a token that no listing of processes shows, and gone without a trace."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    environment = dict(os.environ)
    with ray_cluster.cluster(None, 60) as own:
        assert own
        token = os.environ["RAY_AUTH_TOKEN"]
        assert len(token) == 64
        sockets = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
        bound = [line.split()[3] for line in sockets if any(name in line for name in ("raylet", "gcs_server", "ray::"))]
        assert len(bound) >= 4
        assert all("127.0.0.1" in address for address in bound), bound
        listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "gcs_server" in listed and token not in listed
        gcs = ray.get_runtime_context().gcs_address
        stranger = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        code = f"import ray; ray._raylet.GcsClient(address={gcs!r})"
        refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=stranger, timeout=60)
        assert "AuthenticationError" in refused.stderr
        (folder,) = Path(ray_cluster._short_folder()).glob(f"align-ray-{os.getpid()}-*")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert dict(os.environ) == environment
    assert _until(lambda: not _running(folder.name))


@pytest.mark.full
def test_a_cluster_of_our_own_says_at_once_what_it_cannot_hold(checkpoint: Path):
    began = time.monotonic()
    with pytest.raises(ServiceError, match=r"1 workers of 1 CPU and 1 GPU were asked for, and 0 found room"):
        open_generator(on_ray(None, workers=1, gpus=1), checkpoint, **OPENING).__enter__()
    assert time.monotonic() - began < 60


@pytest.mark.full
def test_a_kill_leaves_nothing(checkpoint: Path):
    """Neither processes nor, after the next start, a folder."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.integration.test_ray_engine import OPENING, on_ray\n"
        "from rollouts.engine import open_generator\n"
        "with open_generator(on_ray(None, workers=1), Path(sys.argv[1]), **OPENING): print('open', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(checkpoint)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    home = Path(ray_cluster._short_folder())
    (folder,) = home.glob(f"{ray_cluster.PREFIX}{child.pid}-*")
    child.kill()
    child.wait()
    assert _until(lambda: not _running(folder.name), seconds=120)  # Ray's own helpers look once in a while
    assert folder.exists()
    ray_cluster._remove_left_behind(str(home))
    assert not folder.exists()


def test_without_ray_the_way_out_is_said(monkeypatch):
    from rollouts.engine import resolve_engine

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"rollouts\.type: Ray is not installed; pip install 'align-rounds\[ray\]'"):
        resolve_engine("ray")


def test_a_shard_has_work_for_every_worker():
    with pytest.raises(
        ValueError, match="8 workers that take 32 prompts at a time need a `shard` of 256 at least, found"
    ):
        Engine(type="ray", ray=Ray(workers=8))


def _workers() -> list[int]:
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ray::_Engine" in line]


def _running(name: str) -> list[str]:
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if name in line]


def _until(holds: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
