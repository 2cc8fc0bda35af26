"""A loop small enough for tests: a tiny model, a few prompts, simulated annotators, and the command line around it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from align.pipeline.receipts import current, stage_folder
from align.pipeline.stage import Ref
from align.store import read_table
from annotation.journal import read_journal
from tests.tiny import make_tiny_model

SCORE = '''
def score(messages, answer):
    """Longer is better, as long as letters are what it is long of."""
    return sum(character.isalpha() for character in answer) / 10.0
'''

WORDS = ["order", "lamp", "chair", "late", "broken", "please", "help", "thank", "you", "soon"]


def make_loop(folder: Path, home: Path, **changes: Any) -> Path:
    """Write model, prompts, scoring function and recipe into `folder`; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tiny_model(folder / "model", vocab_words=WORDS)
    prompts = [
        {"prompt": f"The {w} number {n} is {v}, what now?"}
        for n, (w, v) in enumerate(zip(WORDS * 4, WORDS[::-1] * 4, strict=True))
    ]
    write_jsonl(folder / "prompts.jsonl", prompts)
    demonstrations = [
        {"prompt": f"My {w} is here {n}.", "completion": f"thank you, {w} {w}"} for n, w in enumerate(WORDS * 4)
    ]
    write_jsonl(folder / "demonstrations.jsonl", demonstrations)
    (folder / "score.py").write_text(SCORE)
    sampling = {"max_tokens": 12, "temperature": 1.0}
    recipe: dict[str, Any] = {
        "name": "loop",
        "rounds": 1,
        "threads": 1,
        "model": {"path": "./model"},
        "prompts": {"path": "prompts.jsonl", "test_share": 0.3},
        "sft": {"demonstrations": "demonstrations.jsonl", "learning_rate": 1e-3, "batch_size": 8},
        "rollouts": {"type": "transformers", "prompts": 24, "shard": 8, **sampling},
        "annotate": {
            "server": {"type": "embedded", "home": str(home)},
            "by": {
                "type": "personas",
                "utility": "score.py:score",
                "personas": [
                    {"name": "ann", "temperature": 0.2},
                    {"name": "bob", "temperature": 0.2, "skip_rate": 0.3, "position_bias": 0.5},
                    {"name": "cyd", "error_rate": 0.2},
                ],
            },
            "tasks": 20,
            "overlap": 2,
        },
        "dpo": {"learning_rate": 1e-3, "batch_size": 4},
        "evaluate": {"judge": {"type": "function", "path": "score.py:score"}, "prompts": 10, **sampling},
    }
    recipe.update(changes)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe, indent=1))  # JSON is YAML
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def align(
    *arguments: str | Path, cwd: Path, expect: int | None = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a user does."""
    command = [sys.executable, "-m", "align", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, text=True, capture_output=True, env={**os.environ, **(env or {})}, timeout=500
    )
    if expect is not None:
        assert done.returncode == expect, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def kill_at(recipe: Path, line: str, sign: str | float, *changes: str | Path) -> bool:
    """Start `align run` and kill it behind the moment it prints `line`; whether it lived that long.

    `sign` is what is waited for then: so many seconds, or a file of the run, as a pattern.
    """
    command = [sys.executable, "-m", "align", "run", str(recipe), *map(str, changes)]
    process = subprocess.Popen(command, cwd=recipe.parent, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith(line):
            if isinstance(sign, float):
                time.sleep(sign)
            else:
                while process.poll() is None and not any((recipe.parent / "runs").glob(sign)):
                    time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.stderr.read()
            return process.wait() == -signal.SIGKILL
    process.wait()
    return False


def said(run: Path) -> list[tuple[str, str, int, str]]:
    """All judgements of a run, with what people are called, times aside."""
    journal = read_journal(run / "journal.jsonl")
    return sorted((j.id, journal.called(j.annotator), j.revision, j.outcome) for j in journal.latest.values())


def by_name(status: dict[str, Any]) -> dict[str, Any]:
    """The annotators of `align annotate status --json` by what they are called."""
    return {person["name"]: person for person in status["annotators"].values()}


def rows(run: Path, round: int, stage: str, name: str) -> list[dict[str, Any]]:
    receipt = current(run, Ref(round, stage))
    assert receipt is not None, f"{round}/{stage} is not there"
    return list(read_table(stage_folder(run, receipt.ref) / receipt.key / name).to_pylist())
