"""The public API for real: the script of docs/api.md as it stands there, and a training that is killed and goes on."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from align.store import checkpoint_id, read_json
from tests.loop import WORDS, write_jsonl
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
SCRIPT = PAGE.split("```python\n", 1)[1].split("```", 1)[0]
QUESTIONS = [f"The {word} number {n} is late, what now?" for n, word in enumerate(WORDS * 4)]


def labelled(folder: Path) -> None:
    """Labels as others give them: of two answers two people choose the one that says thank you."""
    answers = ["thank you, please help soon", "late late broken late"]
    rows = [
        {"prompt": question, "answers": answers[:: 1 - 2 * (n % 2)], "annotator": who, "outcome": "ab"[n % 2]}
        for n, question in enumerate(QUESTIONS)
        for who in ("ann", "bob")
    ]
    write_jsonl(folder / "labels.jsonl", rows)


def test_the_script_of_the_page_samples_compiles_trains_and_compares(tmp_path: Path) -> None:
    """By public names alone, in forty lines at most; DPO on such pairs makes the tiny model say thank you more often."""
    lines = [line for line in SCRIPT.splitlines() if line.strip()]
    assert len(lines) <= 40
    assert set(re.findall(r"^\s*(?:import|from) (\w+)", SCRIPT, re.MULTILINE)) == {"align"}
    make_tiny_model(tmp_path / "model", vocab_words=WORDS)
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": question} for question in QUESTIONS])
    labelled(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counted, won = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ answers", counted)
    assert re.fullmatch(r"win rate over the given model: 0\.\d{2} \[[01]\.\d{2}, [01]\.\d{2}\]", won)
    (results,) = tmp_path.glob("results-*")
    assert sorted(path.name for path in results.iterdir()) == ["answers", "evaluation", "policy"], "no scratch is left"
    assert checkpoint_id(results / "policy") != checkpoint_id(tmp_path / "model")
    result = read_json(results / "evaluation" / "result.json")
    assert result["win_rate"]["n"] == result["prompts"] and result["unscored"] == 0
    asked = {json.loads(line)["prompt_id"] for line in (results / "answers" / "candidates.jsonl").open()}
    assert len(asked) + result["prompts"] == len(QUESTIONS), "no prompt is on both sides"


TRAIN = """
import math, os, signal, sys
import align
from align.train import loop
loop.SAVE_SECONDS, loop.SAVE_SHARE = 0.0, math.inf
out, stop = sys.argv[1], int(sys.argv[2])
def progress(done, total, said=""):
    print(done, flush=True)
    if done == stop:
        os.kill(os.getpid(), signal.SIGKILL)
pairs = align.load_preferences("pairs.jsonl")
dpo = align.Dpo(learning_rate=1e-2, batch_size=8, epochs=2)
where = align.Workspace(out, progress=progress)
align.train_dpo("model", pairs, dpo, workspace=where, compute=align.Compute(threads=1))
"""


def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model", vocab_words=WORDS)
    rows = [{"prompt": question, "chosen": "thank you", "rejected": "late late"} for question in QUESTIONS]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    steps = {}
    for name, out, stop in (("whole", "whole", -1), ("killed", "out", 6), ("again", "out", -1)):
        command = [sys.executable, "-c", TRAIN, out, str(stop)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == (-signal.SIGKILL if name == "killed" else 0), done.stderr
        steps[name] = [int(line) for line in done.stdout.splitlines()]
        assert (tmp_path / "out.work").exists() == (not (tmp_path / "out").exists() and name == "killed")
    assert steps["killed"][-1] == 6 and steps["again"][0] == 6, "steps 1 to 5 were saved"
    assert checkpoint_id(tmp_path / "out") == checkpoint_id(tmp_path / "whole")
