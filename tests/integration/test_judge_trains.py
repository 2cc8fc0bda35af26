"""GRPO against a judge: what it says reaches training, what it does not say is counted, and its key is on no disk."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_judge import fake_judge
from tests.loop import write_jsonl
from tests.tiny import make_tiny_model

pytestmark = pytest.mark.full
KEY = "sk-of-a-test-and-of-nothing-else"


def test_grpo_raises_what_a_judge_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_model(tmp_path / "model")
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Where is kettle {n}?"} for n in range(8)])
    asked: list[str] = []

    def reply(body: dict[str, Any]) -> str:
        asked.append(body["messages"][-1]["content"])
        return "I cannot say." if len(asked) % 5 == 0 else f"Fine.\nVerdict: {len(asked) % 10 + 1}"

    monkeypatch.setenv("JUDGES_KEY", KEY)
    with fake_judge(reply) as server:
        judge = json.dumps({"type": "judge", "url": server.url, "model": "m", "key_env": "JUDGES_KEY"})
        command = ["grpo", "--model", "model", "--prompts", "prompts.jsonl", "--out", "out", "--threads", "1", "--json"]
        command += ["--reward", judge, "--reward", "{type: length, high: 5, margin: 20, weight: 0.1}"]
        command += ["samples=4", "max_tokens=16", "batch_size=8", "trainer={max_steps: 3}"]
        done = subprocess.run([sys.executable, "-m", "align", *command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(asked) == 24 and all(re.search("Where is kettle [0-7]", text) for text in asked)
    assert found["unscored"] == 4 and found["unscored_reasons"] == {"the reply ends with no verdict": 4}
    assert 0.1 < found["mean_score_first"] < 1.1
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in done.stdout + done.stderr
