"""Every way out that an error names is one: its command is parsed by the real command line, its key is one of a recipe,
and what it says to type, typed, is not refused again."""

import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from align.cli.app import app, main
from align.config.recipe import Recipe
from align.config.schema import keys_of, place
from align.store import write_rows

HERE = Path(__file__).parents[2]
PACKAGES = ("align", "annotation", "reward", "rollouts")
PAGES = [HERE / "README.md", *sorted((HERE / "docs").glob("*.md")), *sorted((HERE / "recipes").glob("*/README.md"))]
PLACE = "PLACE"
"""Stands for what is known only when the error comes."""
OTHERS = {"--address", "--max-model-len", "--enable-lora", "--override-generation-config", "--check"}
"""Options of others' programs that hints name."""


@functools.cache
def texts() -> list[tuple[str, str, bool]]:
    return list(_texts())


def _texts() -> Iterator[tuple[str, str, bool]]:
    """All texts in the sources with where they stand, and whether they are (or are assigned to) a hint."""
    for file in sorted(path for package in PACKAGES for path in (HERE / package).rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        hints = {id(inner) for node in ast.walk(tree) if _is_hint(node) for inner in ast.walk(node)}
        parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        for node in ast.walk(tree):
            if id(node) not in parts and (text := _text(node)) is not None:
                yield f"{file.relative_to(HERE)}:{node.lineno}", text, id(node) in hints  # type: ignore[attr-defined]


def _is_hint(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == "hint"
    names = [inner for inner in node.targets for inner in ast.walk(inner)] if isinstance(node, ast.Assign) else []
    return any(isinstance(name, ast.Name) and name.id in ("hint", "_HINT", "INSTEAD", "what") for name in names)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else PLACE for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def commands() -> list[tuple[str, str]]:
    """(where, command) for every `align …` in backticks, in texts of the sources and in the documents."""
    found = [(where, text) for where, text, _ in texts()]
    found += [(str(page.relative_to(HERE)), page.read_text(encoding="utf-8")) for page in PAGES]
    return [(where, command) for where, text in found for command in re.findall(r"`(align [^`]+)`", text)]


def refusal(command: str) -> str | None:
    """Why the command line would not take this; None where it would."""
    spot: Any = typer.main.get_command(app)
    words = re.sub(rf"(?<=[a-z]){PLACE}", "", command.split("|")[0].replace("…", PLACE)).split()[1:]
    while words and hasattr(spot, "commands"):
        if words[0] in (PLACE, "VERB", "--debug", "--version"):
            return None
        if words[0] not in spot.commands:
            return f"there is no verb {words[0]!r}"
        spot = spot.commands[words.pop(0)]
    known = {option for parameter in spot.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in {*known, "--help", "--debug"}:
            return f"{spot.name} has no option {word}"
    return None


def test_every_command_that_is_named_can_be_typed() -> None:
    found = commands()
    assert len(found) > 150
    assert [f"{where}: {command}: {why}" for where, command in found if (why := refusal(command))] == []


def test_every_option_that_a_hint_names_is_one() -> None:
    root: Any = typer.main.get_command(app)

    def all_options(command: Any) -> set[str]:
        own = {option for parameter in command.params for option in parameter.opts}
        return own.union(*map(all_options, getattr(command, "commands", {}).values()))

    known = all_options(root) | OTHERS | {"--debug"}
    named = {
        (where, option)
        for where, text, hint in texts()
        if hint
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
    }
    assert len(named) > 20
    assert {(where, option) for where, option in named if option not in known} == set()


def test_every_key_that_a_hint_names_is_one_of_a_recipe() -> None:
    sections = "|".join(name for name, field in keys_of(Recipe).items() if "." not in name)
    named = set()
    for where, text, hint in texts():
        if hint:
            named |= {
                (where, key) for key in re.findall(rf"(?<![\w./-])((?:{sections})(?:\.[a-z_]+)+)(?![\w(/])", text)
            }
    named = {(where, key) for where, key in named if not key.endswith((".py", ".json", ".jsonl", ".yaml", ".parquet"))}
    assert len(named) > 10
    lost = set()
    for where, key in named:
        keys = tuple(key.split("."))
        found = place(keys, Recipe)
        if found.keys != keys or found.field is None:
            lost.add((where, key))
    assert lost == set()


DPO = ("dpo", "--model", "none", "--preferences", "pairs.jsonl", "--out", "out")


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says on standard error when it is refused, in a folder with a file for each verb and no model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    (tmp_path / "answers").mkdir()
    write_rows(tmp_path / "answers" / "candidates.jsonl", [{"prompt": "a", "text": "b"}])
    write_rows(tmp_path / "answers" / "dropped.jsonl", [])
    (tmp_path / "score.py").write_text("def score(messages, answer):\n    return float(len(answer))\n")

    def call(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["align", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit):
            main()
        return capfd.readouterr().err.strip()

    return call


NO_MODEL = "align: --model: there is no model folder 'none'; give a local folder or a Hub id (owner/name)"
"""What all of these say in the end: the settings were taken, and the next thing was looked for."""


@pytest.mark.parametrize(
    ("typed", "said", "then"),
    [
        (("beta", "0.1"), "setting beta: this setting must read key=value; for example beta=0.1", ("beta=0.1",)),
        (("0.1",), "setting 0.1: this setting must read key=value; for example learning_rate=1e-06", ("learning_rate=1e-06",)),
        (("--beta", "0.2"), "align dpo: --beta is a setting, not an option; write beta=0.2", ("beta=0.2",)),
        (("--beta=0.2",), "align dpo: --beta is a setting, not an option; write beta=0.2", ("beta=0.2",)),
        (("--learning-rate", "1e-5"), "align dpo: --learning-rate is a setting, not an option; write learning_rate=1e-5",
         ("learning_rate=1e-5",)),
        (("--lr", "1e-5"), "align dpo: --lr is a setting, not an option; write learning_rate=1e-5", ("learning_rate=1e-5",)),
        (("--lora.r", "4"), "align dpo: --lora.r is a setting, not an option; write lora.r=4", ("lora.r=4",)),
        (("lr=1e-5",), "setting lr=1e-5: lr: unknown key; did you mean learning_rate?", ("learning_rate=1e-5",)),
        (("warmup_steps=2",), "setting warmup_steps=2: warmup_steps: unknown key; did you mean trainer.warmup_steps?",
         ("trainer.warmup_steps=2",)),
        (("num_train_epochs=2",), "setting num_train_epochs=2: num_train_epochs: unknown key; use epochs", ("epochs=2",)),
        (("trainer.learning_rate=1",), "setting trainer.learning_rate=1: trainer.learning_rate: not to be set here; use learning_rate",
         ("learning_rate=1",)),
        (("trainer.seed=1",), "setting trainer.seed=1: trainer.seed: not to be set here; use --seed", ("--seed", "1")),
        (("trainer.bf16=true",), "setting trainer.bf16=true: trainer.bf16: not to be set here; use --dtype",
         ("--dtype", "bfloat16")),
        (("dtype=bfloat16",), "setting dtype=bfloat16: dtype: this is no setting here, but an option: --dtype",
         ("--dtype", "bfloat16")),
        (("dpo.beta=0.2",), NO_MODEL.removeprefix("align: "), ()),
    ],
)  # fmt: skip
def test_settings_and_the_way_to_them(
    say: Callable[..., str], typed: tuple[str, ...], said: str, then: tuple[str, ...]
) -> None:
    assert say(*DPO, *typed) == f"align: {said}"
    assert say(*DPO, *then) == NO_MODEL


def test_overrides_and_the_way_to_them(say: Callable[..., str], tmp_path: Path) -> None:
    assert say("init", "own-model", "mine") == ""
    with (tmp_path / "mine" / "recipe.yaml").open("a") as file:
        file.write("\nbad: 1\n")  # said behind everything that an override could be wrong about
    then = say("run", "mine")
    assert then.endswith("bad: unknown key; the keys here are " + then.partition("the keys here are ")[2])
    for typed, said in (
        (("rounds",), "align: override rounds: this override must read key=value; for example rounds=1"),
        (("dpo.beta", "0.2"), "align: override dpo.beta: this override must read key=value; for example dpo.beta=0.1"),
        (("--rounds", "2"), "align: align run: --rounds is a setting, not an option; write rounds=2"),
        (("--dpo.beta", "2"), "align: align run: --dpo.beta is a setting, not an option; write dpo.beta=2"),
    ):
        found = say("run", "mine", *typed)
        assert found == said
        assert say("run", "mine", re.split(r"for example |write ", found)[1]) == then


def test_files_and_the_way_to_them(say: Callable[..., str], tmp_path: Path) -> None:
    judged = ("--judge", "score.py:score", "--out", "out")
    assert (
        say("eval", "--candidates", "answers", *judged)
        == "align: answers is a folder; name the file of rows in it: answers/candidates.jsonl"
    )
    assert "Error" not in say("eval", "--candidates", "answers/candidates.jsonl", *judged)
    assert (
        say("dpo", "--model", "none", "--preferences", "none.jsonl", "--out", "o")
        == f"align: there is no such file: none.jsonl; check the path; it starts at {tmp_path}"
    )
    assert say("eval", "--candidates", "answers/candidates.jsonl", "--judge", "none", "--out", "o") == (
        "align: --judge none: none is neither a folder nor file.py:function; `align reward train` makes such a folder; "
        "other functions are written {type: …}, as in a recipe"
    )
    scored = ("--candidates", "answers/candidates.jsonl", "--out", "o")
    assert say("reward", "score", "--model", "none", *scored) == (
        "align: reward: there is no folder 'none'; check the path; `align reward train` makes a reward model"
    )
    write_rows(tmp_path / "null.jsonl", [{"prompt": "a", "chosen": None, "rejected": "c"}])
    assert say("dpo", "--model", "none", "--preferences", "null.jsonl", "--out", "o") == (
        "align: null.jsonl: 1 of 1 rows are no preferences, the first: null.jsonl:1: null field: needs `chosen` and "
        "`rejected`, found prompt, chosen: null, rejected; docs/files.md lists the forms"
    )


def test_servers_and_the_way_to_them(say: Callable[..., str], tmp_path: Path) -> None:
    home = str(tmp_path / "my home")
    started = f"`align server start --home '{home}'`"
    nothing = f"align: there is no annotation server in {home}; check the folder; {started} makes one there"
    for verb in (["users", "list"], ["logs"], ["stop"]):
        assert say("server", *verb, "--home", home) == nothing
    assert refusal(started.strip("`")) is None
    assert say("server", "users", "list").endswith("this server does not run; run `align server start`")


def test_help_lists_settings_with_their_defaults(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for verb, words in {
        "sft": ["learning_rate=2e-05", "packing=false", "turns=all"],
        "dpo": ["beta=0.1", "loss=sigmoid", "lora.target_modules"],
        "kto": ["desirable_weight (a number above 0 or null)"],
        "reward train": ["members=1", "held_out=0.0"],
        "ppo": ["ppo_epochs=4", "clip=0.2"],
        "best-of-n": ["samples=8"],
        "rollout": ["samples=2", "keep=all"],
    }.items():
        monkeypatch.setattr("sys.argv", ["align", *verb.split(), "--help"])
        with pytest.raises(SystemExit):
            main()
        said = " ".join(capfd.readouterr().out.split())
        for word in words:
            assert word in said, (verb, word)
        assert "replay=" not in said
        assert "demonstrations=" not in said


def test_what_goes_on_when_a_labelling_is_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a run, `align run`; of a session of your own there is no run to go on with."""
    from align.cli import status

    open_no_more = SimpleNamespace(
        closed=None, url="http://here", left={"answers": 0, "nobody": 0}, superseded={}, late=[],
        progress=SimpleNamespace(completed=2, tasks=2, answers=2, wanted=2, exhausted=0, drafts=0, dropped=[]),
    )  # fmt: skip
    monkeypatch.setattr(status, "_looks", lambda folder, every: iter([open_no_more]))
    said: list[str] = []
    monkeypatch.setattr("align.cli.display.say", said.append)
    status.watch(tmp_path, 3.0)
    assert said[-1] == f"no task is open; `align annotate pull {tmp_path}` fetches the judgements"
    assert refusal(re.findall("`([^`]+)`", said[-1])[0]) is None
    (tmp_path / "run.json").touch()
    status.watch(tmp_path, 3.0)
    assert said[-1] == "no task is open; `align run` continues"
