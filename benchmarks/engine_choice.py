"""Is the engine that `rollouts.type: auto` chooses on a CPU the one that is done first?

    python benchmarks/engine_choice.py [--short] [--runs 2]

Random models of several sizes answer more or fewer prompts, each time in a process of its own, by transformers and by
vLLM, from the process's begin to the last answer. The value is the seconds of what `auto` chooses, added up, and the
baseline the seconds of whichever was quicker each time; ratio is value over baseline, ok up to 1.2. `auto` by the rule
of before, always vLLM, stands beside it. `--short` leaves out the two longest.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from align.config.rollouts import Engine  # noqa: E402
from rollouts.choose import choose  # noqa: E402

GOAL = 1.2
SIZES = {"3 M": (320, 2), "28 M": (512, 8), "108 M": (768, 14)}
"""Parameters → width and layers."""
WORK = [
    ("3 M", 128, 48),
    ("28 M", 64, 32),
    ("28 M", 512, 64),
    ("108 M", 16, 16),
    ("108 M", 128, 64),
    ("108 M", 512, 64),
]
"""Model, prompts, tokens of an answer; the short ones first."""
SHORT = 4
CHILD = """
import sys, tempfile
from pathlib import Path
from align.config.base import Sampling
from align.types import Prompt, prompt_id
from rollouts.sample import sample_candidates
model, engine, count, tokens = sys.argv[1:]
asked = [[{"role": "user", "content": f"order number {n}"}] for n in range(int(count))]
prompts = [Prompt(prompt_id(messages), messages, "train", "here") for messages in asked]
with tempfile.TemporaryDirectory() as folder:
    sample_candidates(
        prompts, Path(model), "model", sampling=Sampling(max_tokens=int(tokens)), samples=1, engine=engine, dtype="float32",
        max_prompt_tokens=100, shard=128, seed=0, threads=None, out=Path(folder), keep_all=True,
    )
"""


def make_models(folder: Path) -> None:
    """Random Llamas that hardly ever end an answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tokenizer

    tokenizer = make_tokenizer(["order"])
    for name, (width, layers) in SIZES.items():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=512,
            bos_token_id=None, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def seconds(model: Path, engine: str, count: int, tokens: int) -> float:
    import time

    began = time.monotonic()
    command = [sys.executable, "-c", CHILD, str(model), engine, str(count), str(tokens)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    value = baseline = always = 0.0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_models(folder)
        for name, count, tokens in WORK[:SHORT] if given.short else WORK:
            chosen = choose(Engine(), folder / name, dtype="float32", answers=count, max_tokens=tokens)
            took = {
                engine: statistics.median(
                    seconds(folder / name, engine, count, tokens) for _ in range(1 if given.short else given.runs)
                )
                for engine in ("transformers", "vllm")
            }
            shown = ", ".join(f"{engine} {took[engine]:.1f} s" for engine in took)
            print(
                f"{name}, {count} answers of {tokens} tokens: {shown}; auto: {chosen.type} ({chosen.why})", flush=True
            )
            value, baseline, always = value + took[chosen.type], baseline + min(took.values()), always + took["vllm"]
    ratio = value / baseline
    told = {"name": "engine_choice", "value": value, "baseline": baseline, "ratio": ratio, "goal": GOAL}
    print(json.dumps({**told, "ok": ratio <= GOAL, "always_vllm": always}))


if __name__ == "__main__":
    main()
