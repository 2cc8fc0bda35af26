"""Memory and time of the sync check and of publishing, by layers and as it was: with whole models beside the engine's.

`python benchmarks/check_memory.py` writes a random Llama (219 M parameters; `--short`: 18 M) and measures each way in a
process of its own: the highest resident memory over what the engine, or the trainer, holds before, in copies of the
model (its float32 weights; pages of mapped files count too). The last line is JSON: `value` is the worst of the new
ways, `baseline` the worst of the old ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SIZES = {
    "full": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "vocab_size": 32000},
    "short": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 8000},
}
SEQUENCES = [(list(range(5, 21)), list(range(30, 38))), (list(range(50, 60)), list(range(70, 78)))]
GOAL = 1.0
"""Copies of the model at most beside the one that is there. The short model is so small that fixed costs count."""
WAYS = {
    "check": ["by layers", "whole"],
    "check with parent and first policy": ["by layers", "whole"],
    "publish float32": ["by layers", "whole"],
    "publish bfloat16": ["by layers", "whole"],
}


def make(folder: Path, size: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tokenizer

    heads = SIZES[size]["hidden_size"] // 64
    config = LlamaConfig(
        **SIZES[size], num_attention_heads=heads, num_key_value_heads=heads, eos_token_id=2, bos_token_id=None
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer([]).save_pretrained(folder)


def resident(field: str) -> int:
    """Bytes; `VmHWM` is the highest since the last `forget_highest`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def forget_highest() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(folder: Path, what: str, way: str) -> dict[str, float]:
    """In this process: how far memory rises, in bytes, and the seconds."""
    import torch
    import trl  # noqa: F401  what a trainer has imported anyway, PEFT with it
    from peft import PeftModel  # noqa: F401

    from align.train.checkpoint import load_model

    torch.set_num_threads(1)
    held = load_model(folder, "float32")
    with torch.no_grad():
        for weights in held.parameters():  # the pages are ours, and not the file's
            weights.data = weights.data.clone() + 1e-6
    work = checking if what.startswith("check") else publishing
    work(held, folder, what, way, short=True)  # what is loaded at the first use only
    forget_highest()
    before, began = resident("VmRSS"), time.perf_counter()
    work(held, folder, what, way)
    return {"bytes": resident("VmHWM") - before, "seconds": time.perf_counter() - began}


def checking(held: Any, folder: Path, what: str, way: str, short: bool = False) -> None:
    """What `rollouts.sync` does beside an engine that has the model."""
    from align.layerwise import checkpoint_logprobs

    if short:
        return
    if way == "by layers":
        for _ in range(3 if "parent" in what else 1):
            checkpoint_logprobs(folder, SEQUENCES, dtype="float32")
        return
    from align.layerwise import token_logprobs
    from align.train.checkpoint import load_model

    kept = []  # as it was: the policy's numbers, then each rival's, one after the other
    for _ in range(3 if "parent" in what else 1):
        model = load_model(folder, "float32")
        kept.append(token_logprobs(model, SEQUENCES))


def publishing(held: Any, folder: Path, what: str, way: str, short: bool = False) -> None:
    """What `align.train.verifying` does beside a trainer that has the model."""
    import torch

    from align.layerwise import token_logprobs
    from align.train import rounding, verifying
    from align.train.checkpoint import load_model
    from align.train.publishing import publish_model

    if short:
        return
    dtype = what.split()[1]
    out = folder.parent / f"out-{dtype}-{way.replace(' ', '-')}"
    if way == "by layers":
        verifying.publish_and_verify(held, folder, SEQUENCES, out=out, dtype=dtype)
        return
    expected = token_logprobs(held, SEQUENCES)
    if dtype == "bfloat16":  # a float32 model to compute with, and the exact weights beside it
        exact = load_model(folder, "float32")
        own = dict(exact.named_parameters())
        kept = {name: weights.detach().clone() for name, weights in held.named_parameters()}
        with torch.no_grad():
            for number in range(rounding.DRAWS + 2):
                for name, weights in own.items():
                    weights.copy_(rounding.stochastic(kept[name], name, number).float())
                token_logprobs(exact, SEQUENCES)
        del exact, own, kept
    publish_model(held, folder, out, dtype=dtype)
    again = token_logprobs(load_model(out, "float32"), SEQUENCES)
    assert len(again) == len(expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--measure", nargs=3, metavar=("FOLDER", "WHAT", "WAY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(Path(given.measure[0]), *given.measure[1:])))
        return
    worst: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at) / "model"
        make(folder, "short" if given.short else "full")
        copy = (folder / "model.safetensors").stat().st_size
        print(f"one copy: {copy / 2**20:.0f} MiB")
        for what, ways in WAYS.items():
            for way in ways:
                told = subprocess.run(
                    [sys.executable, __file__, "--measure", str(folder), what, way],
                    check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                ).stdout  # fmt: skip
                found = json.loads(told.splitlines()[-1])
                copies = found["bytes"] / copy
                worst[way] = max(worst.get(way, 0.0), copies)
                print(f"{what}, {way}: {copies:.2f} copies, {found['seconds']:.1f} s", flush=True)
    value, baseline = worst["by layers"], worst["whole"]
    print(json.dumps({
        "name": "highest memory of check and publish, in copies of the model", "value": round(value, 3),
        "baseline": round(baseline, 3), "ratio": round(value / baseline, 3), "goal": GOAL, "ok": value <= GOAL,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
