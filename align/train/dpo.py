"""Direct preference optimisation (Rafailov et al. 2023): the parent is both the start and the reference."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.config.training import Dpo
from align.errors import DataError
from align.figures import counted
from align.ids import content_id
from align.losses import LEAST_MEAN, robust_weights, soft_preference_loss, weights_of_mean_one
from align.sampled import sampled_by
from align.store import checkpoint_id
from align.text import load_tokenizer, make_paddable, stop_token_ids
from align.train import arguments, checkpoint, reference, verifying
from align.train import examples as ex
from align.train.split import Apart, encoded_apart
from align.train.world import alone, world_size
from align.types import Preference

if TYPE_CHECKING:
    import pyarrow as pa

    from align.train.held_out import Measuring

_log = logging.getLogger(__name__)

STEP0_TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Largest difference of an answer's log-probability, in nats, between policy and reference before the first step.
Both are computed on the same padded batch, so that it is 0 when they are the same model, in either type."""
PAIRS_PUBLISHED = 64
"""Most pairs on which is measured how much of the trained change of margins is published."""
PAIRS_CHECKED = 8
REFERENCE_TOKENS = 1024
"""Most tokens in a pass of the reference. It needs no gradients, so that this is little memory; what it computes does
not depend on the recipe's micro-batches."""


def train_dpo(
    parent: Path,
    preferences: Sequence[Preference],
    config: Dpo,
    *,
    reference_cache: Path | None = None,
    tokens: pa.Table | None = None,
    **given: Unpack[arguments.Given],
) -> dict[str, Any]:
    """Train the checkpoint `parent` on `preferences` and write a checkpoint folder into `out`.

    The loss is `align.losses.soft_preference_loss`, as `config.loss`, `label_noise` and `length` say, with the weights
    scaled to average 1 over the pairs kept. Where every target is 1 and all weights are equal `config.trainer` may name
    another loss of TRL's. The reference is the parent: the model before the first step in full training, the model
    without its fresh adapter under LoRA, so there is never a second one in memory. Its log-probabilities are computed
    once for each pair and kept in the folder `reference_cache` (`work/reference` where not given), where any later
    training from the same parent finds them. `tokens` (`align.sampled.TOKENS`) are those that answers were sampled as;
    they are trained on where they are this tokenizer's and say what the text says. With `mask_thinking` the thoughts of
    answers are seen by the model and not counted in their log-probabilities. Raises StageError when policy and
    reference differ before the first step. Files, `work`, resuming, `config.held_out` and `patience` are as in
    `train_sft`; what is held out is by prompt, as for a reward model. Returns steps, losses, reward accuracy and
    margin, `step0_logp_difference`, what was held out, pairs used and dropped by reason, and how many answers have the
    tokens that were sampled.
    """
    began = time.monotonic()
    seed = arguments.prepare_process(given["seed"], given["threads"])
    dtype, out, work = given["dtype"], given["out"], given["work"]
    from align.train import dpo_trainer, loop  # noqa: F401 - the imports are timed here

    clock = loop.Clock(began)
    clock.lap("import")
    weights_type = "float32" if config.lora is None else dtype
    policy = checkpoint.load_model(parent, weights_type)
    tokenizer = load_tokenizer(parent)
    stops, size = stop_token_ids(tokenizer, parent), policy.get_input_embeddings().num_embeddings
    clock.lap("load")
    limit = ex.limit_of(config.max_tokens, checkpoint.context_of(policy))
    sampled = sampled_by(tokenizer, tokens)
    encode = partial(
        ex.encode_preferences,
        tokenizer,
        stops=stops,
        limit=limit,
        sampled=sampled,
        mask_thinking=given.get("mask_thinking", False),
    )
    prompts = [row.prompt_id for row in preferences]
    apart = encoded_apart(encode, preferences, prompts, config.held_out, "dpo.held_out", sampled)
    kept, dropped = apart.learned, apart.dropped
    ex.write_dropped(out, dropped)
    sampled.say()
    ex.require_rows(kept, dropped, "preference")
    ids = [row.prompt_ids + row.chosen_ids + row.rejected_ids for row in [*kept, *apart.measured]]
    ex.require_vocabulary(ids, size)
    make_paddable(tokenizer, stops, size)
    clock.lap("encode")
    options = arguments.trainer_options(
        config, rows=len(kept), seed=seed, dtype=dtype, report_to=given["report_to"], out=out, work=work
    )
    trainer = _trainer(policy, tokenizer, kept, config, options)
    check_sharing(trainer, dtype)
    clock.lap("set up")
    difference = check_reference(trainer, STEP0_TOLERANCE[dtype])
    seen = rows_seen(trainer, arguments.planned_steps(config, len(kept)) * config.batch_size)
    of_parent = content_id([checkpoint_id(parent), weights_type, dtype, trainer.ld_alpha])
    add_reference(trainer, kept, seen, (reference_cache or work / "reference") / of_parent, dtype)
    measuring = _measuring(trainer, apart, config, seed, len(kept)) if apart.measured else None
    clock.lap("reference")
    rows = [ex.as_input(row) for row in [*kept, *apart.measured]]
    inputs = loop.made_from(parent, rows, config, seed=seed, dtype=dtype)
    metrics = loop.run_trainer(
        trainer, work=work, out=out, inputs=inputs, progress=given.get("progress"), measuring=measuring
    )
    clock.lap("train")
    sequences = [(row.prompt_ids, row.chosen_ids) for row in ex.spread(kept)]
    few = ex.spread(kept, PAIRS_PUBLISHED)
    pairs = [((row.prompt_ids, row.chosen_ids), (row.prompt_ids, row.rejected_ids)) for row in few]
    metrics |= verifying.publish_and_verify(trainer.model, parent, sequences, out=out, dtype=dtype, pairs=pairs)
    clock.lap("publish")
    clock.write(out)
    counts = {"rows": len(kept), "tokens": sum(row.tokens for row in kept), "dropped": ex.reasons(dropped)}
    return metrics | counts | sampled.counts | {"step0_logp_difference": difference}


def is_plain(pairs: Sequence[ex.Pair]) -> bool:
    """Whether targets and weights change nothing: every target is 1 and all weights are equal."""
    return all(pair.target == 1 and pair.weight == pairs[0].weight >= LEAST_MEAN for pair in pairs)


def targets_and_weights(pairs: Sequence[ex.Pair], config: Dpo, *, held_out: bool = False) -> dict[str, list[float]]:
    """The columns `target` and `weight` of all pairs; none where they change nothing.

    DataError where the loss learns nothing from any of them, or measures nothing on any where they are `held_out`.
    """
    if is_plain(pairs) and config.label_noise is None:
        return {}
    targets = [pair.target if config.label_noise is None else 1 - config.label_noise for pair in pairs]
    weights = [pair.weight for pair in pairs]
    if config.loss == "robust" and config.label_noise is None:
        weights = robust_weights(weights, targets)
        if not any(weights):
            what, way_out = "every target is 0.5, which says nothing", "give `label_noise`, or another `loss`"
            if not held_out:
                raise DataError(what, hint=way_out)
            of = counted(len(pairs), "held-out pair")
            what = f"every target of the {of} is 0.5, which under `loss: robust` says nothing"
            raise DataError(what, where="dpo.held_out", hint=f"hold out another share, {way_out}")
    return {"target": targets, "weight": weights_of_mean_one(weights)}


def _trainer(policy: Any, tokenizer: Any, kept: Sequence[ex.Pair], config: Dpo, options: dict[str, Any]) -> Any:
    from datasets import Dataset
    from trl import DPOConfig

    from align.train import collate, dpo_trainer, prefix
    from align.train.lanes import lanes_for
    from align.train.last_layer import skip_unread

    whole_step = options["per_device_train_batch_size"] * options["gradient_accumulation_steps"]
    options |= {"per_device_train_batch_size": whole_step, "gradient_accumulation_steps": 1}
    alpha = config.ld_alpha if config.length == "ld" else None
    args = DPOConfig(beta=config.beta, ld_alpha=alpha, disable_dropout=True, precompute_ref_log_probs=True, **options)
    longest = max(row.tokens for row in kept)
    kind = dpo_trainer.Dpo if is_plain(kept) and dpo_trainer.trls_alone(args) else dpo_trainer.SoftDpo
    refusal = "the loss is TRL's" if kind is dpo_trainer.Dpo else prefix.refusal(policy, longest)
    if kind is dpo_trainer.Dpo:
        alone("a loss of TRL's own")
    if refusal is None:
        prefix.use_shared_attention(policy, args.device)
        if not args.gradient_checkpointing:
            skip_unread(policy)
    else:
        _log.warning("chosen and rejected each carry their prompt, which is slower: %s", refusal)

    names = collate.PAIR_COLUMNS
    data: dict[str, list[Any]] = {name: [getattr(row, name) for row in kept] for name in names}
    if any(any(row.hidden) for row in kept):
        data |= {name: [row.hidden[n] for row in kept] for n, name in enumerate(collate.HIDDEN_COLUMNS)}
    data |= targets_and_weights(kept, config)
    trainer = kind(
        model=policy,
        args=args,
        data_collator=collate.PairCollator(tokenizer.pad_token_id, refusal is None, *_most(config, longest)),
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
        peft_config=arguments.lora_config(config.lora),
    )
    collator = trainer.data_collator
    if kind is dpo_trainer.SoftDpo and collator.shared and collator.tokens is not None:
        model = trainer.model
        lanes = lanes_for(model, model.config, args.device, checkpointing=args.gradient_checkpointing)
        trainer.data_collator = replace(collator, tokens=max(1, collator.tokens // lanes), lanes=lanes)
    trainer.preference_loss, trainer.per_token = config.loss, config.length == "mean" or config.loss == "ipo"
    if "train_sampling_strategy" not in config.trainer:
        trainer.row_lengths = [row.tokens for row in kept]
    return trainer


def _most(config: Dpo, longest: int) -> tuple[int | None, int | None]:
    """Most tokens and most pairs of a forward pass; processes that train together need passes of equal number."""
    if config.micro_batch_size is not None:
        return None, config.micro_batch_size
    if world_size() == 1:
        return config.micro_batch_tokens, None
    return None, max(1, config.micro_batch_tokens // (2 * longest))


def check_sharing(trainer: Any, dtype: str) -> None:
    """Look at one pair both ways, and share no prompts where that changes its log-probabilities; the log says so."""
    if not trainer.data_collator.shared:
        return
    apart = replace(trainer.data_collator, shared=False, lanes=1)
    row = min(trainer.train_dataset, key=lambda row: len(row["chosen_ids"]) + len(row["rejected_ids"]))
    together, alone = (
        trainer.policy_logps(trainer._prepare_inputs(collator.batch([row])))
        for collator in (trainer.data_collator, apart)
    )
    difference = max(
        float((a - b).abs()) / len(row[ids])
        for a, b, ids in zip(together, alone, ("chosen_ids", "rejected_ids"), strict=True)
    )
    if not difference <= reference.CACHED_TOLERANCE[dtype]:
        trainer.data_collator = apart
        _log.warning(
            "chosen and rejected each carry their prompt, which is slower: sharing it changes a token's log-probability by %.3g",
            difference,
        )


def check_reference(trainer: Any, tolerance: float) -> float:
    """The largest difference between policy's and reference's log-probability of an answer, before the first step.

    Looks at a few pairs, evenly spaced over the data. Raises StageError where the difference is over `tolerance`. In
    full training the reference is the policy itself, so that there is nothing to compare and the difference is 0.
    """
    if trainer.reference_is_policy:
        return 0.0
    rows = ex.spread(range(len(trainer.train_dataset)), PAIRS_CHECKED)
    batches = _batches(trainer, rows)
    both = (zip(trainer.policy_logps(b), *trainer.reference_logps([b]), strict=True) for b in batches)
    differences = reference.largest_differences(itertools.chain.from_iterable(both))
    return reference.require_same_start(differences, tolerance)


def rows_seen(trainer: Any, count: int) -> list[int]:
    """The rows that training of `count` rows will look at: all, but in a training that is shorter than an epoch."""
    order = list(range(len(trainer.train_dataset)))
    if count >= len(order) or trainer.row_lengths is None:
        return order
    return list(trainer._get_train_sampler())[:count]


def add_reference(trainer: Any, kept: Sequence[ex.Pair], rows: Sequence[int], folder: Path, dtype: str) -> None:
    """Give `rows` the reference's log-probabilities: those that lie in `folder`, and the rest computed and kept there.

    Some that lay there are computed again; StageError where they belong to another reference.
    """
    from align.train.collate import REFERENCE_COLUMNS

    def compute(some: Sequence[int]) -> list[reference.Logps]:
        found: list[reference.Logps] = []
        for chosen_B, rejected_B in trainer.reference_logps(_batches(trainer, some)):
            found += zip(chosen_B.tolist(), rejected_B.tolist(), strict=True)
        return found

    there = folder.exists()
    values = reference.reference_logps(folder, kept, rows, compute)
    if there:
        some = ex.spread(rows, PAIRS_CHECKED)
        pairs, old = [kept[row] for row in some], [values[row] for row in some]
        reference.check_cached(pairs, old, compute(some), dtype, folder)
    trainer.train_dataset = reference.add_columns(trainer.train_dataset, values, REFERENCE_COLUMNS)


def _measuring(trainer: Any, apart: Apart[ex.Pair], config: Dpo, seed: int, rows: int) -> Measuring:
    """What is measured of held-out pairs: DPO's loss as `config` has it, and how often chosen has the higher reward."""
    import torch

    from align.train.collate import COUNT_COLUMNS, PAIR_COLUMNS
    from align.train.held_out import Measuring, accuracy

    pairs = apart.measured
    columns = targets_and_weights(pairs, config, held_out=True)
    target_N = torch.tensor(columns.get("target", [1.0] * len(pairs)))
    weight_N = torch.tensor(columns.get("weight", [1.0] * len(pairs)))
    batches = _passes(trainer, [{name: getattr(pair, name) for name in PAIR_COLUMNS} for pair in pairs])
    counts = [torch.cat([batch[name] for batch in batches]).cpu() for name in COUNT_COLUMNS]
    reference = _joined(trainer.reference_logps(batches))

    def measure() -> dict[str, Any]:
        logps = _joined([trainer.policy_logps(batch) for batch in batches])
        good_N, bad_N = (config.beta * (own - ref) for own, ref in zip(logps, reference, strict=True))
        if config.length == "mean" or config.loss == "ipo":
            good_N, bad_N = (reward / count for reward, count in zip((good_N, bad_N), counts, strict=True))
        margin_N = good_N - bad_N
        loss = soft_preference_loss(margin_N, target_N, weight_N, kind=config.loss, beta=config.beta)
        known = [n for n, pair in enumerate(pairs) if pair.target != 0.5]
        right = [0.5 if margin_N[n] == 0 else float(margin_N[n] > 0) for n in known]
        rate = accuracy(right, [apart.prompts[n] for n in known], seed)
        return {"loss": float(loss), **({"accuracy": rate} if rate else {})}

    return Measuring.of(config, measure, apart.prompts, arguments.planned_steps(config, rows))


def _joined(logps: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Log-probabilities of chosen and of rejected of all passes, on CPU."""
    import torch

    chosen_N, rejected_N = (torch.cat(parts).float().cpu() for parts in zip(*logps, strict=True))
    return chosen_N, rejected_N


def _batches(trainer: Any, rows: Sequence[int]) -> list[Any]:
    return _passes(trainer, [trainer.train_dataset[row] for row in rows])


def _passes(trainer: Any, rows: Sequence[dict[str, Any]]) -> list[Any]:
    """The rows on the trainer's device, in the order given, in passes of `REFERENCE_TOKENS`."""
    from align.train.collate import PASSES

    collator = replace(trainer.data_collator, tokens=REFERENCE_TOKENS // trainer.lanes, pairs=None, lanes=1)
    return [trainer._prepare_inputs(batch) for batch in collator(rows)[PASSES]]
