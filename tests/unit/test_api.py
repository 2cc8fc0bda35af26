"""The public API: what `align` offers, quickly imported; what its functions take and refuse; the page about it."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import align
from align.api.document import GROUPS, with_reference
from align.api.training import _trained
from align.data.preferences import GIVEN
from align.errors import AlignError, ConfigError, DataError
from align.sampled import TOKENS
from align.store import read_json, read_rows, write_table
from align.types import as_dict, candidate_id
from annotation.backend import Answer, Submitted
from annotation.form import form_of
from annotation.memory import MemoryBackend
from annotation.tasks import make_tasks
from reward.functions import in_memory
from tests.labelling import judge, make_candidate, make_prompt, world
from tests.loop import write_jsonl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FUNCTIONS = [name for name in align.__all__ if inspect.isfunction(getattr(align, name))]

MEASURE = """
import sys, time
began = time.perf_counter()
import align
took = time.perf_counter() - began
heavy = {"torch", "transformers", "trl", "pyarrow", "pydantic", "numpy", "argilla", "datasets"} & set(sys.modules)
align.load_recipe, align.train_dpo, align.Dpo, align.evaluate, align.Scorer
heavy |= {"torch", "transformers", "trl", "vllm"} & set(sys.modules)
print(took, *sorted(heavy))
"""


def test_the_import_is_quick_and_light_and_so_is_asking_for_a_function() -> None:
    """Fifty milliseconds, the quickest of five: other work may stop any one of them."""
    found = [subprocess.check_output([sys.executable, "-c", MEASURE], text=True).split() for _ in range(5)]
    assert [heavy for _, *heavy in found] == [[]] * 5
    assert min(float(took) for took, *_ in found) < 0.05


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse((ROOT / "align" / "__init__.py").read_text(encoding="utf-8"))
    seen = [
        (alias.name, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(seen) == sorted((name, home) for home, names in align._HOMES.items() for name in names.split())
    assert sorted(name for name, _ in seen) == sorted(align.__all__)
    assert all(getattr(align, name) is not None for name in align.__all__)
    assert set(align.__all__) < set(dir(align)), "a notebook completes them"
    with pytest.raises(AttributeError, match="module 'align' has no attribute 'train_dpp'"):
        align.train_dpp  # type: ignore[attr-defined]  # noqa: B018


def test_the_seams_are_importable_from_their_packages_too() -> None:
    import annotation
    import reward
    import rollouts

    assert (rollouts.Generator, annotation.AnnotationBackend, reward.Scorer) == (
        align.Generator,
        align.AnnotationBackend,
        align.Scorer,
    )


@pytest.mark.parametrize("package", ["align", "annotation", "reward", "rollouts"])
def test_types_go_with_the_packages(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_at_most_eight_parameters_and_says_what_it_raises_or_gives(name: str) -> None:
    function = getattr(align, name)
    assert len(inspect.signature(function).parameters) <= 8
    assert len(inspect.getdoc(function) or "") > 60


def test_the_page_has_every_name_as_it_is() -> None:
    assert with_reference(PAGE) == PAGE, "`python -m align.api.document docs/api.md` writes it again"
    told = {name for names in GROUPS.values() for name in names.split()}
    settings = PAGE.split("### Settings", 1)[1]
    assert set(align.__all__) - told == {name for name in align.__all__ if f"`{name}`" in settings}


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_examples_are_made_of_public_names(page: str) -> None:
    examples = re.findall(r"```python\n(import .*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 1
    called = {
        (node.func.attr, tuple(keyword.arg for keyword in node.keywords if keyword.arg))
        for node in ast.walk(ast.parse(examples[0]))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("align.")
    }
    assert len(called) >= 5
    for name, keywords in called - {("fresh", ())}:
        assert name in align.__all__ and set(keywords) <= inspect.signature(getattr(align, name)).parameters.keys(), (
            name
        )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"seed": -1}, "Compute.seed: must be from 0 to 4294967295, found -1"),
        ({"dtype": "float16"}, "Compute.dtype: must be float32 or bfloat16, found 'float16'"),
        ({"threads": 0}, "Compute.threads: must be at least 1, found 0; leave it out for all cores"),
        ({"report_to": ("wand",)}, "Compute.report_to: 'wand' is no tracker; TRL has "),
    ],
)
def test_compute_refuses_what_cannot_be_meant(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        align.Compute(**given)
    assert str(caught.value).startswith(says)


def test_workspaces_within_a_workspace_share_nothing() -> None:
    whole = align.Workspace("runs/mine", work="/scratch")
    assert whole.at("policy_1") == align.Workspace(Path("runs/mine/policy_1"), work=Path("/scratch/policy_1"))
    assert align.Workspace("a").at("b") == align.Workspace(Path("a/b"))
    one, other = (align.Workspace.fresh("runs/mine").out for _ in range(2))
    assert one != other and str(one).startswith("runs/mine-")


def test_seeds_are_those_of_a_run() -> None:
    from align.ids import seed_for

    assert align.Compute(seed=3).seeded("rollouts 1").seed == seed_for("3 rollouts 1") % 2**31


def test_a_recipe_may_be_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "q"}])
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    given: dict[str, Any] = {
        "name": "mine",
        "model": {"path": "owner/name"},
        "prompts": {"path": Path("prompts.jsonl")},
        "preferences": {"from": "pairs.jsonl"},
    }
    loaded = align.load_recipe(given, ["dpo.beta=0.3"])
    assert (loaded.recipe.dpo and loaded.recipe.dpo.beta, loaded.folder) == (0.3, tmp_path)
    assert loaded.recipe.prompts.path == tmp_path / "prompts.jsonl"
    assert given.keys() == {"name", "model", "prompts", "preferences"}, "the caller's own stays as it is"
    assert align.load_recipe(loaded) is loaded
    with pytest.raises(ConfigError, match="overrides: this recipe is loaded already; load it with them"):
        align.load_recipe(loaded, ["rounds=2"])
    with pytest.raises(ConfigError, match=r"did you mean `?model"):
        align.load_recipe({**given, "modle": 1})
    with pytest.raises(
        ConfigError, match="this does sft, dpo with a judge of type function in one process; the recipe has"
    ):
        align.require_sections(loaded.recipe, "sft", "dpo")


def test_held_out_prompts_are_kept_out_of_whatever_is_loaded(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"question {n}"} for n in range(4)])
    test = align.load_prompts(tmp_path / "prompts.jsonl")[:1]
    rows = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(3)]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    write_jsonl(tmp_path / "shown.jsonl", [{"prompt": row["prompt"], "completion": "yes"} for row in rows])
    write_jsonl(
        tmp_path / "binary.jsonl", [{"prompt": row["prompt"], "completion": "yes", "label": True} for row in rows]
    )
    found = (
        align.load_preferences(tmp_path / "pairs.jsonl", held_out=test),
        align.load_demonstrations(tmp_path / "shown.jsonl", held_out=test),
        align.load_binary(tmp_path / "binary.jsonl", held_out=test),
    )
    assert [len(rows) for rows in found] == [2, 2, 2]
    assert [rows.dropped[0].reason for rows in found] == ["held out: the prompt is used for evaluation"] * 3
    assert len(align.load_preferences(tmp_path / "pairs.jsonl")) == 3


def test_a_section_brings_its_mixture(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "shown.jsonl", [{"prompt": f"q{n}", "completion": "yes"} for n in range(6)])
    write_jsonl(tmp_path / "edits.jsonl", [{"prompt": f"e{n}", "completion": "better"} for n in range(3)])
    mix = [{"path": tmp_path / "edits.jsonl", "share": 0.25}]
    section = align.Sft.model_validate({"demonstrations": tmp_path / "shown.jsonl", "mix": mix})
    answers = [row.answer for row in align.load_demonstrations(section, seed=1)]
    assert answers == ["yes"] * 6 + ["better"] * 2, "a quarter of eight"


def letters(messages: list[align.Message], answer: str) -> float | None:
    return None if answer == "unsaid" else float(len(answer))


def test_a_plain_function_is_a_scorer_whose_id_changes_with_its_code() -> None:
    def one(messages: list[align.Message], answer: str) -> float:
        return 1.0

    first = one

    def one(messages: list[align.Message], answer: str) -> float:  # type: ignore[no-redef]
        return 2.0

    def raised(by: float) -> Any:
        def score(messages: list[align.Message], answer: str) -> float:
            return by

        return score

    ids = [in_memory(function).id for function in (first, one, raised(1.0), raised(2.0), raised(2.0))]
    assert len(set(ids)) == 4 and ids[3] == ids[4]
    with pytest.raises(ConfigError, match=r"is called with \(messages, answer\)"):
        in_memory(lambda answer: 1.0)  # type: ignore[misc,arg-type]
    with pytest.raises(ConfigError, match="scorer: len is no function written in Python"):
        in_memory(len)  # type: ignore[arg-type]


def samples(texts: list[str], prompts: int) -> align.Samples:
    asked = [make_prompt(f"question {n}", "test") for n in range(prompts)]
    rows = [make_candidate(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
    return align.Samples(asked, rows, [])


def test_two_sets_of_answers_are_compared_with_an_interval(tmp_path: Path) -> None:
    ours, theirs = samples(["aaa", "aa", "a", "unsaid"], 4), samples(["a", "aa", "aaa", "a"], 4)
    found = align.evaluate(ours, theirs, scorer=letters, workspace=align.Workspace(tmp_path / "out"))
    assert found.win_rate is not None and found.win_rate.mean == 0.5
    counts = {name: found.metrics["win_rate"][name] for name in ("wins", "ties", "losses", "unscored")}
    assert counts == {"wins": 1, "ties": 1, "losses": 1, "unscored": 1}
    assert 0 <= found.win_rate.low < 0.5 < found.win_rate.high <= 1
    assert found.mean_score is not None and found.mean_score.mean == 2.0
    assert read_json(tmp_path / "out" / "result.json") == found.metrics
    assert str(align.Estimate(0.5, 0.25, 0.75)) == "0.50 [0.25, 0.75]"
    wider = align.evaluate(ours, theirs, scorer=letters, tie_width=2.5, workspace=align.Workspace(tmp_path / "wide"))
    assert wider.metrics["win_rate"]["ties"] == 3
    with pytest.raises(
        ConfigError, match=r"workspace.out: .* is there already; name another folder, or remove this one"
    ):
        align.evaluate(ours, scorer=letters, workspace=align.Workspace(tmp_path / "out"))


def test_answers_of_files_are_compared_as_those_of_a_program(tmp_path: Path) -> None:
    for name, words in (("ours", ["aaa", "aa"]), ("theirs", ["a", "a"])):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"prompt": f"q{n}", "text": text} for n, text in enumerate(words)])
    found = align.evaluate(
        tmp_path / "ours.jsonl",
        str(tmp_path / "theirs.jsonl"),
        scorer=letters,
        workspace=align.Workspace(tmp_path / "o"),
    )
    assert found.win_rate is not None and found.win_rate.mean == 1.0 and len(found.samples.candidates) == 2


def test_what_evaluate_cannot_mean(tmp_path: Path) -> None:
    ours, where = samples(["a"], 1), align.Workspace(tmp_path / "out")
    with pytest.raises(ConfigError, match="prompts: owner/name is a model, and there are no prompts"):
        align.evaluate("owner/name", scorer=letters, workspace=where)
    with pytest.raises(ConfigError, match="prompts: there is no model to answer prompts"):
        align.evaluate(ours, prompts=ours.prompts, scorer=letters, workspace=where)
    with pytest.raises(ConfigError, match="config: there is no model to answer as it says"):
        align.evaluate(ours, config=align.Evaluate(), scorer=letters, workspace=where)
    assert not (tmp_path / "out").exists()


def test_what_a_scorer_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(messages, answer):\n    return 3.0\n")
    scorer = align.load_scorer(f"{tmp_path}/score.py:score")
    assert isinstance(scorer, align.Scorer) and scorer.score([[]], ["a"]) == [3.0]
    assert align.load_scorer("{type: length, low: 1, high: 3, margin: 2}").score([[]], ["abcd"]) != [None]
    with pytest.raises(ConfigError, match="only an ensemble of reward models has a bound"):
        align.load_scorer(f"{tmp_path}/score.py:score", bound=1.0)
    with pytest.raises(ConfigError, match=r"a model goes with a recipe's `reward` alone"):
        align.load_scorer(f"{tmp_path}/score.py:score", model=tmp_path)
    with pytest.raises(ConfigError, match="neither a folder nor"):
        align.load_scorer("nothing")


class Notebook(MemoryBackend):
    """`answers` are given one by one, each time that somebody looks."""

    def __init__(self, answers: list[str]) -> None:
        super().__init__()
        self.answers = answers
        self.ensure_annotator("ann")

    def version(self) -> str:
        answered = {said.task_id for said in super().collect()}
        waiting = [id for id in self.tasks if id not in answered]
        if waiting and self.answers:
            self.answer("ann", [Answer(waiting[0], self.answers.pop(0))])
        return super().version()


class Silent:
    """An AnnotationBackend in which nobody can be simulated."""

    url = "nowhere"

    def submit(self, tasks: object) -> Submitted:
        raise AssertionError(tasks)

    version = progress = collect = people = admit = close = close_others = given_in_others = submit


def test_a_labelling_through_a_backend_of_ones_own_goes_on_and_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, candidates = world(3)
    monkeypatch.setattr("align.labelling.session.POLL_SECONDS", 0.0)
    heard: list[str] = []
    backend = Notebook(["a", "a"])

    def tell(waiting: object) -> None:
        heard.append(str(waiting))
        if heard[-1].startswith("2 of 3"):
            raise KeyboardInterrupt  # somebody goes home

    where: dict[str, Any] = {"workspace": align.Workspace(tmp_path / "labels"), "backend": backend, "tell": tell}
    with pytest.raises(KeyboardInterrupt):
        align.ask(prompts, candidates, align.Annotate(tasks=3), **where)
    backend.answers.append("b")
    done = align.ask(prompts, candidates, align.Annotate(tasks=3), **where)
    assert heard == ["1 of 3 answers are in; label at memory", "2 of 3 answers are in; label at memory"]
    assert sorted(said.outcome for said in done.judgements) == ["a", "a", "b"] and done.sides_drawn
    assert len(backend.tasks) == 3 == len(list(read_rows(tmp_path / "labels" / "journal.jsonl"))) - 1, "nothing twice"
    labels = align.compile_labels(done)
    assert sorted(pair.prompt_id for pair in labels.preferences) == sorted(prompt.id for prompt in prompts)
    assert all(0.5 < pair.target <= 1 and 0 < pair.weight <= 1 for pair in labels.preferences)
    assert labels.annotators.keys() == {"ann"}
    with pytest.raises(ConfigError, match="is there already, and was not made from these candidates"):
        align.ask(prompts, candidates, align.Annotate(tasks=2), **where)


def test_personas_need_a_backend_in_which_somebody_can_be_simulated(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(messages, answer):\n    return 1.0\n")
    by = {"type": "personas", "utility": f"{tmp_path}/score.py:score", "personas": [{"name": "ann"}]}
    prompts, candidates = world(2)
    with pytest.raises(ConfigError, match="backend: nobody can be simulated in this backend"):
        align.ask(
            prompts, candidates, align.Annotate.model_validate({"by": by}), backend=Silent(),
            workspace=align.Workspace(tmp_path / "labels"),
        )  # fmt: skip


def test_sides_that_nobody_drew_are_not_taken_for_a_bias() -> None:
    """Two people always choose the left answer of forty: known to be drawn, that is a bias; else it may be right."""
    tasks, _ = make_tasks(*world(40), round=1, count=40, overlap=2, seed=0, form=form_of(align.Annotate()))
    said = [judge(task.id, name, "ab"[task.shown[0]]) for task in tasks for name in ("ann", "bob")]
    notes = {
        drawn: " ".join(align.compile_labels(align.Labelled(tasks, said, drawn), model="bradley_terry").notes)
        for drawn in (True, False)
    }
    assert align.Labelled(tasks, said).sides_drawn is False
    assert "were decided for the left answer" in notes[False] and "were decided for" not in notes[True]
    with pytest.raises(ConfigError, match="there is no model 'best'"):
        align.compile_labels(align.Labelled(tasks, said), model="best")


def test_nothing_to_train_on_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is not one row to train on"):
        align.train_dpo("owner/name", [], workspace=align.Workspace(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_training_goes_on_in_its_scratch_and_publishes_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`_trained` is the body of every training: the scratch outlives an error, another reward has one of its own."""
    monkeypatch.setattr("align.api.training.checkpoint_in", lambda place, model, compute, random: Path(model))
    seen: list[Any] = []

    def train(parent: Path, rows: Any, config: Any, **given: Any) -> dict[str, Any]:
        given["work"].mkdir(parents=True, exist_ok=True)
        step = given["work"] / "step"
        seen.append((given["seed"], given["threads"], step.is_file()))
        step.write_text("1")
        if len(seen) == 1:
            raise KeyError("killed")
        (given["out"] / "model").write_text("weights")
        return {"steps": 2}

    where, compute = align.Workspace(tmp_path / "out"), align.Compute(seed=5, threads=2)
    with pytest.raises(KeyError):
        _trained(train, "m", [1], None, where, compute, scratch="reward-a")
    assert not (tmp_path / "out").exists()
    done = _trained(train, "m", [1], None, where, compute, scratch="reward-a", why=lambda: {"unscored_reasons": {}})
    assert seen == [(5, 2, False), (5, 2, True)]
    assert done == align.Trained(tmp_path / "out", {"steps": 2, "unscored_reasons": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(AlignError, match="is there already"):
        _trained(train, "m", [1], None, where, compute)


def test_a_model_whose_type_is_not_what_is_computed_in_is_refused(tmp_path: Path) -> None:
    model = align.Model(path="owner/name", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"model\.dtype is bfloat16 and Compute\.dtype is float32"):
        align.import_model(model, workspace=align.Workspace(tmp_path / "out"))


def test_thoughts_that_a_recipe_hides_are_hidden_in_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the recipe acts in `align run` and in a program alike."""
    monkeypatch.setattr("align.labelling.session.POLL_SECONDS", 0.0)
    model = align.Model(path="owner/name", hide_thinking=["annotators", "loss"])
    with pytest.raises(ConfigError, match=r"model\.hide_thinking is \['annotators', 'loss'\] and Compute\."):
        align.import_model(model, workspace=align.Workspace(tmp_path / "out"))
    with pytest.raises(ConfigError, match="hidden from annotators and loss, found 'people'"):
        align.Compute(hide_thinking=("people",))  # type: ignore[arg-type]
    prompts, _ = world(1)
    answers = [make_candidate(prompts[0], f"<think>{said}</think>said {said}") for said in ("a", "b")]
    sessions, given = [], []
    for name, compute in (("hidden", align.Compute(hide_thinking=("annotators", "loss"))), ("shown", align.Compute())):
        where = align.Workspace(tmp_path / name)
        align.ask(prompts, answers, align.Annotate(tasks=1), backend=Notebook(["a"]), workspace=where, compute=compute)
        sessions.append(read_json(where.out / "session.json").get("hide_thinking", False))
        monkeypatch.setattr("align.api.training.checkpoint_in", lambda place, model, compute, random: Path(model))
        train = lambda parent, rows, config, **more: given.append(more.get("mask_thinking", False)) or {}  # noqa: E731
        _trained(train, "m", [1], None, align.Workspace(tmp_path / f"trained {name}"), compute)
    assert (sessions, given) == ([True, False], [True, False])


def test_a_program_trains_on_the_tokens_that_were_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one folder of answers or from the workspace that holds several; by the answers' ids and by those of files."""
    prompt = make_prompt("question", "train")
    drawn = []
    for name in ("rollouts_1", "rollouts_2"):
        (folder := tmp_path / "all" / name).mkdir(parents=True)
        drawn.append(answer := make_candidate(prompt, f"said in {name}"))
        write_jsonl(folder / "candidates.jsonl", [{**as_dict(answer), "messages": prompt.messages}])
        write_table(folder / "tokens.parquet", pa.Table.from_pylist([
            {"candidate": answer.id, "tokenizer": "t", "token_ids": [5, len(drawn)]}], schema=TOKENS))  # fmt: skip
    monkeypatch.setattr("align.api.training.checkpoint_in", lambda place, model, compute, random: Path(model))
    seen: list[Any] = []
    monkeypatch.setattr("align.train.dpo.train_dpo", lambda *given, **more: seen.append(more.get("tokens")) or {})
    for number, where in enumerate([align.Workspace(tmp_path / "all"), tmp_path / "all" / "rollouts_2", None]):
        align.train_dpo("m", [1], rollouts=where, workspace=align.Workspace(tmp_path / f"out {number}"))  # type: ignore[list-item]
    ids = [[c, candidate_id(prompt.id, text, GIVEN)] for c, text in [(d.id, d.text) for d in drawn]]
    both = {ids[0][0]: [5, 1], ids[1][0]: [5, 2], ids[0][1]: [5, 1], ids[1][1]: [5, 2]}
    assert {row["candidate"]: row["token_ids"] for row in seen[0].to_pylist()} == both
    assert {row["candidate"] for row in seen[1].to_pylist()} == set(ids[1])
    assert seen[2] is None
    with pytest.raises(DataError, match=r"there is no tokens\.parquet"):
        align.train_dpo("m", [1], rollouts=tmp_path, workspace=align.Workspace(tmp_path / "more"))  # type: ignore[list-item]
