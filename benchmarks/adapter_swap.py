"""A new round's adapter in a running server: how long it takes, and whether the sync check tells right from wrong.

    python benchmarks/adapter_swap.py [--short]

Support-desk's SFT policy is trained for three more rounds under LoRA, each on the merged one before, as `align run`
does. One server starts with the first policy. Then each round's adapter is loaded while it runs, several times over,
idle and while it answers 64 other requests; the time goes from the published checkpoint to the first token of the new
policy. Processor time, ours and the server's, stands beside the clock's. The sync check follows. Then it is lied to:
the adapter of the round before, the base model in the policy's place, and policies that differ less and less from what
the server has. The last line is JSON. `--short` is for a look: random weights and adapters, two rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
GOAL = 2.0
SCALES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="random weights, two rounds")
    parser.add_argument("--folder", type=Path, help="keeps the policies; a temporary one where not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measure(folder, given.short)))


def measure(folder: Path, short: bool) -> dict[str, object]:
    from align.errors import StageError
    from rollouts.server_process import kept_server
    from rollouts.sync import check_sync

    policies = (random_rounds if short else trained_rounds)(folder)
    requests = some_requests(policies[0])
    with kept_server():
        began = time.monotonic()
        with opened(policies, 0) as base:
            base.generate(requests[:4], one_token(), samples=1, seed=0)
            start = time.monotonic() - began
            idle = [swap(policies, n, requests) for _ in range(1 if short else 5) for n in range(1, len(policies))]
            with busy(base, requests):
                loaded = [
                    swap(policies, n, requests) for _ in range(1 if short else 3) for n in range(1, len(policies))
                ]
            table("swap, idle", [seconds for seconds, _, _ in idle])
            table("swap, idle, processor time", [work for _, work, _ in idle])
            table("swap, under load", [seconds for seconds, _, _ in loaded])
            worst = max(mean for _, _, mean in idle + loaded)
            print(f"a new start: {start:.1f} s; sync check: mean difference {worst:.2g} nats at worst")
            caught = 0
            plants = [(f"adapter of round {n - 1} in round {n}", n - 1, n) for n in range(2, len(policies))]
            plants += [(f"base model in round {n}", 0, n) for n in range(1, len(policies))]
            for name, served, believed in plants:
                with opened(policies, served) as generator:
                    try:
                        check_sync(generator, policies[believed], requests, dtype="float32")
                        print(f"planted: {name}: NOT FOUND")
                    except StageError as error:
                        caught += 1
                        print(f"planted: {name}: found, {error.what.partition('tokens ')[2]}")
            smallest = None if short else how_small(base, policies, requests, folder)
    slowest = max(seconds for seconds, _, _ in idle)
    return {
        "name": "adapter swap on a running server, seconds", "value": round(slowest, 3), "baseline": round(start, 1),
        "ratio": round(slowest / start, 4), "goal": GOAL, "swaps": len(idle) + len(loaded),
        "median": round(statistics.median(s for s, _, _ in idle), 3), "under_load": round(max(s for s, _, _ in loaded), 3),
        "processor_seconds": round(max(work for _, work, _ in idle), 3),
        "planted": len(plants), "caught": caught, "smallest_change_found": smallest,
        "ok": slowest < GOAL and caught == len(plants),
    }  # fmt: skip


def swap(policies: Sequence[Path], number: int, requests: Sequence) -> tuple[float, float, float]:
    """Seconds until the new policy's first token, on the clock and of processors, and the mean difference that the sync
    check then finds; it raises where it is too large."""
    from rollouts.sync import check_sync

    began, worked = time.monotonic(), processor_seconds()
    with opened(policies, number) as generator:
        generator.generate(requests[:1], one_token(), samples=1, seed=0)
        seconds, work = time.monotonic() - began, processor_seconds() - worked
        older = policies[:number][::-1]
        return seconds, work, check_sync(generator, policies[number], requests, dtype="float32", ancestors=older).mean


def processor_seconds() -> float:
    """What this process and the server's have worked so far."""
    from rollouts import server_process

    group = (server_process.kept_home() / server_process.KEEPER).read_text().split()[1]
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if fields[2] == group else 0
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def how_small(base, policies: Sequence[Path], requests: Sequence, folder: Path) -> float | None:
    """The smallest change of weights, as a share of a round's, with which the base model is still found out."""
    from align.errors import StageError
    from rollouts.sync import check_sync

    found = None
    for scale in SCALES:
        scaled = between(policies[0], policies[1], scale, folder / "scaled")
        try:
            mean = check_sync(base, scaled, requests, dtype="float32", ancestors=policies[:1]).mean
            print(f"{scale:>6} of a round's change: not found, {mean:.2g} nats in the mean")
        except StageError as error:
            found = scale
            said = error.what.partition("tokens ")[2] or error.what.partition("policy: ")[2]
            print(f"{scale:>6} of a round's change: found, {said}")
    return found


@contextmanager
def busy(generator, requests: Sequence) -> Iterator[None]:
    """Other answers are asked of the server all the time."""
    from align.config.base import Sampling

    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            generator.generate(requests, Sampling(max_tokens=64), samples=64 // len(requests), seed=1)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        time.sleep(1)
        yield
    finally:
        over.set()
        thread.join()


def opened(policies: Sequence[Path], number: int):
    from rollouts.engines import open_generator

    return open_generator(
        "server", policies[number], dtype="float32", max_tokens_total=160, threads=1, ancestors=policies[:number][::-1]
    )


def one_token():
    from align.config.base import Sampling

    return Sampling(max_tokens=1)


def some_requests(policy: Path) -> list:
    from align.text import encode_prompt, load_tokenizer
    from benchmarks import support_desk
    from rollouts.engine import Request

    tokenizer = load_tokenizer(policy)
    return [Request(p.id, encode_prompt(tokenizer, p.messages)[:64]) for p in support_desk.prompts("test")[:16]]


def trained_rounds(folder: Path) -> list[Path]:
    """Support-desk's SFT policy and three rounds of LoRA on other demonstrations."""
    from align.config.training import Lora, Sft
    from align.data.demonstrations import load_demonstrations
    from align.train.sft import train_sft
    from benchmarks import support_desk

    source = support_desk.recipe().sft.demonstrations
    rows = [(row.messages, row.answer) for row in load_demonstrations(source)[0]]
    policies = [support_desk.sft_policy(folder / "policy_0")]
    for number in (1, 2, 3):
        out, work = folder / f"policy_{number}", folder / f"work_{number}"
        if not (out / "model.safetensors").is_file():
            config = Sft(demonstrations=source, lora=Lora(r=8), learning_rate=5e-4, epochs=1)
            given = {"seed": number, "dtype": "float32", "report_to": [], "threads": 1, "out": out, "work": work}
            train_sft(policies[-1], rows[number * 64 : number * 64 + 64], config, **given)
            shutil.rmtree(work)
        policies.append(out)
    return policies


def random_rounds(folder: Path) -> list[Path]:
    from tests.lora import trained
    from tests.tiny import make_tiny_model

    policies = [make_tiny_model(folder / "policy_0")]
    for number in (1, 2):
        policies.append(
            trained(policies[-1], folder / f"policy_{number}", seed=number, modules=["q_proj", "down_proj"])
        )
    return policies


def between(first: Path, second: Path, share: float, out: Path) -> Path:
    """The policy that is `share` of the way from the first to the second."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(second, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter"))
    old, new = (load_file(folder / "model.safetensors") for folder in (first, second))
    mixed = {name: old[name] + share * (new[name] - old[name]) for name in new}
    save_file(mixed, out / "model.safetensors", metadata={"format": "pt"})
    return out


def table(name: str, seconds: Sequence[float]) -> None:
    print(
        f"{name}: {min(seconds):.2f} to {max(seconds):.2f} s, median {statistics.median(seconds):.2f} ({len(seconds)})"
    )


if __name__ == "__main__":
    main()
