"""Several processes: what they are started with, and what cannot be."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.config.training import Dpo
from align.errors import ConfigError, StageError
from align.train import arguments, launch, world


@pytest.fixture(autouse=True)
def no_group() -> None:
    """vLLM leaves its own in a process that it has sampled in."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def test_one_process_is_started_as_it_is_and_several_by_torchrun_on_loopback() -> None:
    assert launch.launch_command("a.b", "order.json", nproc=1) == [sys.executable, "-P", "-m", "a.b", "order.json"]
    found = launch.launch_command("a.b", "order.json", nproc=3)
    assert found[1:4] == ["-P", "-m", "torch.distributed.run"]
    assert {"--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=3"} <= set(found)
    assert found[-3:] == ["-m", "a.b", "order.json"]


def test_processes_share_the_threads() -> None:
    assert launch.threads_of_each(8, 2) == 4
    assert launch.threads_of_each(1, 2) == 1
    assert launch.launch_environment(None, nproc=2, threads=6)["OMP_NUM_THREADS"] == "3"
    assert launch.launch_environment(None, nproc=1, threads=6) == {"PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize(
    ("name", "kind", "variables"),
    [
        ("ddp", "MULTI_GPU", {}),
        ("fsdp2", "FSDP", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "false"}),
        ("zero3", "DEEPSPEED", {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}),
    ],
)
def test_shipped_files_say_what_accelerate_understands(
    name: str, kind: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = launch.accelerate_file(name, 2)
    assert launch._read(path)["distributed_type"] == kind
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = launch._variables(path)
    assert variables.items() <= found.items()
    assert "ACCELERATE_MIXED_PRECISION" not in found, "dtype decides"
    assert ("ACCELERATE_USE_FSDP" in found) == (name == "fsdp2")


@pytest.mark.parametrize(
    ("name", "text", "nproc", "what"),
    [
        ("ddp", None, 1, "one process needs no accelerate; give --nproc 2 or more"),
        ("fsdp3", None, 2, "there is no file 'fsdp3'; take ddp, fsdp2, zero3 or a file of your own"),
        ("mine", "num_processes: 4", 2, "num_processes is 4, and here it is 2"),
        ("mine", "num_machines: 2", 2, "num_machines is 2, and here it is 1"),
        ("mine", "- a list", 2, "this is no file of `accelerate config`"),
        ("mine", "a: [", 2, "this is no YAML"),
    ],
)
def test_a_file_that_cannot_be_meant(tmp_path: Path, name: str, text: str | None, nproc: int, what: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
        name = str(tmp_path / name)
    with pytest.raises(ConfigError) as caught:
        launch.accelerate_file(name, nproc)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("name", "gpu", "what"),
    [
        ("fsdp2", False, "FSDP needs a GPU for each process, found none; use --accelerate ddp"),
        ("zero3", False, "DeepSpeed needs a GPU for each process, found none"),
        ("zero3", True, "DeepSpeed is not installed; pip install deepspeed, or use fsdp2"),
        ("distributed_type: MEGATRON_LM", True, "distributed_type 'MEGATRON_LM' is not supported"),
        ("mixed_precision: bf16", True, "mixed_precision is 'bf16', and the model's dtype is float32"),
    ],
)
def test_what_a_file_asks_for_and_this_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, gpu: bool, what: str
) -> None:
    import torch

    path = launch.SHIPPED / f"{name}.yaml"
    if ":" in name:
        path = tmp_path / "mine.yaml"
        path.write_text(name)
    monkeypatch.setenv(launch.FILE, str(path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    before = dict(os.environ)
    with pytest.raises(ConfigError) as caught:
        launch.apply_accelerate("float32")
    assert what in str(caught.value)
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "found"),
    [(16, None, 1, (16, 1)), (16, None, 2, (8, 1)), (16, 2, 2, (2, 4)), (16, 16, 4, (4, 1)), (12, 3, 2, (3, 2))],
)
def test_a_batch_is_over_all_processes(
    monkeypatch: pytest.MonkeyPatch, batch: int, micro: int | None, processes: int, found: tuple[int, int]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    assert arguments.divided_batch(Dpo(batch_size=batch, micro_batch_size=micro)) == found
    assert found[0] * found[1] * processes == batch


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"batch_size": 16}, "dpo: 3 processes cannot share `batch_size` 16; make it a multiple of 3"),
        ({"batch_size": 12, "micro_batch_size": 3}, "`micro_batch_size` 3 does not divide the 4 rows of each process"),
    ],
)
def test_batches_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], what: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError) as caught:
        arguments.divided_batch(Dpo(**changes))
    assert what in str(caught.value)


def test_a_promise_of_others_without_a_launcher_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but no launcher started this process"):
        arguments.prepare_process(0, 1)


def test_a_verb_under_a_launcher_says_how_it_is_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ["sft", "--model", "m", "--demonstrations", "no.jsonl", "--out", str(tmp_path / "out")]
    found = CliRunner().invoke(app, arguments)
    assert isinstance(found.exception, ConfigError)
    assert "a launcher has started 2 processes of this command; start one; it starts the others" in str(found.exception)


def test_a_group_of_another_size_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="WORLD_SIZE is 2, but 1 processes have met"):
            world.join()
    finally:
        dist.destroy_process_group()


def test_a_trainer_that_runs_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `accelerate launch --cpu --num_processes 2`, which starts one and says nothing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match="2 processes were started, but the trainer knows of 1"):
        world.check_world(SimpleNamespace(accelerator=SimpleNamespace(num_processes=1)))


def test_more_processes_than_gpus_and_more_gpus_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"one process trains on one GPU, found 2; give --nproc, or choose one"):
        world.join()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"4 processes need a GPU each, found 2; give --nproc 2"):
        world.join()
