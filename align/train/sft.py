"""Supervised fine-tuning: the model learns the answers of demonstrations, and only the answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.config.training import Sft
from align.sampled import sampled_by
from align.text import load_tokenizer, make_paddable, stop_token_ids
from align.train import arguments, checkpoint, verifying
from align.train import examples as ex
from align.train.packing import PackCollator, best_fit, require_apart
from align.train.split import encoded_apart, opening
from align.types import Dropped, Message

if TYPE_CHECKING:
    import pyarrow as pa


def train_sft(
    model: Path,
    rows: Sequence[tuple[list[Message], str]],
    config: Sft,
    *,
    chat_template: str | None = None,
    candidates: Sequence[str] = (),
    tokens: pa.Table | None = None,
    **given: Unpack[arguments.Given],
) -> dict[str, Any]:
    """Train `model` on `rows` of (prompt's messages, answer) and write a checkpoint folder into `out`.

    The loss is the mean negative log-probability of answer tokens, stop token included; with `config.turns` "all" those
    of earlier assistant turns count too. `candidates` has for each row the id of its answer, where `tokens` has what
    these were sampled as (as in `train_dpo`). With `mask_thinking` thoughts are seen and not learned. With
    `config.packing` rows share sequences of `config.max_tokens`. Beside the checkpoint come `dropped.parquet`,
    `logs/metrics.jsonl` and `logs/seconds.json`. `work` holds what a killed training resumes from; the result has the
    same bytes as that of an undisturbed one with the same seed and threads. With `config.held_out` that share of the
    conversations, by their beginning, is measured and not learned from; with `config.patience` training may stop early,
    and the best weights are published (`align.train.held_out`). Returns steps, losses, tokens, what was held out, rows
    used and dropped by reason, and of `candidates` how many have the tokens that were sampled.
    """
    began = time.monotonic()
    seed = arguments.prepare_process(given["seed"], given["threads"])
    dtype, out, work = given["dtype"], given["out"], given["work"]
    from align.train import loop, trainers  # noqa: F401 - the imports are timed here
    from align.train.held_out import Measuring, answers_loss

    clock = loop.Clock(began)
    clock.lap("import")
    policy = checkpoint.load_model(model, "float32" if config.lora is None else dtype)
    tokenizer = load_tokenizer(model, chat_template=chat_template)
    stops, size = stop_token_ids(tokenizer, model), policy.get_input_embeddings().num_embeddings
    clock.lap("load")
    limit = ex.limit_of(config.max_tokens, checkpoint.context_of(policy))
    sampled = sampled_by(tokenizer, tokens)

    def encode(some: Sequence[tuple[list[Message], str, str]]) -> tuple[list[ex.Demonstration], list[Dropped]]:
        return ex.encode_demonstrations(
            tokenizer,
            [(messages, answer) for messages, answer, _ in some],
            stops,
            limit,
            turns=config.turns,
            candidates=[candidate for _, _, candidate in some] if candidates else (),
            sampled=sampled,
            mask_thinking=given.get("mask_thinking", False),
        )

    told = [(*row, candidate) for row, candidate in zip(rows, candidates or [""] * len(rows), strict=True)]
    beginnings = [opening(messages) for messages, _ in rows]
    apart = encoded_apart(encode, told, beginnings, config.held_out, "sft.held_out", sampled)
    kept, measured, dropped = apart.learned, apart.measured, apart.dropped
    ex.write_dropped(out, dropped)
    sampled.say()
    ex.require_rows(kept, dropped, "demonstration")
    ids = [row.prompt_ids + row.answer_ids for row in [*kept, *measured]]
    ex.require_vocabulary(ids, size)
    make_paddable(tokenizer, stops, size)
    clock.lap("encode")
    packs = best_fit([row.tokens for row in kept], limit.tokens) if config.packing else [[n] for n in range(len(kept))]
    options = arguments.trainer_options(
        config, rows=len(packs), seed=seed, dtype=dtype, report_to=given["report_to"], out=out, work=work
    )
    trainer = _trainer(policy, tokenizer, [[kept[row] for row in pack] for pack in packs], config, options, dtype)
    clock.lap("set up")
    inputs = loop.made_from(
        model, [[r.prompt_ids, r.labels] for r in [*kept, *measured]], config, seed=seed, dtype=dtype
    )
    measuring = None
    if measured:
        steps = arguments.planned_steps(config, len(packs))
        measuring = Measuring.of(
            config, lambda: {"loss": answers_loss(trainer, measured, tokenizer.pad_token_id)}, apart.prompts, steps
        )
    metrics = loop.run_trainer(
        trainer, work=work, out=out, inputs=inputs, progress=given.get("progress"), measuring=measuring
    )
    clock.lap("train")
    sequences = [(row.prompt_ids, row.answer_ids) for row in ex.spread(kept)]
    metrics |= verifying.publish_and_verify(
        trainer.model, model, sequences, out=out, dtype=dtype, chat_template=chat_template
    )
    clock.lap("publish")
    clock.write(out)
    counts: dict[str, Any] = {
        "rows": len(kept),
        "tokens": sum(row.tokens for row in kept),
        "dropped": ex.reasons(dropped),
    }
    counts |= sampled.counts if candidates else {}
    return metrics | counts | ({"packs": len(packs)} if config.packing else {})


def _trainer(
    policy: Any,
    tokenizer: Any,
    packs: Sequence[Sequence[ex.Demonstration]],
    config: Sft,
    options: dict[str, Any],
    dtype: str,
) -> Any:
    from datasets import Dataset
    from trl import SFTConfig

    from align.train import trainers

    data: dict[str, list[Any]] = {
        "input_ids": [[i for row in pack for i in row.prompt_ids + row.answer_ids] for pack in packs],
        "labels": [[label for row in pack for label in row.labels] for pack in packs],
    }
    if config.packing:
        data["lengths"] = [[row.tokens for row in pack] for pack in packs]
    collator = PackCollator(tokenizer.pad_token_id) if config.packing else None
    trainer = trainers.Sft(
        model=policy,
        args=SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **options),
        data_collator=collator,
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
        peft_config=arguments.lora_config(config.lora),
    )
    if collator is not None:
        require_apart(trainer.model, [trainer.train_dataset[n] for n in range(len(packs))], collator, dtype)
    if "train_sampling_strategy" not in config.trainer:
        trainer.row_lengths = [sum(row.tokens for row in pack) for pack in packs]
    return trainer
