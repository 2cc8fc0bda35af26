"""Reward models from preferences: the parent with a scalar head, or an ensemble's several, by Bradley–Terry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from align.config.training import RewardModel
from align.errors import ConfigError
from align.evaluation.pairs import score_differences
from align.losses import weights_of_mean_one
from align.sampled import sampled_by
from align.text import load_tokenizer, make_paddable, padding_id, stop_token_ids, token_text
from align.train import arguments, checkpoint
from align.train import examples as ex
from align.train.world import agreed, rank
from align.turns import said
from align.types import Dropped, Preference
from reward.classifier import load_reward_model, sequence_scores
from reward.load import load_scorer
from reward.measure import is_held_out, measure, summary
from reward.members import Members, draw_members, write_members
from reward.model import publish_and_verify, write_reading

if TYPE_CHECKING:
    import pyarrow as pa

Row = tuple[ex.Pair, float]
"""A pair as tokens, and its margin."""


def train_reward(
    parent: Path,
    preferences: Sequence[Preference],
    config: RewardModel,
    *,
    tokens: pa.Table | None = None,
    **given: Unpack[arguments.Given],
) -> dict[str, Any]:
    """Train the checkpoint `parent` with a scalar head on `preferences` and write a reward model into `out`.

    The loss is `reward.trainer.reward_loss`, with the weights scaled to average 1 over the pairs trained on; ties are
    pairs with the target 0.5. The head starts at 0. Under LoRA the head is trained whole and published merged. The
    folder is read again and its scores compared (`reload_score_difference`).
    With `config.members` over 1 the folder gets as many opinions beside the model's (`reward.members`). With
    `config.length_head` a second head learns what length explains, and is not published (`reward.length_bias`).
    Of the prompts, the share `config.held_out` is kept from training, by a hash of the prompt alone, and `held_out` in
    the metrics says how well the published model orders their pairs, and the temperature that its scores want
    (`reward.measure`).
    Files, `work` and resuming are as in `train_sft`, `tokens` as in `train_dpo`. With `mask_thinking` the model
    learns, and later reads, answers without their thoughts. Returns steps, losses, accuracy and margin
    of the last logged steps, pairs used and dropped by reason, and how many answers have the tokens that were sampled.
    """
    began = time.monotonic()
    seed = arguments.prepare_process(given["seed"], given["threads"])
    dtype, out, work = given["dtype"], given["out"], given["work"]
    from align.train import loop
    from reward import trainer as reward_trainer  # noqa: F401 - the imports are timed here

    if given.get("mask_thinking"):
        preferences = [replace(row, chosen=said(row.chosen), rejected=said(row.rejected)) for row in preferences]
    clock = loop.Clock(began)
    clock.lap("import")
    model = _fresh(parent, config, seed, "float32" if config.lora is None else dtype)
    tokenizer = load_tokenizer(parent)
    stops = stop_token_ids(tokenizer, parent)
    clock.lap("load")
    held_out = [row for row in preferences if is_held_out(row.prompt_id, config.held_out)]
    train = [row for row in preferences if not is_held_out(row.prompt_id, config.held_out)]
    limit, sampled = ex.limit_of(config.max_tokens, checkpoint.context_of(model)), sampled_by(tokenizer, tokens)
    found = ex.pairs_of(tokenizer, train, stops, limit, sampled)
    kept = [(pair, row.margin) for pair, row in zip(found, train, strict=True) if isinstance(pair, ex.Pair)]
    dropped = [row for row in found if isinstance(row, Dropped)]
    if rank() == 0:
        ex.write_dropped(out, dropped)
    sampled.say()
    ex.require_rows(kept, dropped, "preference")
    pairs = [pair for pair, _ in kept]
    sequences = [[*p.prompt_ids, *ids] for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    ex.require_vocabulary(sequences, model.get_input_embeddings().num_embeddings)
    if config.margins and not any(margin for _, margin in kept):
        raise ConfigError("`margins` cannot act: every pair has the margin 0", where="reward.margins")
    clock.lap("encode")
    options = arguments.trainer_options(
        config, rows=len(kept), seed=seed, dtype=dtype, report_to=given["report_to"], out=out, work=work
    )
    size = model.get_input_embeddings().num_embeddings
    pad = padding_id(tokenizer, stops, size)
    make_paddable(tokenizer, stops, size)
    trainer = _trainer(model, tokenizer, kept, config, options, pad)
    clock.lap("set up")
    rows = [[ex.as_input(pair), margin] for pair, margin in kept]
    inputs = loop.made_from(parent, rows, config, seed=seed, dtype=dtype)
    metrics = loop.run_trainer(trainer, work=work, out=out, inputs=inputs, progress=given.get("progress"))
    logged = [row for row in trainer.state.log_history if "accuracy" in row]
    metrics |= {name: logged[-1][name] for name in ("accuracy", "margin", "mean_reward") if logged}
    clock.lap("train")

    def finish() -> dict[str, Any]:
        from reward.head import head_of, set_head

        some = ex.spread(sequences)
        members = (
            _members(trainer.model, kept, trainer.train_dataset, pad, config, seed) if config.members > 1 else None
        )
        if config.length_head:
            set_head(trainer.model, head_of(trainer.model).weight.detach()[:1])
        difference = publish_and_verify(trainer.model, parent, some, pad, out=out, dtype=dtype)
        if given.get("mask_thinking"):
            write_reading(out, thinking=False)
        if members is not None:
            write_members(out, members)
        found: dict[str, Any] = {"reload_score_difference": difference}
        if held_out:
            scorer = load_scorer(out, engine="transformers", dtype=dtype, threads=None)
            differences = score_differences(held_out, scorer.score)
            found["held_out"] = summary(measure(held_out, differences, seed=seed, slices={}))
        return found

    metrics |= agreed(finish() if rank() == 0 else {})
    clock.lap("publish")
    clock.write(out)
    counts = {"rows": len(kept), "tokens": sum(map(len, sequences)), "dropped": ex.reasons(dropped)}
    return metrics | counts | sampled.counts


def _fresh(parent: Path, config: RewardModel, seed: int, dtype: str) -> Any:
    """The parent with a new head that says 0; beside a length head both begin at random, since 0 correlates with
    nothing."""
    import torch

    model: Any = load_reward_model(parent, dtype, fresh=True, labels=2 if config.length_head else 1)
    if config.length_head:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.score.weight.normal_(std=model.score.in_features**-0.5, generator=draw)
    return model


def _members(model: Any, kept: Sequence[Row], data: Any, pad: int, config: RewardModel, seed: int) -> Members:
    """An ensemble's members, from the pairs and what the trained model says of them."""
    import numpy as np

    chosen_N, rejected_N = (  # what is ranked is the sum of all heads
        sequence_scores(model, data[name], pad).sum(dim=1).double().numpy() for name in ("chosen_ids", "rejected_ids")
    )
    return draw_members(
        [pair.chosen_ids for pair, _ in kept], [pair.rejected_ids for pair, _ in kept],
        chosen_N - rejected_N - np.array(data["margin"]), np.array(data["weight"]),
        members=config.members, seed=seed,
    )  # fmt: skip


def _trainer(
    model: Any, tokenizer: Any, kept: Sequence[Row], config: RewardModel, options: dict[str, Any], pad: int
) -> Any:
    from datasets import Dataset
    from trl import RewardConfig
    from trl.trainer.utils import disable_dropout_in_model

    from reward.trainer import Reward, RewardCollator

    if options.pop("disable_dropout", True):
        disable_dropout_in_model(model)  # of the model alone: TRL would switch off the adapter's too
    tokenizer.pad_token = token_text(tokenizer, pad)
    args = RewardConfig(center_rewards_coefficient=config.center, disable_dropout=False, **options)
    data = {
        "chosen_ids": [pair.prompt_ids + pair.chosen_ids for pair, _ in kept],
        "rejected_ids": [pair.prompt_ids + pair.rejected_ids for pair, _ in kept],
        "target": [pair.target for pair, _ in kept],
        "weight": weights_of_mean_one([pair.weight for pair, _ in kept]),
        "margin": [margin if config.margins else 0.0 for _, margin in kept],
        "chosen_tokens": [len(pair.chosen_ids) for pair, _ in kept],
        "rejected_tokens": [len(pair.rejected_ids) for pair, _ in kept],
    }
    trainer = Reward(
        model=model,
        args=args,
        data_collator=RewardCollator(pad),
        train_dataset=Dataset.from_dict(data),
        processing_class=tokenizer,
        peft_config=arguments.lora_config(config.lora, "SEQ_CLS"),
    )
    trainer.length_head = config.length_head
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError("a reward model cannot be sharded over processes", hint="use --accelerate ddp")
    if "train_sampling_strategy" not in config.trainer:
        trainer.row_lengths = [pair.tokens for pair, _ in kept]
    return trainer
