"""Answers to many prompts, in shards of fixed prompts: a killed sampling goes on with the shards that are missing."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from align.config.recipe import Sampling
from align.ids import content_id
from align.store import read_table, write_table
from align.text import decode_answer, encode_prompt, load_tokenizer
from align.types import Candidate, Dropped, Prompt, candidate_id, from_table, to_table
from rollouts.engine import Request, open_generator

Progress = Callable[[int, int], None]


def sample_candidates(
    prompts: Sequence[Prompt],
    checkpoint: Path,
    checkpoint_id: str,
    *,
    sampling: Sampling,
    samples: int,
    engine: str,
    dtype: str,
    max_prompt_tokens: int,
    shard: int,
    seed: int,
    threads: int | None,
    keep_all: bool = False,
    out: Path,
    progress: Progress | None,
) -> tuple[list[Candidate], list[Dropped]]:
    """`samples` answers to each prompt, with what was dropped and why.

    Prompts longer than `max_prompt_tokens` are dropped. Empty answers and repeated answers of one prompt are dropped
    too, so that nobody is asked about them, unless `keep_all`: where a policy is measured, each answer counts.
    `out/shards/` keeps finished shards; a call with the same arguments goes on from there. `progress` gets prompts.
    """
    tokenizer = load_tokenizer(checkpoint)
    fitting, dropped = _fitting(prompts, tokenizer, max_prompt_tokens)
    asked = content_id([checkpoint_id, [p.id for p, _ in fitting], sampling.model_dump(), samples, engine, seed, shard])
    folder = out / "shards" / asked
    folder.mkdir(parents=True, exist_ok=True)
    parts = [fitting[start : start + shard] for start in range(0, len(fitting), shard)]
    paths = [folder / f"{number:05d}.parquet" for number in range(len(parts))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    done = sum(len(part) for part, path in zip(parts, paths, strict=True) if path.is_file())
    if missing:
        longest = max(len(ids) for _, ids in fitting) + sampling.max_tokens
        with open_generator(engine, checkpoint, dtype=dtype, max_tokens=longest, threads=threads) as generator:
            for number in missing:
                requests = [Request(prompt.id, ids) for prompt, ids in parts[number]]
                answers = generator.generate(requests, sampling, samples=samples, seed=seed)
                rows = _candidates(parts[number], answers, tokenizer, checkpoint_id)
                partial = paths[number].with_suffix(".partial")
                write_table(partial, to_table(Candidate, rows))
                partial.replace(paths[number])
                done += len(parts[number])
                if progress:
                    progress(done, len(fitting))
    everything = [row for path in paths for row in from_table(Candidate, read_table(path))]
    if keep_all:
        return everything, dropped
    kept, useless = _worth_asking(everything)
    return kept, dropped + useless


def _fitting(
    prompts: Sequence[Prompt], tokenizer: Any, limit: int
) -> tuple[list[tuple[Prompt, list[int]]], list[Dropped]]:
    encoded = [(prompt, encode_prompt(tokenizer, prompt.messages)) for prompt in prompts]
    reason = f"longer than rollouts.max_prompt_tokens ({limit})"
    dropped = [Dropped("prompt", p.source, f"{reason}: {len(ids)} tokens") for p, ids in encoded if len(ids) > limit]
    return [(p, ids) for p, ids in encoded if len(ids) <= limit], dropped


def _candidates(
    part: Sequence[tuple[Prompt, list[int]]], answers: Sequence[Sequence[Any]], tokenizer: Any, checkpoint_id: str
) -> list[Candidate]:
    rows = []
    for (prompt, _), completions in zip(part, answers, strict=True):
        for number, completion in enumerate(completions):
            text = decode_answer(tokenizer, completion.token_ids)
            identity = candidate_id(prompt.id, text, checkpoint_id)
            tokens = len(completion.token_ids)
            rows.append(Candidate(identity, prompt.id, text, checkpoint_id, number, tokens, completion.finish))
    return rows


def _worth_asking(rows: Sequence[Candidate]) -> tuple[list[Candidate], list[Dropped]]:
    seen: Counter[str] = Counter()
    kept, dropped = [], []
    for row in rows:
        if not row.text.strip():
            dropped.append(Dropped("candidate", row.id, "empty answer"))
        elif seen[row.id]:
            dropped.append(Dropped("candidate", row.id, "the same answer as another sample of the prompt"))
        else:
            kept.append(row)
        seen[row.id] += 1
    return kept, dropped
