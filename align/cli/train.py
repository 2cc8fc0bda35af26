"""The training verbs, each on files of one's own (docs/files.md): `sft`, `dpo` and `kto` learn from rows, `ppo`,
`rloo`, `grpo` and `best-of-n` from answers of the model's own that `--reward` scores.

Settings are the recipe's fields of that section, as key=value: `align dpo … beta=0.2 epochs=3`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import typer

if TYPE_CHECKING:
    from align.templates import Chat
    from reward.compose import Weighted

MODEL = typer.Option(..., "--model", help="A local folder or a Hub id of a causal language model.")
REVISION = typer.Option(None, "--revision", help="The Hub revision; the default branch where none is named.")
TEMPLATE = typer.Option(None, "--chat-template", help="plain, chatml or a Jinja file, where the tokenizer has none.")
REPLACE = typer.Option(
    False, "--replace-chat-template", help="Use --chat-template in the place of the tokenizer's own."
)
KWARGS = typer.Option(
    None,
    "--chat-template-kwargs",
    help="What the chat template reads beside the messages, as '{enable_thinking: false}'.",
)
DATE = typer.Option(
    None, "--date", help="The date, as 2026-01-31, for a chat template that writes today's.", show_default="today"
)
THINKING = typer.Option(
    False,
    "--hide-thinking",
    help="Leave answers' thoughts out of the loss (not ppo and rloo): they are seen, not learned.",
)
SAMPLED = typer.Option(
    None,
    "--rollouts",
    help="The folder of `align rollout` with these answers, to train on the tokens that were sampled.",
)
DTYPE = typer.Option("float32", "--dtype", help="Weights' type; use bfloat16 on a GPU.")
SEED = typer.Option(0, "--seed", min=0, max=2**32 - 1, help="Every random choice depends on it and on content.")
THREADS = typer.Option(None, "--threads", min=1, help="CPU threads; all cores where not given.", show_default=False)
SETTINGS = typer.Argument(None, help="Settings of the recipe's section of that name, as key=value.")
NPROC = typer.Option(1, "--nproc", min=1, help="Processes that train together: one for each GPU, or some on CPU.")
ACCELERATE = typer.Option(
    None, "--accelerate", help="How they share the work: ddp, fsdp2, zero3 or a file of `accelerate config`."
)
CHECKPOINT = typer.Option(..., "--out", help="The new checkpoint's folder.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
PROMPTS = typer.Option(..., "--prompts", help="JSONL or Parquet of prompts; all of them are learned on.")
REWARD = typer.Option(
    ...,
    "--reward",
    help="What is raised: a reward model's folder or file.py:function, =WEIGHT behind it (1 where not given), or an"
    " entry of reward.functions as '{type: …}' (docs/reward-functions.md); give it several times for the weighted sum.",
)

Dtype = Literal["float32", "bfloat16"]
NO_ROUNDS = "there are no earlier rounds; put all of them in one file"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a verb is made of: the section of its settings, how its file is read, and the training itself."""

    section: type[Any]
    load: Callable[[Path], tuple[list[Any], list[Any]]]
    train: Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Verb:
    """A training verb. `parts` imports what is heavy, so it is called when the verb runs; `no_use` are settings that
    cannot act here, with the reason; `option` names the file's option for verbs on rows."""

    name: str
    help: str
    parts: Callable[[], Parts]
    no_use: dict[str, str]
    option: Any = None


@dataclass(frozen=True, slots=True)
class Given:
    """The options that every training verb has."""

    model: str
    out: Path
    revision: str | None
    chat: "Chat"
    dtype: Dtype
    seed: int
    threads: int | None
    nproc: int
    accelerate: str | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Order:
    """What decides a verb's result beside the model: enough to do it in another process."""

    verb: str
    settings: list[str]
    file: str
    rewards: list[str]
    dtype: Dtype
    seed: int
    threads: int | None
    mask_thinking: bool = False
    rollouts: str | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """An order, read: what trains, on which rows."""

    order: Order
    config: Any
    train: Callable[..., dict[str, Any]]
    rows: list[Any]
    dropped: list[Any]


def _sft() -> Parts:
    from align.config.training import Sft
    from align.data.demonstrations import load_demonstrations
    from align.train.sft import train_sft

    def load(path: Path) -> tuple[list[Any], list[Any]]:
        rows, dropped = load_demonstrations(path)
        return [(row.messages, row.answer) for row in rows], dropped

    return Parts(Sft, load, train_sft)


def _dpo() -> Parts:
    from align.config.training import Dpo
    from align.data.preferences import load_preferences
    from align.train.dpo import train_dpo

    return Parts(Dpo, load_preferences, train_dpo)


def _kto() -> Parts:
    from align.config.training import Kto
    from align.data.thumbs import load_thumbs
    from align.train.kto import train_kto

    return Parts(Kto, load_thumbs, train_kto)


def _reward() -> Parts:
    from align.config.training import RewardModel
    from align.data.preferences import load_preferences
    from reward.train import train_reward

    return Parts(RewardModel, load_preferences, train_reward)


def _ppo() -> Parts:
    from align.config.training import Ppo
    from align.data.prompts import read_prompts
    from align.train.ppo import train_ppo

    return Parts(Ppo, read_prompts, train_ppo)


def _rloo() -> Parts:
    from align.config.training import Rloo
    from align.data.prompts import read_prompts
    from align.train.rloo import train_rloo

    return Parts(Rloo, read_prompts, train_rloo)


def _grpo() -> Parts:
    from align.config.training import Grpo
    from align.data.prompts import read_prompts
    from align.train.grpo import train_grpo

    return Parts(Grpo, read_prompts, train_grpo)


def _best_of_n() -> Parts:
    from align.config.training import BestOfN
    from align.data.prompts import read_prompts
    from align.rounds.best_of_n import train_best_of_n

    return Parts(BestOfN, read_prompts, train_best_of_n)


ON_ROWS = [
    Verb(
        "sft",
        "Supervised fine-tuning of a model on demonstrations.",
        _sft,
        {"demonstrations": "name the file with --demonstrations"},
        typer.Option(..., "--demonstrations", help="JSONL or Parquet of demonstrations."),
    ),
    Verb(
        "dpo",
        "Direct preference optimisation of a model on pairs; the model itself is the reference.",
        _dpo,
        {"replay": NO_ROUNDS},
        typer.Option(..., "--preferences", help="JSONL or Parquet of prompt, chosen, rejected."),
    ),
    Verb(
        "kto",
        "Kahneman-Tversky optimisation of a model on thumbs up and down; the model itself is the reference.",
        _kto,
        {"replay": NO_ROUNDS},
        typer.Option(..., "--thumbs", help="JSONL or Parquet of prompt, completion, label."),
    ),
]
REWARD_MODEL = Verb(
    "reward train",
    "A reward model from pairs: the model with a scalar head, whose score says which answer is better.",
    _reward,
    {"replay": NO_ROUNDS},
    typer.Option(..., "--preferences", help="JSONL or Parquet of prompt, chosen, rejected."),
)
_ALL_PROMPTS = {"prompts": "every prompt of the file is learned on; shorten the file"}
ONLINE = [
    Verb("ppo", "Proximal policy optimisation of a model against a reward, with a learned critic.", _ppo, _ALL_PROMPTS),
    Verb("rloo", "REINFORCE leave-one-out: a model's answers against the mean of the others'.", _rloo, _ALL_PROMPTS),
    Verb("grpo", "Group-relative policy optimisation of a model against a reward.", _grpo, _ALL_PROMPTS),
    Verb("best-of-n", "Supervised fine-tuning of a model on the best of its answers.", _best_of_n, _ALL_PROMPTS),
]


def verb_on_rows(verb: Verb) -> Callable[..., None]:
    """The command of a verb that learns from the rows of one file."""

    def command(
        settings: list[str] = SETTINGS,
        model: str = MODEL,
        file: Path = verb.option,
        out: Path = CHECKPOINT,
        revision: str = REVISION,
        chat_template: str = TEMPLATE,
        replace_chat_template: bool = REPLACE,
        chat_template_kwargs: str = KWARGS,
        date: str = DATE,
        hide_thinking: bool = THINKING,
        rollouts: Path = SAMPLED,
        dtype: Dtype = DTYPE,
        seed: int = SEED,
        threads: int = THREADS,
        nproc: int = NPROC,
        accelerate: str = ACCELERATE,
        as_json: bool = JSON,
    ) -> None:
        chat = chat_of(chat_template, replace_chat_template, chat_template_kwargs, date)
        given = Given(model, out, revision, chat, dtype, seed, threads, nproc, accelerate, as_json)
        _train(
            Order(
                verb.name, settings or [], str(file), [], dtype, seed, threads, hide_thinking, _sampled(verb, rollouts)
            ),
            given,
        )

    command.__doc__ = verb.help
    return command


def online_verb(verb: Verb) -> Callable[..., None]:
    """The command of a verb that learns from scored answers to the prompts of one file."""

    def command(
        settings: list[str] = SETTINGS,
        model: str = MODEL,
        prompts: Path = PROMPTS,
        reward: list[str] = REWARD,
        out: Path = CHECKPOINT,
        revision: str = REVISION,
        chat_template: str = TEMPLATE,
        replace_chat_template: bool = REPLACE,
        chat_template_kwargs: str = KWARGS,
        date: str = DATE,
        hide_thinking: bool = THINKING,
        dtype: Dtype = DTYPE,
        seed: int = SEED,
        threads: int = THREADS,
        nproc: int = NPROC,
        accelerate: str = ACCELERATE,
        as_json: bool = JSON,
    ) -> None:
        chat = chat_of(chat_template, replace_chat_template, chat_template_kwargs, date)
        given = Given(model, out, revision, chat, dtype, seed, threads, nproc, accelerate, as_json)
        _train(Order(verb.name, settings or [], str(prompts), reward, dtype, seed, threads, hide_thinking), given)

    command.__doc__ = verb.help
    return command


def _sampled(verb: Verb, rollouts: Path | None) -> str | None:
    if rollouts is not None and verb.name == "sft":
        from align.errors import ConfigError

        what = "demonstrations are learned as they are written, and were not sampled"
        raise ConfigError(what, where="--rollouts", hint="leave it out; `align best-of-n` learns a model's own answers")
    return str(rollouts) if rollouts is not None else None


def _train(order: Order, given: Given) -> None:
    """The body of every training verb: read settings and file, train, say what came out."""
    from align.cli.display import counting
    from align.cli.workplace import workplace
    from align.dropped import count_reasons
    from align.train.adapter import ADAPTER, name_base
    from align.train.launch import accelerate_file, require_no_launcher

    require_no_launcher()
    file = accelerate_file(given.accelerate, given.nproc) if given.accelerate is not None else None
    lesson = read_order(order)
    with workplace(given.out, given.threads) as place, counting(order.verb, place.terminal, given.as_json) as progress:
        model = place.checkpoint(
            given.model,
            revision=given.revision,
            dtype=given.dtype,
            seed=given.seed if order.verb == "sft" else None,
            **given.chat,
        )
        if given.nproc == 1:
            metrics = learn(lesson, model, out=place.out, work=place.work, progress=progress)
        else:
            from align.cli.together import learn_together

            metrics = learn_together(
                order, model, nproc=given.nproc, accelerate=file, out=place.out, work=place.work, progress=progress
            )
        name_base(place.out / ADAPTER, given.model, given.revision)
        keep_dropped(place.out, lesson.dropped)
    dropped = {**count_reasons(lesson.dropped), **metrics["dropped"]}
    say_result(given.out, {**metrics, "dropped": dropped}, given.as_json)


def read_order(order: Order) -> Lesson:
    """Read the settings and the file. Raises ConfigError and DataError for what cannot be meant."""
    from align.config.section import load_section
    from align.rounds.rewarding import parse_reward

    verb = next(verb for verb in [*ON_ROWS, REWARD_MODEL, *ONLINE] if verb.name == order.verb)
    parts = verb.parts()
    for reward in order.rewards:
        parse_reward(reward)
    named = {"demonstrations": order.file} if "demonstrations" in parts.section.model_fields else {}
    config = load_section(parts.section, order.settings, no_use=verb.no_use, **named)
    rows, dropped = parts.load(Path(order.file))
    if order.verb == "sft" and config.mix:
        from align.data.demonstrations import mixed

        others = [parts.load(part.path) for part in config.mix]
        rows = mixed(rows, [(more, part.share) for (more, _), part in zip(others, config.mix, strict=True)], order.seed)
        dropped = [row for part in [dropped, *(bad for _, bad in others)] for row in part]
    return Lesson(order, config, parts.train, rows, dropped)


def learn(
    lesson: Lesson, model: Path, *, out: Path, work: Path, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Train the checkpoint `model`, in this process, into `out`."""
    from align.data.candidates import load_tokens

    order = lesson.order
    scorer, critic = _scored(order, lesson.config)
    metrics = lesson.train(
        model,
        lesson.rows,
        lesson.config,
        **({"score": scorer.score} if scorer is not None else {}),
        **critic,
        seed=order.seed,
        dtype=order.dtype,
        report_to=[],
        threads=order.threads,
        **({"mask_thinking": True} if order.mask_thinking else {}),
        **({"tokens": load_tokens(Path(order.rollouts))} if order.rollouts is not None else {}),
        out=out,
        work=_work_of(order, work),
        progress=progress,
    )
    return {**metrics, **(scorer.why_unscored() if scorer is not None else {})}


def _work_of(order: Order, work: Path) -> Path:
    """Where a killed training goes on from: never from one that raised another reward."""
    from align.rounds.rewarding import parse_reward, rewards_id

    return work / f"reward-{rewards_id([parse_reward(r) for r in order.rewards])}" if order.rewards else work


def _scored(order: Order, config: Any) -> "tuple[Weighted | None, dict[str, Any]]":
    """What the online methods take too: what scores answers, and for PPO a model that a critic of its own starts from."""
    from align.rounds.rewarding import parse_reward, scorer_of

    if not order.rewards:
        return None, {}
    parsed = [parse_reward(text) for text in order.rewards]
    models = [part.folder for part in parsed if part.is_model]
    critic = {"critic": models[0]} if order.verb == "ppo" and models and config.critic == "separate" else {}
    return scorer_of(parsed, dtype=order.dtype, threads=order.threads, keep=order.verb == "best-of-n"), critic


def chat_of(chat_template: str | None, replace: bool, variables: str | None, date: str | None) -> "Chat":
    """What the options say about the chat template, checked as the keys of a recipe's `model` are."""
    from align.config.recipe import Templating
    from align.config.section import load_section

    named = {"chat_template": chat_template, "chat_template_kwargs": variables, "date": date}
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    said = load_section(Templating, given, replace_chat_template=replace).model_dump(mode="json")
    return cast("Chat", said)


def keep_dropped(folder: Path, dropped: Sequence[Any]) -> None:
    """Rows of the user's file that went no further, those that training dropped behind them, with their reasons, beside
    the result."""
    from align.store import read_table, write_rows
    from align.types import as_dict

    trained = folder / "dropped.parquet"
    later = read_table(trained).to_pylist() if trained.is_file() else []
    write_rows(folder / "dropped.jsonl", [*map(as_dict, dropped), *later])


def say_result(out: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print what a verb found or made."""
    from align.cli.display import print_json, value_text

    if as_json:
        print_json({**result, "out": str(out)})
        return
    for name, value in result.items():
        typer.echo(f"{name.replace('_', ' ')}: {value_text(value)}")
    typer.echo(f"written to {out}")
