"""Scoring many answers: `reward.scoring` against the engines alone, on the same tokens.

    python benchmarks/scoring.py [--engine vllm|transformers] [--runs N] [--short]

The reward model is random, of 5 M parameters; 10,000 answers to 2,500 prompts of 32 to 128 tokens,
four to each, of log-normal lengths from 16 to 256 tokens. Sides, in float32 on two threads:

  ours  from texts to published shards: chat template, tokens, content ids, batches, tables (`KeptScorer`, no cache)
  bare  the engine's own call on token ids that are ready. vLLM: one `LLM.encode` of the pooling runner, with our
  options
        and, once, with its own. transformers: forward passes of padded batches, sorted by length, of the number of
        answers that is fastest here

Loading is left out on both sides: it is the same code. A run has both sides, whichever first in turn, so that what else
the machine does falls on each; the ratio of processor time, in which other processes count less, stands beside the
clock's. Scores of both engines are compared too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

THREADS = 2
ANSWERS, PROMPTS = 10_000, 2_500
SHORT = 10
"""The short form has so many times fewer answers."""
BATCHES = (8, 16, 32, 64, 128)
"""Answers in a batch of bare transformers, of which the fastest is taken."""
GOAL = 0.95
Messages = list[dict[str, str]]


class Watch:
    """Seconds by the clock and of processors, of what stands in its `with`."""

    def __enter__(self) -> Watch:
        self._began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]


def words() -> list[str]:
    """Words of one token each."""
    draw = random.Random(0)
    return ["".join(draw.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(draw.randint(2, 7))) for _ in range(1500)]


def reward_model(folder: Path) -> Path:
    """A random reward model of 5 M parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from tests.tiny import make_tokenizer

    tokenizer = make_tokenizer(words())
    tokenizer.model_max_length = 1024
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=688, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=8, head_dim=32, max_position_embeddings=1024, num_labels=1, pad_token_id=0,
        bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    torch.nn.init.normal_(model.score.weight, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters", flush=True)
    return folder


def texts(answers: int, prompts: int, seed: int) -> tuple[list[Messages], list[str]]:
    """Conversations and answers; each word is a token, and the template adds some to a prompt."""
    draw, known = random.Random(seed), words()

    def text(count: int) -> str:
        return " ".join(draw.choice(known) for _ in range(count))

    asked = [[{"role": "user", "content": text(draw.randint(24, 120))}] for _ in range(prompts)]
    sizes = [min(256, max(16, round(draw.lognormvariate(4.2, 0.7)))) for _ in range(answers)]
    return [asked[n * prompts // answers] for n in range(answers)], [text(size - 1) for size in sizes]


class Loaded:
    """Stands in for `ModelScorer` with a model that is there already."""

    def __init__(self, scorer: Any) -> None:
        self.outputs = scorer.outputs

    def close(self) -> None:
        pass


def ours(folder: Path, engine: str, loaded: Any, prompts: list[Messages], answers: list[str]) -> list[list[float]]:
    """What `align reward score` does between loading the model and writing its file; nothing is in the cache."""
    from reward import scoring

    with tempfile.TemporaryDirectory() as cache, patch.object(scoring, "ModelScorer", lambda *_, **__: Loaded(loaded)):
        scorer = scoring.KeptScorer(folder, engine=engine, dtype="float32", threads=THREADS, cache=Path(cache))
        return scorer.outputs(prompts, answers)


def bare_vllm(llm: Any, ids: Sequence[list[int]]) -> list[list[float]]:
    from vllm import PoolingParams

    asked = [{"prompt_token_ids": one} for one in ids]
    params = PoolingParams(task="classify", use_activation=False)
    return [o.outputs.data.tolist() for o in llm.encode(asked, params, pooling_task="classify", use_tqdm=False)]


def bare_transformers(model: Any, ids: Sequence[list[int]], batch: int) -> list[list[float]]:
    """Padded batches of `batch` answers of like length."""
    import torch

    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    found: list[list[float]] = [[] for _ in ids]
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            longest = len(ids[rows[-1]])
            tokens = torch.tensor([ids[n] + [0] * (longest - len(ids[n])) for n in rows])
            mask = torch.tensor([[1] * len(ids[n]) + [0] * (longest - len(ids[n])) for n in rows])
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
            for n, scores in zip(rows, logits.tolist(), strict=True):
                found[n] = scores
    return found


def default_vllm(folder: Path) -> Any:
    """vLLM with its own options for batches; on CPU it has to be told how much memory it may take."""
    import torch

    from align.vllm import undisturbed

    with undisturbed(not torch.cuda.is_available()):
        from vllm import LLM

        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
        return LLM(model=str(folder), runner="pooling", dtype="float32", max_model_len=1024, use_tqdm_on_load=False,
                   gpu_memory_utilization=0.3, enforce_eager=True)  # fmt: skip


def apart(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def paired(
    sides: dict[str, Callable[[], list[list[float]]]], runs: int
) -> tuple[dict[str, list[Watch]], dict[str, list[list[float]]]]:
    """Each side `runs` times, whichever first in turn: its times, and its last scores."""
    times: dict[str, list[Watch]] = {name: [] for name in sides}
    scores: dict[str, list[list[float]]] = {}
    for run in range(runs):
        for name in list(sides)[:: 1 if run % 2 else -1]:
            with Watch() as watch:
                scores[name] = sides[name]()
            times[name].append(watch)
        shown = ", ".join(f"{name} {t[-1].seconds:.2f} s (processors {t[-1].cpu:.2f})" for name, t in times.items())
        print(f"  run {run + 1}: {shown}", flush=True)
    return times, scores


def fastest_batch(model: Any, ids: Sequence[list[int]]) -> int:
    """Of `BATCHES`, on a sample; each twice."""
    some = list(ids[:: max(1, len(ids) // 400)])
    took: dict[int, float] = {}
    for batch in BATCHES * 2:
        with Watch() as watch:
            bare_transformers(model, some, batch)
        took[batch] = min(watch.seconds, took.get(batch, watch.seconds))
    print("  bare transformers, answers/s by batch:", {b: round(len(some) / s) for b, s in took.items()}, flush=True)
    return min(took, key=lambda b: took[b])


def measure(engine: str, folder: Path, answers: int, runs: int) -> tuple[dict[str, Any], list[list[float]]]:
    from align.text import encode_answered
    from reward.model import ModelScorer

    loaded = ModelScorer(folder, dtype="float32", threads=THREADS, engine=engine)
    prompts, said = texts(answers, answers * PROMPTS // ANSWERS, seed=1)
    ids = [[*prompt, *answer] for prompt, answer in encode_answered(loaded.tokenizer, prompts, said)]
    tokens = sum(map(len, ids))
    print(f"{engine}: {len(ids)} answers, {tokens} tokens with their prompts", flush=True)
    loaded.outputs(prompts[:64], said[:64])  # warm, and vLLM starts here
    if engine == "vllm":
        longest = max(ids, key=len)
        loaded._model.read([longest])
        llm = loaded._model._llm
        bare = lambda: bare_vllm(llm, ids)  # noqa: E731
    else:
        model = loaded._model._model
        batch = fastest_batch(model, ids)
        bare = lambda: bare_transformers(model, ids, batch)  # noqa: E731
    times, scores = paired({"bare": bare, "ours": lambda: ours(folder, engine, loaded, prompts, said)}, runs)
    if engine == "vllm":
        loaded.close()
        own = default_vllm(folder)
        with Watch() as watch:
            bare_vllm(own, ids)
        print(f"  bare vLLM with its own options: {watch.seconds:.2f} s (processors {watch.cpu:.2f})", flush=True)
    ratios = [b.seconds / o.seconds for b, o in zip(times["bare"], times["ours"], strict=True)]
    by_cpu = [b.cpu / o.cpu for b, o in zip(times["bare"], times["ours"], strict=True)]
    for name, values in (("clock", ratios), ("processors", by_cpu)):
        print(f"  ratio by {name}: {min(values):.3f} to {max(values):.3f}, median {statistics.median(values):.3f}")
    speed = {name: round(answers / statistics.median(t.seconds for t in watches), 1) for name, watches in times.items()}
    print(f"  answers/s {speed}; ours and bare differ by {apart(scores['ours'], scores['bare']):.1e}", flush=True)
    result = {"value": speed["ours"], "baseline": speed["bare"], "ratio": round(statistics.median(ratios), 3)}
    return result | {"by_processors": round(statistics.median(by_cpu), 3)}, scores["ours"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "transformers"], help="one of them alone")
    parser.add_argument("--runs", type=int, default=3, help="paired runs")
    parser.add_argument("--short", action="store_true", help=f"{SHORT} times fewer answers")
    given = parser.parse_args()
    answers = ANSWERS // SHORT if given.short else ANSWERS
    with tempfile.TemporaryDirectory() as at:
        folder = reward_model(Path(at, "model"))
        engines = [given.engine] if given.engine else ["transformers", "vllm"]
        found = {engine: measure(engine, folder, answers, given.runs) for engine in engines}
    ok = all(result["ratio"] >= GOAL for result, _ in found.values())
    if len(found) == 2:
        difference = apart(*(scores for _, scores in found.values()))
        print(f"the two engines differ by {difference:.1e}")
        ok = ok and difference <= 1e-4
    least = min((result for result, _ in found.values()), key=lambda result: result["ratio"])
    goal = f"≥ {GOAL} of the engine alone, for each engine (here the lower ratio); engines within 1e-4 of each other"
    row = {"name": "scoring", **least, "goal": goal, "ok": ok}
    print(json.dumps(row | {engine: result for engine, (result, _) in found.items()}, ensure_ascii=False))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
