"""What the online methods share: prompts in, answers scored while the policy learns, a published checkpoint out.

The policy answers with tokens, and is scored on the text that people would read: `align.text` writes the prompt and
reads the answer, as in sampling, SFT and DPO. An answer ends at any of the checkpoint's stop tokens.
"""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.config.training import Online
from align.errors import AlignError, ConfigError, DataError
from align.sampled_calls import read_answer
from align.text import (
    encode_prompt,
    load_tokenizer,
    make_paddable,
    stop_token_ids,
    thinking_tokens,
)
from align.train import arguments, checkpoint, reference, verifying
from align.train import examples as ex
from align.train.world import rank
from align.types import Dropped, Message, Prompt, Score

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


STEP0_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest difference of a token's log-probability, in nats, between policy and reference before the first step."""
SHARE_AVERAGED = 0.1
"""The share of logged steps over which the first and the last score and KL are averaged."""


class Arguments(arguments.Given):
    """What every online method takes beside parent, prompts and config."""

    score: Score


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, and the ids that an answer comes after."""

    messages: list[Message]
    prompt_ids: list[int]


@dataclass(frozen=True, slots=True)
class Ready:
    """What a trainer is made of. `options` are those of TRL's config, `parts` the other arguments of its trainer."""

    parent: Path
    tokenizer: Any
    stops: list[int]
    questions: list[Question]
    options: dict[str, Any]
    parts: dict[str, Any]


def train(
    parent: Path,
    prompts: Sequence[Prompt],
    config: Online,
    make_trainer: Callable[[Ready], Any],
    *,
    identity: str = "",
    **given: Unpack[Arguments],
) -> dict[str, Any]:
    """Train the checkpoint `parent` on answers that it gives to `prompts`, and write a checkpoint folder into `out`.

    `make_trainer` makes the method's trainer, an `align.train.online_trainer.OnlineMixin`; `identity` names what it
    starts from beside the parent. The reference of the KL
    divergence is the parent: read from disk a second time in full training, the model without its fresh adapter under
    LoRA. Files, `work` and resuming are as in `train_sft`; `logs/metrics.jsonl` has the mean score (`reward`), `kl`
    (nats per token) and the answers without a score so far (`unscored`) of each step.

    With `mask_thinking` the loss does not see the thoughts of answers; ConfigError for a method that weighs whole
    answers. Returns steps, `mean_score_first` and `mean_score_last` (over the first and last tenth of the steps),
    `kl_last` (None where beta is 0), `step0_logp_difference`, answers without a score, and prompts used and dropped by
    reason. Raises DataError where no prompt is left or the score is of no use, StageError where policy and reference
    differ before the first step.
    """
    began = time.monotonic()
    seed, dtype, out, work = given["seed"], given["dtype"], given["out"], given["work"]
    if given.get("mask_thinking"):
        require_maskable(config.kind)
    seed = arguments.prepare_process(seed, given["threads"])
    from align.train import loop

    clock = loop.Clock(began)
    clock.lap("import")
    weights_type = "float32" if config.lora is None else dtype
    policy = checkpoint.load_model(parent, weights_type)
    tokenizer = load_tokenizer(parent)
    stops = stop_token_ids(tokenizer, parent)
    clock.lap("load")
    room = room_for_prompts(config, checkpoint.context_of(policy))
    kept, dropped = encode_prompts(tokenizer, prompts, room)
    if rank() == 0:
        ex.write_dropped(out, dropped)
    ex.require_rows(kept, dropped, "prompt")
    ex.require_vocabulary([row.prompt_ids for row in kept] + [stops], policy.get_input_embeddings().num_embeddings)
    clock.lap("encode")
    options = online_options(config, rows=len(kept), seed=seed, dtype=dtype, given=given)
    parts = trainer_parts(policy, tokenizer, stops, kept, config, given["score"])
    trainer = _made(make_trainer, Ready(parent, tokenizer, stops, kept, options, parts), config)
    trainer.engine = engine(config)
    if given.get("mask_thinking"):
        trainer.thinking_tokens = partial(thinking_tokens, tokenizer)
    clock.lap("set up")
    difference = check_reference(trainer, kept, STEP0_TOLERANCE[dtype])
    clock.lap("reference")
    inputs = loop.made_from(parent, [row.prompt_ids for row in kept], config, seed=seed, dtype=dtype, start=identity)
    metrics = loop.run_trainer(
        trainer, work=work, out=out, inputs=inputs, progress=given.get("progress"), save_every=cycle(trainer.args)
    )
    clock.lap("train")
    metrics |= verifying.publish_and_verify(trainer.model, parent, ex.spread(trainer.latest), out=out, dtype=dtype)
    clock.lap("publish")
    clock.write(out)
    counts = {"rows": len(kept), "dropped": ex.reasons(dropped), "unscored": trainer.unscored}
    return metrics | curve_ends(trainer.state.log_history) | counts | {"step0_logp_difference": difference}


def require_maskable(kind: str) -> None:
    """ConfigError for a method whose loss weighs an answer as a whole."""
    if kind in ("ppo", "rloo"):
        what = f"{kind} weighs an answer as a whole, its thoughts included, and cannot leave them out of its loss"
        raise ConfigError(what, where="mask_thinking", hint="leave it out, or use grpo")


def room_for_prompts(config: Online, context: int | None) -> ex.Limit:
    """The longest prompt that may be asked. Raises ConfigError where the model's context holds no answer beside one."""
    if context is None or config.max_prompt_tokens <= context - config.max_tokens:
        return ex.Limit(config.max_prompt_tokens, f"longer than max_prompt_tokens ({config.max_prompt_tokens})")
    if context <= config.max_tokens:
        what = f"an answer may take {config.max_tokens} tokens, but the model's context holds {context} with the prompt"
        raise ConfigError(what, where=f"{config.kind}.max_tokens", hint="lower it")
    room = context - config.max_tokens
    return ex.Limit(room, f"longer than the {room} tokens for which the model's context has room beside an answer")


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], limit: ex.Limit
) -> tuple[list[Question], list[Dropped]]:
    """Prompts as tokens, and those left out; `where` of a dropped one is its source."""
    kept: list[Question] = []
    dropped: list[Dropped] = []
    for prompt in prompts:
        try:
            ids = encode_prompt(tokenizer, prompt.messages)
        except DataError as refusal:  # the chat template does not take such a conversation
            dropped.append(Dropped("prompt", prompt.source, refusal.what))
            continue
        if len(ids) > limit.tokens:
            dropped.append(Dropped("prompt", prompt.source, limit.reason))
        else:
            kept.append(Question(prompt.messages, ids))
    return kept, dropped


def online_options(config: Online, *, rows: int, seed: int, dtype: str, given: Arguments) -> dict[str, Any]:
    """Keyword arguments of TRL's config for an online method; every step is logged unless the user says otherwise."""
    passes = config.trainer.get("num_iterations", 1)
    options = arguments.trainer_options(
        config, rows=rows * config.samples * passes, seed=seed, dtype=dtype, report_to=given["report_to"],
        out=given["out"], work=given["work"],
    )  # fmt: skip
    return {
        **options,
        "logging_steps": config.trainer.get("logging_steps", 1),
        "beta": config.beta,
        "num_generations": config.samples,
        "max_completion_length": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "disable_dropout": True,
    }


def trainer_parts(
    policy: Any, tokenizer: Any, stops: list[int], questions: Sequence[Question], config: Online, score: Score
) -> dict[str, Any]:
    """The arguments of TRL's online trainers beside their config. Sets the policy's stop and pad tokens."""
    from datasets import Dataset
    from transformers import GenerationConfig

    make_paddable(tokenizer, stops, policy.get_input_embeddings().num_embeddings)
    # The model's own defaults (top_k, penalties) must not mix with our sampling.
    policy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    columns = {"prompt": [q.prompt_ids for q in questions], "row": list(range(len(questions)))}
    return {
        "model": policy,
        "reward_funcs": reward_function(score, tokenizer, stops, questions),
        "train_dataset": Dataset.from_dict(columns),
        "processing_class": tokenizer,
        "peft_config": arguments.lora_config(config.lora),
    }


def reward_function(
    score: Score, tokenizer: Any, stops: Sequence[int], questions: Sequence[Question]
) -> Callable[..., list[float | None]]:
    """`score` as a reward function of TRL's: `completion_ids[i]` answers the prompt with the number `row[i]`."""

    def reward(completion_ids: Sequence[list[int]], row: Sequence[int], **_: Any) -> list[float | None]:
        # Copies, so that a function that changes what it is given changes nothing of ours.
        prompts = [[Message(role=m["role"], content=m["content"]) for m in questions[i].messages] for i in row]
        asked = [questions[i].messages for i in row]
        texts = [answer_text(tokenizer, m, ids, stops) for m, ids in zip(asked, completion_ids, strict=True)]
        return checked_scores(score, prompts, texts)

    return reward


def answer_text(tokenizer: Any, messages: Sequence[Message], token_ids: Sequence[int], stops: Sequence[int]) -> str:
    """What a sampled answer to `messages` says, without the stop token that ended it."""
    ended = bool(token_ids) and token_ids[-1] in stops
    return read_answer(tokenizer, messages, token_ids[:-1] if ended else token_ids)


def checked_scores(score: Score, prompts: Sequence[list[Message]], answers: Sequence[str]) -> list[float | None]:
    """What `score` gives; DataError where it fails, or gives anything but a finite number or None for each answer."""
    try:
        scores = list(score(prompts, answers))
    except AlignError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:200]
        raise DataError(f"the score raised {type(error).__name__} ({message})", hint="mend the function") from error
    if len(scores) != len(answers):
        raise DataError(f"the score gave {len(scores)} numbers for {len(answers)} answers", hint="give one for each")
    for value in scores:
        if value is not None and not (isinstance(value, numbers.Real) and math.isfinite(value)):
            raise DataError(
                f"the score gave {type(value).__name__} {str(value)[:40]!r}",
                hint="give a finite number, or None for an answer that cannot be scored",
            )
    return [None if value is None else float(value) for value in scores]


def engine(config: Online) -> str:
    """The engine that answers. On CPU transformers answers sooner: vLLM repacks all weights at each step."""
    import importlib.util

    import torch

    if config.type != "auto":
        return config.type
    return "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"


def cycle(args: Any) -> int:
    """Optimiser steps from one batch of answers to the next; a training resumes bit for bit only between two."""
    passes = args.steps_per_generation * args.num_iterations
    return int(math.lcm(passes, args.gradient_accumulation_steps) // args.gradient_accumulation_steps)


def _made(make_trainer: Callable[[Ready], Any], ready: Ready, config: Online) -> Any:
    """TRL's own objections to a combination of options are the user's to read."""
    try:
        return make_trainer(ready)
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split()), where=config.kind) from error


def check_reference(trainer: Any, questions: Sequence[Question], tolerance: float) -> float:
    """The largest difference between policy's and reference's log-probability of a token, before the first step.

    Looks at a few prompts, evenly spaced. 0 where `beta` is 0: there is no reference then. Raises StageError where the
    difference is over `tolerance`.
    """
    if trainer.beta == 0:
        return 0.0
    asked = ([*question.prompt_ids, trainer.eos_token_ids[0]] for question in ex.spread(questions))
    return reference.require_same_start((trainer.reference_difference(ids) for ids in asked), tolerance)


def curve_ends(history: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Mean score of the first and last tenth of the logged steps, and KL (nats per token) of the last."""
    steps = [row for row in history if "reward" in row]
    few = max(1, round(len(steps) * SHARE_AVERAGED))
    return {
        "mean_score_first": _mean(row["reward"] for row in steps[:few]),
        "mean_score_last": _mean(row["reward"] for row in steps[-few:]),
        "kl_last": _mean(row.get("kl") for row in steps[-few:]),
    }


def _mean(values: Any) -> float | None:
    """The mean of the values that are there."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
