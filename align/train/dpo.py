"""Direct preference optimisation (Rafailov et al. 2023): the parent is both the start and the reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from align.config.training import Dpo
from align.errors import StageError
from align.ids import content_id
from align.losses import weights_of_mean_one
from align.text import load_tokenizer, stop_token_ids
from align.train import arguments, checkpoint
from align.train import examples as ex
from align.types import Preference

STEP0_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest difference of an answer's log-probability, in nats, between policy and reference before the first step.
Both are computed on the same padded batch, so that it is 0 when they are the same model, in either type."""
PAIRS_CHECKED = 8


def train_dpo(
    parent: Path,
    preferences: Sequence[Preference],
    config: Dpo,
    *,
    seed: int,
    dtype: str,
    report_to: list[str],
    threads: int | None,
    out: Path,
    work: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train the checkpoint `parent` on `preferences` and write a checkpoint folder into `out`.

    Where every target is 1 and all weights are equal the loss is TRL's; otherwise it is
    `align.losses.soft_preference_loss`, with the weights scaled to average 1 over the pairs kept.
    The reference is the parent: read from disk a second time in full training, the model without its fresh adapter
    under LoRA. Raises StageError when policy and reference differ before the first step.
    Files, `work` and resuming are as in `train_sft`. Returns steps, losses, reward accuracy and margin,
    `step0_logp_difference`, and pairs used and dropped by reason.
    """
    began = time.monotonic()
    seed = arguments.prepare_process(seed, threads)
    from align.train import loop, trainers  # noqa: F401 - the imports are timed here

    clock = loop.Clock(began)
    clock.lap("import")
    weights_type = "float32" if config.lora is None else dtype
    policy = checkpoint.load_model(parent, weights_type)
    tokenizer = load_tokenizer(parent)
    clock.lap("load")
    limit = ex.limit_of(config.max_tokens, checkpoint.context_of(policy))
    kept, dropped = ex.encode_preferences(tokenizer, preferences, stop_token_ids(tokenizer, parent), limit)
    ex.write_dropped(out, dropped)
    ex.require_rows(kept, dropped, "preference")
    ids = [row.prompt_ids + row.chosen_ids + row.rejected_ids for row in kept]
    ex.require_vocabulary(ids, policy.get_input_embeddings().num_embeddings)
    clock.lap("encode")
    options = arguments.trainer_options(
        config, rows=len(kept), seed=seed, dtype=dtype, report_to=report_to, out=out, work=work
    )
    reference = checkpoint.load_model(parent, weights_type) if config.lora is None else None
    trainer = _trainer(policy, reference, tokenizer, kept, config, options)
    clock.lap("set up")
    difference = check_reference(trainer, STEP0_TOLERANCE[dtype])
    if arguments.planned_steps(config, len(kept)) * config.batch_size >= len(kept):
        precompute_reference(trainer, kept)
    clock.lap("reference")
    inputs_id = content_id([str(parent), seed, dtype, config.model_dump(mode="json"), [astuple(row) for row in kept]])
    metrics = loop.run_trainer(trainer, work=work, out=out, inputs_id=inputs_id, progress=progress)
    clock.lap("train")
    sequences = [(row.prompt_ids, row.chosen_ids) for row in ex.spread(kept)]
    metrics["reload_logp_difference"] = checkpoint.publish_and_verify(
        trainer.model, parent, sequences, out=out, dtype=dtype
    )
    clock.lap("publish")
    clock.write(out)
    counts = {"rows": len(kept), "tokens": sum(row.tokens for row in kept), "dropped": ex.reasons(dropped)}
    return metrics | counts | {"step0_logp_difference": difference}


def is_plain(pairs: Sequence[ex.Pair]) -> bool:
    """Whether targets and weights change nothing: every target is 1 and all weights are equal."""
    return all(pair.target == 1 and pair.weight == pairs[0].weight for pair in pairs)


def _trainer(
    policy: Any, reference: Any, tokenizer: Any, kept: Sequence[ex.Pair], config: Dpo, options: dict[str, Any]
) -> Any:
    from datasets import Dataset
    from trl import DPOConfig

    from align.train import trainers

    names = trainers.PAIR_COLUMNS
    data: dict[str, list[Any]] = {name: [getattr(row, name) for row in kept] for name in names}
    if not is_plain(kept):
        data["target"] = [row.target for row in kept]
        data["weight"] = weights_of_mean_one([row.weight for row in kept])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    trainer = (trainers.Dpo if is_plain(kept) else trainers.SoftDpo)(
        model=policy,
        ref_model=reference,
        args=DPOConfig(beta=config.beta, disable_dropout=True, **options),
        data_collator=trainers.PairCollator(pad_token_id=pad),
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
        peft_config=arguments.lora_config(config.lora),
    )
    if "train_sampling_strategy" not in config.trainer:
        trainer.row_lengths = [row.tokens for row in kept]
    return trainer


def check_reference(trainer: Any, tolerance: float) -> float:
    """The largest difference between policy's and reference's log-probability of an answer, before the first step.

    Looks at a few pairs, evenly spaced over the data. Raises StageError where the difference is over `tolerance`.
    """
    rows = ex.spread(range(len(trainer.train_dataset)), PAIRS_CHECKED)
    worst, alpha = 0.0, trainer.ld_alpha
    trainer.ld_alpha = None  # LD-DPO's weights for tokens would be in the reference's sums alone
    for batch in _batches(trainer, rows):
        for policy_B, reference_B in zip(trainer.policy_logps(batch), trainer.reference_logps(batch), strict=True):
            difference = float((policy_B - reference_B).abs().max())
            worst = difference if not difference <= worst else worst  # keeps a NaN
    trainer.ld_alpha = alpha
    if not worst <= tolerance:
        raise StageError(
            f"policy and reference differ before the first step: log-probabilities by {worst:.3g}, allowed is {tolerance:g}",
            hint="the reference has to be the parent checkpoint; this is a defect of training's set-up",
        )
    return worst


def precompute_reference(trainer: Any, kept: Sequence[ex.Pair]) -> None:
    """Compute the reference's log-probabilities once for all pairs and let its model go.

    Batches hold pairs of similar length; the results go back to the rows they belong to.
    """
    import torch

    from align.train.trainers import REFERENCE_COLUMNS

    order = sorted(range(len(kept)), key=lambda row: kept[row].tokens)
    found = [trainer.reference_logps(batch) for batch in _batches(trainer, order)]
    for column, values in zip(REFERENCE_COLUMNS, zip(*found, strict=True), strict=True):
        by_row = dict(zip(order, torch.cat(values).tolist(), strict=True))
        trainer.train_dataset = trainer.train_dataset.add_column(column, [by_row[row] for row in range(len(kept))])
    trainer.precompute_ref_logps = True
    trainer.ref_model = None


def _batches(trainer: Any, rows: Sequence[int]) -> Any:
    """The rows as padded batches on the trainer's device, in the order given."""
    size = trainer.args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        yield trainer._prepare_inputs(
            trainer.data_collator([trainer.train_dataset[i] for i in rows[start : start + size]])
        )
