"""Training: one function for each method. Each makes a new checkpoint from another, and resumes after a kill."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from align.api.given import Compute, ModelLike, Trained, Workspace, checkpoint_in, opened
from align.api.scorers import ScorerLike, scorer_like
from align.config.training import BestOfN, Dpo, Grpo, Kto, Ppo, RewardModel, Rloo, Sft
from align.data.demonstrations import Demonstration
from align.errors import DataError
from align.types import BinaryLabel, Preference, Prompt

_DEFAULT = Compute()
SampledIn = Workspace | str | Path | None
"""Where answers were sampled: one folder, or a folder that contains several."""


def import_model(model: ModelLike, *, workspace: Workspace, compute: Compute = _DEFAULT) -> Trained:
    """Import a model into a new checkpoint folder, with the chat template of a recipe's `model` section.

    Every other function also takes a model directly; use this for a model that is used several times. Raises
    ConfigError for a folder without a causal language model and if there is no chat template, ServiceError if the Hub
    cannot be reached.
    """
    with opened(workspace) as place:
        for file in (found := checkpoint_in(place, model, compute)).iterdir():
            file.rename(place.out / file.name)
        found.rmdir()
    return Trained(Path(workspace.out), {})


def train_sft(
    model: ModelLike,
    demonstrations: Sequence[Demonstration],
    config: Sft | None = None,
    *,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Supervised fine-tuning of `model` on `demonstrations`. The loss is the mean negative log-probability of the
    tokens of their answers.

    A folder with a config and no weights gets random weights. `config.demonstrations` and `config.mix` have no effect
    here; they name the files that `load_demonstrations` reads. Raises DataError if no row is left to train on.
    """
    from align.train.sft import train_sft

    rows = [(row.messages, row.answer) for row in demonstrations]
    settings = config or Sft(demonstrations=Path("demonstrations"))
    return _trained(train_sft, model, rows, settings, workspace, compute, random=True)


def train_dpo(
    model: ModelLike,
    preferences: Sequence[Preference],
    config: Dpo | None = None,
    *,
    rollouts: SampledIn = None,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290). Training starts from `model`, which is
    also the reference.

    The loss of each pair uses its `target`, the probability that `chosen` is better, and its `weight`; weights are
    scaled to a mean of 1. `rollouts` is a folder of `sample`, or the workspace that contains such folders: answers
    found there are trained on with the tokens that were sampled, other answers with the tokens of their text. The
    metrics include the accuracy and margin of the implicit reward. Raises DataError if no pair is left to train on,
    StageError if policy and reference differ before the first step.
    """
    from align.train.dpo import train_dpo

    return _trained(train_dpo, model, preferences, config or Dpo(), workspace, compute, **_tokens(rollouts))


def train_kto(
    model: ModelLike,
    binary: Sequence[BinaryLabel],
    config: Kto | None = None,
    *,
    rollouts: SampledIn = None,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306) on binary labels: answers that are good
    or bad.

    A label with target p counts as good with weight p and as bad with weight 1 − p, both times its `weight`. `rollouts`
    is as in `train_dpo`. Raises DataError for fewer than two labels.
    """
    from align.train.kto import train_kto

    return _trained(train_kto, model, binary, config or Kto(), workspace, compute, **_tokens(rollouts))


def train_reward(
    model: ModelLike,
    preferences: Sequence[Preference],
    config: RewardModel | None = None,
    *,
    rollouts: SampledIn = None,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Train a reward model on pairs (Bradley and Terry 1952): `model` with a head for one score, which starts at 0.

    `config.members` above 1 makes an ensemble, whose disagreement shows how far a score can be trusted;
    `config.held_out` holds out a share of prompts to measure the model on. `rollouts` is as in `train_dpo`.
    `load_scorer` loads the folder. Raises DataError if no pair is left to train on.
    """
    from reward.train import train_reward

    return _trained(train_reward, model, preferences, config or RewardModel(), workspace, compute, **_tokens(rollouts))


def train_ppo(
    model: ModelLike,
    prompts: Sequence[Prompt],
    config: Ppo | None = None,
    *,
    scorer: ScorerLike,
    critic: str | Path | None = None,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with a learned critic, which starts from
    the reward model in the folder `critic` if given, else from `model`.

    The policy answers `prompts` while it learns, and `scorer` scores the answers; `config.beta` is the coefficient of
    the KL divergence to `model`. Raises DataError if no answer has a score, ConfigError for a `critic` that has no
    effect.
    """
    from align.train.ppo import train_ppo

    start = None if critic is None else Path(critic)
    return _online(train_ppo, model, prompts, config or Ppo(), scorer, workspace, compute, critic=start)


def train_rloo(
    model: ModelLike,
    prompts: Sequence[Prompt],
    config: Rloo | None = None,
    *,
    scorer: ScorerLike,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv 2402.14740): the baseline of an answer is the mean reward of
    the other answers to its prompt. Otherwise as `train_ppo`, without a critic."""
    from align.train.rloo import train_rloo

    return _online(train_rloo, model, prompts, config or Rloo(), scorer, workspace, compute)


def train_grpo(
    model: ModelLike,
    prompts: Sequence[Prompt],
    config: Grpo | None = None,
    *,
    scorer: ScorerLike,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): the advantage of an answer is its score
    minus the mean over the answers to its prompt, divided by their standard deviation. Otherwise as `train_ppo`,
    without a critic."""
    from align.train.grpo import train_grpo

    return _online(train_grpo, model, prompts, config or Grpo(), scorer, workspace, compute)


def train_best_of_n(
    model: ModelLike,
    prompts: Sequence[Prompt],
    config: BestOfN | None = None,
    *,
    scorer: ScorerLike,
    workspace: Workspace,
    compute: Compute = _DEFAULT,
) -> Trained:
    """Rejection sampling (Touvron et al. 2023, arXiv 2307.09288, §3.2.3): supervised fine-tuning on the best of
    `config.samples` answers to each prompt, by `scorer`. The answers and their ids are in `candidates.parquet` in the
    checkpoint's folder. Raises DataError if no prompt has a complete answer with a score."""
    from align.stages.best_of_n import train_best_of_n

    return _online(train_best_of_n, model, prompts, config or BestOfN(), scorer, workspace, compute)


def _tokens(rollouts: SampledIn) -> dict[str, Any]:
    """The sampled tokens of answers. Raises DataError for a folder without them."""
    from align.data.candidates import tokens_below

    if rollouts is None:
        return {}
    return {"tokens": tokens_below(Path(rollouts.out if isinstance(rollouts, Workspace) else rollouts))}


def _online(
    train: Callable[..., dict[str, Any]],
    model: ModelLike,
    prompts: Sequence[Prompt],
    config: Any,
    scorer: ScorerLike,
    workspace: Workspace,
    compute: Compute,
    **more: Any,
) -> Trained:
    """A training that scores answers; its metrics say why some have no score."""
    from reward.compose import weighted

    judged = weighted([(scorer_like(scorer), 1.0)])
    # a killed training goes on, but never from one that raised another reward
    given = {"score": judged.score, "scratch": f"reward-{judged.id}", **more}
    return _trained(train, model, prompts, config, workspace, compute, why=judged.why_unscored, **given)


def _trained(
    train: Callable[..., dict[str, Any]],
    model: ModelLike,
    rows: Sequence[Any],
    config: Any,
    workspace: Workspace,
    compute: Compute,
    *,
    random: bool = False,
    scratch: str = "",
    why: Callable[[], dict[str, Any]] = dict,
    **more: Any,
) -> Trained:
    """The common part of all training functions."""
    if not rows:
        raise DataError("there is not one row to train on", hint="see the `dropped` of what was loaded or compiled")
    with opened(workspace) as place:
        metrics = train(
            checkpoint_in(place, model, compute, random=random),
            rows,
            config,
            seed=compute.seed,
            dtype=compute.dtype,
            report_to=list(compute.report_to),
            threads=compute.threads,
            out=place.out,
            work=place.work / scratch,
            progress=workspace.progress,
            mask_thinking="loss" in compute.hide_thinking,
            **more,
        )
    return Trained(Path(workspace.out), {**metrics, **why()})
