"""The loop with methods that need no labels: killed and gone on with, looked at from every side."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from align.pipeline.receipts import current
from align.pipeline.stage import Ref
from tests.loop import align, kill_at, make_loop, rows

pytestmark = [pytest.mark.slow, pytest.mark.full]

ANSWERS = {"type": "transformers", "max_tokens": 12, "prompts": 16, "batch_size": 8, "learning_rate": 1e-3}
METHODS: dict[str, dict[str, Any]] = {
    "grpo": {**ANSWERS, "samples": 4, "epochs": 2},
    "rloo": {**ANSWERS, "samples": 2, "epochs": 2},
    "ppo": {**ANSWERS, "epochs": 2},
    "best_of_n": {**ANSWERS, "samples": 8, "epochs": 4},
}
SIGN = {
    **dict.fromkeys(("grpo", "rloo", "ppo"), "loop/round_001/policy/*.partial/prompts.parquet"),
    "best_of_n": "loop/round_001/policy/*.work/shards/*/00000.parquet",
}
"""What is there when each is killed; kills at a trainer's checkpoint are `test_train_matrix`'s."""


def made(folder: Path, method: str) -> Path:
    reward = {"functions": [{"path": "score.py:score"}]}
    changes = {"dpo": None, "annotate": None, "sft": None, "reward": reward, method: METHODS[method]}
    return make_loop(folder, folder / "no-server", rounds=2, **changes)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_goes_on_and_ends_with_the_same_policies(tmp_path: Path, method: str) -> None:
    recipe = made(tmp_path / "whole", method)
    align("run", recipe, cwd=recipe.parent)
    run = recipe.parent / "runs" / "loop"
    killed = made(tmp_path / "killed", method)
    assert kill_at(killed, "1/policy: start", SIGN[method]), "it was to be killed in the middle"
    align("run", killed, cwd=killed.parent)
    for number in (1, 2):
        one, other = (current(p.parent / "runs" / "loop", Ref(number, "policy")) for p in (recipe, killed))
        assert one is not None and other is not None
        assert one.summary["checkpoint"] == other.summary["checkpoint"]
        assert one.summary["parent"] != one.summary["checkpoint"]
    looked_at(run, method)


def looked_at(run: Path, method: str) -> None:
    """Status, report, samples and lineage of the finished run."""
    cwd = run.parents[1]
    status = json.loads(align("status", run, "--json", cwd=cwd).stdout)
    assert status["state"] == "finished"
    assert {s["stage"] for s in status["stages"] if s["round"] == 2} == {"policy", "evaluation"}
    report = json.loads(align("report", run, "--json", cwd=cwd).stdout)
    assert (report["method"], report["labels_from"]) == (method, None)
    assert all(found["reward"] is not None for found in report["rounds"])
    assert not (run / "journal.jsonl").exists()
    found = json.loads(align("samples", run, "--json", cwd=cwd).stdout)
    assert found and all(entry["answers"] for entry in found)
    policy = current(run, Ref(2, "policy"))
    assert policy is not None
    traced = json.loads(align("lineage", run, policy.summary["checkpoint"], "--json", cwd=cwd).stdout)
    drawn = {row["id"] for n in (1, 2) for row in rows(run, n, "policy", "prompts.parquet")}
    assert drawn <= set(traced["from"]["prompts"])
    plan = json.loads(align("run", cwd / "recipe.yaml", "--dry-run", "--json", cwd=cwd).stdout)
    assert {step["state"] for step in plan} == {"done"}


def test_a_reward_of_another_weight_or_code_trains_anew(tmp_path: Path) -> None:
    recipe = made(tmp_path, "best_of_n")
    align("run", recipe, "rounds=1", cwd=tmp_path)

    def states(*changes: str) -> dict[str, str]:
        plan = align("run", recipe, "rounds=1", "--dry-run", "--json", *changes, cwd=tmp_path).stdout
        return {step["stage"]: step["state"] for step in json.loads(plan)}

    assert states()["1/policy"] == "done"
    assert states("reward.functions.0.weight=2.0")["1/policy"] == "to run"
    score = tmp_path / "score.py"
    shutil.copy(score, tmp_path / "kept.py")
    score.write_text(score.read_text().replace("10.0", "20.0"))
    changed = states()
    assert (changed["0/policy"], changed["1/policy"]) == ("done", "to run")
