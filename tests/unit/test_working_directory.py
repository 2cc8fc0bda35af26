"""Files of the user's in the working directory that are named like our packages: no process of ours imports them."""

import importlib
import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import pytest

from align.errors import DataError
from align.pipeline import stage_worker as worker
from align.pipeline.stage import Job
from align.python import SAFE_PATH, python_module
from align.train.launch import launch_command, launch_environment

NAMES = ("reward", "annotation", "rollouts")


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder in which every import of ours would fail."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the user's {name}.py was imported')\n")
    return tmp_path


def test_a_stage_in_a_process_of_its_own(trap: Path) -> None:
    (trap / "out").mkdir()
    runtime = {"threads": 1, "path": str(trap / "no.jsonl")}
    job = Job(0, "prompts", {}, {"limit": None, "test_share": 0.2}, runtime, trap / "out")
    with chdir(trap), pytest.raises(DataError, match=r"there is no such file: .*no\.jsonl"):
        worker.run_apart("align.stages.data:prompts", job, lambda done, total: None)


@pytest.mark.parametrize(
    "module", ["rollouts.process", "rollouts.server_process", "reward.guard", "align.pipeline.stage_worker"]
)
def test_modules_that_we_start(trap: Path, module: str) -> None:
    """Each finds itself, and fails later, for it is given nothing to do."""
    done = subprocess.run(python_module(module), cwd=trap, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert "the user's" not in done.stderr
    assert importlib.util.find_spec(module) is not None


@pytest.mark.slow
def test_workers_of_torchrun(trap: Path) -> None:
    """They are started by torchrun, which hands on no option of Python's, and reach our own code."""
    order = trap / "job.json"
    order.write_text('{"job": {"inputs": {}, "out": "/nowhere", "scratch": 1}}')
    command = launch_command("align.pipeline.stage_worker", str(order), nproc=2)
    environment = {**os.environ, **launch_environment(None, nproc=2, threads=1)}
    done = subprocess.run(command, cwd=trap, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the user's" not in done.stdout + done.stderr
    assert "align.pipeline.stage_worker" in done.stderr


def test_what_such_a_process_starts_itself(trap: Path) -> None:
    program = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-m', 'reward.scorer']))"
    assert subprocess.run([sys.executable, "-c", program], cwd=trap, env={**os.environ, **SAFE_PATH}).returncode == 0


def test_python_m_align_itself(trap: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "align", "run", "no-recipe"], cwd=trap, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (2, "align: there is no recipe no-recipe; `align init` writes one\n")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_workers_of_ray(trap: Path) -> None:
    """Ray puts the driver's working directory first on the path of its workers."""
    from rollouts import ray_cluster

    with chdir(trap), ray_cluster.cluster(None, 60):
        import ray

        def place() -> str:
            return str(importlib.import_module("reward").__file__)

        assert ray.get(ray.remote(place).remote()) == str(Path(__file__).parents[2] / "reward" / "__init__.py")
