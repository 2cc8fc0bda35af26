"""Candidates: each prompt's sampled answers, of one checkpoint or of several, shard by shard.

A shard's samples depend on its own prompts and settings alone, so it does not matter which shards were there before or
how often the run was killed. What is no use to people is dropped afterwards, with its reason.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config.base import Decoding, Sampling
from align.config.recipe import Evaluate
from align.config.rollouts import Cpu, Engine, EngineType, Rollouts
from align.errors import ConfigError, DataError
from align.ids import content_id, seed_for
from align.progress import Progress
from align.sampled import tokenizer_id
from align.store import checkpoint_id, disk_errors, read_json, remove_damaged, write_json
from align.types import Candidate, Dropped, Prompt
from rollouts.choose import choose
from rollouts.draw import Ask, Completions, Work, draw_shards
from rollouts.engine import Generator, Request, context_length, resolve_engine, weight_bytes
from rollouts.engines import TINY_BYTES, as_engine, open_generator, threads_for
from rollouts.mixture import Policy, Source, counts, sources_of
from rollouts.process import engine_process
from rollouts.shards import RAW, Row, candidates_of, read_shard, shard_file, write_sampled
from rollouts.sync import check_sync

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARDS = "shards"
MACHINE = "machine.json"
"""What was taken of the machine when an order was begun, so that it is finished with the same."""


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
    sources: Sequence[Source] = (),
    max_resamples: int = 0,
    tokens: Path | None = None,
    logprobs: bool = False,
    ancestors: Sequence[Path] = (),
    keep_all: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Candidate], list[Dropped]]:
    """`samples` answers to each prompt, in the prompts' order, and what was left out.

    All of them are those of `checkpoint` at `sampling.temperature`, or of `sources` in their shares. An answer that
    repeats another one to the same prompt is drawn again up to `max_resamples` times.

    Left out are prompts over `max_prompt_tokens` or without room for an answer in a model's context, and answers that
    are empty, that repeat an earlier one to the same prompt, or that the tokenizer cannot reproduce. With `keep_all`
    (for evaluation) every sampled answer stays; equal ones then have equal ids.

    `tokens` is a file for the candidates' tokens (`rollouts.shards.SAMPLED`), which it is to hold with their
    log-probabilities where `logprobs` asks for these. `out/shards` keeps the samples until the caller removes it, those
    of each order (all that they depend on) apart; `shard` is prompts per file. `ancestors` are those of
    `open_generator`. `progress` is told (prompts done, prompts in all); with several checkpoints each counts.
    """
    sources = list(sources) or [Source(Policy(checkpoint, checkpoint_id), sampling.temperature)]
    engine, why = _settled(as_engine(engine), checkpoint, dtype, len(prompts) * samples, sampling.max_tokens)
    drawn = Sampling.like(sampling, logprobs=logprobs)
    order = {
        "version": 3, "sources": [[s.policy.id, s.temperature, s.share] for s in sources], "samples": samples,
        "sampling": drawn.model_dump(), "engine": resolve_engine(engine.type), "dtype": dtype, "shard": shard,
        "seed": seed, "resample": max_resamples,  # as shards of runs begun before are named
    }  # fmt: skip
    works, dropped = _plan(prompts, sources, drawn, order, max_prompt_tokens, out / SHARDS)
    tell: Progress = progress or (lambda done, total, said="": None)
    for work in works:
        remove_damaged(work.folder, RAW)
    total = sum(len(requests) for work in works for requests in work.shards)
    done = total - sum(len(work.shards[n]) for work in works for n in work.missing)
    tell(done, total, why) if why else tell(done, total)
    for work in works:
        if not work.missing:
            continue
        with _opened(engine, work, dtype=dtype, threads=threads, ancestors=ancestors) as ask:
            for n in draw_shards(work, ask):
                done += len(work.shards[n])
                tell(done, total)
    kept, unused = candidates_of(_in_order(works), keep_all)
    if tokens is not None:
        write_sampled(tokens, kept, _shards(works))
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
    policies: Mapping[str, Policy] | None = None,
    tokens: Path | None = None,
    ancestors: Sequence[Path] = (),
    keep_all: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Candidate], list[Dropped]]:
    """`sample_candidates` as a recipe's sections say; each `purpose` draws other numbers from the recipe's `seed`.

    `known_id` is the checkpoint's id where the caller knows it, so that its weights need not be read for that.
    `policies` has the `parent` and the `sft` that a mixture names; without them all is `checkpoint`, as it is in the
    first round. `tokens` is a file for the answers' tokens, with their log-probabilities where the recipe asks for
    them.
    """
    current = Policy(checkpoint, known_id or checkpoint_id(checkpoint))
    mixed = sampling if isinstance(sampling, Rollouts) else None
    known = {"parent": current, "sft": current, **(policies or {}), "current": current}
    return sample_candidates(
        prompts,
        checkpoint,
        current.id,
        sampling=sampling,
        samples=sampling.samples,
        engine=engine,
        dtype=dtype,
        max_prompt_tokens=engine.max_prompt_tokens,
        shard=engine.shard,
        seed=seed_for(f"{seed} {purpose}") % 2**31,
        threads=threads,
        out=out,
        sources=sources_of(mixed, known) if mixed else (),
        max_resamples=mixed.max_resamples if mixed else 0,
        tokens=tokens,
        logprobs=mixed is not None and mixed.logprobs,
        ancestors=ancestors,
        keep_all=keep_all,
        progress=progress,
    )


def _settled(engine: Engine, checkpoint: Path, dtype: str, answers: int, max_tokens: int) -> tuple[Engine, str]:
    """The engine with its type chosen, where that is `auto`, and what is said of it."""
    if engine.type != "auto":
        return engine, ""
    chosen = choose(engine, checkpoint, dtype=dtype, answers=answers, max_tokens=max_tokens)
    why = f"engine {chosen.type}: {chosen.why}"
    print(why, file=sys.stderr)
    return engine.model_copy(update={"type": chosen.type}), why


def _plan(
    prompts: Sequence[Prompt],
    sources: Sequence[Source],
    sampling: Sampling,
    order: dict[str, Any],
    max_prompt_tokens: int,
    out: Path,
) -> tuple[list[Work], list[Dropped]]:
    """What each policy does, in the order in which `sources` name them, and the prompts that one of them cannot
    take."""
    from align.text import load_tokenizer

    policies = {source.policy.id: source.policy for source in sources}
    encoded, dropped = [], dict[str, Dropped]()
    for policy in policies.values():
        tokenizer = load_tokenizer(policy.path)
        room = _room(policy.path, max_prompt_tokens, sampling)
        requests, too_long = _encode(tokenizer, prompts, max_prompt_tokens, room)
        encoded.append((tokenizer, requests))
        dropped = {**too_long, **dropped}
    shares, messages = [s.share for s in sources], {p.id: p.messages for p in prompts}
    amounts = {id: counts(shares, order["samples"], order["seed"], id) for id in messages}
    works: list[Work] = []
    for policy, (tokenizer, requests) in zip(policies.values(), encoded, strict=True):
        asked = [r for r in requests if r.prompt_id not in dropped]
        own = {"policy": policy.id, "prompts": content_id([[r.prompt_id, r.token_ids] for r in asked])}
        folder = out / content_id({**order, **own, "before": [work.folder.name for work in works]})
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        work = Work(
            policy=policy,
            sources={k: source for k, source in enumerate(sources) if source.policy.id == policy.id},
            amounts=amounts,
            tokenizer=tokenizer,
            messages=messages,
            shards=[asked[i : i + order["shard"]] for i in range(0, len(asked), order["shard"])],
            sampling=sampling,
            seed=order["seed"],
            max_resamples=order["resample"],
            folder=folder,
            before=[work.folder for work in works],
        )
        works.append(work)
    return works, [dropped[p.id] for p in prompts if p.id in dropped]


def _room(checkpoint: Path, max_prompt_tokens: int, sampling: Sampling) -> int:
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
) -> tuple[list[Request], dict[str, Dropped]]:
    """Requests, and the prompts that are too long by their ids."""
    from align.text import encode_prompt

    limit = (
        "max_prompt_tokens is" if room == max_prompt_tokens else "beside an answer, the model's context has room for"
    )
    requests: list[Request] = []
    dropped: dict[str, Dropped] = {}
    for prompt in prompts:
        ids = encode_prompt(tokenizer, prompt.messages)
        if len(ids) <= room:
            requests.append(Request(prompt.id, ids))
        else:
            dropped[prompt.id] = Dropped("prompt", prompt.source, f"the prompt has {len(ids)} tokens; {limit} {room}")
    return requests, dropped


@contextmanager
def _opened(engine: Engine, work: Work, *, dtype: str, threads: int | None, ancestors: Sequence[Path]) -> Iterator[Ask]:
    """The engine with the policy loaded: in a process of its own, unless others keep it apart already, or the model is
    so small that another process would take more than it could save."""
    checkpoint, kind, older = work.policy.path, resolve_engine(engine.type), list(ancestors)
    if checkpoint in older:  # in a mixture it may be one of them
        older = older[older.index(checkpoint) + 1 :]
    if kind == "vllm":
        engine = _of_this_machine(engine, work, dtype)
    given: dict[str, Any] = {"dtype": dtype, "max_tokens_total": work.longest}
    if kind == "vllm" or (kind == "transformers" and weight_bytes(checkpoint) >= TINY_BYTES):
        given |= {"threads": threads_for(engine, checkpoint, threads), "retries": engine.retries}
        with engine_process(engine, checkpoint, **given) as process:
            _check(process, engine, work, dtype, older)
            yield process.submit
    else:
        with open_generator(engine, checkpoint, threads=threads, ancestors=older, **given) as generator:
            _check(generator, engine, work, dtype, older)
            yield partial(_later, generator)


def _check(generator: Generator, engine: Engine, work: Work, dtype: str, ancestors: Sequence[Path]) -> None:
    """No answer is sampled from weights that are not the policy's."""
    requests = [request for several in work.shards for request in several]
    found = check_sync(
        generator, work.policy.path, requests, dtype=dtype, tolerance=engine.sync_tolerance,
        ancestors=ancestors, max_tokens=work.sampling.max_tokens,
    )  # fmt: skip
    print(f"sync check: engine and policy agree about {found.tokens} tokens to {found.mean:.1e} nats", file=sys.stderr)


def _later(generator: Generator, *order: Any, **how: Any) -> Callable[[], Completions]:
    return partial(generator.generate, *order, **how)


def _of_this_machine(engine: Engine, work: Work, dtype: str) -> Engine:
    """The engine with what it takes of a machine without a GPU: as asked for, as when the order was begun, or
    chosen."""
    import torch

    if torch.cuda.is_available():
        return engine
    from rollouts.vllm_engine import fitted

    file, cpu = work.folder / MACHINE, engine.cpu or Cpu()
    if cpu.sequences is None and cpu.cache_gib is None and file.is_file():
        cpu = _begun_with(file).model_copy(update={"threads": cpu.threads})
    cpu = fitted(cpu, work.policy.path, dtype=dtype, max_tokens_total=work.longest)
    write_json(file, cpu.model_dump(exclude={"threads"}))
    return engine.model_copy(update={"cpu": cpu})


def _begun_with(file: Path) -> Cpu:
    """What an order was begun with; nothing where the file is damaged, and it is chosen again."""
    try:
        return Cpu(**read_json(file))
    except (DataError, TypeError, ValueError):
        return Cpu()


def _in_order(works: Sequence[Work]) -> Iterator[tuple[str, Row]]:
    """(checkpoint id, row) of all samples: prompt by prompt, each prompt's by their number."""
    for n in range(len(works[0].shards)):
        rows = [(work.policy.id, row) for work in works for row in read_shard(shard_file(work.folder, n))]
        order = {request.prompt_id: place for place, request in enumerate(works[0].shards[n])}
        yield from sorted(rows, key=lambda pair: (order[pair[1]["prompt_id"]], pair[1]["sample"]))


def _shards(works: Sequence[Work]) -> Iterator[tuple[str, Path]]:
    """(tokenizer id, shard) of all samples."""
    for work in works:
        known = tokenizer_id(work.tokenizer)
        yield from ((known, shard_file(work.folder, n)) for n in range(len(work.shards)))
