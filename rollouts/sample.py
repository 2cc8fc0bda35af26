"""Candidates: each prompt's sampled answers, shard by shard.

A shard is a Parquet file of raw samples, published whole; a killed run goes on with the missing ones, and a shard's
samples do not depend on which others were there. What is no use to people is dropped afterwards, with its reason.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from align.config.base import Decoding, Sampling
from align.config.recipe import Evaluate
from align.config.rollouts import Engine, EngineType, Rollouts
from align.errors import ConfigError
from align.ids import content_id, seed_for
from align.store import checkpoint_id, disk_errors, publish, read_table, write_table
from align.types import Candidate, Dropped, Prompt, candidate_id
from rollouts.engine import Completion, Request, context_length, open_generator, resolve_engine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARDS = "shards"
EMPTY = "empty answer"
LOSSY = "the tokenizer cannot reproduce the answer"

RAW = pa.schema(
    [("prompt_id", pa.string()), ("sample", pa.int32()), ("tokens", pa.int32()), ("finish", pa.string())]
    + [("text", pa.string()), ("same", pa.bool_())]
)
"""A shard's columns; `same` says that encoding the text and decoding it again gives the text."""


def sample_candidates(
    prompts: Sequence[Prompt],
    checkpoint: Path,
    checkpoint_id: str,
    *,
    sampling: Decoding,
    samples: int,
    engine: Engine | EngineType,
    dtype: str,
    max_prompt_tokens: int,
    shard: int,
    seed: int,
    threads: int | None,
    out: Path,
    keep_all: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Candidate], list[Dropped]]:
    """`samples` answers of `checkpoint` to each prompt, in the prompts' order, and what was left out.

    Left out are prompts over `max_prompt_tokens` or without room for an answer in the model's context, and answers
    that are empty, that repeat an earlier one to the same prompt, or that the tokenizer cannot reproduce. With
    `keep_all` (for evaluation) every sampled answer stays; equal ones then have equal ids.

    `out/shards` keeps the samples until the caller removes it, those of each order (all that they depend on) apart;
    `shard` is prompts per file. `progress` is told (prompts done, prompts in all).
    """
    from align.text import load_tokenizer

    room = _room(checkpoint, max_prompt_tokens, sampling)
    tokenizer, by_id = load_tokenizer(checkpoint), {p.id: p for p in prompts}
    requests, dropped = _encode(tokenizer, prompts, max_prompt_tokens, room)
    shards = [requests[i : i + shard] for i in range(0, len(requests), shard)]
    order = {
        "checkpoint": checkpoint_id, "prompts": content_id([[r.prompt_id, r.token_ids] for r in requests]),
        "sampling": {name: getattr(sampling, name) for name in Decoding.model_fields}, "samples": samples,
        "engine": resolve_engine(engine.type if isinstance(engine, Engine) else engine), "dtype": dtype, "shard": shard, "seed": seed,
    }  # fmt: skip
    folder = out / SHARDS / content_id(order)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(len(shards)) if not _file(folder, n).is_file()]
    tell = progress or (lambda done, total: None)
    done = len(requests) - sum(len(shards[n]) for n in missing)
    tell(done, len(requests))
    if missing:
        drawn = Sampling.like(sampling)
        total = max(len(r.token_ids) for r in requests) + sampling.max_tokens
        with open_generator(engine, checkpoint, dtype=dtype, max_tokens_total=total, threads=threads) as generator:
            for n in missing:
                completions = generator.generate(shards[n], drawn, samples=samples, seed=seed)
                _write_shard(_file(folder, n), _rows(tokenizer, by_id, shards[n], completions))
                done += len(shards[n])
                tell(done, len(requests))
    rows = [row for n in range(len(shards)) for row in read_table(_file(folder, n)).to_pylist()]
    kept, unused = _candidates(rows, checkpoint_id, keep_all)
    return kept, dropped + unused


def sample_answers(
    prompts: Sequence[Prompt],
    checkpoint: Path,
    sampling: Rollouts | Evaluate,
    engine: Rollouts,
    *,
    purpose: str,
    seed: int,
    dtype: str,
    threads: int | None,
    out: Path,
    known_id: str | None = None,
    keep_all: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Candidate], list[Dropped]]:
    """`sample_candidates` as a recipe's sections say; each `purpose` draws other numbers from the recipe's `seed`.

    `known_id` is the checkpoint's id where the caller knows it, so that its weights need not be read for that.
    """
    return sample_candidates(
        prompts,
        checkpoint,
        known_id or checkpoint_id(checkpoint),
        sampling=sampling,
        samples=sampling.samples,
        engine=engine,
        dtype=dtype,
        max_prompt_tokens=engine.max_prompt_tokens,
        shard=engine.shard,
        seed=seed_for(f"{seed} {purpose}") % 2**31,
        threads=threads,
        out=out,
        keep_all=keep_all,
        progress=progress,
    )


def _room(checkpoint: Path, max_prompt_tokens: int, sampling: Decoding) -> int:
    """The longest prompt that may be sampled from."""
    context = context_length(checkpoint)
    if context is None:
        return max_prompt_tokens
    if context <= sampling.max_tokens:
        what = (
            f"an answer may take {sampling.max_tokens} tokens, but the model's context holds {context} with the prompt"
        )
        raise ConfigError(what, where="max_tokens", hint="lower it")
    return min(max_prompt_tokens, context - sampling.max_tokens)


def _encode(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[Prompt], max_prompt_tokens: int, room: int
) -> tuple[list[Request], list[Dropped]]:
    from align.text import encode_prompt

    limit = (
        "max_prompt_tokens is" if room == max_prompt_tokens else "beside an answer, the model's context has room for"
    )
    requests: list[Request] = []
    dropped: list[Dropped] = []
    for prompt in prompts:
        ids = encode_prompt(tokenizer, prompt.messages)
        if len(ids) <= room:
            requests.append(Request(prompt.id, ids))
        else:
            dropped.append(Dropped("prompt", prompt.source, f"the prompt has {len(ids)} tokens; {limit} {room}"))
    return requests, dropped


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def _write_shard(file: Path, rows: list[dict[str, Any]]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    write_table(partial, pa.Table.from_pylist(rows, schema=RAW))
    publish(partial, file)


def _rows(
    tokenizer: "PreTrainedTokenizerBase",
    prompts: dict[str, Prompt],
    requests: Sequence[Request],
    completions: Sequence[Sequence[Completion]],
) -> list[dict[str, Any]]:
    from align.text import decode_answer, encode_answer

    rows = []
    for request, several in zip(requests, completions, strict=True):
        messages = prompts[request.prompt_id].messages
        for sample, completion in enumerate(several):
            ids = completion.token_ids
            text = decode_answer(tokenizer, ids[:-1] if completion.finish == "stop" else ids)
            same = decode_answer(tokenizer, encode_answer(tokenizer, messages, text)) == text
            row = {"prompt_id": request.prompt_id, "sample": sample, "tokens": len(ids), "finish": completion.finish}
            rows.append({**row, "text": text, "same": same})
    return rows


def _candidates(
    rows: Sequence[dict[str, Any]], checkpoint: str, keep_all: bool
) -> tuple[list[Candidate], list[Dropped]]:
    """Raw samples as candidates; without `keep_all` only those that people can be asked about."""
    kept: list[Candidate] = []
    dropped: list[Dropped] = []
    first: dict[str, int] = {}
    for row in rows:
        prompt, sample, text = row["prompt_id"], row["sample"], row["text"]
        id = candidate_id(prompt, text, checkpoint)
        reason = None if keep_all else _unfit(row, first.setdefault(id, sample))
        if reason is None:
            kept.append(Candidate(id, prompt, text, checkpoint, sample, row["tokens"], row["finish"]))
        else:
            dropped.append(Dropped("answer", f"prompt {prompt}, sample {sample}", reason))
    return kept, dropped


def _unfit(row: dict[str, Any], first: int) -> str | None:
    """Why people are not asked about a sample; `first` is the earliest sample with the same text."""
    if not row["text"].strip():
        return EMPTY
    if not row["same"]:
        return LOSSY
    return f"the same answer as sample {first}" if first != row["sample"] else None
