"""Kahneman–Tversky optimisation (Ethayarajh et al. 2024): learns from binary labels; the parent is the reference."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.config.training import Kto
from align.errors import DataError
from align.ids import seed_for
from align.losses import weights_of_mean_one
from align.sampled import sampled_by
from align.text import load_tokenizer, make_paddable, stop_token_ids
from align.train import arguments, checkpoint, verifying
from align.train import examples as ex
from align.train.dpo import STEP0_TOLERANCE
from align.train.reference import largest_differences, require_same_start
from align.train.split import Apart, encoded_apart
from align.train.world import alone
from align.types import BinaryLabel

if TYPE_CHECKING:
    import pyarrow as pa

    from align.train.held_out import Measuring


def train_kto(
    parent: Path,
    binary: Sequence[BinaryLabel],
    config: Kto,
    *,
    tokens: pa.Table | None = None,
    **given: Unpack[arguments.Given],
) -> dict[str, Any]:
    """Train the checkpoint `parent` on `binary` and write a checkpoint folder into `out`.

    The loss is `align.losses.kto`: a binary label of target p counts p as good and 1 − p as bad, times its weight,
    weights being scaled to average 1 over the binary labels kept. Rows are shuffled once, by `seed`; the same ones stay
    together in every epoch, so that the reference's log-probabilities, of each answer and of the neighbour's answer to
    the same prompt (for the KL divergence), are computed once. Raises DataError for fewer than two binary labels,
    StageError when policy and reference differ before the first step. Files, `work`, resuming, `config.held_out` and
    `patience` are as in `train_sft`, `tokens` and `mask_thinking` as in `train_dpo`. Returns steps, losses, reward
    margin, `step0_logp_difference`, what was held out, binary labels used and dropped by reason, and how many answers
    have the tokens that were sampled.
    """
    began = time.monotonic()
    alone("KTO, which estimates the KL divergence from each whole batch,")
    seed = arguments.prepare_process(given["seed"], given["threads"])
    dtype, out, work = given["dtype"], given["out"], given["work"]
    from align.train import kto_trainer, loop  # noqa: F401 - the imports are timed here

    clock = loop.Clock(began)
    clock.lap("import")
    policy = checkpoint.load_model(parent, "float32" if config.lora is None else dtype)
    tokenizer = load_tokenizer(parent)
    stops, size = stop_token_ids(tokenizer, parent), policy.get_input_embeddings().num_embeddings
    clock.lap("load")
    limit = ex.limit_of(config.max_tokens, checkpoint.context_of(policy))
    sampled = sampled_by(tokenizer, tokens)
    encode = partial(
        ex.encode_binary,
        tokenizer,
        stops=stops,
        limit=limit,
        sampled=sampled,
        mask_thinking=given.get("mask_thinking", False),
    )
    apart = encoded_apart(encode, binary, [row.prompt_id for row in binary], config.held_out, "kto.held_out", sampled)
    kept, dropped = apart.learned, apart.dropped
    ex.write_dropped(out, dropped)
    sampled.say()
    ex.require_rows(kept, dropped, "binary label")
    if len(kept) < 2:
        raise DataError("KTO needs two binary labels or more: the KL divergence is estimated from another row's answer")
    ids = [row.prompt_ids + row.answer_ids for row in [*kept, *apart.measured]]
    ex.require_vocabulary(ids, size)
    make_paddable(tokenizer, stops, size)
    clock.lap("encode")
    random.Random(seed_for("thumbs", seed)).shuffle(kept)
    options = arguments.trainer_options(
        config, rows=len(kept), seed=seed, dtype=dtype, report_to=given["report_to"], out=out, work=work
    )
    trainer = _trainer(policy, tokenizer, kept, config, options, limit.tokens)
    clock.lap("set up")
    difference = check_reference(trainer, STEP0_TOLERANCE[dtype])
    add_reference(trainer, arguments.planned_steps(config, len(kept)) * config.batch_size)
    measuring = _measuring(trainer, apart, config, seed, limit.tokens) if apart.measured else None
    clock.lap("reference")
    rows = [astuple(row) for row in [*kept, *apart.measured]]
    inputs = loop.made_from(parent, rows, config, seed=seed, dtype=dtype)
    metrics = loop.run_trainer(
        trainer, work=work, out=out, inputs=inputs, progress=given.get("progress"), measuring=measuring
    )
    clock.lap("train")
    sequences = [(row.prompt_ids, row.answer_ids) for row in ex.spread(kept)]
    metrics |= verifying.publish_and_verify(trainer.model, parent, sequences, out=out, dtype=dtype)
    clock.lap("publish")
    clock.write(out)
    counts = {"rows": len(kept), "tokens": sum(row.tokens for row in kept), "dropped": ex.reasons(dropped)}
    return metrics | counts | sampled.counts | {"step0_logp_difference": difference}


def sides(rows: Sequence[ex.BinaryExample], config: Kto) -> tuple[float, float]:
    """λ_D and λ_U: as given, 1 for the one that is not; where neither is, the lighter side is raised to the heavier.

    (Ethayarajh et al. 2024, equation 9: λ_D n_D / λ_U n_U from 1 to 4/3; here 1, n being sums of weights.)
    """
    if config.desirable_weight is not None or config.undesirable_weight is not None:
        return config.desirable_weight or 1.0, config.undesirable_weight or 1.0
    good = sum(row.weight * row.target for row in rows)
    bad = sum(row.weight * (1 - row.target) for row in rows)
    if good == 0 or bad == 0:
        return 1.0, 1.0
    return max(1.0, bad / good), max(1.0, good / bad)


def others_answers(rows: Sequence[ex.BinaryExample], size: int, most: int) -> list[list[int]]:
    """For each row the answer of its neighbour within its pass of `size` rows, in a circle, as TRL pairs them.

    A pass of one row takes the answer of the row before it. Of an answer that is too long behind this row's prompt the
    beginning is taken, so that the two have `most` tokens at most.
    """
    found: list[list[int]] = []
    for start in range(0, len(rows), size):
        answers = [row.answer_ids for row in rows[start : start + size]]
        found += [rows[start - 1].answer_ids] if len(answers) == 1 else answers[-1:] + answers[:-1]
    return [other[: max(1, most - len(row.prompt_ids))] for row, other in zip(rows, found, strict=True)]


def _trainer(
    policy: Any, tokenizer: Any, kept: Sequence[ex.BinaryExample], config: Kto, options: dict[str, Any], most: int
) -> Any:
    from datasets import Dataset
    from trl import KTOConfig

    from align.train import kto_trainer

    args = KTOConfig(
        beta=config.beta, disable_dropout=True, precompute_ref_log_probs=True, train_sampling_strategy="sequential",
        **options,
    )  # fmt: skip
    data = _columns(kept, options["per_device_train_batch_size"], most)
    trainer = kto_trainer.Kto(
        model=policy,
        args=args,
        data_collator=kto_trainer.BinaryCollator(pad_token_id=tokenizer.pad_token_id),
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
        peft_config=arguments.lora_config(config.lora),
    )
    trainer.sides = sides(kept, config)
    return trainer


def _columns(rows: Sequence[ex.BinaryExample], size: int, most: int) -> dict[str, list[Any]]:
    """What the trainer is given of each row, in passes of `size` rows."""
    return {
        "prompt_ids": [row.prompt_ids for row in rows],
        "completion_ids": [row.answer_ids for row in rows],
        "KL_completion_ids": others_answers(rows, size, most),
        "label": [row.target >= 0.5 for row in rows],
        "target": [row.target for row in rows],
        "weight": weights_of_mean_one([row.weight for row in rows]),
    }


def _measuring(trainer: Any, apart: Apart[ex.BinaryExample], config: Kto, seed: int, most: int) -> Measuring:
    """What is measured of held-out binary labels: KTO's loss, its KL divergence estimated on all of them, and how often
    the model makes a good answer likelier than the reference does, and a bad one less likely."""
    import torch

    from align.losses import kto
    from align.train.held_out import Measuring, accuracy

    binary = apart.measured
    columns = _columns(binary, trainer.args.per_device_train_batch_size, most)
    batches = list(
        trainer.passes([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    )
    good, bad = trainer.sides
    target_N, weight_N = (torch.tensor(columns[name]) for name in ("target", "weight"))

    def logps(reference: bool) -> tuple[Any, Any]:
        both = [trainer.without_gradients(batch, reference=reference) for batch in batches]
        own_N, others_N = (torch.cat(parts).float().cpu() for parts in zip(*both, strict=True))
        return own_N, others_N

    ref_N, ref_others_N = logps(True)

    def measure() -> dict[str, Any]:
        own_N, others_N = logps(False)
        reward_N, kl = config.beta * (own_N - ref_N), (others_N - ref_others_N).mean().clamp(min=0)
        sides = torch.full_like(reward_N, good), torch.full_like(reward_N, bad)
        loss = (weight_N * kto(reward_N, target_N, config.beta * kl, *sides)).mean()
        known = [n for n, label in enumerate(binary) if label.target != 0.5]
        right = [0.5 if reward_N[n] == 0 else float((reward_N[n] > 0) == (binary[n].target > 0.5)) for n in known]
        rate = accuracy(right, [apart.prompts[n] for n in known], seed)
        return {"loss": float(loss), **({"accuracy": rate} if rate else {})}

    return Measuring.of(config, measure, apart.prompts, arguments.planned_steps(config, len(trainer.train_dataset)))


def check_reference(trainer: Any, tolerance: float) -> float:
    """The largest difference between policy's and reference's log-probability of an answer, before the first step.

    Looks at a few binary labels, evenly spaced over the data. Raises StageError where the difference is over
    `tolerance`.
    """
    batches = trainer.batches(ex.spread(range(len(trainer.train_dataset))))
    both = ([trainer.without_gradients(batch, reference=r)[0] for r in (False, True)] for batch in batches)
    return require_same_start(largest_differences(both), tolerance)


def add_reference(trainer: Any, count: int) -> None:
    """Give the first `count` rows the reference's log-probabilities, computed in the passes in which training sees
    them; training looks at rows in their order, and where it is shorter than an epoch at no others."""
    from align.train import reference

    rows = range(min(count, len(trainer.train_dataset)))
    found: list[reference.Logps] = []
    for batch in trainer.batches(rows):
        own_B, others_B = trainer.without_gradients(batch, reference=True)
        found += zip(own_B.tolist(), others_B.tolist(), strict=True)
    names = ("ref_logps", "ref_KL_logps")
    trainer.train_dataset = reference.add_columns(trainer.train_dataset, dict(enumerate(found)), names)
