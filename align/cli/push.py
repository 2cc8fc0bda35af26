"""`align annotate push`: puts tasks on the server, and makes labelling sessions from files of candidates."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from align.cli.status import FOLDER, JSON
from align.figures import counted

if TYPE_CHECKING:
    from align.config.recipe import Annotate

Kind = Literal["pair", "rank", "single", "rating"]
Model = Literal["auto", "bradley_terry", "dawid_skene", "majority"]
LISTS = ("criteria", "ask")
"""Settings that are lists; their options take words separated by commas."""
BLIND = ("tasks", "overlap", "guidelines")
"""Settings that blind comparisons have; of `ask` they have only `reason`."""


def push(
    folder: Path = FOLDER,
    candidates: Path = typer.Option(
        None,
        "--candidates",
        help="Make a labelling session in the folder from this candidates.jsonl (`align rollout` writes one).",
    ),
    against: Path = typer.Option(
        None, "--against", help="Compare them blind with the answers to the same prompts in this file."
    ),
    tasks: int = typer.Option(None, "--tasks", min=1, help="Number of tasks. Default: 256."),
    overlap: int = typer.Option(None, "--overlap", min=1, help="Number of annotators for each task. Default: 1."),
    kind: Kind = typer.Option(None, "--kind", help="What a task asks. Default: pair."),
    rank_of: int = typer.Option(
        None, "--rank-of", help="With --kind rank: how many answers to rank, 3 or 4. Default: 4."
    ),
    criteria: str = typer.Option(
        None, "--criteria", help="With --kind rating: what to rate, for example helpful,correct."
    ),
    ask: str = typer.Option(
        None, "--ask", help="Additional questions: strength,flags,edit,reason (the default), or nothing."
    ),
    repeats: float = typer.Option(
        None, "--repeats", help="The share of tasks that are asked a second time. Default: 0."
    ),
    gold: Path = typer.Option(
        None, "--gold", help="Control items (the right answer is known): a file of prompt, chosen, rejected."
    ),
    gold_share: float = typer.Option(
        None, "--gold-share", help="Control items as a share of the tasks. Default: 0.05."
    ),
    suggest: str = typer.Option(
        None, "--suggest", help="Pre-select the answer that this file.py:function scores higher."
    ),
    suggest_share: float = typer.Option(
        None, "--suggest-share", help="The share of tasks that show a suggestion. Default: 0.5."
    ),
    compiler: Model = typer.Option(None, "--compiler", help="The label compiler's model. Default: auto."),
    guidelines: Path = typer.Option(None, "--guidelines", help="A markdown file for annotators."),
    hide_thinking: bool = typer.Option(
        False,
        "--hide-thinking",
        help="Hide the thoughts (<think>…</think>) in answers: show and compare answers without them.",
    ),
    server: str = typer.Option(
        None, "--server", help="The address of an Argilla server (API key in ARGILLA_API_KEY). Default: embedded."
    ),
    home: Path = typer.Option(None, "--home", help="The folder of the embedded server. Default: one per user."),
    seed: int = typer.Option(
        None, "--seed", min=0, help="Random seed; it decides which answer is shown on the left. Default: 0."
    ),
    as_json: bool = JSON,
) -> None:
    """Put tasks on the annotation server.

    Tasks that are already there stay as they are. All options except --json need --candidates; docs/recipe.md describes
    each of them, under `annotate`.
    """
    from align.cli.display import print_json
    from align.labelling.folder import make_session
    from align.labelling.session import offer
    from align.stages.sessions import open_session
    from annotation.server import require_server

    given: dict[str, Any] = {"tasks": tasks, "overlap": overlap, "kind": kind, "rank_of": rank_of, "repeats": repeats}
    given |= {"criteria": criteria, "ask": ask, "gold": gold, "gold_share": gold_share, "suggest": suggest}
    given |= {"suggest_share": suggest_share, "compiler": compiler, "guidelines": guidelines}
    given = {name: value for name, value in given.items() if value is not None}
    places = {"against": against, "server": server, "home": home, "seed": seed}
    places |= {"hide_thinking": hide_thinking or None}
    _check(candidates, {**given, **{name: value for name, value in places.items() if value is not None}})
    require_server(home)  # before anything is made: a folder remembers its server
    if candidates is not None:
        settings = _settings(given, server, home)
        make_session(folder, candidates, settings, seed=seed or 0, against=against, hide_thinking=hide_thinking)
    backend, done = offer(open_session(folder))
    if as_json:
        print_json({"added": done.added, "present": done.present, "url": backend.url})
    else:
        typer.echo(f"{counted(done.added, 'task')} added, {done.present} already there; label at {backend.url}")


def _check(candidates: Path | None, given: dict[str, Any]) -> None:
    """An option that would have no effect is an error."""
    from align.errors import ConfigError

    if candidates is None and given:
        raise ConfigError(
            "this says how to make a folder", where=_option(next(iter(given))), hint="give --candidates too"
        )
    for share, owner in (("gold_share", "gold"), ("suggest_share", "suggest")):
        if share in given and owner not in given:
            raise ConfigError(f"there is no {_option(owner)}", where=_option(share), hint="give both, or leave it out")
    if "home" in given and given.get("server", "embedded") != "embedded":
        what = f"--home is for the embedded server, and --server names the Argilla at {given['server']}"
        raise ConfigError(what, where="--home", hint="leave one of the two out")
    if "against" not in given:
        return
    for name in given.keys() - {*BLIND, "ask", "against", "server", "home", "seed", "hide_thinking"}:
        raise ConfigError(
            "blind comparisons ask which answer is better, and nothing else", where=_option(name), hint="leave it out"
        )
    if given.get("ask", "reason") not in ("reason", "nothing"):
        raise ConfigError("blind comparisons ask for a reason at most", where="--ask", hint="say reason or nothing")


def _settings(given: dict[str, Any], server: str | None, home: Path | None) -> "Annotate":
    from align.config.recipe import Annotate
    from align.config.section import load_section

    values: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    for name in LISTS:
        if name in values:
            words = [word.strip() for word in values[name].split(",")]
            values[name] = [] if words == ["nothing"] else words
    for name in ("gold", "suggest"):
        share = {"share": values.pop(f"{name}_share")} if f"{name}_share" in values else {}
        if name in values:
            values[name] = {"path": values[name], **share}
    remote = server is not None and server != "embedded"
    values["server"] = {"url": server} if remote else {"type": "embedded", **({"home": str(home)} if home else {})}
    return load_section(Annotate, [], **values)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
