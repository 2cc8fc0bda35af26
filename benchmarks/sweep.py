"""Done-when of `align sweep`: from a bad learning rate it finds good settings, also when it is killed in the middle.

    python benchmarks/sweep.py [--short]

On recipes/support-desk: the SFT policy answers train prompts, a simulated annotator says which of two answers is
better, and DPO learns from that. `align sweep dpo` searches learning rate, beta and batch size with 20 trials (6 with
--short), once from a learning rate that spoils the policy (5e-2) and once from the recipe's own (2e-4). The first sweep
is killed by SIGKILL in the middle of it, and the same command goes on. What counts is the win rate of the best settings
over the starting ones on prompts that no trial saw, after training both again with a seed that no trial had.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import support_desk

RANGES = ["learning_rate=1e-5..1e-1:log", "beta=0.02..0.5:log", "batch_size=16,32,64"]
FIXED = ["epochs=3", "max_tokens=160"]
BAD, GOOD = 5e-2, 2e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="Keep policy, pairs and sweeps here.")
    asked = parser.parse_args()
    trials = 6 if asked.short else 20
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        files = prepared(folder, asked.seed)
        bad = swept(folder, files, "bad", BAD, trials, asked.seed, kill_after=trials // 2)
        good = swept(folder, files, "good", GOOD, trials, asked.seed, kill_after=None)
    for name, result in (("bad", bad), ("good", good)):
        compared = result["comparison"]
        seconds = sorted(t["seconds"] for t in result["trials"])
        print(
            f"from the {name} start {result['start']}: best {result['best']}, {len(seconds)} trials of {seconds[0]:.1f} to"
            f" {seconds[-1]:.1f} s, {sum(t['state'] != 'complete' for t in result['trials'])} ended early;"
            f" win rate {shown(compared['win_rate'])}, mean score {compared['mean_score_best']:.2f} against"
            f" {compared['mean_score_start']:.2f}, difference {shown(compared['difference'])}"
        )
    won = bad["comparison"]["win_rate"]
    line = {
        "name": "sweep: win rate over the bad start on unseen prompts",
        "value": won["mean"],
        "interval": [won["low"], won["high"]],
        "baseline": 0.5,
        "ratio": won["mean"] / 0.5,
        "goal": "lower bound > 0.5",
        "from_good": good["comparison"]["difference"],
        "from_good_win_rate": [good["comparison"]["win_rate"][k] for k in ("mean", "low", "high")],
        "seeds": [asked.seed],
        "ok": won["low"] > 0.5,
    }
    print(json.dumps(line))


def shown(found: dict[str, Any]) -> str:
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def prepared(folder: Path, seed: int) -> dict[str, Path]:
    """The SFT policy, pairs on train prompts, and other prompts to score trials on."""
    policy = support_desk.sft_policy(folder / "policy")
    pairs, prompts = folder / "pairs.jsonl", folder / "prompts.jsonl"
    if not prompts.is_file():
        rows = support_desk.pairs(policy, 256, seed=seed, folder=folder / "answers")
        keep = ("messages", "chosen", "rejected", "target", "weight")
        write(pairs, [{("prompt" if k == "messages" else k): getattr(row, k) for k in keep} for row in rows])
        write(prompts, [{"messages": p.messages} for p in support_desk.prompts("test")])
    return {"policy": policy, "pairs": pairs, "prompts": prompts}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def swept(
    folder: Path, files: dict[str, Path], name: str, rate: float, trials: int, seed: int, kill_after: int | None
) -> dict[str, Any]:
    """`align sweep dpo …` as a user runs it; killed after `kill_after` trials, and run again. What a kept folder has
    already is not done again."""
    out = folder / f"sweep-{name}"
    command = [
        sys.executable, "-m", "align", "sweep", "dpo", *RANGES, *FIXED, f"learning_rate={rate}", "--model", files["policy"],
        "--data", files["pairs"], "--prompts", files["prompts"], "--judge", f"{support_desk.WORLD}:utility", "--max-tokens", "64",
        "--share", "0.25", "--trials", trials, "--seed", seed, "--out", out,
    ]  # fmt: skip
    command = [str(part) for part in command]
    began = time.monotonic()
    if kill_after is not None and not out.with_name(f"{out.name}.partial").exists() and not out.exists():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            print(f"{time.monotonic() - began:6.1f} s  {line}", end="", flush=True)
            if line.startswith(f"trial {kill_after} of "):
                time.sleep(2)  # into the next one
                os.kill(process.pid, signal.SIGKILL)
                print(f"{time.monotonic() - began:6.1f} s  killed", flush=True)
                break
        process.wait()
        assert not out.exists()
    if not out.exists():
        subprocess.run(command, check=True)
    print(f"{time.monotonic() - began:6.1f} s  done", flush=True)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    assert len(result["trials"]) == trials
    return result


if __name__ == "__main__":
    main()
