"""Which steps a recipe makes, and what their keys depend on; which labelling of a run is the open one."""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from align.config.load import load_recipe
from align.config.recipe import METHODS, SCORED, Recipe
from align.config.renamed import KEYS
from align.data.demonstrations import read_demonstrations
from align.errors import ConfigError
from align.ids import content_id
from align.pipeline import migration
from align.pipeline.fingerprint import Fingerprints
from align.pipeline.receipts import Receipt, current, partial_folder, publish_stage, stage_key, valid
from align.pipeline.run import create_run, open_run, planned_run
from align.pipeline.stage import Declaration, Job, Ref, Stage, Wait, function_of
from align.stages import data
from align.stages.plan import make_plan
from align.stages.sessions import open_session
from align.store import write_table
from align.types import Prompt, Task, prompt_id, to_table
from annotation.journal import close, reopen
from tests.labelling import make_task
from tests.loop import make_loop, write_jsonl

PEOPLE = "evaluate.judge={type: people}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small loop's recipe with its files."""
    made = tmp_path_factory.mktemp("loop")
    make_loop(made, made / "home")
    write_jsonl(made / "gold.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "c"}])
    return made


def recipe_of(folder: Path, *changes: str) -> Recipe:
    return load_recipe(folder / "recipe.yaml", list(changes)).recipe


def stages(recipe: Recipe, folder: Path) -> dict[str, Stage]:
    steps = make_plan(recipe, Fingerprints(folder / "fingerprints.json"))
    return {str(step.ref): step for step in steps if isinstance(step, Stage)}


def waits(recipe: Recipe, folder: Path) -> list[str]:
    steps = make_plan(recipe, Fingerprints(folder / "fingerprints.json"))
    return [str(step.ref) for step in steps if isinstance(step, Wait)]


def test_people_judge_behind_every_evaluation(folder: Path) -> None:
    recipe = recipe_of(folder, "rounds=2", PEOPLE)
    steps = make_plan(recipe, Fingerprints(folder / "fingerprints.json"))
    names = [str(step.ref) for step in steps if step.ref.round == 2]
    assert names == [
        *("2/rollouts", "2/tasks", "2/labelling", "2/snapshot", "2/preferences", "2/policy", "2/evaluation"),
        *("2/blind", "2/blind_labelling", "2/blind_snapshot", "2/blind_result"),
    ]
    assert [str(step.ref) for step in steps if isinstance(step, Wait)] == [
        f"{n}/{w}" for n in (1, 2) for w in ("labelling", "blind_labelling")
    ]
    assert "0/blind" not in {str(step.ref) for step in steps}
    assert stages(recipe, folder)["1/evaluation"].files == {}, "no function judges"


def test_a_chat_template_s_variables_and_the_run_s_date_are_in_the_key(folder: Path) -> None:
    plain = stages(recipe_of(folder), folder)["0/policy"]
    assert set(plain.settings) == {"dtype", "chat_template", "seed", "sft"}
    said = ("model.chat_template_kwargs={enable_thinking: false}", "model.date=2026-01-31")
    policy = stages(recipe_of(folder, *said), folder)["0/policy"]
    assert policy.settings["chat_template_kwargs"] == {"enable_thinking": False}
    assert (policy.settings["date"], policy.runtime["date"]) == ("2026-01-31", "2026-01-31")
    assert stage_key(policy, {}) != stage_key(plain, {})


def test_a_run_keeps_the_date_of_its_first_day(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Day(date):
        @classmethod
        def today(cls) -> date:
            return date.fromisoformat(now)

    monkeypatch.setattr("align.pipeline.run.date", Day)
    loaded, now = load_recipe(folder / "recipe.yaml"), "2026-01-31"
    run = create_run(loaded, tmp_path)
    now = "2026-02-01"
    for later in (create_run(loaded, tmp_path), planned_run(loaded, tmp_path), open_run(run.folder)):
        assert later.recipe.model.date == run.recipe.model.date == "2026-01-31"
    assert planned_run(loaded, tmp_path / "new").recipe.model.date == "2026-02-01"
    identity = run.folder / "run.json"
    identity.write_text(json.dumps({"id": "0"}))  # as an earlier version left it
    assert create_run(loaded, tmp_path).recipe.model.date is None


def test_a_function_as_judge_asks_nobody(folder: Path) -> None:
    assert waits(recipe_of(folder), folder) == ["1/labelling"]


def names(recipe: Recipe, folder: Path, round: int) -> list[str]:
    steps = make_plan(recipe, Fingerprints(folder / "fingerprints.json"))
    return [step.ref.stage for step in steps if step.ref.round == round]


ASKED = ["rollouts", "tasks", "labelling", "snapshot", "preferences"]
NO_LABELS = ("annotate=null", "dpo=null", "ppo={}", "reward.functions=[{path: 'score.py:score'}]")


def test_where_functions_alone_say_what_is_good_nobody_is_asked(folder: Path) -> None:
    recipe = recipe_of(folder, *NO_LABELS, "rounds=2")
    assert names(recipe, folder, 2) == ["policy", "evaluation"]
    assert waits(recipe, folder) == []
    policy = stages(recipe, folder)["2/policy"]
    assert policy.declared.function == "align.stages.policy:ppo_policy"
    assert policy.inputs == {"prompts": Ref(0, "prompts"), "parent": Ref(1, "policy")}
    named = {"type": "function", "path": f"{folder}/score.py:score", "weight": 1.0}
    assert policy.runtime["functions"] == [named]
    other = stages(
        recipe_of(folder, *NO_LABELS[:3], "reward.functions=[{path: 'score.py:score', weight: 2.0}]"), folder
    )
    assert other["1/policy"].settings["weights"] == {"model": 1.0, "bound": 0.0, "functions": [2.0]}


def test_a_run_that_asks_nobody_has_no_session_and_says_so(folder: Path, tmp_path: Path) -> None:
    run = create_run(load_recipe(folder / "recipe.yaml", [*NO_LABELS]), tmp_path / "runs")
    with pytest.raises(ConfigError, match="this run asks nobody: its labels come from a file, or it needs none"):
        open_session(run.folder)


def test_annotators_who_only_judge_are_asked_blind_alone(folder: Path) -> None:
    recipe = recipe_of(folder, *NO_LABELS[1:], PEOPLE)
    blind = ["blind", "blind_labelling", "blind_snapshot", "blind_result"]
    assert names(recipe, folder, 1) == ["policy", "evaluation", *blind]
    assert waits(recipe, folder) == ["1/blind_labelling"]


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "best_of_n"])
def test_a_reward_model_is_trained_before_the_policy_on_this_rounds_labels_and_earlier_ones(
    folder: Path, method: str
) -> None:
    recipe = recipe_of(folder, "dpo=null", f"{method}={{}}", "reward.model={}", "rounds=2")
    assert names(recipe, folder, 1) == [*ASKED, "reward", "policy", "evaluation"]
    assert names(recipe, folder, 2) == [*ASKED, "reward", "reward_check", "policy", "evaluation"]
    made = stages(recipe, folder)
    labels = {"preferences": Ref(2, "preferences"), "earlier_001": Ref(1, "preferences")}
    assert made["2/reward"].inputs == {"parent": Ref(1, "policy"), **labels}
    assert made["2/policy"].declared.function == f"align.stages.policy:{method}_policy"
    assert made["2/policy"].inputs["reward"] == Ref(2, "reward")
    alone = stages(recipe_of(folder, "dpo=null", f"{method}={{}}", "reward.model={replay: 0.0}", "rounds=2"), folder)
    assert "earlier_001" not in alone["2/reward"].inputs


def test_kto_takes_the_binary_labels_of_this_round_and_a_share_of_earlier_ones(folder: Path) -> None:
    kto = ("dpo=null", "kto.replay=0.5", "annotate.kind=single", "rounds=2")
    recipe = recipe_of(folder, *kto)
    assert names(recipe, folder, 2) == [*ASKED, "policy", "evaluation"]
    policy = stages(recipe, folder)["2/policy"]
    assert policy.declared.function == "align.stages.policy:kto_policy"
    assert policy.inputs["earlier_001"] == Ref(1, "preferences")
    write_jsonl(folder / "binary.jsonl", [{"prompt": "a?", "completion": "b", "label": True}])
    given = recipe_of(folder, "dpo=null", "kto={}", "annotate=null", "binary.from=binary.jsonl")
    assert names(given, folder, 1) == ["preferences", "policy", "evaluation"]
    assert stages(given, folder)["1/preferences"].declared.function == "align.stages.labels:given_binary"


def test_every_work_that_a_plan_names_is_there(folder: Path) -> None:
    for method in METHODS:
        reward = ["reward.model={}"] if method in SCORED else []
        kind = ["annotate.kind=single"] if method == "kto" else []
        made = stages(recipe_of(folder, "dpo=null", f"{method}={{}}", *reward, *kind), folder)
        for stage in made.values():
            assert callable(function_of(stage.declared.function))
            for name in (stage.declared.freeze,) if stage.declared.freeze else ():
                assert callable(function_of(name))


CHOICES = [
    "annotate.tasks=20",
    "annotate.tasks=21",
    "annotate.overlap=1",
    "annotate.repeats=0.1",
    "annotate.kind=single",
    "annotate.kind=rank",
    "annotate.kind=rank annotate.rank_of=3",
    "annotate.kind=rating annotate.criteria=[helpful]",
    "annotate.kind=rating annotate.criteria=[correct]",
    "annotate.gold={path:gold.jsonl}",
    "annotate.gold={path:gold.jsonl,share:0.2}",
    "annotate.suggest={path:score.py:score}",
    "annotate.suggest={path:score.py:score,share:0.4}",
]


def test_every_key_about_what_is_asked_changes_the_selection(folder: Path) -> None:
    keys = set()
    for choice in CHOICES:
        changes = [change.replace("path:", "path: ").replace("share:", "share: ") for change in choice.split()]
        stage = stages(recipe_of(folder, *changes), folder)["1/tasks"]
        keys.add(json.dumps([stage.settings, stage.files], sort_keys=True))
    assert len(keys) == len(CHOICES)


def test_the_compiler_changes_the_preferences_and_not_what_was_asked(folder: Path) -> None:
    one, other = (stages(recipe_of(folder, f"annotate.compiler={c}"), folder) for c in ("majority", "dawid_skene"))
    assert [name for name in one if one[name].settings != other[name].settings] == ["1/preferences"]


def test_a_gold_file_that_is_missing_is_found_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.jsonl"):
        stages(recipe_of(folder, "annotate.gold={path: none.jsonl}"), folder)


def test_people_who_judge_need_personas_enough(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"`evaluate\.judge\.overlap` 4 needs as many personas, found 3"):
        recipe_of(folder, "evaluate.judge={type: people, overlap: 4}")


def publish(run: Path, name: str, inputs: dict[str, Receipt], task: str) -> Receipt:
    """A stage that holds one task."""
    number, _, stage = name.partition("/")
    ref = Ref(int(number), stage)
    made = Stage(ref, Declaration(stage, ""), {n: r.ref for n, r in inputs.items()}, {"task": task})
    key = stage_key(made, inputs)
    kind = "blind_ab" if stage == "blind" else "pair"
    rows = [Task(**{**{f: getattr(make_task(task), f) for f in make_task(task).__slots__}, "kind": kind})]
    write_table(partial_folder(run, ref, key) / "tasks.parquet", to_table(Task, rows))
    return publish_stage(run, made, key, inputs, {}, "", "", 0.0)


def test_the_open_labelling_is_found_be_it_of_pairs_or_blind(folder: Path, tmp_path: Path) -> None:
    run = create_run(load_recipe(folder / "recipe.yaml", ["rounds=2", PEOPLE]), tmp_path / "runs")
    with pytest.raises(ConfigError, match="has no tasks yet"):
        open_session(run.folder)

    def state(receipt: Receipt, is_open: bool) -> None:
        (reopen if is_open else lambda *a: close(*a, "done"))(run.journal, receipt.round, receipt.output)

    def asked() -> tuple[str, str]:
        session = open_session(run.folder)
        return session.form.kind, session.dataset.rpartition("-")[0]

    first = publish(run.folder, "1/tasks", {}, "one")
    assert asked() == ("pair", "round-1")
    state(first, False)
    assert asked() == ("pair", "round-1"), "the last one, where none is open"
    blind = publish(run.folder, "1/blind", {"first": first}, "two")
    assert asked() == ("blind_ab", "blind-1")
    state(blind, False)
    second = publish(run.folder, "2/tasks", {"blind": blind}, "three")
    assert asked() == ("pair", "round-2")
    state(first, True)
    assert asked() == ("pair", "round-1"), "the first open one: nothing after it can go on"
    state(first, False)
    publish(run.folder, "1/tasks", {}, "another task")
    assert valid(run.folder, second.ref) is None and current(run.folder, second.ref) is not None
    assert asked() == ("pair", "round-1"), "what was made of the old tasks is not valid"


def test_only_what_trains_gets_processes_and_they_change_no_key(folder: Path) -> None:
    one, two = (stages(recipe_of(folder, f"nproc={n}"), folder) for n in (1, 2))
    assert {name for name, stage in two.items() if stage.runtime.get("nproc", 1) == 2} == {"0/policy", "1/policy"}
    assert [stage_key(one["0/policy"], {}), one["1/policy"].settings] == [
        stage_key(two["0/policy"], {}),
        two["1/policy"].settings,
    ]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (["accelerate=ddp"], "`accelerate` has no use with one process; give `nproc` 2 or more"),
        (["nproc=2", "accelerate=fsdp3"], "must be ddp or fsdp2 or zero3 or a file of `accelerate config`"),
        (
            ["nproc=2", "annotate=null", "dpo=null", "best_of_n={}", "reward={functions: [{path: score.py:score}]}"],
            "`best_of_n` samples and trains in one process, found nproc: 2",
        ),
    ],
)
def test_processes_that_cannot_be(folder: Path, changes: list[str], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_of(folder, *changes)
    assert what in str(caught.value)


def test_a_mixture_of_demonstrations_is_part_of_the_key_and_leaves_held_out_prompts_out(
    folder: Path, tmp_path: Path
) -> None:
    edits = [{"prompt": f"My lamp is late, {n}.", "completion": "thank you soon"} for n in range(6)]
    asked = json.loads((folder / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    write_jsonl(folder / "edits.jsonl", [*edits, {"prompt": asked, "completion": "held out"}])
    mixed = "sft.mix=[{path: edits.jsonl, share: 0.2}]"
    plain, mix, other = (
        stages(recipe_of(folder, *changes), folder)["0/demonstrations"]
        for changes in ([], [mixed], [mixed.replace("0.2", "0.3")])
    )
    keys = {json.dumps([dict(stage.settings), dict(stage.files)]) for stage in (plain, mix, other)}
    assert len(keys) == 3 and plain.settings == {}
    held_out = [
        Prompt(prompt_id([{"role": "user", "content": asked}]), [{"role": "user", "content": asked}], "test", "x:1")
    ]
    (tmp_path / "prompts").mkdir()
    (tmp_path / "out").mkdir()
    write_table(tmp_path / "prompts" / "prompts.parquet", to_table(Prompt, held_out))
    job = Job(
        0, "demonstrations", {"prompts": tmp_path / "prompts"}, dict(mix.settings), dict(mix.runtime), tmp_path / "out"
    )
    assert data.demonstrations(job, lambda done, total: None) == {"rows": 50, "dropped": 1}
    rows = [row.answer for row in read_demonstrations(tmp_path / "out" / "demonstrations.parquet")]
    assert (rows.count("thank you soon"), rows.count("held out")) == (10, 0)


def test_a_mixture_asks_the_parent_and_the_first_policy(folder: Path) -> None:
    mixture = "rollouts.mixture=[{}, {checkpoint: parent}, {checkpoint: sft, temperature: 0.5}]"
    found = stages(recipe_of(folder, "rounds=3", mixture), folder)
    policies = {number: {n: str(r) for n, r in found[f"{number}/rollouts"].inputs.items()} for number in (1, 2, 3)}
    assert policies[1] == {"prompts": "0/prompts", "policy": "0/policy", "parent": "0/policy", "sft": "0/policy"}
    assert policies[2] == {"prompts": "0/prompts", "policy": "1/policy", "parent": "0/policy", "sft": "0/policy"}
    assert policies[3] == {"prompts": "0/prompts", "policy": "2/policy", "parent": "1/policy", "sft": "0/policy"}


def test_a_run_of_before_mixtures_goes_on_and_how_answers_are_sampled_makes_no_other_ones(folder: Path) -> None:
    plain = stages(recipe_of(folder), folder)["1/rollouts"]
    assert set(plain.settings["rollouts"]) == {
        *("temperature", "top_p", "max_tokens", "type", "max_prompt_tokens", "shard", "prompts", "samples"),
    }
    assert set(plain.inputs) == {"prompts", "policy"}
    how = stages(recipe_of(folder, "rollouts.retries=5", "rollouts.cpu={threads: 1}"), folder)["1/rollouts"]
    assert how.settings == plain.settings
    assert (how.runtime["how"]["retries"], how.runtime["how"]["cpu"]["threads"]) == (5, 1)
    other = stages(recipe_of(folder, "rollouts.logprobs=true", "rollouts.max_resamples=2"), folder)["1/rollouts"]
    assert (other.settings["rollouts"]["logprobs"], other.settings["rollouts"]["max_resamples"]) == (True, 2)


BEGUN_BEFORE = {
    "cfbd3fa6e029": [],
    "2ed76e2e4d35": ["rounds=2", PEOPLE],
    "1ffd3b3e77e2": ["dpo=null", "kto={}", "annotate.kind=single"],
    "fd5a99030d37": ["rounds=3", "dpo=null", "ppo={}", "reward.model={held_out: 0.2}"],
    "bbbec1620b63": [
        *("dpo=null", "annotate=null", "grpo={}"),
        "reward={functions: [{path: 'score.py:score'}, {type: length, high: 20, unit: words}]}",
    ],
    "d3ad0a996321": ["dpo=null", "best_of_n={}", "reward.model={}"],
    "ca1624afee29": ["sft=null", "rounds=2"],
    "ddac9e90317c": [
        "rollouts.mixture=[{checkpoint: parent, share: 0.5},{checkpoint: sft, share: 0.5}]",
        "rounds=3",
    ],
    "c987d61cbbf0": ["annotate.gold={path: gold.jsonl}", "annotate.suggest={path: 'score.py:score'}"],
}
"""What the keys of a plan were made of, files apart, as the code of November 2026 planned it → the recipe's changes."""


def as_before(
    stage: str, inputs: dict[str, str], settings: dict[str, Any]
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """A stage as it was called in November 2026: what `align.pipeline.migration` does, backwards."""

    def back(given: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        return {{new: old for old, new in names.items()}.get(name, name): value for name, value in given.items()}

    name = stage.rpartition("/")[2]
    inputs = back(inputs, migration.INPUTS.get(name, {}))
    old = {f"{n}/{now}": f"{n}/{before}" for n in range(9) for before, now in migration.STAGES.items()}
    settings = {key: back(value, KEYS[key]) if key in KEYS else value for key, value in settings.items()}
    return old.get(stage, stage), {key: old.get(ref, ref) for key, ref in inputs.items()}, settings


@pytest.mark.parametrize("before", BEGUN_BEFORE)
def test_a_run_begun_before_goes_on_under_its_keys(folder: Path, before: str) -> None:
    recipe = recipe_of(folder, *BEGUN_BEFORE[before])
    steps = make_plan(recipe, Fingerprints(folder / "fingerprints.json"))
    made_of: list[Any] = []
    for step in steps:
        if isinstance(step, Wait):
            made_of.append(["wait", str(step.ref), as_before(str(step.tasks), {}, {})[0]])
        else:
            inputs = {name: str(ref) for name, ref in step.inputs.items()}
            stage, inputs, settings = as_before(str(step.ref), inputs, dict(step.settings))
            made_of.append([stage, step.declared.version, inputs, settings])
    assert content_id(json.loads(json.dumps(made_of, default=str)))[:12] == before
