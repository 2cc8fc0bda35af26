"""The training verbs, each on files of one's own (docs/files.md): `sft`, `dpo` and `kto` learn from rows, `ppo`,
`rloo`, `grpo` and `best-of-n` from answers of the model's own that `--reward` scores.

Settings are the recipe's fields of that section, as key=value: `align dpo … beta=0.2 epochs=3`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

MODEL = typer.Option(..., "--model", help="A local folder or a Hub id of a causal language model.")
REVISION = typer.Option(None, "--revision", help="The Hub revision; the default branch where none is named.")
TEMPLATE = typer.Option(None, "--chat-template", help="plain, chatml or a Jinja file, where the tokenizer has none.")
DTYPE = typer.Option("float32", "--dtype", help="Weights' type; use bfloat16 on a GPU.")
SEED = typer.Option(0, "--seed", min=0, max=2**32 - 1, help="Every random choice depends on it and on content.")
THREADS = typer.Option(None, "--threads", min=1, help="CPU threads; all cores where not given.", show_default=False)
SETTINGS = typer.Argument(None, help="Settings of the recipe's section of that name, as key=value.")
CHECKPOINT = typer.Option(..., "--out", help="The new checkpoint's folder.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
PROMPTS = typer.Option(..., "--prompts", help="JSONL or Parquet of prompts; all of them are learned on.")
REWARD = typer.Option(
    ...,
    "--reward",
    help="What is raised: a reward model's folder or file.py:function, =WEIGHT behind it (1 where not given);"
    " give it several times for the weighted sum.",
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
    chat_template: str | None
    dtype: Dtype
    seed: int
    threads: int | None
    as_json: bool


def _sft() -> Parts:
    from align.config.training import Sft
    from align.data.demonstrations import load_demonstrations
    from align.train.sft import train_sft

    def load(path: Path) -> tuple[list[Any], list[Any]]:
        rows, unreadable = load_demonstrations(path)
        return [(row.messages, row.answer) for row in rows], unreadable

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
        dtype: Dtype = DTYPE,
        seed: int = SEED,
        threads: int = THREADS,
        as_json: bool = JSON,
    ) -> None:
        parts = verb.parts()
        named = {"demonstrations": str(file)} if "demonstrations" in parts.section.model_fields else {}
        given = Given(model, out, revision, chat_template, dtype, seed, threads, as_json)
        _train(verb, parts, settings, named, file, given, dict)

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
        dtype: Dtype = DTYPE,
        seed: int = SEED,
        threads: int = THREADS,
        as_json: bool = JSON,
    ) -> None:
        from align.rounds.rewarding import parse_reward, scorer_of

        parsed = [parse_reward(text) for text in reward]
        given = Given(model, out, revision, chat_template, dtype, seed, threads, as_json)

        def more() -> dict[str, Any]:
            models = [part.path for part in parsed if part.is_model]
            critic = {"critic": Path(models[0])} if verb.name == "ppo" and models else {}
            return {"score": scorer_of(parsed, dtype=dtype, threads=threads).score, **critic}

        _train(verb, verb.parts(), settings, {}, prompts, given, more)

    command.__doc__ = verb.help
    return command


def _train(
    verb: Verb,
    parts: Parts,
    settings: Sequence[str] | None,
    named: dict[str, str],
    file: Path,
    given: Given,
    more: Callable[[], dict[str, Any]],
) -> None:
    """The body of every training verb: read settings and file, train, say what came out."""
    from align.cli.display import counting
    from align.cli.workplace import workplace
    from align.config.section import load_section

    config = load_section(parts.section, settings or [], no_use=verb.no_use, **named)
    rows, unreadable = parts.load(file)
    with workplace(given.out, given.threads) as place, counting(verb.name, place.terminal, given.as_json) as progress:
        keep_unreadable(place.out, unreadable)
        metrics = parts.train(
            place.checkpoint(
                given.model, revision=given.revision, chat_template=given.chat_template, dtype=given.dtype
            ),
            rows,
            config,
            **more(),
            seed=given.seed,
            dtype=given.dtype,
            report_to=[],
            threads=given.threads,
            out=place.out,
            work=place.work,
            progress=progress,
        )
    say_result(given.out, {**metrics, "unreadable": len(unreadable)}, given.as_json)


def keep_unreadable(folder: Path, unreadable: Sequence[Any]) -> None:
    """Rows of the user's file that are no use, with their reasons, beside the result."""
    from align.store import write_rows
    from align.types import as_dict

    write_rows(folder / "unreadable.jsonl", map(as_dict, unreadable))


def say_result(out: Path, result: dict[str, Any], as_json: bool) -> None:
    """Print what a verb found or made."""
    from align.cli.display import print_json, value_text

    if as_json:
        print_json({**result, "out": str(out)})
        return
    for name, value in result.items():
        typer.echo(f"{name.replace('_', ' ')}: {value_text(value)}")
    typer.echo(f"written to {out}")
