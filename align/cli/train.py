"""The training verbs, each on your own files (docs/files.md): `sft`, `dpo` and `kto` learn from rows, `ppo`, `rloo`,
`grpo` and `best-of-n` from the model's own answers, which `--reward` scores.

Settings are the keys of the recipe's section, as key=value: `align dpo … beta=0.2 epochs=3`.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from align.cli.options import (
    ACCELERATE,
    CHECKPOINT,
    CONFIG,
    DATE,
    DTYPE,
    JSON,
    KWARGS,
    MODEL,
    NPROC,
    PROMPTS,
    REPLACE,
    REVISION,
    REWARD,
    SAMPLED,
    SEED,
    SETTINGS,
    TEMPLATE,
    THINKING,
    THREADS,
    Dtype,
    Given,
    chat_of,
)
from align.cli.settings import with_settings
from align.stages.methods import BEST_OF_N, DPO, GRPO, KTO, PPO, RLOO, SFT, Method
from align.stages.train_request import TrainRequest, read_request, train_job, train_together

PAIRS = typer.Option(..., "--preferences", help="JSONL or Parquet of prompt, chosen, rejected.")
ON_ROWS: list[tuple[Method, str, Any]] = [
    (
        SFT,
        "Train with supervised fine-tuning (SFT) on demonstrations.",
        typer.Option(..., "--demonstrations", help="JSONL or Parquet of demonstrations."),
    ),
    (
        DPO,
        "Train with DPO on preference pairs.\n\nDPO is direct preference optimisation. The reference is the model that"
        " training starts from.",
        PAIRS,
    ),
    (
        KTO,
        "Train with KTO on binary labels.\n\nKTO is Kahneman-Tversky optimisation. A binary label says whether one"
        " answer is good or bad. The reference is the model that training starts from.",
        typer.Option(
            ..., "--binary", help="JSONL or Parquet of prompt, completion, label (whether the completion is good)."
        ),
    ),
]
"""Each method with its help and the option for its file."""
ONLINE = [
    (
        PPO,
        "Train with PPO to maximise a reward, with a learned critic.\n\nPPO is proximal policy optimisation. The reward"
        " scores answers that the model gives while it trains.",
    ),
    (
        RLOO,
        "Train with RLOO to maximise a reward.\n\nRLOO is REINFORCE leave-one-out: the baseline of an answer is the"
        " mean reward of the other answers to its prompt. The reward scores answers that the model gives while it"
        " trains.",
    ),
    (
        GRPO,
        "Train with GRPO to maximise a reward.\n\nGRPO is group-relative policy optimisation: an answer is compared"
        " with the mean of all answers to its prompt. The reward scores answers that the model gives while it trains.",
    ),
    (
        BEST_OF_N,
        "Fine-tune a model on the best of its own answers.\n\nSamples several answers to each prompt and trains with"
        " supervised fine-tuning (SFT) on the one with the highest reward.",
    ),
]


def settings_of(method: Method) -> type[Any]:
    """The command class that takes a method's settings."""
    return with_settings(lambda: method.settings, keys=method.keys, left_out=method.no_use)


def _training_verb(
    method: Method, says: str, file_option: Any, *, reward_option: Any = None, sampled_option: Any = None
) -> Callable[..., None]:
    """The command of a method that learns from one file, given by `file_option`: from its rows, or from answers to its
    prompts, which a reward scores. An option that is None is none of the command's."""

    def command(
        settings: list[str] = SETTINGS,
        model: str = MODEL,
        file: Path = file_option,
        reward: list[str] = reward_option,
        out: Path = CHECKPOINT,
        config: Path = CONFIG,
        revision: str = REVISION,
        chat_template: str = TEMPLATE,
        replace_chat_template: bool = REPLACE,
        chat_template_kwargs: str = KWARGS,
        date: str = DATE,
        hide_thinking: bool = THINKING,
        rollouts: Path = sampled_option,
        dtype: Dtype = DTYPE,
        seed: int = SEED,
        threads: int = THREADS,
        nproc: int = NPROC,
        accelerate: str = ACCELERATE,
        as_json: bool = JSON,
    ) -> None:
        chat = chat_of(chat_template, replace_chat_template, chat_template_kwargs, date)
        request = TrainRequest(
            method.name,
            settings or [],
            _text(config),
            str(file),
            reward or [],
            dtype=dtype,
            seed=seed,
            threads=threads,
            mask_thinking=hide_thinking,
            rollouts=_sampled(method, rollouts),
        )
        _train(request, Given(model, out, revision, chat, nproc, accelerate, as_json))

    absent = {name for name, option in (("reward", reward_option), ("rollouts", sampled_option)) if option is None}
    whole = inspect.signature(command)
    shown = [parameter for name, parameter in whole.parameters.items() if name not in absent]
    command.__signature__ = whole.replace(parameters=shown)  # type: ignore[attr-defined]
    command.__doc__ = says
    return command


def verb_on_rows(method: Method, says: str, option: Any) -> Callable[..., None]:
    """The command of a method that learns from the rows of one file, given by `option`."""
    return _training_verb(method, says, option, sampled_option=SAMPLED)


def online_verb(method: Method, says: str) -> Callable[..., None]:
    """The command of a method that learns from scored answers to the prompts of one file."""
    return _training_verb(method, says, PROMPTS, reward_option=REWARD)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _sampled(method: Method, rollouts: Path | None) -> str | None:
    if rollouts is not None and method.name == "sft":
        from align.errors import ConfigError

        what = "demonstrations were not sampled; `align sft` trains on them as they are written"
        raise ConfigError(what, where="--rollouts", hint="leave it out; `align best-of-n` trains on sampled answers")
    return _text(rollouts)


def _train(request: TrainRequest, given: Given) -> None:
    """The body of every training verb: read settings and file, train, print the result."""
    from align.cli.command_output import PRINTED, command_output, keep_dropped
    from align.cli.display import counting, say_result
    from align.dropped import count_reasons
    from align.store import LOGS
    from align.train.adapter import ADAPTER, name_base
    from align.train.launch import accelerate_file, require_no_launcher

    require_no_launcher()
    file = accelerate_file(given.accelerate, given.nproc) if given.accelerate is not None else None
    job = read_request(request)
    with (
        command_output(given.out, request.threads) as place,
        counting(request.method, place.terminal, given.as_json) as progress,
    ):
        model = place.checkpoint(
            given.model,
            revision=given.revision,
            dtype=request.dtype,
            seed=request.seed if request.method == "sft" else None,
            **given.chat,
        )
        if given.nproc == 1:
            metrics = train_job(job, model, out=place.out, work=place.work, progress=progress)
        else:
            metrics = train_together(
                request, model, nproc=given.nproc, accelerate=file, out=place.out, work=place.work,
                log=place.out / LOGS / PRINTED, progress=progress,
            )  # fmt: skip
        name_base(place.out / ADAPTER, given.model, given.revision)
        keep_dropped(place.out, job.dropped)
    dropped = {**count_reasons(job.dropped), **metrics["dropped"]}
    say_result(given.out, {**metrics, "dropped": dropped}, given.as_json)
