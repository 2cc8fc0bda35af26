"""Which folder a run has: named after its recipe's folder, and nobody else's."""

import re
from pathlib import Path

import pytest

from align.cli.recipes import copy_recipe
from align.config.load import load_recipe
from align.errors import ConfigError, DataError
from align.rounds.run import create_run, open_run, planned_run
from align.store import read_json


def copied(folder: Path, name: str = "own-model") -> Path:
    return copy_recipe(name, folder)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("my-loop", "my-loop"), ("Mein Modell (2)", "Mein-Modell-2"), ("v1.2_b", "v1.2_b"), (".x", "x")],
)
def test_a_run_is_named_after_its_recipes_folder(tmp_path: Path, folder: str, name: str) -> None:
    recipe = copied(tmp_path / folder)
    assert load_recipe(recipe).recipe.name == name
    assert load_recipe(recipe, ["name=other"]).recipe.name == "other"


def test_a_folder_without_a_name_that_a_run_can_have(tmp_path: Path) -> None:
    recipe = copied(tmp_path / "模型")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: name: .*found ''"):
        load_recipe(recipe)


def test_two_copies_of_a_recipe_have_two_runs(tmp_path: Path) -> None:
    runs = [create_run(load_recipe(copied(tmp_path / name)), tmp_path / "runs") for name in ("one", "two")]
    assert [run.folder for run in runs] == [tmp_path / "runs" / "one", tmp_path / "runs" / "two"]
    assert runs[0].id != runs[1].id


def test_another_recipes_run_is_not_taken_over(tmp_path: Path) -> None:
    one, two = (load_recipe(copied(tmp_path / name), ["name=shared"]) for name in ("one", "two"))
    first = create_run(one, tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    for take in (create_run, planned_run):
        with pytest.raises(ConfigError) as caught:
            take(two, tmp_path / "runs")
        assert str(caught.value) == (
            f"{first.folder} is the run of another recipe, {tmp_path / 'one' / 'recipe.yaml'}; give this one another name "
            "(`name: …` in the recipe, or name=… behind it), or another --runs"
        )
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before


def test_a_recipe_whose_folder_was_moved_keeps_its_run(tmp_path: Path) -> None:
    first = create_run(load_recipe(copied(tmp_path / "one"), ["name=mine"]), tmp_path / "runs")
    (tmp_path / "one").rename(tmp_path / "two")
    again = create_run(load_recipe(tmp_path / "two", ["name=mine"]), tmp_path / "runs")
    assert again.id == first.id
    assert read_json(first.folder / "run.json") == {"id": first.id, "recipe": str(tmp_path / "two")}


def test_a_run_of_a_version_that_noted_no_recipe_goes_on(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").write_text('{"id": "0123abcd"}')
    assert create_run(load_recipe(copied(tmp_path / "one")), tmp_path / "runs").id == "0123abcd"


def test_a_folder_that_is_no_run_is_not_made_one(tmp_path: Path) -> None:
    recipe = load_recipe(copied(tmp_path / "one"))
    with pytest.raises(
        ConfigError, match=re.escape(f"{tmp_path / 'one'} is there already, and is no run; give the recipe")
    ):
        create_run(recipe, tmp_path)
    assert not (tmp_path / "one" / "resolved.yaml").exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"id": 3}', b'{"id": "xyz"}', b"\xff"])
def test_a_damaged_id_is_said(tmp_path: Path, text: bytes) -> None:
    recipe = load_recipe(copied(tmp_path / "one"))
    run = create_run(recipe, tmp_path / "runs").folder
    (run / "run.json").write_bytes(text)
    for take in (lambda: create_run(recipe, tmp_path / "runs"), lambda: open_run(run)):
        with pytest.raises(
            DataError, match=r"run\.json: this file does not hold the run's id; put it back from a copy, or"
        ):
            take()


@pytest.mark.parametrize("name", ["env.json", "resolved.yaml", "recipe.yaml"])
def test_what_is_written_anew_may_be_damaged(tmp_path: Path, name: str) -> None:
    recipe = load_recipe(copied(tmp_path / "one"))
    run = create_run(recipe, tmp_path / "runs").folder
    whole = (run / name).read_bytes()
    for damaged in (b"", b"\xff\xfe", whole[: len(whole) // 2]):
        (run / name).write_bytes(damaged)
        create_run(recipe, tmp_path / "runs")
        assert (run / name).read_bytes() == whole
