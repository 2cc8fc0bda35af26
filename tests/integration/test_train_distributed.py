"""Two processes on CPU train as one does: the same losses, the same weights, also in an incomplete last step."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from align.store import folder_files
from tests.loop import align, make_loop, write_jsonl
from tests.ranks import run_together
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow

PLAIN = {"trainer": {"optim": "sgd", "max_grad_norm": 0.0}, "learning_rate": 0.3, "batch_size": 4, "epochs": 2}
"""Plain descent: Adam would blow rounding up to a whole step."""
LOSS_TOLERANCE = 2e-6
"""Largest relative difference of a loss between one process and two: other sums, so other rounding in float32."""
WEIGHT_TOLERANCE = 1e-6
"""The same for the final weights, absolute."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("distributed") / "model", seed=3)


def trained(folder: Path, nproc: int, **asked: Any) -> Path:
    process = run_together(folder, nproc, **asked)
    assert process.wait(timeout=300) == 0, (folder / "log").read_text()
    return folder


def curve(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "out/logs/metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


def far(one: dict[str, Any], other: dict[str, Any]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


LORA = {"lora": {"r": 4}, "learning_rate": 0.3}
CASES = [
    # 11 rows in batches of 4: the last step has three, and of 9 it has one, so that a process has none
    pytest.param("dpo", 11, {"micro_batch_size": 1}, False, id="dpo"),
    pytest.param("sft", 9, {"micro_batch_size": 1}, False, id="sft", marks=pytest.mark.full),
    pytest.param("dpo", 9, {}, False, id="dpo whole", marks=pytest.mark.full),
    pytest.param("dpo", 11, LORA, False, id="dpo lora", marks=pytest.mark.full),
    pytest.param("sft", 11, LORA, False, id="sft lora", marks=pytest.mark.full),
    pytest.param("sft", 11, {}, True, id="sft fsdp2", marks=pytest.mark.full),
    pytest.param("dpo", 11, LORA, True, id="dpo lora fsdp2", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("method", "rows", "changes", "fsdp"), CASES)
def test_two_processes_are_as_one(
    tiny: Path, tmp_path: Path, method: str, rows: int, changes: dict[str, Any], fsdp: bool
) -> None:
    asked = {"model": tiny, "method": method, "rows": rows, "settings": {**PLAIN, **changes}}
    one = trained(tmp_path / "one", 1, **asked)
    two = trained(tmp_path / "two", 2, fsdp=fsdp, **asked)
    alone, together = curve(one), curve(two)
    assert [row["step"] for row in together] == [row["step"] for row in alone] == list(range(1, 7))
    for mine, other in zip(together, alone, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=LOSS_TOLERANCE)
        if method == "dpo":
            for name in ("rewards/margins", "rewards/accuracies", "logps/chosen", "num_tokens"):
                assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-4)
    assert len({row["loss"] for row in alone}) == 6
    assert far(weights(one / "out"), weights(two / "out")) < WEIGHT_TOLERANCE
    assert far(weights(one / "out"), weights(tiny)) > 0.01, "and it has learned something"
    files = set(folder_files(one / "out")) - {"metrics.json"}
    assert set(folder_files(two / "out")) - {"metrics.json"} == files, "the first process publishes, and all of it"
    assert not list(two.glob("process-1/*.safetensors")), "the other publishes nothing"
    assert not (two / "process-1/logs").exists(), "and logs nothing"


@pytest.mark.full
@pytest.mark.parametrize("method", ["rloo", "grpo", "ppo"])
def test_two_processes_answer_and_learn_as_one(tiny: Path, tmp_path: Path, method: str) -> None:
    """The same answers too. PPO deals its minibatches out inside each process, so here there is one."""
    more = {"minibatches": 1} if method == "ppo" else {"samples": 2}
    options = {"optim": "sgd", "max_grad_norm": 0.0, "max_steps": 4}
    settings = {"trainer": options, "learning_rate": 0.3, "batch_size": 8, "max_tokens": 8, "type": "transformers"}
    asked = {"model": tiny, "method": method, "rows": 10, "settings": {**settings, **more}}
    one = trained(tmp_path / "one", 1, **asked)
    two = trained(tmp_path / "two", 2, **asked)
    for mine, other in zip(curve(two), curve(one), strict=True):
        for name in {"reward", "kl"} & other.keys():
            assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5)
    assert far(weights(one / "out"), weights(two / "out")) < 1e-5
    assert far(weights(one / "out"), weights(tiny)) > 0.01


@pytest.mark.full
@pytest.mark.parametrize(("method", "changes"), [("dpo", {}), ("sft", {"lora": {"r": 4, "dropout": 0.1}})])
def test_a_kill_of_all_processes_changes_no_bit(
    tiny: Path, tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    settings = {"learning_rate": 1e-2, "batch_size": 4, "epochs": 3, **changes}
    asked = {"model": tiny, "method": method, "rows": 11, "settings": settings}
    whole = trained(tmp_path / "whole", 2, **asked)
    process = run_together(tmp_path / "cut", 2, kill=6, **asked)
    assert process.wait(timeout=300) != 0
    assert [path.parent.name for path in (tmp_path / "cut/work").glob("checkpoint-*/complete.json")] == ["checkpoint-5"]
    cut = trained(tmp_path / "cut", 2, **asked)
    log = (cut / "log").read_text()
    assert "step 6\n" in log and "step 5\n" not in log, "it went on where it was"
    assert folder_files(cut / "out") == folder_files(whole / "out")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    make_loop(folder, folder / "no-server")
    pairs = [{"prompt": f"Where is parcel {n}?", "chosen": "thank you", "rejected": "late late"} for n in range(12)]
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


def test_the_command_line_and_what_it_refuses(ours: Path) -> None:
    verb = ("dpo", "--model", "model", "--preferences", "pairs.jsonl", "--threads", "2", "--nproc", "2", "batch_size=4")
    done = align(*verb, "--accelerate", "ddp", "--out", "together", "--json", cwd=ours)
    found = json.loads(done.stdout)
    assert (found["steps"], found["rows"], found["out"]) == (3, 12, "together")
    assert (ours / "together" / "model.safetensors").is_file()
    assert not list(ours.glob("together.*"))
    assert "[rank1]" not in (ours / "together" / "logs" / "printed.log").read_text()
    refused = align(*verb, "--accelerate", "fsdp2", "--out", "refused", cwd=ours, expect=2)
    assert "FSDP needs a GPU for each process, found none; use --accelerate ddp" in refused.stderr


@pytest.mark.full
def test_a_killed_command_leaves_no_process_and_goes_on(ours: Path) -> None:
    verb = ["sft", "--model", "model", "--demonstrations", "demonstrations.jsonl", "--out", "killed", "--threads", "2"]
    verb += ["--nproc", "2", "batch_size=4", "learning_rate=1e-3", "trainer.max_steps=4000"]
    process = subprocess.Popen([sys.executable, "-m", "align", *verb], cwd=ours, stderr=subprocess.DEVNULL)
    metrics = ours / "killed.partial" / "logs" / "metrics.jsonl"
    while not (metrics.is_file() and '"loss"' in metrics.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    assert len(_at_work("killed.work")) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while left := _at_work("killed.work"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    short = [text for text in verb if not text.startswith("trainer")]
    assert json.loads(align(*short, "--json", cwd=ours).stdout)["rows"] == 40


def _at_work(folder: str) -> list[Path]:
    """The processes whose command lines name `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended by now
            found += [process] if folder in (process / "cmdline").read_text() else []
    return found


@pytest.mark.full
def test_a_recipe_trains_in_several_processes(tmp_path: Path, ours: Path) -> None:
    pairs = {"from": str(ours / "pairs.jsonl")}
    recipe = make_loop(tmp_path, tmp_path / "no-server", preferences=pairs, annotate=None)
    done = align("run", recipe, "nproc=2", "sft.batch_size=4", "dpo.batch_size=4", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["state"] == "finished"
    policies = [path for path in tmp_path.glob("runs/loop/round_*/policy/*/model.safetensors") if path.is_file()]
    assert len(policies) == 2
    assert not list(tmp_path.glob("runs/loop/round_*/policy/*.work"))
