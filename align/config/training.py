"""The training sections of a recipe, one for each method. The docstring after each field documents it."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from align.config.base import Decoding, Section
from align.config.paths import File
from align.config.rewards import RewardFunction
from align.config.trainer import Trainer, check_trainer


class Lora(Section):
    r: Annotated[int, Field(ge=1)] = 16
    """Rank of the adapter."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """The adapter is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Names of the layers that get an adapter, as in PEFT."""


class Training(Section):
    """The settings of every method. `kind` is the trainer whose options `trainer` takes."""

    kind: ClassVar[Trainer]

    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Number of passes over the rows; `trainer.max_steps` overrides it."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows per forward pass. If not given: `batch_size`."""
    lora: Lora | None = None
    """Train a new LoRA adapter on the merged parent (the model that training starts from), instead of all weights. The
    published checkpoint is merged."""
    trainer: dict[str, Any] = {}
    """Any other option of TRL's trainer, by its own name."""

    @field_validator("trainer")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_trainer(cls.kind, value)

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`micro_batch_size` ({self.micro_batch_size}) must divide `batch_size` ({self.batch_size})"
            )
        return self


class OnRows(Training):
    """Methods that learn from rows that exist before training starts."""

    max_tokens: Annotated[int, Field(ge=8)] = 1024
    """Maximum length of prompt plus answer, in tokens. Longer rows are dropped, counted, and listed with the reason."""


SPELLED_OUT = "spelled out"
"""The context for writing a section out with every default."""


class HeldOut(OnRows):
    """Methods that can measure held-out rows during training, and stop early."""

    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of prompts held out from training, chosen by a hash of each prompt. The loss on their rows (for pairs
    and binary labels also the accuracy) is measured at the start of training, every `eval_steps` and at the end. 0:
    none."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """With `held_out`: optimiser steps between two measurements. If not given: ten measurements in the whole
    training."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """With `held_out`: stop early after this many measurements in a row without a lower loss. The published model is
    then the one with the lowest loss, even if training ran to its end."""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if given := [name for name in ("eval_steps", "patience") if getattr(self, name) and not self.held_out]:
            raise ValueError(f"`{given[0]}` acts with `held_out` alone; give it a share of the prompts, such as 0.1")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """The keys of stages depend on it: in runs from before these fields they stay the same."""
        dumped: dict[str, Any] = handler(self)
        if info.context == SPELLED_OUT:
            return dumped
        off = [name for name in HeldOut.__annotations__ if not getattr(self, name)]
        return {name: value for name, value in dumped.items() if name not in off}


class MixedFile(Section):
    path: File
    """JSONL or Parquet of demonstrations."""
    share: Annotated[float, Field(gt=0, lt=1)]
    """The share of all training rows that come from this file. Its rows are sampled at random, or repeated, as
    needed."""


class Sft(HeldOut):
    kind = "sft"

    demonstrations: File
    """JSONL or Parquet of demonstrations: `messages` that end with an assistant turn, or `prompt` and `completion`."""
    mix: list[MixedFile] = []
    """More files of demonstrations, such as corrected answers from `align annotate export`, each with its share."""
    turns: Literal["all", "last"] = "all"
    """The assistant turns of a conversation that are learned: all, or only the last. Other turns are never learned."""
    packing: bool = False
    """Pack several short rows into a sequence of `max_tokens`, without attention between rows; `batch_size` then counts
    these sequences. The loss of each token is the same as without packing."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Peak learning rate. Full training of a pretrained model: about 2e-5; LoRA: about 2e-4; from
    scratch: about 1e-3."""

    @model_validator(mode="after")
    def _shares_leave_room(self) -> Self:
        if (total := sum(part.share for part in self.mix)) >= 1:
            raise ValueError(f"the shares in `mix` must leave room for `demonstrations`, found {total:g} in all")
        return self


_OWN_LOSS = ("loss", "label_noise", "length", "ld_alpha")
_TRLS_LOSS = {"loss_type", "loss_weights", "f_divergence_type", "use_weighting"}


class Dpo(HeldOut):
    kind = "dpo"

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the KL penalty towards the reference (Rafailov et al. 2023, equation 7). With `length: mean`, use
    about fifty times the usual value."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """`sigmoid`: DPO itself. `hinge`: SLiC (Zhao et al. 2023). `ipo`: IPO (Azar et al. 2023), per token. `robust`: rDPO
    (Chowdhury et al. 2024), for labels that are wrong at a known rate. All of these use each pair's `target` and
    `weight`. Set other losses of TRL with `trainer.loss_type`; they need targets of 1 and equal weights."""
    label_noise: Annotated[float, Field(ge=0, lt=0.49)] | None = None
    """Label noise: the assumed rate of wrong labels, for every pair, whatever its own `target`. With `loss: sigmoid`
    this is cDPO (Mitchell 2023). If not given: each pair's own doubt, 1 − `target`."""
    length: Literal["sum", "mean", "ld"] = "sum"
    """How an answer's log-probability is computed. `sum`: the sum over its tokens. `mean`: their mean (LN-DPO: Lambert
    et al. 2024, after SimPO). `ld`: the sum, with weight `ld_alpha` for tokens beyond the shorter answer's length
    (LD-DPO: Liu et al. 2024)."""
    ld_alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With `length: ld`: the weight of these tokens. 1 is the same as `sum`; 0 leaves them out."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate. Full training of a pretrained model: about 1e-6; LoRA: about 1e-5; tiny models: 1e-4
    and more."""
    replay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of earlier rounds' preferences to train on again, together with this round's."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Pairs per forward pass. If not given: as many as fit into `micro_batch_tokens`."""
    micro_batch_tokens: Annotated[int, Field(ge=1)] = 768
    """The most tokens processed at a time, with a shared prompt counted once: in one forward pass, or on a CPU in two
    that run in parallel. A longer pair gets its own pass. It changes memory and speed, not what is learned; on a GPU,
    raise it until the memory is full."""

    @model_validator(mode="after")
    def _reference_agrees(self) -> Self:
        return _no_dropout(self, "DPO")

    @model_validator(mode="after")
    def _loss_acts(self) -> Self:
        """An option that has no effect is an error, except if it is set to its default."""
        given = {name for name in _OWN_LOSS if getattr(self, name) != type(self).model_fields[name].default}
        if "ld_alpha" in given and self.length != "ld":
            raise ValueError(f"`ld_alpha` acts with `length: ld` alone, found length: {self.length}")
        if self.loss == "ipo" and self.length == "mean":
            raise ValueError("`length: mean` is what `loss: ipo` does anyway; leave it out")
        if given and (trls := sorted(set(self.trainer) & _TRLS_LOSS)):
            names = ", ".join(f"`{name}`" for name in sorted(given))
            raise ValueError(f"{names} cannot act on a loss of TRL's own; found trainer.{trls[0]}")
        return self

    @model_validator(mode="after")
    def _one_micro_batch(self) -> Self:
        # a default spelled out is none that was given: so a recipe is written out, and read again
        tokens = self.micro_batch_tokens != type(self).model_fields["micro_batch_tokens"].default
        if tokens and self.micro_batch_size is not None:
            raise ValueError("give `micro_batch_size` or `micro_batch_tokens`, not both")
        return self


class Kto(HeldOut):
    kind = "kto"

    beta: Annotated[float, Field(gt=0)] = 0.1
    """Strength of the KL penalty towards the reference (Ethayarajh et al. 2024)."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Binary labels (good or bad for one answer) per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: Annotated[int, Field(ge=2)] | None = None
    """Binary labels per forward pass. If not given: `batch_size`. Each pass estimates the KL divergence on its prompts,
    each paired with the answer to another prompt, so a larger pass estimates it better."""
    desirable_weight: Annotated[float, Field(gt=0)] | None = None
    """λ_D, the weight of good labels. If neither weight is given: the side with less total weight in the data gets a
    higher weight, so that both sides are equal (Ethayarajh et al. 2024, equation 9). If only `undesirable_weight` is
    given: 1."""
    undesirable_weight: Annotated[float, Field(gt=0)] | None = None
    """λ_U, the weight of bad labels. If only `desirable_weight` is given: 1."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate. Full training of a pretrained model: about 1e-6; LoRA: about 1e-5; tiny models: 1e-4
    and more."""
    replay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of earlier rounds' binary labels to train on again, together with this round's."""

    @model_validator(mode="after")
    def _reference_agrees(self) -> Self:
        return _no_dropout(self, "KTO")


class Online(Training, Decoding):
    """Methods that learn from answers that the policy gives during training, scored by the recipe's `reward`."""

    type: Literal["auto", "vllm", "transformers"] = "auto"
    """The engine that samples answers: vLLM, with updated weights at each step, or transformers. `auto`: the faster
    one, which is vLLM on a GPU if it is installed, otherwise transformers."""
    prompts: Annotated[int, Field(ge=1)] = 256
    """Training prompts drawn for each round."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each prompt in one batch."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Answers per optimiser step, over all processes and accumulation steps; a multiple of `samples`."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Maximum length of a prompt, in tokens. Longer prompts are dropped, counted, and listed with the reason."""
    beta: Annotated[float, Field(ge=0)] = 0.05
    """Coefficient of the KL divergence to the parent (the model that training starts from)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate. Full training of a pretrained model: about 1e-6; LoRA: about 1e-5; tiny models: 1e-4
    and more."""

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.samples:
            raise ValueError(f"`samples` ({self.samples}) must divide `batch_size` ({self.batch_size})")
        return self

    @model_validator(mode="after")
    def _explores(self) -> Self:
        if self.temperature == 0:
            raise ValueError("`temperature` 0 gives the same answer every time, so there is nothing to learn from")
        return _no_dropout(self, type(self).__name__.upper())


class Rloo(Online):
    kind = "rloo"

    samples: Annotated[int, Field(ge=2)] = 4
    """Answers to each prompt in one batch. The baseline of an answer is the mean reward of the other answers (Ahmadian
    et al. 2024)."""


class Grpo(Online):
    kind = "grpo"

    samples: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt in one batch. Their mean reward is the baseline (Shao et al. 2024)."""


class Ppo(Online):
    """Proximal policy optimisation with a learned critic (Schulman et al. 2017; Ouyang et al. 2022)."""

    kind = "ppo"

    ppo_epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over each batch of answers."""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """Optimiser steps in each pass. A batch has this many times `batch_size` answers."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount factor of the rewards of later tokens."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """λ of generalised advantage estimation (Schulman et al. 2016): 1 uses only the rewards, 0 only the critic."""
    clip: Annotated[float, Field(gt=0)] = 0.2
    """PPO's clip range: the ratio of new to old probability is not rewarded further than this from 1."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """Clip range of a value around its value when the answers were sampled; null: no clipping."""
    critic: Literal["separate", "shared"] = "separate"
    """`separate`: a separate model, which starts from the reward model if the recipe trains one, else from the policy.
    `shared`: a head on the policy's last layer, which costs almost nothing."""
    value_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the critic. If not given: that of the policy."""
    value_weight: Annotated[float, Field(gt=0)] = 0.1
    """With `critic: shared`: weight of the value loss relative to the policy's loss."""
    target_kl: Annotated[float, Field(gt=0)] | None = None
    """Target of the KL divergence to the parent, in nats per answer: `beta` is raised or lowered to hold it. null:
    `beta` stays as it is."""
    kl_gain: Annotated[float, Field(gt=0)] = 0.1
    """How fast `beta` follows `target_kl`: it changes by at most a fifth of this per batch (Ziegler et al. 2019)."""
    whiten_advantages: bool = True
    """Normalise the advantages of a batch to mean 0 and variance 1."""
    whiten_rewards: bool = False
    """Scale the rewards of a batch to variance 1."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] | None = None
    """Subtracted from the score of an answer that `max_tokens` cut off."""

    @model_validator(mode="after")
    def _all_acts(self) -> Self:
        """An option that has no effect is an error, except if it is set to its default, as in a written-out recipe."""
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        if "value_weight" in given and self.critic != "shared":
            raise ValueError(
                "`value_weight` acts with `critic: shared` alone; a critic of its own has its own gradients"
            )
        if "kl_gain" in given and self.target_kl is None:
            raise ValueError("`kl_gain` acts with `target_kl` alone")
        if self.target_kl is not None and self.beta == 0:
            raise ValueError("`target_kl` changes `beta` by a factor, so `beta` must be over 0")
        return self


class BestOfN(OnRows, Decoding):
    """Rejection sampling: supervised fine-tuning on the best of several answers (Touvron et al. 2023, §3.2.3)."""

    kind = "sft"

    type: Literal["auto", "vllm", "transformers"] = "auto"
    """The engine that samples answers: vLLM in this process, or transformers. `auto`: vLLM if it is installed,
    otherwise transformers."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Maximum length of an answer, in tokens."""
    prompts: Annotated[int, Field(ge=1)] = 256
    """Training prompts drawn for each round."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Answers sampled for each prompt. The model learns the one with the highest `reward`."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Maximum length of a prompt, in tokens. Longer prompts are dropped, counted, and listed with the reason."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate. Full training of a pretrained model: about 1e-5; LoRA: about 1e-4."""


FEWEST_PAIRS_OF_LENGTH_HEAD = 4
"""Per forward pass: with two answers the correlation is always 1 or −1."""


class RewardModel(OnRows):
    """A reward model trained on the round's preferences: the parent with a scalar head (Bradley–Terry)."""

    kind = "reward"

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate. Full training of a pretrained model: about 1e-5; LoRA: about 1e-4; tiny models: about
    1e-3."""
    center: Annotated[float, Field(ge=0)] = 0.01
    """Weight of a penalty on the squared sum of a pair's rewards, which keeps rewards around 0 (Eisenstein et al.
    2023)."""
    margins: bool = False
    """Require each pair's `margin` between its two rewards (Touvron et al. 2023, equation 2)."""
    members: Annotated[int, Field(ge=1)] = 1
    """Above 1: an ensemble with this many members on top of the one model. The mean of the members is the model's own
    score; their disagreement shows how far it can be trusted, and more members estimate this better. Members cost
    almost nothing, so use 64."""
    length_head: bool = False
    """Remove from the reward what the answer's length explains: a second head learns it and is not published (ODIN:
    Chen et al. 2024)."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of prompts held out from training, to measure the model's accuracy on their pairs."""
    replay: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of earlier rounds' preferences to train on again, together with this round's."""

    @model_validator(mode="after")
    def _lengths_can_correlate(self) -> Self:
        pairs = self.micro_batch_size or self.batch_size
        if self.length_head and pairs < FEWEST_PAIRS_OF_LENGTH_HEAD:
            raise ValueError(
                f"`length_head` measures correlations within a forward pass, which needs at least "
                f"{FEWEST_PAIRS_OF_LENGTH_HEAD} pairs, found {pairs}"
            )
        return self


class Rewards(Section):
    """The reward that the online methods and best-of-n maximise: the weighted sum of its reward terms, the scores of a
    trained model and of functions."""

    model: RewardModel | None = None
    """Train a reward model on the preferences, before the policy, and use it as a reward term."""
    weight: float = 1.0
    """The weight of the trained model's score in the sum."""
    bound: Annotated[float, Field(ge=0)] = 0.0
    """With `model.members` above 1: subtract this many standard deviations of the members' scores from their mean, so
    that the policy gains nothing from answers on which they disagree. 0: the mean; 1: a cautious reward."""
    functions: list[RewardFunction] = []
    """Scoring functions, added to the model's score: your own (`path` is enough), patterns, JSON, length, math, code,
    and language models as judges (docs/reward-functions.md)."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.model is None and not self.functions:
            raise ValueError("give `model` (a reward model trained on the preferences), `functions`, or both")
        return self

    @model_validator(mode="after")
    def _members_can_disagree(self) -> Self:
        if self.bound and (self.model is None or self.model.members == 1):
            found = "no `model`" if self.model is None else f"model.members: {self.model.members}"
            raise ValueError(f"`bound` acts on an ensemble alone, found {found}; give `model.members` of 2 or more")
        return self


def _no_dropout(section: Any, method: str) -> Any:
    if section.lora is not None and section.lora.dropout > 0:
        raise ValueError(f"`lora.dropout` must be 0 in {method}: policy and reference must agree before the first step")
    return section
