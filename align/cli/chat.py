"""`align chat`: a checkpoint answers, and its answer appears token by token."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from align.cli.options import DTYPE, REVISION, TEMPLATE, THREADS

if TYPE_CHECKING:
    from align.types import Message


def chat(
    model: str = typer.Argument(
        ..., help="The folder of a checkpoint, of a run or its recipe (for its newest policy), or a Hub id."
    ),
    message: str = typer.Option(None, "--message", "-m", help="Send this message, print the answer and exit."),
    temperature: float = typer.Option(
        0.7, "--temperature", min=0.0, help="Sampling temperature; 0 always takes the most likely token."
    ),
    max_tokens: int = typer.Option(256, "--max-tokens", min=1, help="Maximum length of an answer, in tokens."),
    seed: int = typer.Option(0, "--seed", min=0, help="Random seed; another seed gives another answer."),
    revision: str = REVISION,
    chat_template: str = TEMPLATE,
    dtype: Literal["float32", "bfloat16"] = DTYPE,
    threads: int = THREADS,
) -> None:
    """Chat with a model.

    Each line that you type is a message; the whole conversation is the context. Ctrl-D ends the chat.
    """
    from align.text import load_tokenizer
    from align.train.checkpoint import import_model, load_model

    with ExitStack() as stack:
        folder = newest_policy(Path(model)) or Path(model)
        if not folder.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="align-chat-"))) / "model"
            import_model(model, folder, revision=revision, chat_template=chat_template, dtype=dtype)
        tokenizer = load_tokenizer(folder, chat_template=chat_template)
        answer = _answering(load_model(folder, dtype), tokenizer, folder, temperature, max_tokens, threads)
        messages: list[Message] = []
        for turn, said in enumerate(_lines() if message is None else [message]):
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": answer(messages, seed + turn)})


def newest_policy(path: Path) -> Path | None:
    """The latest policy of the run that `path` refers to (`align.pipeline.run.find_run`); if `path` is inside the run,
    the latest below `path`. None if `path` is a checkpoint itself or refers to no run. ConfigError if there is no
    policy yet."""
    from align.errors import ConfigError
    from align.pipeline.receipts import stage_folder
    from align.pipeline.run import find_run
    from align.report.reading import read_run
    from align.stages.names import POLICY

    run = None if (path / "config.json").is_file() else find_run(path)
    if run is None:
        return None
    receipts = [receipt for ref, receipt in read_run(run).receipts.items() if ref.stage == POLICY]
    policies = {receipt.round: stage_folder(run, receipt.ref) / receipt.key for receipt in receipts}
    inside = path.resolve().is_relative_to(run.resolve())
    found = {n: at for n, at in policies.items() if not inside or at.resolve().is_relative_to(path.resolve())}
    if not found:
        raise ConfigError(f"there is no policy in {path if inside else run} yet", hint="see `align status`")
    return found[max(found)]


def _lines() -> Any:
    """What the person types, line by line, without empty lines."""
    asks = sys.stdin.isatty()
    while True:
        if asks:
            sys.stderr.write("> ")
            sys.stderr.flush()
        if not (line := sys.stdin.readline()):
            return
        if line.strip():
            yield line.strip()


def _answering(
    model: Any, tokenizer: Any, folder: Path, temperature: float, max_tokens: int, threads: int | None
) -> "Callable[[list[Message], int], str]":
    """A function of messages and a seed that prints the answer as it comes and returns it."""
    import torch
    from transformers import GenerationConfig

    from align.text import encode_prompt, stop_token_ids

    if threads is not None:
        torch.set_num_threads(threads)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    model.generation_config = GenerationConfig()  # the model's own defaults would mix with what is asked for here
    stops = stop_token_ids(tokenizer, folder)
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}

    def answer(messages: "list[Message]", seed: int) -> str:
        torch.manual_seed(seed)
        ids = torch.tensor([encode_prompt(tokenizer, messages)], device=model.device)
        printer = Printer(tokenizer, stops)
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), streamer=printer, max_new_tokens=max_tokens,
                eos_token_id=stops, pad_token_id=stops[0], **drawn,
            )  # fmt: skip
        return printer.text

    return answer


class Printer:
    """Prints an answer's text as its tokens come. transformers calls `put` with the prompt, `put` with each token, and
    `end`."""

    def __init__(self, tokenizer: Any, stops: list[int]) -> None:
        self.tokenizer, self.stops, self.ids = tokenizer, set(stops), list[int]()
        self.text, self._began = "", False

    def put(self, value: Any) -> None:
        if not self._began:  # the prompt
            self._began = True
            return
        self.ids += [i for i in value.flatten().tolist() if i not in self.stops]
        self._print(last=False)

    def end(self) -> None:
        self._print(last=True)
        typer.echo()

    def _print(self, *, last: bool) -> None:
        from align.cli.display import plain
        from align.text import decode_answer

        text = decode_answer(self.tokenizer, self.ids)
        if text.endswith("\ufffd") and not last:  # the middle of a character
            return
        typer.echo(plain(text[len(self.text) :]), nl=False)
        sys.stdout.flush()
        self.text = text
