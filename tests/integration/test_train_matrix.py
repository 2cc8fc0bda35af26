"""Each method, full and LoRA, from the command line: a kill changes no bit, and vLLM gives the trainer's numbers."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.store import folder_files
from tests.loop import write_jsonl
from tests.tiny import make_tiny_model

ROOT = Path(__file__).parents[2]
ANSWERS = ["It is on its way.", "We are sorry.", "You get a new one.", "Thank you, Anna!", "No.", "We will call you."]
PROMPTS = [f"Case {n}: {'what now? ' * (n % 3)}" for n in range(24)]
SCORE = "def score(messages, answer):\n    return sum(letter in 'aeiou' for letter in answer) / 10\n"
ON_ROWS = {"sft": "--demonstrations", "dpo": "--preferences", "kto": "--binary"}
STEPS = 20
ONLINE = ["learning_rate=1e-3", "batch_size=8", "max_tokens=12", "type=transformers"]
SETTINGS = {
    "sft": ["learning_rate=3e-3", "batch_size=4"],
    "dpo": ["learning_rate=1e-3", "batch_size=4"],
    "kto": ["learning_rate=1e-3", "batch_size=4"],
    "rloo": [*ONLINE, "samples=2"],
    "grpo": [*ONLINE, "samples=2"],
    "ppo": ONLINE,
}
LORA = ["lora.r=4", "learning_rate=1e-2"]
SHORT = {("dpo", "full"), ("ppo", "lora")}
"""What the gate runs; the rest is for `make test-all`."""
MATRIX = [
    pytest.param(method, kind, id=f"{method}-{kind}", marks=[] if (method, kind) in SHORT else pytest.mark.full)
    for method in SETTINGS
    for kind in ("full", "lora")
]
TOLERANCE = 1e-3
"""Largest difference of a token's log-probability, in nats, between vLLM and the trainer's model, in float32."""
ALIGN = """
import math
from align.train import loop
loop.SAVE_SECONDS, loop.SAVE_SHARE = 0.0, math.inf  # a checkpoint at every logged step
from align.cli.app import main
main()
"""
CHILD = "import sys; from tests.integration.test_train_matrix import child; child(*sys.argv[1:])"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and a file for each kind of rows."""
    folder = tmp_path_factory.mktemp("matrix")
    make_tiny_model(folder / "model", vocab_words=" ".join(ANSWERS).split(), seed=3)
    asked = [(prompt, ANSWERS[n % 6]) for n, prompt in enumerate(PROMPTS)]
    write_jsonl(folder / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    write_jsonl(folder / "demonstrations.jsonl", [{"prompt": p, "completion": a} for p, a in asked])
    pairs = [{"prompt": p, "chosen": a, "rejected": "That is not our fault."} for p, a in asked]
    write_jsonl(folder / "preferences.jsonl", pairs)
    binary = [{"prompt": p, "completion": a, "label": n % 2 == 0} for n, (p, a) in enumerate(asked)]
    write_jsonl(folder / "binary.jsonl", binary)
    (folder / "score.py").write_text(SCORE)
    return folder


def command(method: str, kind: str, out: str) -> list[str]:
    rows = [ON_ROWS[method], f"{ON_ROWS[method][2:]}.jsonl"] if method in ON_ROWS else []
    prompts = [] if rows else ["--prompts", "prompts.jsonl", "--reward", "score.py:score"]
    settings = [*SETTINGS[method], f"trainer.max_steps={STEPS}", "trainer.logging_steps=1"]
    return [
        *(sys.executable, "-c", ALIGN, method, "--model", "model", "--out", out, "--threads", "1", "--json"),
        *(*rows, *prompts, *settings, *(LORA if kind == "lora" else [])),
    ]


def start(method: str, kind: str, out: str, session: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(method, kind, out), cwd=session, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> dict[str, object]:
    out, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    found: dict[str, object] = json.loads(out)
    return found


def kill_after_a_save(process: subprocess.Popen[str], work: Path, step: int, seconds: float) -> int:
    """Kill with -9 at that time after the first whole checkpoint from that step on; the newest one that is there then."""
    while newest_checkpoint(work) < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was to be killed in the middle"
    return newest_checkpoint(work)


def newest_checkpoint(work: Path) -> int:
    """Its step, 0 where there is none. Not by `rglob`: training moves and removes folders meanwhile, on which that fails."""
    whole = [folder for folder, _, files in os.walk(work) if "complete.json" in files]
    return max((int(folder.rpartition("-")[2]) for folder in whole), default=0)


@pytest.mark.parametrize(("method", "kind"), MATRIX)
def test_a_kill_changes_no_bit_and_vllm_gives_the_trainers_numbers(method: str, kind: str, session: Path) -> None:
    whole, cut = f"{method}-{kind}", f"{method}-{kind}-cut"
    metrics = finished(start(method, kind, whole, session))
    assert metrics["steps"] == STEPS
    assert float(str(metrics["reload_logp_difference"])) <= 1e-4, "what is published is what was trained"
    training = json.loads((session / whole / "logs" / "seconds.json").read_text())["train"]
    step, seconds = random.randint(1, STEPS - 8), random.uniform(0, training / STEPS)
    last = kill_after_a_save(start(method, kind, cut, session), session / f"{cut}.work", step, seconds)
    assert last, "there is a checkpoint to go on from"
    again = finished(start(method, kind, cut, session))
    print(f"{whole}: trained {training} s, killed {seconds:.2f} s after the checkpoint of step {step}, at {last}")
    assert again == {**metrics, "out": cut}
    assert folder_files(session / cut) == folder_files(session / whole)
    assert (session / cut / "model.safetensors").read_bytes() == (session / whole / "model.safetensors").read_bytes()
    start_of = int(json.loads((session / cut / "logs" / "metrics.jsonl").read_text().splitlines()[0])["step"])
    assert start_of == 1, "the log has no gap"
    assert (session / whole / "model.safetensors").read_bytes() != (
        session / "model" / "model.safetensors"
    ).read_bytes()
    vllm_agrees(session / whole)


def vllm_agrees(folder: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{folder.name}: vLLM's log-probabilities of {found['tokens']} tokens differ by {found['difference']:.1e}")
    assert found["tokens"] > 100
    assert found["spread"] > 0.1, "the model says something"
    assert found["difference"] < TOLERANCE


def child(folder: str) -> None:
    """Print how far vLLM's log-probabilities of some tokens are from those of the checkpoint as the trainer reads it."""
    import torch

    from align.text import load_tokenizer
    from align.train.checkpoint import load_model
    from rollouts.vllm_engine import VllmGenerator

    tokenizer = load_tokenizer(Path(folder))
    texts = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": ANSWERS[n % 6]}]
        for n, prompt in enumerate(PROMPTS[:6])
    ]
    sequences = [tokenizer.apply_chat_template(text, return_dict=False) for text in texts]
    generator = VllmGenerator(Path(folder), [2, 3], dtype="float32", max_tokens_total=256, threads=1)
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
    outputs = generator._llm.generate([{"prompt_token_ids": ids} for ids in sequences], params, use_tqdm=False)
    theirs = [
        [place[token].logprob for place, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
        for output, ids in zip(outputs, sequences, strict=True)
    ]
    generator.close()
    model = load_model(Path(folder), "float32").eval()
    ours = []
    with torch.no_grad():
        for ids in sequences:
            logps = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            ours.append(logps.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist())
    pairs = [(a, b) for mine, other in zip(ours, theirs, strict=True) for a, b in zip(mine, other, strict=True)]
    values = [a for a, _ in pairs]
    found = {
        "tokens": len(pairs),
        "difference": max(abs(a - b) for a, b in pairs),
        "spread": max(values) - min(values),
    }
    print(json.dumps(found))
