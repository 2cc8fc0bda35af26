"""One million judgements by 1,000 annotators: seconds and memory of the label compiler, and how they grow.

    python benchmarks/label_compile_scale.py [--short]

Each size runs in a process of its own, whose peak of memory holds everything: the interpreter, the tables that go in
(made before the clock starts) and the rows that come out. Three judgements a task; prompts of 300 characters, answers
of 500; one prompt in five has three pairs that share answers; 5% skips, 10% ties, strengths on half, flags on 2%.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.types import MESSAGES, SCHEMAS, Judgement, Task
from annotation.compile import compile_labels
from benchmarks.memory import peak_bytes

SIZES = (10_000, 100_000, 1_000_000)
OVERLAP = 3
WORDS = ["the", "a", "of", "order", "parcel", "refund", "please", "answer", "sorry", "delay", "when", "week", "money"]


def texts(draw: np.random.Generator, count: int, length: int) -> pa.Array:
    """Different texts of about `length` characters, of words."""
    base = " ".join(draw.choice(WORDS, 400_000).tolist())
    starts = draw.integers(0, len(base) - 2 * length, count).tolist()
    sizes = draw.integers(length // 2, 3 * length // 2, count).tolist()
    return pa.array([f"{n} {base[s : s + k]}" for n, (s, k) in enumerate(zip(starts, sizes, strict=True))])


def ids(draw: np.random.Generator, count: int) -> pa.Array:
    digits = draw.bytes(16 * count).hex()
    return pa.array([digits[32 * n : 32 * n + 32] for n in range(count)])


def make(judgements: int, annotators: int = 1_000) -> tuple[pa.Table, pa.Table]:
    """Tables of tasks and judgements."""
    draw = np.random.default_rng(judgements)
    count = judgements // OVERLAP
    # In every seven tasks: four prompts of one pair, and one of three pairs between three answers.
    place = np.arange(count) % 7
    block = np.arange(count) // 7
    prompt = np.where(place < 4, block * 5 + place, block * 5 + 4)
    first = block * 11 + np.select([place < 4, place == 4, place == 5, place == 6], [2 * place, 8, 8, 9])
    second = block * 11 + np.select([place < 4, place == 4, place == 5, place == 6], [2 * place + 1, 9, 10, 10])
    answers = int(second.max()) + 1
    names, words = ids(draw, answers), texts(draw, answers, 500)
    prompts, asked = ids(draw, int(prompt.max()) + 1), texts(draw, int(prompt.max()) + 1, 300)
    both = pa.array(np.stack([first, second], 1).ravel())
    offsets = pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32))
    turned = draw.random(count) < 0.5
    shown = np.stack([turned, ~turned], 1).astype(np.int32).ravel()
    message = pa.StructArray.from_arrays(
        [pa.repeat("user", count), asked.take(pa.array(prompt))], fields=list(MESSAGES.value_type)
    )
    tasks = {
        "id": ids(draw, count),
        "kind": pa.repeat("pair", count),
        "round": pa.array(np.ones(count, np.int32)),
        "purpose": pa.repeat("train", count),
        "repeat": pa.array(np.zeros(count, np.int32)),
        "prompt_id": prompts.take(pa.array(prompt)),
        "messages": pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32)), message),
        "candidates": pa.ListArray.from_arrays(offsets, names.take(both)),
        "texts": pa.ListArray.from_arrays(offsets, words.take(both)),
        "shown": pa.ListArray.from_arrays(offsets, pa.array(shown)),
        "wanted": pa.array(np.full(count, OVERLAP, np.int32)),
    }
    return _table(tasks, Task), _said(draw, tasks["id"], draw.normal(size=answers)[[first, second]], turned, annotators)


def _said(draw: np.random.Generator, tasks: pa.Array, quality: np.ndarray, turned: np.ndarray, people: int) -> pa.Table:
    count = len(tasks) * OVERLAP
    task = np.repeat(np.arange(len(tasks)), OVERLAP)
    who = (draw.integers(0, people, len(tasks)).repeat(OVERLAP) + np.tile([0, 317, 633], len(tasks))) % people
    x = draw.uniform(0, 3, people)[who] * (quality[0] - quality[1])[task] + 0.3 * np.where(turned, -1, 1)[task]
    outcome = np.where(draw.random(count) < 1 / (1 + np.exp(-x)), 0, 1)
    outcome = np.where(draw.random(count) < 0.1, 2, outcome)
    outcome = np.where(draw.random(count) < 0.05, 4, outcome)
    said = {
        "id": ids(draw, count),
        "task_id": tasks.take(pa.array(task)),
        "kind": pa.repeat("pair", count),
        "annotator": pa.array([f"annotator-{n:04d}" for n in range(people)]).take(pa.array(who)),
        "revision": pa.array(np.zeros(count, np.int32)),
        "outcome": pa.array(["a", "b", "tie", "both_bad", "skipped"]).take(pa.array(outcome)),
        "strength": pa.array(draw.integers(1, 4, count).astype(np.int32), mask=draw.random(count) < 0.5),
        "flags": pa.array([["a:wrong"] if f else None for f in (draw.random(count) < 0.02).tolist()]),
    }
    return _table(said, Judgement)


def _table(columns: dict[str, pa.Array], kind: type) -> pa.Table:
    count = len(columns["id"])
    return pa.table(
        {f.name: columns[f.name].cast(f.type) if f.name in columns else pa.nulls(count, f.type) for f in SCHEMAS[kind]},
        schema=SCHEMAS[kind],
    )


def one(size: int) -> None:
    """Compile once and print what it took."""
    tasks, said = make(size)
    cpu = time.process_time()
    bytes_in = tasks.nbytes + said.nbytes
    started = time.perf_counter()
    found = compile_labels(tasks, said)
    seconds = time.perf_counter() - started
    cpu = time.process_time() - cpu
    peak = peak_bytes()
    weight = pc.sum(found.preferences["weight"]).as_py()
    print(
        json.dumps(
            {
                "judgements": said.num_rows,
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu, 2),
                "peak_gib": round(peak / 2**30, 2),
                "tables_gib": round(bytes_in / 2**30, 2),
                "preferences": found.preferences.num_rows,
                "weight": round(weight, 1),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="without the million")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one)
        return
    found = []
    for size in SIZES[: 2 if given.short else 3]:
        command = [sys.executable, __file__, "--one", str(size)]
        threads = os.environ | {"OMP_NUM_THREADS": "1"}  # small matrices: a second thread only spins
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=threads)
        found.append(json.loads(run.stdout))
        print(run.stdout.strip(), flush=True)
    last, before = found[-1], found[-2]
    growth = last["seconds"] / before["seconds"] / (last["judgements"] / before["judgements"])
    ok = last["seconds"] <= 20 and last["peak_gib"] <= 2 and growth < 1.5
    row = {
        "name": "label_compile_scale",
        "value": last["seconds"],
        "baseline": before["seconds"],
        "ratio": round(growth, 2),
    }
    print(json.dumps(row | {"goal": "≤ 20 s and ≤ 2 GiB for a million; ratio (growth over linear) < 1.5", "ok": ok}))


if __name__ == "__main__":
    main()
