"""A round of the quick start with what makes it quick, against one without.

    python benchmarks/round_speed.py [--short] [--rounds 2] [--runs 3]

Runs recipes/support-desk from the command line, in turn: as it is (stages are forked from a process that has imported
torch and TRL, and `rollouts.type: auto` chooses the engine), and with a fresh process for each stage and vLLM, as the
versions before December 2026 did it. Both start from the same SFT policy, with an evaluation of it. The value is the
median of seconds for a round, labelling by simulated annotators on a real annotation server and that evaluation
included; the ratio is theirs over ours; ok from 1.3. `--short` is one round and one run of each.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.support_desk import sft_policy  # noqa: E402

GOAL = 1.3
FRESH = """
import sys
from align.pipeline import fork_server
fork_server.GPUS = ("/dev/null",)  # as on a machine where nothing can be forked
from align.cli.app import main
main()
"""
WAYS = {"ours": (["-m", "align"], []), "fresh processes, vLLM": (["-c", FRESH], ["rollouts.type=vllm"])}


def align(folder: Path, way: str, *arguments: str) -> float:
    """Run the command, and return how many seconds it took."""
    start, changes = WAYS[way]
    began = time.monotonic()
    command = [sys.executable, *start, *arguments, *(changes if arguments[0] == "run" else [])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - began


def server(verb: str, folder: Path) -> None:
    """Start or stop the annotation server of the benchmark's own."""
    command = [sys.executable, "-m", "align", "server", verb, "--home", str(folder / "server")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def prepared(folder: Path) -> list[str]:
    """Write the recipe with its data, and its SFT policy; returns the changes of every run, which start from that."""
    recipe = folder / "mine"
    shutil.copytree(ROOT / "recipes/support-desk", recipe, ignore=shutil.ignore_patterns("data"))
    subprocess.run([sys.executable, recipe / "world.py"], check=True, capture_output=True)
    sft_policy(folder / "sft")
    server("start", folder)
    return [
        f"annotate.server={{type: embedded, home: {folder / 'server'}}}",
        f"model.path={folder / 'sft'}",
        "sft=null",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    rounds, runs = (1, 1) if given.short else (given.rounds, given.runs)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        changes = prepared(folder)
        try:
            for number in range(runs):
                for way in list(WAYS)[:: 1 if number % 2 else -1]:
                    place_of = f"runs-{number}-{list(WAYS).index(way)}"
                    took = align(folder, way, "run", "mine", *changes, f"rounds={rounds}", "--runs", place_of)
                    seconds[way].append(took / rounds)
                    print(f"{way}: {took / rounds:.1f} s a round", flush=True)
        finally:
            server("stop", folder)
    value, baseline = (statistics.median(seconds[way]) for way in WAYS)
    ratio = baseline / value
    told = {"name": "round_speed", "value": value, "baseline": baseline, "ratio": ratio, "goal": GOAL}
    print(json.dumps({**told, "ok": ratio >= GOAL, "seconds": seconds}))


if __name__ == "__main__":
    main()
