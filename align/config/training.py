"""The training sections of a recipe, one for each method. Each field is documented once, beneath itself."""

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
    """Rank."""
    alpha: Annotated[float, Field(gt=0)] = 32
    """Scale is alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Names of the layers that get an adapter, as in PEFT."""


class Training(Section):
    """What every method takes. `kind` says whose options `trainer` takes."""

    kind: ClassVar[Trainer]

    learning_rate: Annotated[float, Field(gt=0)]
    """Peak learning rate."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the rows; `trainer.max_steps` overrides it."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Rows per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Rows per forward pass; `batch_size` where not given."""
    lora: Lora | None = None
    """Train a fresh adapter on the merged parent instead of all weights; the published checkpoint is merged."""
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
    """Methods that learn from rows that are there before training begins."""

    max_tokens: Annotated[int, Field(ge=8)] = 1024
    """Longest prompt plus answer; longer rows are dropped, counted and kept with the reason."""


SPELLED_OUT = "spelled out"
"""The context in which a section is written out with every default."""


class HeldOut(OnRows):
    """Methods that can measure rows that they do not learn from while they learn, and stop early."""

    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of prompts that are kept from training, by a hash of each: on their rows the loss (and for pairs and
    binary labels the accuracy) is measured while it trains, at the beginning, every `eval_steps` and at the end. 0: none."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """With `held_out`: optimiser steps between two measurements; where not given, ten in the whole training."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """With `held_out`: stop early after so many measurements in a row that found no lower loss. What is published is then
    the model as it was at the lowest one, also where training comes to its end."""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if given := [name for name in ("eval_steps", "patience") if getattr(self, name) and not self.held_out]:
            raise ValueError(f"`{given[0]}` acts with `held_out` alone; give it a share of the prompts, such as 0.1")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Stages' keys are made of it: those of runs from before these fields stay what they were."""
        dumped: dict[str, Any] = handler(self)
        if info.context == SPELLED_OUT:
            return dumped
        off = [name for name in HeldOut.__annotations__ if not getattr(self, name)]
        return {name: value for name, value in dumped.items() if name not in off}


class MixedFile(Section):
    path: File
    """JSONL or Parquet of demonstrations."""
    share: Annotated[float, Field(gt=0, lt=1)]
    """The share of all rows trained on that come from this file: drawn from it at random, or repeated, as needed."""


class Sft(HeldOut):
    kind = "sft"

    demonstrations: File
    """JSONL or Parquet of demonstrations: `messages` that end with the assistant, or `prompt` and `completion`."""
    mix: list[MixedFile] = []
    """More files of demonstrations, such as corrected answers of `align annotate export`, each with its share."""
    turns: Literal["all", "last"] = "all"
    """Which assistant turns of a conversation are learned: all of them, or the last alone. Nothing else ever is."""
    packing: bool = False
    """Several short rows share a sequence of `max_tokens`, each blind to the others; `batch_size` then counts such
    sequences. The loss of a token is the same."""
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
    """Strength of the pull to the reference (Rafailov et al. 2023, equation 7). With `length: mean` about fifty times
    what it is without."""
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    """`sigmoid`: DPO itself; `hinge` (SLiC: Zhao et al. 2023); `ipo` (Azar et al. 2023), per token; `robust` (rDPO:
    Chowdhury et al. 2024), for labels that are wrong at a known rate. All of them learn from each pair's `target` and
    `weight`. Other losses of TRL go by `trainer.loss_type`, and need targets of 1 and equal weights."""
    label_noise: Annotated[float, Field(ge=0, lt=0.49)] | None = None
    """Take every label as wrong at this rate, whatever the pair's own `target`: with `loss: sigmoid` this is cDPO
    (Mitchell 2023). Where not given a pair's own doubt counts: 1 − `target`."""
    length: Literal["sum", "mean", "ld"] = "sum"
    """How an answer's log-probability is counted: the sum over its tokens; their mean (LN-DPO: Lambert et al. 2024,
    after SimPO); or the sum in which tokens beyond the shorter answer's length count `ld_alpha` times (LD-DPO:
    Liu et al. 2024)."""
    ld_alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With `length: ld`: 1 is `sum`, 0 leaves those tokens out."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate. Full training of a pretrained model: about 1e-6; LoRA: about 1e-5; tiny models: 1e-4
    and more."""
    replay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of earlier rounds' preferences that are trained on again beside this round's."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Pairs per forward pass; where not given, as many as `micro_batch_tokens` hold."""
    micro_batch_tokens: Annotated[int, Field(ge=1)] = 768
    """Most tokens under way at a time, a shared prompt counted once: those of one forward pass, or on a CPU of two that
    run side by side; a longer pair goes alone. It changes memory and speed, not what is learned; on a GPU raise it
    until memory is full."""

    @model_validator(mode="after")
    def _reference_agrees(self) -> Self:
        return _no_dropout(self, "DPO")

    @model_validator(mode="after")
    def _loss_acts(self) -> Self:
        """An option that cannot act is an error; its default spelled out is none."""
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
    """Strength of the pull to the reference (Ethayarajh et al. 2024)."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Binary labels per optimiser step, over all processes and accumulation steps."""
    micro_batch_size: Annotated[int, Field(ge=2)] | None = None
    """Binary labels per forward pass; `batch_size` where not given. The KL divergence is estimated from each pass, on its
    prompts with another's answer, so that larger ones estimate it better."""
    desirable_weight: Annotated[float, Field(gt=0)] | None = None
    """λ_D, how much the good side of binary labels counts. Where neither weight is given, the side with less weight in the data counts
    more, so that both are equal (Ethayarajh et al. 2024, equation 9)."""
    undesirable_weight: Annotated[float, Field(gt=0)] | None = None
    """λ_U, how much the bad side counts; 1 where only `desirable_weight` is given, and the other way round."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate. Full training of a pretrained model: about 1e-6; LoRA: about 1e-5; tiny models: 1e-4
    and more."""
    replay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of earlier rounds' binary labels that are trained on again beside this round's."""

    @model_validator(mode="after")
    def _reference_agrees(self) -> Self:
        return _no_dropout(self, "KTO")


class Online(Training, Decoding):
    """Methods that learn from answers that the policy gives while it learns, scored by the recipe's `reward`."""

    type: Literal["auto", "vllm", "transformers"] = "auto"
    """The engine that answers: vLLM with fresh weights at each step, or transformers; `auto` takes the one that is
    faster here."""
    prompts: Annotated[int, Field(ge=1)] = 256
    """Train prompts drawn for each round."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Answers to each prompt in one batch."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Answers per optimiser step, over all processes and accumulation steps; a multiple of `samples`."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Longer prompts are dropped, counted and kept with the reason."""
    beta: Annotated[float, Field(ge=0)] = 0.05
    """Coefficient of the KL divergence to the parent."""
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
    """Answers to each prompt in one batch; the others' mean reward is an answer's baseline (Ahmadian et al. 2024)."""


class Grpo(Online):
    kind = "grpo"

    samples: Annotated[int, Field(ge=2)] = 8
    """Answers to each prompt in one batch; their mean reward is the baseline (Shao et al. 2024)."""


class Ppo(Online):
    """Proximal policy optimisation with a learned critic (Schulman et al. 2017; Ouyang et al. 2022)."""

    kind = "ppo"

    ppo_epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over each batch of answers."""
    minibatches: Annotated[int, Field(ge=1)] = 1
    """Optimiser steps in each pass: a batch has this many times `batch_size` answers."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount of the rewards of later tokens."""
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Generalised advantage estimation: 1 believes the rewards alone, 0 the critic (Schulman et al. 2016)."""
    clip: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio of new to old probability may go from 1 and still be rewarded."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """How far a value may go from what it was when the answers were given; null lets it go."""
    critic: Literal["separate", "shared"] = "separate"
    """`separate`: a model of its own, which starts from the reward model where the recipe trains one, else from the
    policy; `shared`: a head on the policy's last layer, which costs next to nothing."""
    value_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The critic's peak learning rate; that of the policy where not given."""
    value_weight: Annotated[float, Field(gt=0)] = 0.1
    """Weight of the value loss beside the policy's, with `critic: shared`."""
    target_kl: Annotated[float, Field(gt=0)] | None = None
    """Nats per answer at which `beta` holds the KL divergence to the parent by going up and down; null leaves `beta`
    as it is."""
    kl_gain: Annotated[float, Field(gt=0)] = 0.1
    """How fast `beta` follows `target_kl`: at most a fifth of this per batch (Ziegler et al. 2019)."""
    whiten_advantages: bool = True
    """Advantages of a batch have mean 0 and variance 1."""
    whiten_rewards: bool = False
    """Rewards of a batch have variance 1."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] | None = None
    """Taken off the score of an answer that `max_tokens` cut off."""

    @model_validator(mode="after")
    def _all_acts(self) -> Self:
        """An option that cannot act is an error; its default spelled out is none, for so a recipe is written out."""
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
    """The engine that answers: vLLM in this process, or transformers; `auto` is vLLM where it is installed."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest answer."""
    prompts: Annotated[int, Field(ge=1)] = 256
    """Train prompts drawn for each round."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Answers sampled for each prompt, of which the best by `reward` is learned."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 512
    """Longer prompts are dropped, counted and kept with the reason."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate. Full training of a pretrained model: about 1e-5; LoRA: about 1e-4."""


FEWEST_PAIRS_OF_LENGTH_HEAD = 4
"""Of a forward pass: the correlation of two answers is 1 or −1, whatever they are."""


class RewardModel(OnRows):
    """A reward model trained on the round's preferences: the parent with a scalar head (Bradley–Terry)."""

    kind = "reward"

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Peak learning rate. Full training of a pretrained model: about 1e-5; LoRA: about 1e-4; tiny models: about
    1e-3."""
    center: Annotated[float, Field(ge=0)] = 0.01
    """Weight of the squared sum of a pair's rewards, which keeps rewards around 0 (Eisenstein et al. 2023)."""
    margins: bool = False
    """Ask for each pair's `margin` between its rewards (Touvron et al. 2023, equation 2)."""
    members: Annotated[int, Field(ge=1)] = 1
    """Over 1: an ensemble of so many opinions around the one model. Their mean is what it says alone, and how far they
    disagree tells how far it can be trusted, the better the more there are; they cost next to nothing, so take 64."""
    length_head: bool = False
    """Take out of the reward what the answer's length explains: a second head learns it, and is not published (ODIN:
    Chen et al. 2024)."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of prompts that are kept from training, to measure on their pairs how often the model is right."""
    replay: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of earlier rounds' preferences that are trained on again beside this round's."""

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
    """What the online methods and best-of-n raise: the weighted sum of a trained model's and functions' scores."""

    model: RewardModel | None = None
    """Train a reward model on the preferences, before the policy, and use it."""
    weight: float = 1.0
    """The trained model's share in the reward."""
    bound: Annotated[float, Field(ge=0)] = 0.0
    """With `model.members` over 1: so many standard deviations of the members' scores are taken off their mean, so that
    answers on which they disagree are not worth finding. 0 is the mean; 1 a cautious reward."""
    functions: list[RewardFunction] = []
    """Scoring functions, added to the model's score: your own (`path` alone will do), patterns, JSON, length, math, code
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
