"""The options that several verbs have: a model and its chat template, seeds, threads, processes, settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import typer

if TYPE_CHECKING:
    from align.templates import Chat

MODEL = typer.Option(..., "--model", help="A causal language model: a local folder or a Hub id.")
REVISION = typer.Option(None, "--revision", help="The Hub revision. If not given: the default branch.")
TEMPLATE = typer.Option(None, "--chat-template", help="plain, chatml or a Jinja file, if the tokenizer has none.")
REPLACE = typer.Option(False, "--replace-chat-template", help="Use --chat-template instead of the tokenizer's own.")
KWARGS = typer.Option(
    None,
    "--chat-template-kwargs",
    help="More variables for the chat template, for example '{enable_thinking: false}'.",
)
DATE = typer.Option(
    None, "--date", help="The date, such as 2026-01-31, that a chat template writes as today's.", show_default="today"
)
THINKING = typer.Option(
    False,
    "--hide-thinking",
    help="Exclude the thoughts (<think>…</think>) in answers from the loss: the model sees them but does not learn"
    " them. Not for ppo and rloo.",
)
SAMPLED = typer.Option(
    None,
    "--rollouts",
    help="The output folder of `align rollout` for these answers, to train on the tokens that were sampled.",
)
DTYPE = typer.Option("float32", "--dtype", help="Data type of the weights; use bfloat16 on a GPU.")
SEED = typer.Option(
    0, "--seed", min=0, max=2**32 - 1, help="Random seed. Every random choice depends on it and on the content."
)
THREADS = typer.Option(None, "--threads", min=1, help="CPU threads. If not given: all cores.", show_default=False)
SETTINGS = typer.Argument(None, help="Settings as key=value: the keys of this verb's section in a recipe.")
CONFIG = typer.Option(
    None,
    "--config",
    help="YAML file of settings: a mapping of them, or a recipe (such as a sweep's best.yaml), of which only the"
    " section of this verb is used. key=value on the command line overrides it.",
)
NPROC = typer.Option(1, "--nproc", min=1, help="Number of training processes: one per GPU, or several on a CPU.")
ACCELERATE = typer.Option(
    None, "--accelerate", help="How the processes share the work: ddp, fsdp2, zero3 or a file of `accelerate config`."
)
CHECKPOINT = typer.Option(..., "--out", help="The folder of the new checkpoint.")
JSON = typer.Option(False, "--json", help="Print the result as JSON.")
PROMPTS = typer.Option(..., "--prompts", help="JSONL or Parquet of prompts; training uses all of them.")
REWARD = typer.Option(
    ...,
    "--reward",
    help="The reward to maximise: a reward model's folder or file.py:function, optionally followed by =WEIGHT (default"
    " 1), or an entry of reward.functions as '{type: …}' (docs/reward-functions.md). Repeat it for a weighted sum.",
)

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Given:
    """The options that every training verb has, except those that set its rows and settings."""

    model: str
    out: Path
    revision: str | None
    chat: "Chat"
    nproc: int
    accelerate: str | None
    as_json: bool


def chat_of(chat_template: str | None, replace: bool, variables: str | None, date: str | None) -> "Chat":
    """What the options say about the chat template, checked like the keys of a recipe's `model`."""
    from align.config.recipe import Templating
    from align.config.section import load_section

    named = {"chat_template": chat_template, "chat_template_kwargs": variables, "date": date}
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    said = load_section(Templating, given, replace_chat_template=replace).model_dump(mode="json")
    return cast("Chat", said)
