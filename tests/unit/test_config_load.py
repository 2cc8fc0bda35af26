"""Recipes from YAML: every mistake gives one sentence with file, line, key, value and way out."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.load import load_recipe, resolved_yaml
from align.config.recipe import FilePreferences, Model, Prompts, Recipe
from align.config.section import load_section
from align.config.training import Dpo, Sft
from align.config.yaml_text import dump, parse
from align.errors import ConfigError

BASE = """\
name: loop
model: {path: gpt2}
prompts: {path: prompts.jsonl}
preferences: {from: pairs.jsonl}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("prompts.jsonl", "pairs.jsonl", "world.py"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str, *overrides: str) -> str:
    """The error of loading `text`, with the test's folder cut from it."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(folder, text), overrides)
    return str(caught.value).replace(f"{folder}/", "")


def test_minimal_recipe(folder: Path) -> None:
    loaded = load_recipe(write(folder, BASE))
    assert loaded.recipe == Recipe(
        name="loop",
        model=Model(path="gpt2"),
        prompts=Prompts(path=folder / "prompts.jsonl"),
        preferences=FilePreferences(path=folder / "pairs.jsonl"),
    )
    assert loaded.text == BASE
    assert loaded.folder == folder


def test_a_folder_means_its_recipe(folder: Path) -> None:
    write(folder, BASE)
    assert load_recipe(folder).recipe.name == "loop"


def test_overrides_are_yaml_and_floats_are_floats(folder: Path) -> None:
    path = write(folder, BASE + "dpo: {learning_rate: 1e-4}\n")
    given = load_recipe(path).recipe.dpo
    assert given is not None and given.learning_rate == 0.0001
    overrides = ["dpo.learning_rate=3e-4", "dpo.lora={r: 8}", "dpo.lora.alpha=4", "seed=7", "dpo.trainer.max_steps=2"]
    recipe = load_recipe(path, overrides).recipe
    assert recipe.dpo is not None and recipe.dpo.lora is not None
    assert (recipe.dpo.learning_rate, recipe.seed) == (0.0003, 7)
    assert (recipe.dpo.lora.r, recipe.dpo.lora.alpha) == (8, 4)
    assert recipe.dpo.trainer == {"max_steps": 2}


def test_override_reaches_into_lists_and_removes(folder: Path) -> None:
    text = BASE.replace("preferences: {from: pairs.jsonl}", "sft: {demonstrations: pairs.jsonl}") + (
        "annotate:\n  by: {type: personas, utility: 'world.py:taste', personas: [{name: ann}, {name: ben}]}\n"
    )
    recipe = load_recipe(write(folder, text), ["annotate.by.personas.1.temperature=0.5", "sft=null"]).recipe
    assert recipe.sft is None
    assert recipe.annotate is not None
    assert recipe.annotate.by.type == "personas"
    assert [p.temperature for p in recipe.annotate.by.personas] == [0.0, 0.5]
    assert recipe.annotate.by.utility == f"{folder}/world.py:taste"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dpo: {learning_rat: 1}", "recipe.yaml:5: dpo.learning_rat: unknown key; did you mean learning_rate?"),
        ("rnds: 2", "recipe.yaml:5: rnds: unknown key; did you mean rounds?"),
        (
            "learning_rate: 1",
            "recipe.yaml:5: learning_rate: unknown key here; the sections that have it are best_of_n, dpo, grpo, kto, ppo",
        ),
        (
            "lr: 1",
            "recipe.yaml:5: lr: unknown key here; the sections that have learning_rate are best_of_n, dpo, grpo,",
        ),
        ("rollouts: {zzz: 1}", "recipe.yaml:5: rollouts.zzz: unknown key; the keys here are temperature, top_p, "),
        ("dpo:\n  beta: 0", "recipe.yaml:6: dpo.beta: must be a number above 0, found 0"),
        ("dpo: {beta: '0.1'}", "recipe.yaml:5: dpo.beta: must be a number above 0, found '0.1'"),
        ("dpo: {beta: .inf}", "recipe.yaml:5: dpo.beta: must be a number above 0, found '.inf'"),
        ("dpo: {beta: true}", "recipe.yaml:5: dpo.beta: must be a number above 0, found true"),
        ("seed: 4294967296", "recipe.yaml:5: seed: must be a whole number at least 0 and below 4294967296, found 4"),
        ("seed: 1.5", "recipe.yaml:5: seed: must be a whole number at least 0 and below 4294967296, found 1.5"),
        ("dpo: 3", "recipe.yaml:5: dpo: must be a section of keys or null, found 3"),
        ("dpo: {lora: yes}", "recipe.yaml:5: dpo.lora: must be a section of keys or null, found 'yes'"),
        ("sft: {}", "recipe.yaml:5: sft.demonstrations: this key is required (a path)"),
        ("sft: {demonstrations: no.jsonl}", "recipe.yaml:5: sft.demonstrations: there is no file no.jsonl"),
        (
            "rollouts: {type: vlm}",
            "recipe.yaml:5: rollouts.type: must be auto, vllm, transformers, server or ray, found 'vlm'; did you mean vllm?",
        ),
        ("rollouts: {temperature: 0}", "recipe.yaml:5: rollouts: `temperature` 0 gives the same answer every time"),
        (
            "dpo: {batch_size: 10, micro_batch_size: 3}",
            "recipe.yaml:5: dpo: `micro_batch_size` (3) must divide `batch_size` (10)",
        ),
        (
            "dpo: {lora: {dropout: 0.1}}",
            "recipe.yaml:5: dpo: `lora.dropout` must be 0 in DPO: policy and reference must",
        ),
        ("report_to: [wandbb]", "recipe.yaml:5: report_to: 'wandbb' is no tracker of TRL; did you mean wandb?"),
        ("rounds: 2", "recipe.yaml: `preferences.from` is one file and serves one round, found rounds: 2"),
        ("annotate: {}", "recipe.yaml: give exactly one of `annotate` (ask people) and `preferences` (a file)"),
        ("evaluate: {judge: {path: world.py}}", "judge.path: must read file.py:function, found 'world.py'"),
        ("evaluate: {judge: {path: 'w.py:f'}}", "recipe.yaml:5: evaluate.judge.path: there is no file w.py"),
        ("dpo: {trainer: {max_step: 1}}", "recipe.yaml:5: dpo.trainer.max_step: unknown key; did you mean max_steps?"),
        ("dpo: {trainer: {beta: 1}}", "recipe.yaml:5: dpo.trainer.beta: not to be set here; use dpo.beta"),
        ("dpo:\n  beta: 1\n  beta: 2", "recipe.yaml:7: the key 'beta' stands twice (first in line 6); keep one"),
        ("dpo: [1", "recipe.yaml:6: not YAML: while parsing a flow sequence"),
        ("dpo: {beta: !!float 1}", "recipe.yaml:5: tags are not for recipes"),
        ("1: 2", "recipe.yaml:5: a key must be text, found 1"),
        ("dpo: {beta: 1e999}", "recipe.yaml:5: the number is too large, found 1e999"),
        ("dpo: &a {lora: *a}", "recipe.yaml:5: this part contains itself"),
    ],
)
def test_mistakes(folder: Path, line: str, said: str) -> None:
    found = complaint(folder, BASE + line + "\n")
    assert said in found
    assert "\n" not in found


FUNCTIONS = "reward: {functions: [{path: 'world.py:taste'}]}"
NO_SOURCE = "name: loop\nmodel: {path: gpt2}\nprompts: {path: prompts.jsonl}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE + "dpo: {}\nkto: {}", "give one method at most, found dpo and kto"),
        (BASE + "ppo: {}", "`ppo` needs `reward`, which says what a good answer is"),
        (BASE + FUNCTIONS, "`reward` has no use with `dpo`; it is what ppo, rloo, grpo, best_of_n raise"),
        (BASE + "kto: {}", "give exactly one of `annotate` (ask people) and `binary` (a file)"),
        (BASE + f"{FUNCTIONS}\ngrpo: {{}}", "`preferences` has no use here: `grpo` learns from no rows"),
        (
            NO_SOURCE + f"{FUNCTIONS}\ngrpo: {{}}\nannotate: {{}}",
            "`annotate` asks nobody where `reward.functions` alone",
        ),
        (
            NO_SOURCE + "reward: {model: {}}\nppo: {}",
            "exactly one of `annotate` (ask people) and `preferences` (a file)",
        ),
        (NO_SOURCE + "reward: {}\nppo: {}", "reward: give `model` (a reward model trained on the preferences), "),
        (NO_SOURCE + "kto: {}\nannotate: {}", "`kto` needs `annotate.kind` single or rating, found kind: pair"),
        (BASE + "binary: {from: pairs.jsonl}", "`binary` has no use here: `dpo` learns from preferences"),
        (
            NO_SOURCE + "kto: {}\nbinary: {from: pairs.jsonl}\nrounds: 2",
            "`binary.from` is one file and serves one round",
        ),
        (NO_SOURCE + "ppo: {trainer: {beta: 1}}", "ppo.trainer.beta: not to be set here; use ppo.beta"),
    ],
)
def test_mistakes_in_methods(folder: Path, text: str, said: str) -> None:
    assert said in complaint(folder, text + "\n")


@pytest.mark.parametrize(
    ("text", "method", "rows"),
    [
        (BASE, "dpo", "preferences"),
        (BASE + "ppo: {}\nreward: {model: {}}", "ppo", "preferences"),
        (NO_SOURCE + f"rounds: 3\nbest_of_n: {{}}\n{FUNCTIONS}", "best_of_n", None),
        (NO_SOURCE + "kto: {}\nbinary: {from: pairs.jsonl}", "kto", "binary"),
        (NO_SOURCE + "kto: {}\nannotate: {kind: single}\nrounds: 2", "kto", "binary"),
        (BASE + "dpo: {micro_batch_size: 2}", "dpo", "preferences"),
        (BASE + "ppo: {critic: shared, value_weight: 0.2}\nreward: {model: {}}", "ppo", "preferences"),
    ],
)
def test_methods_and_what_they_learn_from(folder: Path, text: str, method: str, rows: str | None) -> None:
    recipe = load_recipe(write(folder, text + "\n")).recipe
    assert (recipe.method, recipe.learns_from) == (method, rows)
    assert recipe.training == getattr(recipe, method)
    assert type(recipe.training)(**recipe.training.model_dump(mode="json")) == recipe.training, "as stages do"
    assert load_recipe(write(folder, resolved_yaml(recipe))).recipe == recipe


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("{type: peopl}", "annotate.by: there is no type 'peopl'; did you mean people?"),
        ("persona", "annotate.by: there is no type 'persona'; did you mean personas?"),
        ("{}", "annotate.by: must be a section with `type:` people or personas, found {}"),
        ("{type: personas, utility: 'world.py:f'}", "annotate.by.personas: this key is required (a list of sections)"),
        (
            "{type: personas, utility: 'world.py:f', personas: []}",
            "annotate.by.personas: must be a list of sections, found []",
        ),
        (
            "{type: personas, utility: 'world.py:f', personas: [{name: a}, {name: b, skip_rat: 1}]}",
            "annotate.by.personas.1.skip_rat: unknown key; did you mean skip_rate?",
        ),
        (
            "{type: personas, utility: 'world.py:f', personas: [{name: a}, {name: a}]}",
            "annotate.by: persona names must differ, found ['a', 'a']",
        ),
        (
            "{type: personas, utility: 'world.py:f', personas: [{name: a}]}\n  overlap: 2",
            "annotate: `overlap` 2 needs as many personas, found 1",
        ),
    ],
)
def test_mistakes_in_annotators(folder: Path, by: str, said: str) -> None:
    text = BASE.replace("preferences: {from: pairs.jsonl}", f"annotate:\n  by: {by}")
    assert said in complaint(folder, text)


def test_all_problems_at_once_in_the_order_of_the_file(folder: Path) -> None:
    found = complaint(folder, BASE + "dpo:\n  bta: 1\n  epochs: 0\nseed: x\n", "evaluate.prompts=1")
    assert [line.split(": ")[:2] for line in found.splitlines()] == [
        ["override evaluate.prompts=1", "evaluate.prompts"],
        ["recipe.yaml:6", "dpo.bta"],
        ["recipe.yaml:7", "dpo.epochs"],
        ["recipe.yaml:8", "seed"],
    ]


def test_server_in_short(folder: Path) -> None:
    text = BASE.replace("preferences: {from: pairs.jsonl}", "annotate: {by: people, server: {url: 'http://h:6900'}}")
    recipe = load_recipe(write(folder, text)).recipe
    assert recipe.annotate is not None
    assert (recipe.annotate.server.type, recipe.annotate.by.type) == ("remote", "people")
    assert "annotate.server.url: must be text that matches" in complaint(
        folder, text.replace("http://", "http://me:pw@")
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rounds", "override rounds: this override must read key=value; for example rounds="),
        ("=3", "override =3: this override must read key=value"),
        ("dpo..beta=3", "override dpo..beta=3: this override must read key=value"),
        ("dpo.beta=", "override dpo.beta=: dpo.beta: must be a number above 0, found null"),
        ("dpo.beta=[", "override dpo.beta=[:1: not YAML"),
        ("dpo.bta=3", "override dpo.bta=3: dpo.bta: unknown key; did you mean beta?"),
        ("name.first=3", "override name.first=3: there is no name.first: name is 'loop'"),
    ],
)
def test_mistakes_in_overrides(folder: Path, override: str, said: str) -> None:
    assert said in complaint(folder, BASE, override)


def test_one_section(folder: Path) -> None:
    assert load_section(Dpo, ["beta=2e-1", "lora.r=4"]).model_dump(include={"beta", "lora"})["lora"]["r"] == 4
    given = str(folder / "pairs.jsonl")
    assert load_section(Sft, ["epochs=2"], demonstrations=given).demonstrations == folder / "pairs.jsonl"
    for settings, said in (
        (["bta=1"], "setting bta=1: bta: unknown key; did you mean beta?"),
        (["beta=0"], "setting beta=0: beta: must be a number above 0, found 0"),
        (["beta"], "setting beta: this setting must read key=value; for example beta=0.1"),
        (["batch_size=3", "micro_batch_size=2"], "dpo: `micro_batch_size` (2) must divide `batch_size` (3)"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_section(Dpo, settings)
        assert str(caught.value) == said


def test_paths(folder: Path) -> None:
    (folder / "tiny").mkdir()

    def text(model: str) -> str:
        return BASE.replace("gpt2", model)

    assert complaint(folder, text("./none")) == "recipe.yaml:2: model.path: there is no folder none"
    assert "there is no folder" in complaint(folder, text("a/b/c"))
    assert "must be a folder or a Hub id such as owner/name, found 'a b'" in complaint(folder, text("a b"))
    assert "holds no config.json, so it is no model" in complaint(folder, text("tiny"))
    (folder / "tiny" / "config.json").touch()
    assert load_recipe(write(folder, text("tiny"))).recipe.model.path == str(folder / "tiny")
    assert load_recipe(write(folder, text("owner/name-0.5B"))).recipe.model.path == "owner/name-0.5B"
    assert "`revision` belongs to a Hub id" in complaint(folder, text("tiny, revision: v1"))
    assert "must be plain or chatml or a Jinja file" in complaint(folder, text("tiny, chat_template: chatlm"))
    assert load_recipe(write(folder, text("./none")), files=False).recipe.model.path == str(folder / "none")


def test_unreadable_recipes(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no recipe .*none.yaml; `align init` writes one"):
        load_recipe(folder / "none.yaml")
    assert complaint(folder, "") == "recipe.yaml: a recipe is a mapping of keys, found nothing"
    assert complaint(folder, "- a") == "recipe.yaml: a recipe is a mapping of keys, found ['a']"
    (folder / "recipe.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"the recipe is not UTF-8 .* at byte 6"):
        load_recipe(folder / "recipe.yaml")


def test_resolved_recipe_loads_equal_from_elsewhere(folder: Path) -> None:
    path = write(folder, BASE + "dpo: {learning_rate: 1e-7, trainer: {lr_scheduler_type: cosine}}\nthreads: 2\n")
    recipe = load_recipe(path).recipe
    elsewhere = folder / "runs" / "a"
    elsewhere.mkdir(parents=True)
    text = resolved_yaml(recipe)
    assert load_recipe(write(elsewhere, text)).recipe == recipe
    assert resolved_yaml(load_recipe(elsewhere).recipe) == text
    assert set(Recipe.model_fields) == set(parse(text, "")[0])
    assert set(Dpo.model_fields) == set(parse(text, "")[0]["dpo"])


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
    | st.sampled_from(["1e-4", "yes", "null", "~", "010", "1_0", "2024-01-01", "1:30", "<<", "a\nb ", " x", "#"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc1e-", max_size=4), inner, max_size=3),
)  # fmt: skip


@given(yaml_values)
def test_dump_is_read_back_as_the_same(value: object) -> None:
    found = parse(dump(value), "t")[0]
    assert repr(found) == repr(value)


def test_loading_imports_nothing_heavy() -> None:
    code = "import sys, align.config.load; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "trl", "numpy", "pyarrow", "datasets"} & set(loaded)


def test_a_world_that_was_not_made_yet(tmp_path: Path) -> None:
    (tmp_path / "world.py").write_text("")
    path = tmp_path / "recipe.yaml"
    path.write_text("name: w\nmodel: {path: ./data/model}\nprompts: {path: data/p.jsonl}\nannotate: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value).count(f"; make it with `python {tmp_path}/world.py`") == 2


def test_a_section_from_a_file_and_from_settings_over_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    file = folder / "best.yaml"
    file.write_text("beta: 0.3\nlora: {r: 4}\nepochs: 2\n")
    found = load_section(Dpo, ["beta=0.5", "lora.alpha=8"], file=file, keys=("dpo",))
    assert (found.beta, found.epochs, found.lora and (found.lora.r, found.lora.alpha)) == (0.5, 2.0, (4, 8.0))
    assert load_section(Dpo, ["dpo.beta=0.2"], keys=("dpo",)).beta == 0.2
    file.write_text("mix: [{path: pairs.jsonl, share: 0.5}]\n")
    found_sft = load_section(Sft, [], file=file, keys=("sft",), demonstrations=str(folder / "pairs.jsonl"))
    assert found_sft.mix[0].path == folder / "pairs.jsonl", "from the file's folder on"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("beta: 0.3\nbeat: 1\n", "best.yaml:2: beat: unknown key; did you mean beta?"),
        ("epochs: 1\n\nbeta: 0\n", "best.yaml:3: beta: must be a number above 0, found 0"),
        (
            "dpo:\n  beta: 0.3\n  trainer:\n    sead: 1\n",
            "best.yaml:4: trainer.sead: unknown key; if seed is meant: use --seed",
        ),
        ("replay: 0.5\n", "best.yaml:1: replay has no use here; there are no earlier rounds"),
        (
            "sft: {epochs: 1}\n",
            "best.yaml: there is no section dpo; it holds sft; a file for this command has the keys of dpo",
        ),
        ("- 1\n", "best.yaml: settings are a mapping of keys, found [1]"),
        ("", "best.yaml: settings are a mapping of keys, found nothing"),
    ],
)
def test_mistakes_in_a_file_of_settings(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(folder)
    Path("best.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_section(Dpo, [], file=Path("best.yaml"), keys=("dpo",), no_use={"replay": "there are no earlier rounds"})
    assert str(caught.value) == said


def test_a_recipe_as_a_file_of_settings(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What of it is not taken is said."""
    file = folder / "recipe.yaml"
    file.write_text("name: x\nseed: 3\ndpo: {beta: 0.4, replay: 0.5}\n")
    found = load_section(Dpo, [], file=file, keys=("dpo",), no_use={"replay": "there are no earlier rounds"})
    assert (found.beta, found.replay) == (0.4, 0.0)
    assert caplog.messages == [f"{file}: of this recipe dpo is taken, but not name, seed, dpo.replay"]
    with pytest.raises(ConfigError) as caught:
        load_section(Dpo, [], file=folder / "none.yaml", keys=("dpo",))
    assert str(caught.value) == (
        f"there is no file of settings {folder}/none.yaml; check the path; relative ones start at the working directory"
    )
