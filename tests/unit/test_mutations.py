"""Damaged run files: every kind of file, many kinds of damage, drawn by a seed. No traceback; what exits 0 is right."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from align.cli.app import app
from align.config.load import load_recipe
from align.config.yaml_text import dump, parse
from align.errors import AlignError
from align.pipeline.intact import remember, require_whole
from align.pipeline.receipts import Receipt, current, pointers
from align.pipeline.run import Run, create_run, noting
from align.pipeline.stage import Declaration, Job, Ref, Stage
from align.provenance.lineage import build_index
from align.report.html import write_report
from align.stages import rounds as runner
from tests.fake_run import make_run

READERS = {
    "status": ["status", "--json"],
    "report": ["report", "--format", "json"],
    "samples": ["samples", "--json"],
    "lineage": ["lineage", "ada", "--json"],
    "clean": ["clean", "--json"],
}
NO_CHECK = ("report.html", "lock", "metrics.jsonl", "current")
"""Files about which nobody can tell what they held: a page, words for people, a pointer that is gone. The journal, which
people's words go on being written to, has tests of its own."""


WORLD: "World | None" = None
"""The one that a test looks at."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of every kind of file beside its recipe, as a folder to copy."""
    folder = tmp_path_factory.mktemp("pristine")
    run = make_run(folder / "runs", rounds=1, controls=True)
    (folder / "recipe" / "model").mkdir(parents=True)
    given = parse((run / "resolved.yaml").read_text(), "resolved.yaml")[0] | {
        "prompts": {"path": "prompts.jsonl"},
        "model": {"path": "./model"},
    }
    (folder / "recipe" / "recipe.yaml").write_text(dump(given))
    noting(run, recipe="../../recipe")
    return folder


class World:
    """A copy of the run in one place, damaged and made whole again."""

    def __init__(self, pristine: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.whole = place / "now", place / "whole"
        shutil.copytree(pristine, self.whole)
        self.restore()
        self.run = self.place / "runs" / "support-desk"
        self.receipts = [r for ref, _ in pointers(self.run) if (r := current(self.run, ref)) is not None]
        monkeypatch.setattr(runner, "make_plan", lambda recipe, prints: self.steps())
        monkeypatch.setattr(sys.modules[__name__], "WORLD", self)
        self.loaded = load_recipe(self.place / "recipe", files=False)
        assert self.go() == "right"
        build_index(self.run)
        write_report(self.run)
        for receipt in self.receipts:
            remember(self.run, receipt)
        shutil.rmtree(self.whole)
        shutil.copytree(self.place, self.whole)
        self.files = sorted(
            path.relative_to(self.place)
            for path in self.run.rglob("*")
            if path.is_file() and path.name != "journal.jsonl"
        )
        self.expected = {name: self.look(name) for name in READERS}

    def restore(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.whole, self.place)

    def steps(self) -> list[Stage]:
        """The plan by which the run was made; who does a stage again finds its result in the whole copy."""
        made = sorted(self.receipts, key=lambda r: (r.started, r.round))
        return [_stage(receipt) for receipt in made]

    def again(self, job: Job, progress: Any) -> dict[str, Any]:
        (receipt,) = (r for r in self.receipts if r.ref == Ref(job.round, job.stage))
        for folder in job.inputs.values():
            assert (folder / "receipt.json").is_file()
        source = self.whole / "runs" / "support-desk" / f"round_{job.round:03d}" / job.stage / receipt.key
        shutil.copytree(source, job.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("receipt.json"))
        return receipt.summary

    def go(self) -> str:
        """`align run`: the sentence that it ends with, or `right` where all is as it was."""
        try:
            opened: Run = create_run(self.loaded, self.place / "runs")
            runner.run_rounds(opened, lambda event: None, verify=True)
        except AlignError as error:
            assert error.exit_code == 2, error
            return _sentence(str(error))
        receipts = [current(self.run, r.ref) for r in self.receipts]
        require_whole(self.run, [r for r in receipts if r is not None], known=False)
        assert [r and (r.key, r.output, r.summary) for r in receipts] == [
            (r.key, r.output, r.summary) for r in self.receipts
        ]
        return "right"

    def look(self, name: str) -> str:
        verb, *options = READERS[name]
        done = CliRunner().invoke(app, [verb, str(self.run), *options])
        if isinstance(done.exception, AlignError):
            assert done.exception.exit_code == 2, done.exception
            return _sentence(str(done.exception))
        assert done.exception is None, done.exception
        return str(done.stdout)


def _stage(r: Receipt) -> Stage:
    inputs = {name: Ref(source["round"], source["stage"]) for name, source in r.inputs.items()}
    declared = Declaration(r.stage, f"{__name__}:again", r.version)
    return Stage(r.ref, declared, inputs, r.settings, r.external)


def again(job: Job, progress: Any) -> dict[str, Any]:
    """Does a stage again in the world of the present test."""
    assert WORLD is not None
    return WORLD.again(job, progress)


def _sentence(text: str) -> str:
    assert "Traceback" not in text and len(text) < 2000
    return f"sentence: {text}"


def _flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _scramble(data: bytes, rng: random.Random) -> bytes:
    place, count = rng.randrange(len(data)), rng.randrange(1, 64)
    return data[:place] + rng.randbytes(count) + data[place + count :]


def _json_value(data: bytes, rng: random.Random) -> bytes:
    """Another value somewhere in a JSON file; scrambled where it is none."""
    try:
        value = json.loads(data)
    except ValueError:
        return _scramble(data, rng)
    holder, key = None, None
    inner = value
    while isinstance(inner, dict | list) and inner and (holder is None or rng.random() < 0.8):
        holder, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = inner[key]
    if holder is None:
        return b"null"
    holder[key] = rng.choice([None, 3, -1.5, "x", [], {}, True, "../../etc", 10**30, {"a": [1]}])
    return json.dumps(value).encode()


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bit": _flip,
    "bytes": _scramble,
    "cut": lambda data, rng: data[: rng.randrange(len(data))],
    "empty": lambda data, rng: b"",
    "zeros": lambda data, rng: b"\0" * len(data),
    "twice": lambda data, rng: data + data,
    "value": _json_value,
}


def check(world: World, seeds: range) -> dict[str, int]:
    """Damage one file for each seed, and see what a command makes of it; how often it was right, and a sentence."""
    counts = {"right": 0, "sentence": 0}
    for seed in seeds:
        rng = random.Random(seed)
        file = rng.choice(world.files)
        command = rng.choice(["run", "run", *READERS])
        kind = rng.choice([*DAMAGE, "gone", "other"])
        path = world.place / file
        data = path.read_bytes() or b"\n"
        path.unlink()
        if kind == "other":
            shutil.copy(world.place / rng.choice([name for name in world.files if name != file]), path)
        elif kind != "gone":
            path.write_bytes(DAMAGE[kind](data, rng))
        what = f"seed {seed}: {kind} in {file}, then {command}"
        try:
            said = world.go() if command == "run" else world.look(command)
        except Exception as error:
            raise AssertionError(what) from error
        sentence = said.startswith("sentence: ")
        right = said in ("right", world.expected.get(command))
        assert sentence or right or file.name in NO_CHECK, f"{what} exits 0 with something else"
        counts["sentence" if sentence else "right"] += 1
        world.restore()
    return counts


def test_two_hundred_damaged_files(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = check(World(pristine, tmp_path, monkeypatch), range(200))
    assert sum(counts.values()) == 200 and min(counts.values()) >= 40, counts


@pytest.mark.full
def test_four_thousand_damaged_files(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = check(World(pristine, tmp_path, monkeypatch), range(1000, 5000))
    assert sum(counts.values()) == 4000, counts
