"""PPO on ragged answers (1 to 256 tokens, about 70 on average): ours against TRL 1.12.0's PPOTrainer, the last that TRL
had.

    python benchmarks/ppo_speed.py [--short] [--seeds 3] [--folder DIR]

TRL 1.12.0 is installed into an environment of its own (in DIR, with this environment's other packages; pip has to reach
an index the first time). Both sides get the same model (a million parameters, random but for the odds of ending an
answer), prompts, reward (the share of wanted words, of 48 where an answer has fewer: without that, and with more weight
on the KL divergence, which a short answer has less of, both sides learned to end at once), batch (64 answers, four
passes) and seeds, each in a process of its own, one after the other. The ratio is of answers per second of training, at
the median over seeds; the reward is the mean of the last fifth of the batches. The floor is the multiplications that
ours cannot avoid, at the machine's own rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = [f"w{n}" for n in range(240)]
WANTED = frozenset(WORDS[:48])
ASKED = [f"q{n}" for n in range(64)]
PAD, END = 0, 1
WIDTH, INNER, LAYERS = 128, 352, 4
LONGEST, ENDS_AFTER, ENOUGH = 256, 70, 48
BATCH, PASSES, RATE, BETA = 64, 4, 1e-3, 0.002
GOAL = 2.0
TRL = "trl==1.12.0"


# The world


def make_model(folder: Path) -> Path:
    """A Llama of a million random weights that says each word alike, and ends an answer with odds of 1 in 70.

    All embeddings share one direction; the head's row of the end token points there, which gives that token constant
    odds.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<pad>", "<end>", *ASKED, *WORDS]
    core = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", chat_template=template, padding_side="left"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(names), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=END, pad_token_id=PAD,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        shared = torch.ones(WIDTH) / WIDTH**0.5
        model.model.embed_tokens.weight += shared
        head = model.lm_head.weight
        head[PAD] = head[2 : 2 + len(ASKED)] = -shared  # never said
        ids = torch.randint(2 + len(ASKED), len(names), (64, 64))
        states = model.model(ids).last_hidden_state.flatten(0, 1)
        along = (states @ shared).mean()
        said = (states @ head[2 + len(ASKED) :].T).exp().sum(1).mean()
        head[: 2 + len(ASKED)] *= 10 / along
        head[END] = shared * torch.log(said / ENDS_AFTER) / along
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=PAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asked(number: int) -> str:
    """A prompt of 4 to 12 words."""
    return " ".join(ASKED[(number * 7 + k * 5) % len(ASKED)] for k in range(4 + number % 9))


def score(conversations: Sequence[Any], answers: Sequence[str]) -> list[float | None]:
    """The share of an answer's words that are wanted, or of `ENOUGH` where it has fewer."""
    words = [answer.split() for answer in answers]
    return [sum(word in WANTED for word in said) / max(ENOUGH, len(said)) for said in words]


# The two sides, each in a process of its own


def ours(model: Path, work: Path, seed: int, batches: int, threads: int) -> dict[str, Any]:
    from align.config.training import Ppo
    from align.train import generation, loop, ppo_trainer
    from align.train.ppo import train_ppo
    from align.types import Message, Prompt, prompt_id

    messages = [[Message(role="user", content=asked(n))] for n in range(BATCH)]
    prompts = [Prompt(prompt_id(m), m, "train", str(n)) for n, m in enumerate(messages)]
    config = Ppo(
        learning_rate=RATE, batch_size=BATCH, epochs=batches, ppo_epochs=PASSES, beta=BETA, max_tokens=LONGEST,
        type="transformers", trainer={"lr_scheduler_type": "linear"},
    )  # fmt: skip
    seconds = {
        "answers": timed(generation.Ragged, "_by_transformers"),
        "log-probabilities": timed(generation.Ragged, "_get_per_token_logps_and_entropies"),
        "values": timed(ppo_trainer.PpoTrainer, "_values"),
        "step": timed(ppo_trainer.PpoTrainer, "training_step"),
    }
    worked = timed(loop, "run_trainer", clock=time.process_time)
    train_ppo(
        model, prompts, config, score=score, seed=seed, dtype="float32", report_to=[], threads=threads,
        out=work / "out", work=work / "work", progress=lambda done, total: None,
    )  # fmt: skip
    took = json.loads((work / "out/logs/seconds.json").read_text())["train"]
    rows = [json.loads(line) for line in (work / "out/logs/metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "reward" in row]
    spent = {name: sum(found) for name, found in seconds.items()}
    spent["learning"] = spent.pop("step") - sum(spent.values())
    tokens = sum(row["completions/mean_length"] for row in rows) * BATCH
    return {
        "per_second": batches * BATCH / took, "scores": [row["reward"] for row in rows], "seconds": spent,
        "per_cpu_second": batches * BATCH / sum(worked), "took": took, "tokens": tokens, "kl": [row["kl_per_answer"] for row in rows],
        "lengths": [row["completions/mean_length"] for row in rows],
    }  # fmt: skip


def timed(owner: Any, name: str, clock: Callable[[], float] = time.monotonic) -> list[float]:
    """Seconds of each call of a method, from now on."""
    found: list[float] = []
    original: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        began = clock()
        try:
            return original(*args, **kwargs)
        finally:
            found.append(clock() - began)

    setattr(owner, name, call)
    return found


def theirs(model: Path, work: Path, seed: int, batches: int, threads: int) -> dict[str, Any]:
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__ == TRL.partition("==")[2]
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy, reference = (AutoModelForCausalLM.from_pretrained(model) for _ in range(2))
    critic = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    torch.nn.init.zeros_(critic.score.weight)
    rows = Dataset.from_dict({"input_ids": [tokenizer(asked(n))["input_ids"] for n in range(BATCH)]})
    args = PPOConfig(
        output_dir=str(work / "trl"), per_device_train_batch_size=BATCH, gradient_accumulation_steps=1,
        num_mini_batches=1, num_ppo_epochs=PASSES, total_episodes=batches * BATCH, learning_rate=RATE, kl_coef=BETA,
        response_length=LONGEST, local_rollout_forward_batch_size=BATCH, stop_token_id=END, temperature=1.0,
        num_sample_generations=0, use_cpu=True, bf16=False, seed=seed, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    lengths: list[float] = []
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=shares(lengths),
        value_model=critic, train_dataset=rows, eval_dataset=rows,
    )  # fmt: skip
    began, worked = time.monotonic(), time.process_time()
    trainer.train()
    took, worked = time.monotonic() - began, time.process_time() - worked
    rows = [row for row in trainer.state.log_history if "objective/scores" in row]
    return {
        "per_second": batches * BATCH / took, "scores": [row["objective/scores"] for row in rows], "took": took,
        "per_cpu_second": batches * BATCH / worked,
        "kl": [row["objective/kl"] for row in rows], "lengths": lengths,
    }  # fmt: skip


def shares(lengths: list[float]) -> Any:
    """`score` as the reward model that TRL's PPO asks for: a backbone and a head, here on token ids.

    The mean number of words in each batch goes into `lengths`.
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    class Ids(torch.nn.Module):
        def forward(self, input_ids: Any, **_: Any) -> Any:
            return BaseModelOutput(hidden_states=(input_ids[..., None],))

    class Shares(torch.nn.Module):
        base_model_prefix = "ids"

        def __init__(self) -> None:
            super().__init__()
            self.ids = Ids()

        def score(self, ids_BT1: Any) -> Any:
            first = 2 + len(ASKED)
            words, wanted = (
                (ids_BT1 >= first).cumsum(1),
                ((ids_BT1 >= first) & (ids_BT1 < first + len(WANTED))).cumsum(1),
            )
            lengths.append(words[:, -1].float().mean().item())
            return wanted / words.clamp(min=ENOUGH)

    return Shares()


# Both


def environment(folder: Path) -> Path:
    """TRL 1.12.0's python: this environment's packages, but for TRL."""
    python = folder / "trl/bin/python"
    if not (folder / "trl/done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "trl")], check=True)
        here = subprocess.run(
            [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", TRL]
        subprocess.run(pip, check=True)
        import sysconfig

        Path(here, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "trl/done").touch()
    return python


def run(python: str | Path, side: str, model: Path, seed: int, batches: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as work:
        command = [str(python), __file__, "--side", side, "--model", str(model), "--work", work]
        command += ["--seed", str(seed), "--batches", str(batches), "--threads", str(threads)]
        root = str(Path(__file__).resolve().parent.parent)
        env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        if done.returncode:
            raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
        return dict(json.loads(Path(work, "result.json").read_text()))


def matrix_rate(threads: int) -> float:
    """Multiply-adds of float32 per second that this machine does on matrices of the model's size, times 2."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(2048, WIDTH), torch.randn(WIDTH, INNER)
    rates = []
    for _ in range(20):
        began = time.monotonic()
        for _ in range(20):
            a @ b
        rates.append(20 * 2 * 2048 * WIDTH * INNER / (time.monotonic() - began))
    return max(rates)


def floor(tokens: float, threads: int) -> float:
    """Seconds for the multiplications by weights: an answer's token is sampled, seen by reference and critic, and
    learned from in each pass by policy and critic, which costs three times a forward pass."""
    weights = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * INNER) + WIDTH * 306
    return 2 * weights * tokens * (3 + 2 * 3 * PASSES) / matrix_rate(threads)


def compare(folder: Path, seeds: int, batches: int, threads: int) -> None:
    model = folder / "model"
    if not (model / "config.json").exists():
        make_model(model)
    python = environment(folder)
    results = []
    for seed in range(seeds):
        pair = (
            run(sys.executable, "ours", model, seed, batches, threads),
            run(python, "theirs", model, seed, batches, threads),
        )
        results.append(pair)
        tail = max(1, batches // 5)
        for name, side in zip(("ours", "TRL 1.12.0"), pair, strict=True):
            print(
                f"seed {seed}  {name:10s}  {side['per_second']:6.2f} answers/s, {side['per_cpu_second']:.2f} per CPU second  score {side['scores'][0]:.3f} → "
                f"{statistics.fmean(side['scores'][-tail:]):.3f}  KL {side['kl'][-1]:.2f} nats an answer  "
                f"length {side['lengths'][0]:.0f} → {side['lengths'][-1]:.0f}", flush=True,
            )  # fmt: skip
    mine, other = ([pair[side]["per_second"] for pair in results] for side in (0, 1))
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    last = [[statistics.fmean(pair[side]["scores"][-tail:]) for pair in results] for side in (0, 1)]
    first = results[0][0]
    print("ours, seconds: " + ", ".join(f"{name} {spent:.1f}" for name, spent in first["seconds"].items()))
    print(f"  of {first['took']:.1f}; floor {floor(first['tokens'], threads):.1f} for {first['tokens']:.0f} tokens")
    cpu = [a["per_cpu_second"] / b["per_cpu_second"] for a, b in results]
    print(f"ratio of answers per CPU second by seed: {', '.join(f'{r:.2f}' for r in cpu)}")
    print(f"ratio of answers/s by seed: {', '.join(f'{r:.2f}' for r in ratios)}; score ours {last[0]}, TRL {last[1]}")
    reached = statistics.fmean(last[0]) >= statistics.fmean(last[1]) - 0.02
    ratio = statistics.median(ratios)
    print(json.dumps({
        "name": "ppo_speed", "value": round(statistics.median(mine), 2), "baseline": round(statistics.median(other), 2),
        "ratio": round(ratio, 2), "goal": GOAL, "ok": ratio >= GOAL and reached,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two batches, one seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="kept between runs; a temporary one where not given")
    for hidden in ("--side", "--model", "--work", "--seed"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side = {"ours": ours, "theirs": theirs}[given.side]
        result = side(Path(given.model), Path(given.work), int(given.seed), given.batches, given.threads)
        Path(given.work, "result.json").write_text(json.dumps(result))
        return
    seeds, batches = (1, 2) if given.short else (given.seeds, given.batches)
    with tempfile.TemporaryDirectory() as temporary:
        compare(given.folder or Path(temporary), seeds, batches, given.threads)


if __name__ == "__main__":
    main()
