"""Rollouts through us against the bare engines on ragged answers, on CPU.

    python benchmarks/sampling_speed.py [--short] [--shard 256] [--runs 3]

A random model of 5 M parameters in which one thing is planted: the first token of an answer says how many tokens are to
come, log-normal from 16 to 256, and each further one counts down to the end token. So every engine meets the same
lengths, which it cannot know before. 256 prompts of 32 to 128 tokens, 4 answers to each.

Three ways, alternating, with their engines loaded before the clock starts: `sample_candidates` with vLLM (texts, the
check that they can be written again and Parquet shards included), `vllm.LLM.generate` with the same engine options and
seeds (token ids alone), and transformers' `generate` in batches of several sizes, of which the best counts, sorted by
prompt length. Each side runs in a process of its own, which is asked in turn; processor time is that of the side's
processes. ok where ours reaches 0.97 of bare vLLM and 2 times transformers in tokens per second.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROMPTS, SAMPLES, SHORTEST, LONGEST = 256, 4, 16, 256
BATCHES = (32, 64, 128, 256)
WORDS, HIDDEN, CODE = 16, 320, 24.0  # tokens for each number that is left; width; how far the plant outweighs the rest
GOAL_VLLM, GOAL_TRANSFORMERS = 0.97, 2.0

sys.path.insert(0, str(ROOT))
from align.config.rollouts import Cpu  # noqa: E402

CPU = Cpu(sequences=256)


def make_model(folder: Path) -> Path:
    """Llama of 5 M random weights in which a token with `left` tokens to come is followed by one with `left` − 1.

    Token embeddings hold, beside noise, one of 257 orthogonal codes: the number of tokens that are left, and 0 for all
    that can stand in a prompt. Attention and MLP write little into the residual, so the head reads the code: its
    logits are log-probabilities of the next number. They are computed in full all the same.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    from tests.tiny import make_tokenizer

    names = [f"w{left}x{word}" for left in range(1, LONGEST) for word in range(WORDS)]
    tokenizer = make_tokenizer([])
    tokenizer.add_tokens([" " + name for name in names])
    first = tokenizer.convert_tokens_to_ids(" w1x0")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=2,
        num_attention_heads=5, num_key_value_heads=5, head_dim=64, max_position_embeddings=512,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).float()
    codes = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN)).Q[: LONGEST + 1]
    left = torch.zeros(len(tokenizer), dtype=torch.long)
    for place in range(first, len(tokenizer)):
        left[place] = 1 + (place - first) // WORDS
    counts = torch.bincount(left, minlength=LONGEST + 1)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 1e-3
            layer.mlp.down_proj.weight *= 1e-3
        model.model.embed_tokens.weight.copy_(codes[left] + 1e-3 * torch.randn(len(tokenizer), HIDDEN))
        # after the norm a code has length √hidden; a logit 0 is planted as certain, others far below
        wanted = torch.full((LONGEST + 1, len(tokenizer)), -CODE)
        wanted[0, left > 0] = _length_logprobs()[left[left > 0]] - counts[left[left > 0]].log()
        for number in range(2, LONGEST + 1):
            wanted[number, left == number - 1] = 0.0
        wanted[1, 2] = 0.0  # the end token
        model.lm_head.weight.copy_((wanted.T @ codes) / HIDDEN**0.5)
    model.generation_config = GenerationConfig(eos_token_id=[2, 3], pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _length_logprobs() -> Any:
    """Of an answer's first token, by how many more are to come: the answer has two more than that, with the end."""
    import torch

    lengths = torch.arange(LONGEST + 1) + 1.0
    density = -0.5 * ((lengths.log() - 4.2) / 0.6) ** 2 - lengths.log()  # median 67
    density[(lengths < SHORTEST) | (lengths > LONGEST)] = -float("inf")
    return density.log_softmax(0).clamp(min=-CODE)  # an infinity would leave no number in the head


def prompts_of(count: int) -> list[Any]:
    """Prompts of random letters, of 32 to 128 tokens with the template's."""
    import random

    from align.types import Prompt, prompt_id

    draw, rows = random.Random(5), []
    while len(rows) < count:
        text = "".join(draw.choice("abcdefghij ") for _ in range(draw.randint(13, 109)))
        messages: Any = [{"role": "user", "content": text}]
        rows.append(Prompt(prompt_id(messages), messages, "train", "made"))
    return rows


class Ours:
    """`sample_candidates`, whose engine process was started before."""

    def __init__(self, model: Path, shard: int, threads: int) -> None:
        from align.config.rollouts import Engine
        from align.sync import Agreement
        from rollouts import sample
        from rollouts.process import EngineProcess
        from rollouts.vllm_engine import fitted

        engine = Engine(type="vllm", shard=shard)
        cpu = fitted(CPU, model, dtype="float32", max_tokens_total=128 + LONGEST)
        self.engine, self.model, self.threads = engine.model_copy(update={"cpu": cpu}), model, threads
        self.process = EngineProcess(
            self.engine, model, dtype="float32", max_tokens_total=128 + LONGEST, threads=threads, retries=0
        )
        # loaded and checked before the clock starts, as it is once in a round
        sample.engine_process = lambda *_, **__: contextlib.nullcontext(self.process)
        sample.check_sync = lambda *_, **__: Agreement(0.0, 0.0, 0)
        self.runs = 0

    def run(self, count: int) -> dict[str, int]:
        from align.config.base import Sampling
        from rollouts.sample import sample_candidates

        with tempfile.TemporaryDirectory() as out:
            rows, dropped = sample_candidates(
                prompts_of(count), self.model, "model", sampling=Sampling(max_tokens=LONGEST), samples=SAMPLES,
                engine=self.engine, dtype="float32", max_prompt_tokens=128, shard=self.engine.shard, seed=7,
                threads=self.threads, keep_all=True, out=Path(out),
            )  # fmt: skip
        assert not dropped
        return {"tokens": sum(row.tokens for row in rows), "answers": len(rows)}

    def cpu(self) -> float:
        words = Path(f"/proc/{self.process._child.pid}/stat").read_text().rpartition(")")[2].split()
        return time.process_time() + (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class Bare:
    """`vllm.LLM.generate` with the options that ours gives it."""

    def __init__(self, model: Path, shard: int, threads: int) -> None:
        import torch

        from align.text import load_tokenizer, stop_token_ids
        from align.vllm import CPU_ENVIRONMENT, ENVIRONMENT
        from rollouts.vllm_engine import cpu_options, fitted

        os.environ.update(ENVIRONMENT | CPU_ENVIRONMENT)
        torch.set_num_threads(threads)
        from vllm import LLM

        self.tokenizer = load_tokenizer(model)
        self.stops = stop_token_ids(self.tokenizer, model)
        cpu = fitted(CPU, model, dtype="float32", max_tokens_total=128 + LONGEST)
        self.llm = LLM(
            model=str(model), dtype="float32", max_model_len=128 + LONGEST, skip_tokenizer_init=True,
            generation_config="vllm", use_tqdm_on_load=False, **cpu_options(cpu, 128 + LONGEST),
        )  # fmt: skip

    def run(self, count: int) -> dict[str, int]:
        from vllm import SamplingParams

        from align.ids import seed_for

        prompts = encoded(self.tokenizer, count)
        self.llm.reset_prefix_cache()
        asked = [(id, ids, sample) for id, ids in prompts for sample in range(SAMPLES)]
        params = [
            SamplingParams(
                temperature=1.0, max_tokens=LONGEST, seed=seed_for(7, id, sample), stop_token_ids=self.stops,
                detokenize=False,
            )
            for id, _, sample in asked
        ]  # fmt: skip
        outputs = self.llm.generate([{"prompt_token_ids": ids} for _, ids, _ in asked], params, use_tqdm=False)
        return {"tokens": sum(len(o.outputs[0].token_ids) for o in outputs), "answers": len(outputs)}

    def cpu(self) -> float:
        return time.process_time()


class Transformers:
    """`generate` of transformers; `shard` is the batch."""

    def __init__(self, model: Path, shard: int, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from align.text import load_tokenizer

        torch.set_num_threads(threads)
        self.tokenizer, self.batch = load_tokenizer(model), shard
        self.model = AutoModelForCausalLM.from_pretrained(model).eval()

    def run(self, count: int) -> dict[str, int]:
        import torch

        torch.manual_seed(7)
        asked = sorted((ids for _, ids in encoded(self.tokenizer, count) for _ in range(SAMPLES)), key=len)
        tokens = 0
        for start in range(0, len(asked), self.batch):
            batch = asked[start : start + self.batch]
            longest = max(map(len, batch))
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=LONGEST,
                )  # fmt: skip
            tokens += int((out[:, longest:] != 0).sum())  # padding after the end is 0
        return {"tokens": tokens, "answers": len(asked)}

    def cpu(self) -> float:
        return time.process_time()


def encoded(tokenizer: Any, count: int) -> list[tuple[str, list[int]]]:
    from align.text import encode_prompt

    return [(p.id, encode_prompt(tokenizer, p.messages)) for p in prompts_of(count)]


SIDES = {"ours": Ours, "bare": Bare, "transformers": Transformers}


def serve(name: str, model: Path, shard: int, threads: int) -> None:
    """One side: a line with a number of prompts in, a line of JSON out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    side = SIDES[name](model, shard, threads)
    for line in sys.stdin:
        cpu, start = side.cpu(), time.perf_counter()
        done = side.run(int(line))
        done |= {"seconds": time.perf_counter() - start, "cpu": side.cpu() - cpu}  # type: ignore[operator]
        print(json.dumps(done), file=answers, flush=True)
    os._exit(0)  # an engine's own threads may hang at exit


class Side:
    """The same, from outside. The first answers are not timed: engines have to warm up."""

    def __init__(self, name: str, model: Path, shard: int, threads: int, log: Any) -> None:
        order = [sys.executable, __file__, "--side", name, "--model", model, "--shard", shard, "--threads", threads]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self.child = subprocess.Popen(
            [str(word) for word in order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=environment, cwd=ROOT,
        )  # fmt: skip
        self.run(8)

    def run(self, count: int) -> dict[str, float]:
        assert self.child.stdin is not None and self.child.stdout is not None
        print(count, file=self.child.stdin, flush=True)
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit("a side of the benchmark died; see its log")
        done = json.loads(line)
        return {**done, "rate": done["tokens"] / done["seconds"], "cpu_rate": done["tokens"] / done["cpu"]}

    def close(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()


def measure(
    model: Path, shard: int, threads: int, runs: int, count: int, log: Any
) -> dict[str, list[dict[str, float]]]:
    """`runs` rounds of ours, bare vLLM and transformers at its best batch, one after the other in each round."""
    trial = {}
    for batch in BATCHES if count * SAMPLES > BATCHES[-1] else BATCHES[1:2]:
        side = Side("transformers", model, batch, threads, log)
        trial[batch] = side.run(min(count, BATCHES[-1] // SAMPLES))["rate"]
        side.close()
    best = max(trial, key=trial.__getitem__)
    print("transformers, tokens/s by batch:", {batch: round(rate) for batch, rate in trial.items()}, flush=True)
    sides = {
        "ours": Side("ours", model, shard, threads, log),
        "bare": Side("bare", model, shard, threads, log),
        "transformers": Side("transformers", model, best, threads, log),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(runs):
        for name in sorted(sides, reverse=number % 2 == 1):  # whoever comes first may be luckier
            found[name].append(sides[name].run(count))
            print(name, {key: round(value, 1) for key, value in found[name][-1].items()}, flush=True)
    for side in sides.values():
        side.close()
    return found


def report(found: dict[str, list[dict[str, float]]], shard: int) -> None:
    assert {run["tokens"] for run in found["ours"]} == {run["tokens"] for run in found["bare"]}, "not the same answers"
    ratios = {
        (against, rate): [o[rate] / b[rate] for o, b in zip(found["ours"], found[against], strict=True)]
        for against in ("bare", "transformers")
        for rate in ("rate", "cpu_rate")
    }
    for (against, rate), each in ratios.items():
        print(f"ours / {against}, {rate}: {statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})")
    ours, bare = (statistics.median(run["rate"] for run in found[name]) for name in ("ours", "bare"))
    ratio, times = (statistics.median(ratios[name, "rate"]) for name in ("bare", "transformers"))
    ok = ratio >= GOAL_VLLM and times >= GOAL_TRANSFORMERS
    print(json.dumps({
        "name": f"rollouts, shards of {shard}", "value": round(ours), "baseline": round(bare), "ratio": round(ratio, 3),
        "goal": GOAL_VLLM, "times_transformers": round(times, 2), "ok": ok,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="64 prompts and one run, to see that it works")
    parser.add_argument(
        "--shard", type=int, default=PROMPTS, help="prompts in a shard (bare vLLM has one call for all)"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        return serve(given.side, given.model, given.shard, given.threads)
    count, runs = (64, 1) if given.short else (PROMPTS, given.runs)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        model = make_model(Path(folder) / "model")
        report(measure(model, given.shard, given.threads, runs, count, log), given.shard)


if __name__ == "__main__":
    main()
