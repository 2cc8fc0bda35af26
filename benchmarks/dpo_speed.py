"""DPO: pairs per second against TRL's DPOTrainer, at its defaults and at its best settings, on HH.

    python benchmarks/dpo_speed.py [--model small|large] [--runs N] [--short]

`small` is `../shared/models/stories260k`, `large` a random model of 5 M parameters with its tokenizer. Pairs are those
of `../shared/data/hh_helpful_base_test.jsonl.gz` that fit; where that is absent, made-up ones of the same lengths.
Sides, in float32, each with AdamW and the same pairs in each step:

  defaults  TRL as it comes (gradient checkpointing, 8 pairs a step in random order, reference beside each step), but
            for bf16, which would round
  best      no gradient checkpointing, batches of similar length, reference precomputed and its time counted, the batch
            size and accumulation that are fastest here
  ours      `align.train`: what `align dpo` runs, its reference and its checks counted; once for each side of TRL

A paired run times all of them one after the other, so that what else the machine does falls on each; processor time, in
which other processes count less, is shown beside the clock's. Each is a process of its own, which does a step before
its time is taken: TRL's with OpenMP's idle threads as they are by default (they spin, which is faster where nobody else
needs the cores), ours as `align` sets them (they sleep). Peak memory is that of such a process. The floor is the matrix
operations that DPO on these pairs cannot do without (prompt once, what is masked not computed) over the rate of this
machine's own matrix product.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")

SHARED = Path(__file__).parents[2] / "shared"
LIMIT = 500
THREADS = 2
BETA, RATE = 0.1, 1e-4
DEFAULT_STEP = 8
CANDIDATES = [(8, 1), (8, 2), (8, 4), (8, 8), (16, 16)]
"""Pairs in a step and in a pass of it, of which the fastest is TRL's best."""


class Watch:
    """Seconds by the clock and of processors, of the stretches that stand in its `with`."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self.began[0]
        self.cpu += time.process_time() - self.began[1]


@dataclass(frozen=True)
class Work:
    """What a side does: `step` pairs a step in `order`, `micro` of them a pass where it is TRL."""

    side: str
    step: int
    micro: int
    grouped: bool


def stories() -> Path:
    return SHARED / "models/stories260k"


def read_pairs(count: int) -> tuple[list[Any], str]:
    """`count` pairs as tokens, and where they are from."""
    from align.train.examples import Pair

    file = SHARED / "data/hh_helpful_base_test.jsonl.gz"
    draw = random.Random(0)
    if not file.exists() or not stories().exists():
        lengths = [(draw.randint(20, 300), draw.randint(10, 200), draw.randint(10, 180)) for _ in range(count)]
        made = [[[draw.randint(5, 500) for _ in range(n)] for n in three] for three in lengths]
        return [Pair(p, c + [2], r + [2], 1.0, 1.0) for p, c, r in made], "made-up pairs: ../shared is absent"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories())
    tokenizer.model_max_length = 10**9
    pairs = []
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            ends = [row[name].rfind("\n\nAssistant:") + len("\n\nAssistant:") for name in ("chosen", "rejected")]
            prompt = row["chosen"][: ends[0]]
            if prompt != row["rejected"][: ends[1]] or row["chosen"] == row["rejected"]:
                continue
            ids = tokenizer(prompt)["input_ids"]
            answers = [
                [*tokenizer(row[name][end:], add_special_tokens=False)["input_ids"], 2]
                for name, end in zip(("chosen", "rejected"), ends, strict=True)
            ]
            pair = Pair(ids, *answers, 1.0, 1.0)
            if pair.tokens <= LIMIT:
                pairs.append(pair)
    return draw.sample(pairs, count), "HH"


def model_folder(name: str, at: Path) -> Path:
    """The model to start from, on disk."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tiny_model

    if name == "small" and stories().exists():
        return stories()
    folder = at / name
    if not folder.exists():
        torch.manual_seed(0)
        width = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_key_value_heads": 8}
        if name == "small":  # the shape of stories260k
            width = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5, "num_key_value_heads": 4}
        config = LlamaConfig(
            vocab_size=512, num_attention_heads=8, head_dim=32, max_position_embeddings=512, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, tie_word_embeddings=True, **width,
        )  # fmt: skip
        source = stories() if stories().exists() else make_tiny_model(at / "tokenizer")
        LlamaForCausalLM(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def order_of(pairs: list[Any], work: Work) -> list[int]:
    from align.train.order import length_grouped_order

    if work.grouped:
        return length_grouped_order([pair.tokens for pair in pairs], work.step, 0, 0)
    return random.Random(1).sample(range(len(pairs)), len(pairs))


def train(work: Work, pairs: list[Any], model: Path) -> dict[str, Any]:
    """One epoch over `pairs`, with what comes before each training: seconds, and what each step logged."""
    watch = Watch()
    trainer = (ours if work.side == "ours" else theirs)(work, pairs, model, watch)
    trainer.remove_callback(next(c for c in trainer.callback_handler.callbacks if "Printer" in type(c).__name__))
    with watch:
        trainer.train()
    names = ("loss", "logps/chosen", "logps/rejected")
    steps = [[row[name] for name in names] for row in trainer.state.log_history if "loss" in row]
    assert len(steps) == len(pairs) // work.step
    return {"seconds": watch.seconds, "cpu": watch.cpu, "steps": steps}


def ours(work: Work, pairs: list[Any], model: Path, watch: Watch) -> Any:
    """`align.train.dpo`'s trainer; its reference and checks are timed."""
    from align.config.training import Dpo
    from align.text import load_tokenizer
    from align.train import arguments, checkpoint, dpo

    at = Path(tempfile.mkdtemp())
    config = Dpo(beta=BETA, learning_rate=RATE, batch_size=work.step, trainer={"logging_steps": 1})
    seed = arguments.prepare_process(0, THREADS)
    options = arguments.trainer_options(
        config, rows=len(pairs), seed=seed, dtype="float32", report_to=[], out=at, work=at
    )
    trainer = dpo._trainer(
        checkpoint.load_model(model, "float32"), load_tokenizer(model, chat_template="plain"), pairs, config, options
    )
    order = order_of(pairs, work)
    trainer._get_train_sampler = lambda data=None: order
    with watch:
        dpo.check_sharing(trainer, "float32")
        dpo.check_reference(trainer, 1e-4)
        dpo.add_reference(trainer, pairs, range(len(pairs)), at / "reference", "float32")
    assert trainer.data_collator.shared
    return trainer


def theirs(work: Work, pairs: list[Any], model: Path, watch: Watch) -> Any:
    """TRL's own trainer on the same tokens; its precomputing is timed."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(THREADS)
    order = order_of(pairs, work)

    class Timed(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # tokens already, the same as ours

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return order

        def _precompute_ref_logps(self, *args: Any) -> Any:
            with watch:
                return super()._precompute_ref_logps(*args)

    best = {"gradient_checkpointing": False, "precompute_ref_log_probs": True} if work.side == "best" else {}
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    args = DPOConfig(
        output_dir=tempfile.mkdtemp(), beta=BETA, learning_rate=RATE, num_train_epochs=1, bf16=False, use_cpu=True,
        per_device_train_batch_size=work.micro, gradient_accumulation_steps=work.step // work.micro, logging_steps=1,
        dataloader_pin_memory=False, report_to="none", disable_tqdm=True, save_strategy="no", **best,
    )  # fmt: skip
    return Timed(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_dict({name: [getattr(pair, name) for pair in pairs] for name in names}),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def matrix_rate() -> float:
    """Operations per second of a product of two matrices, the best of several."""
    import torch

    torch.set_num_threads(THREADS)
    a, best = torch.randn(1024, 1024), 0.0
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 1024**3 / (time.perf_counter() - began))
    return best


def operations(pairs: list[Any], model: Path) -> float:
    """Matrix operations of one epoch: the policy forward and backward (twice as much), the reference forward."""
    config = json.loads((model / "config.json").read_text())
    d, heads, size = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    linear = d * size * (2 * heads + 2 * config["num_key_value_heads"]) + 3 * d * config["intermediate_size"]
    total = 0.0
    for pair in pairs:
        m, a, b = len(pair.prompt_ids) - 1, len(pair.chosen_ids), len(pair.rejected_ids)
        meetings = (m + a) * (m + a + 1) / 2 + b * m + b * (b + 1) / 2
        layer = 2 * linear * (m + a + b) + 4 * heads * size * meetings
        total += 4 * (config["num_hidden_layers"] * layer + 2 * d * config["vocab_size"] * (a + b))
    return total


def alone(work: Work, name: str, count: int, at: Path) -> dict[str, Any]:
    """What `train` says of `work` in a process that does it alone, and that process's peak of resident memory."""
    command = [sys.executable, __file__, "--one", json.dumps(vars(work)), "--model", name, "--pairs", str(count)]
    done = subprocess.run(
        [*command, "--folder", str(at)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def fastest(name: str, at: Path) -> Work:
    """TRL's best settings here, on some pairs, by the better of two runs."""
    works = [Work("best", step, micro, True) for step, micro in CANDIDATES]
    tried = [{work: 16 / alone(work, name, 16, at)["seconds"] for work in works} for _ in range(2)]
    found = {work: max(speeds[work] for speeds in tried) for work in works}
    for work in works:
        step, micro = work.step, work.micro
        print(f"  TRL with {step} pairs a step, {micro} a pass: {found[work]:.2f} pairs/s", flush=True)
    return max(found, key=lambda work: found[work])


def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a step's loss; where pairs differed, log-probabilities would by far more."""
    for a, b in zip(one["steps"], other["steps"], strict=True):
        assert all(abs(x - y) <= 1e-4 * abs(y) for x, y in zip(a[1:], b[1:], strict=True)), (a, b)
    return max(abs(a[0] - b[0]) for a, b in zip(one["steps"], other["steps"], strict=True))


def measure(name: str, runs: int, count: int, at: Path) -> dict[str, Any]:
    model = model_folder(name, at)
    pairs, source = read_pairs(count)
    rate, floor = matrix_rate(), operations(pairs, model)
    print(f"{name}: {count} pairs ({source}), {floor / count / 1e9:.2f} G operations a pair", flush=True)
    defaults, best = Work("defaults", DEFAULT_STEP, DEFAULT_STEP, False), fastest(name, at)
    works = {
        "defaults": (defaults, Work("ours", defaults.step, 0, False)),
        "best": (best, Work("ours", best.step, 0, True)),
    }
    ratios: dict[str, list[float]] = {side: [] for side in works}
    by_cpu: dict[str, list[float]] = {side: [] for side in works}
    speeds: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    worst = 0.0
    for run in range(runs):
        for side, pair in works.items():
            done = [alone(work, name, count, at) for work in (pair if run % 2 else pair[::-1])][:: 1 if run % 2 else -1]
            worst = max(worst, apart(*done))
            ratios[side].append(done[0]["seconds"] / done[1]["seconds"])
            by_cpu[side].append(done[0]["cpu"] / done[1]["cpu"])
            for label, result in zip((side, f"ours, as {side}"), done, strict=True):
                speeds.setdefault(label, []).append(count / result["seconds"])
                peaks.setdefault(label, []).append(result["peak_mib"])
        rate = max(rate, matrix_rate())
        shown = ", ".join(f"{label} {values[-1]:.2f}" for label, values in speeds.items())
        print(f"  run {run + 1}: {shown} pairs/s", flush=True)
    memory = {label: statistics.median(values) for label, values in peaks.items()}
    print(f"  floor {count * rate / floor:.1f} pairs/s at {rate / 1e9:.0f} G operations/s; peak MiB {memory}")
    print("  ratio of processor time, median:", {side: round(statistics.median(r), 2) for side, r in by_cpu.items()})
    print(f"  largest difference of a step's loss {worst:.1e}")
    return {"ratios": ratios, "speeds": speeds, "worst": worst, "memory": memory, "floor": count * rate / floor}


def one(work: Work, name: str, count: int, at: Path) -> None:
    from benchmarks.memory import peak_bytes

    if work.side != "ours":
        import torch  # noqa: F401 - before `align.train`, which tells OpenMP's idle threads to sleep
    pairs, model = read_pairs(count)[0], model_folder(name, at)
    train(work, pairs[: work.step], model)
    gc.collect()  # what that step left behind is not part of it
    done = train(work, pairs, model)
    print(json.dumps({**done, "peak_mib": round(peak_bytes() / 2**20)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["small", "large"], help="one of them alone")
    parser.add_argument("--runs", type=int, default=5, help="paired runs")
    parser.add_argument("--short", action="store_true", help="two paired runs of fewer pairs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.one:
            one(Work(**json.loads(given.one)), given.model, given.pairs, given.folder)
            return
        counts = {"small": 16, "large": 16} if given.short else {"small": 48, "large": 48}
        runs = 2 if given.short else given.runs
        names = [given.model] if given.model else list(counts)
        found = {name: measure(name, runs, counts[name], Path(folder)) for name in names}
    summary = {
        f"{name}, TRL {side}": [round(x, 2) for x in (min(r), statistics.median(r), max(r))]
        for name, result in found.items()
        for side, r in result["ratios"].items()
    }
    print("ratio (least, median, most):", json.dumps(summary))
    goals = {"defaults": 3.0, "best": 2.0}
    ok = all(
        statistics.median(result["ratios"][side]) >= goal
        and result["memory"][f"ours, as {side}"] <= result["memory"][side]
        and result["worst"] <= 1e-5
        for result in found.values()
        for side, goal in goals.items()
    )
    least = min(statistics.median(result["ratios"]["best"]) for result in found.values())
    first = found[names[0]]["speeds"]
    row = {"name": "dpo_speed", "value": round(statistics.median(first["ours, as best"]), 2)}
    row |= {"baseline": round(statistics.median(first["best"]), 2), "ratio": round(least, 2)}
    goal = (
        "≥ 3 × TRL's defaults and ≥ 2 × its best, losses within 1e-5, peak memory no higher; ratio: the least to best"
    )
    print(json.dumps(row | {"goal": goal, "ok": ok}, ensure_ascii=False))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
