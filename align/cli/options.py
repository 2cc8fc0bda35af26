"""The options that several verbs have: a model and its chat template, seeds, threads, processes, settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import typer

if TYPE_CHECKING:
    from align.templates import Chat

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
CONFIG = typer.Option(
    None,
    "--config",
    help="YAML of settings: a mapping of them, or a recipe (such as a sweep's best.yaml) whose section of that name is"
    " taken. key=value on the command line wins.",
)
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


@dataclass(frozen=True, slots=True)
class Given:
    """The options that every training verb has, but for those that decide its rows and settings."""

    model: str
    out: Path
    revision: str | None
    chat: "Chat"
    nproc: int
    accelerate: str | None
    as_json: bool


def chat_of(chat_template: str | None, replace: bool, variables: str | None, date: str | None) -> "Chat":
    """What the options say about the chat template, checked as the keys of a recipe's `model` are."""
    from align.config.recipe import Templating
    from align.config.section import load_section

    named = {"chat_template": chat_template, "chat_template_kwargs": variables, "date": date}
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    said = load_section(Templating, given, replace_chat_template=replace).model_dump(mode="json")
    return cast("Chat", said)
