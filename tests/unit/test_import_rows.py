"""Judgements in rows of your own: what each field means, and what becomes of rows that cannot be used."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from align.errors import AlignError, ConfigError, DataError
from align.labelling.outside.load import Imported, load_judgements
from align.types import Judgement, Task, candidate_id, judgement_id, prompt_id, task_id, to_table
from annotation.crowd.evidence import gather
from annotation.crowd.reading import read_judgements, read_tasks
from tests.loop import write_jsonl

BASE = {"prompt": "Hi", "answers": ["Hello!", "What?"], "annotator": "kim"}
PROMPT = prompt_id([{"role": "user", "content": "Hi"}])


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Imported:
    path = folder / "said.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_judgements(path, **options)


def preferred(found: Imported) -> list[str]:
    """The text of the answer that each judgement prefers, or the outcome."""
    tasks = {task.id: task for task in found.tasks}
    return [
        tasks[j.task_id].texts["ab".index(j.outcome)] if j.outcome in ("a", "b") else j.outcome
        for j in found.judgements
    ]


def test_ids_are_those_of_content_and_the_order_is_canonical(tmp_path: Path) -> None:
    found = load(tmp_path, BASE | {"outcome": "a", "strength": 2, "flags": ["b:wrong"], "time": "2026-11-02T10:00:00Z"})
    [task], [judgement] = found.tasks, found.judgements
    ids = {text: candidate_id(PROMPT, text, "given") for text in ("Hello!", "What?")}
    first, second = sorted(ids, key=ids.__getitem__)
    assert task == Task(
        id=task_id("pair", PROMPT, list(ids.values()), "train", 0, 0),
        kind="pair",
        round=0,
        purpose="train",
        repeat=0,
        prompt_id=PROMPT,
        messages=[{"role": "user", "content": "Hi"}],
        candidates=[ids[first], ids[second]],
        texts=[first, second],
        shown=[0, 1],
        wanted=1,
    )
    letters = {first: "a", second: "b"}
    assert judgement == Judgement(
        id=judgement_id(task.id, "kim", 0),
        task_id=task.id,
        kind="pair",
        annotator="kim",
        revision=0,
        outcome=letters["Hello!"],
        strength=2,
        flags=[f"{letters['What?']}:wrong"],
        time="2026-11-02T10:00:00Z",
    )
    turned = load(
        tmp_path, BASE | {"answers": ["What?", "Hello!"], "outcome": "b", "strength": 2, "flags": ["a:wrong"]}
    )
    assert [(j.id, j.outcome, j.flags) for j in turned.judgements] == [
        (judgement.id, judgement.outcome, judgement.flags)
    ]


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({"outcome": "a"}, "Hello!"),
        ({"outcome": "B is better"}, "What?"),
        ({"winner": "model_a"}, "Hello!"),
        ({"winner": "tie (bothbad)"}, "both_bad"),
        ({"preference": "Tie"}, "tie"),
        ({"choice": "second"}, "What?"),
        ({"outcome": "skipped"}, "skipped"),
        ({"outcome": "left", "shown": [1, 0]}, "What?"),
        ({"winner": "gpt", "models": ["llama", "gpt"]}, "What?"),
        ({"outcome": "a", "kind": "math", "round": "first", "task_id": 7}, "Hello!"),
        ({"outcome": "b", "shown": [1, 0]}, "What?"),
    ],
)
def test_what_a_label_of_a_pair_means(tmp_path: Path, said: dict[str, Any], means: str) -> None:
    assert preferred(load(tmp_path, BASE | said)) == [means]


@pytest.mark.parametrize("said", [{"outcome": "left"}, {"outcome": "1"}, {"outcome": 1}, {"outcome": "neither"}])
def test_a_label_that_can_mean_two_things_is_asked_about(tmp_path: Path, said: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"said.jsonl:1: unknown outcome: .* \(--outcome VALUE=a\|b\|tie"):
        load(tmp_path, BASE | said)
    assert preferred(load(tmp_path, BASE | said, outcomes={str(said["outcome"]): "b"})) == ["What?"]


def test_other_kinds_and_other_fields(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        BASE | {"answers": ["x", "y", "z"], "ranking": [3, 1, 3]},
        BASE | {"answers": None, "answer": "x", "label": False},
        BASE | {"answers": ["w"], "ratings": {"helpful": 5, "brief": 1}},
        BASE | {"answers": ["x", "y"], "rating": [2, 4]},
        {"prompt": "Hi", "chosen": "x", "rejected": "y", "annotator": 7},
        {
            "conversation_a": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}],
            "conversation_b": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "z"}],
            "model_a": "m1",
            "model_b": "m2",
            "winner": "model_b",
            "judge": "lee",
            "tstamp": 0,
        },
    )
    assert (found.dropped, found.report["ignored"]) == ([], {})
    assert {task.prompt_id for task in found.tasks} == {PROMPT}
    tasks = {task.id: task for task in found.tasks}
    by_kind = {j.kind: j for j in found.judgements if j.kind in ("rank", "single")}
    rank = by_kind["rank"]
    assert dict(zip(tasks[rank.task_id].texts, rank.ranking or [], strict=True)) == {"x": 2, "y": 1, "z": 2}
    assert by_kind["single"].outcome == "bad"
    [rated] = [j.ratings for j in found.judgements if len(j.ratings or ()) == 2]
    assert rated == [{"criterion": "helpful", "score": 5}, {"criterion": "brief", "score": 1}]
    each = {tasks[j.task_id].texts[0]: j.ratings for j in found.judgements if j.ratings and len(j.ratings) == 1}
    assert each == {"y": [{"criterion": "quality", "score": 4}], "x": [{"criterion": "quality", "score": 2}]}
    pairs = {
        j.annotator: (tasks[j.task_id].texts["ab".index(j.outcome)], j.time)
        for j in found.judgements
        if j.kind == "pair"
    }
    assert pairs == {"7": ("x", None), "lee": ("z", "1970-01-01T00:00:00+00:00")}
    assert candidate_id(PROMPT, "z", "m2") in {c for task in found.tasks for c in task.candidates}


def test_sides_are_kept_where_they_are_known_and_agreement_is_that_of_both_orders(tmp_path: Path) -> None:
    rows = [BASE | {"outcome": "a", "shown": [0, 1]}, BASE | {"outcome": "a", "shown": [1, 0], "annotator": "lee"}]
    found = load(tmp_path, *rows)
    assert sorted((t.repeat, t.shown) for t in found.tasks) == [(0, [0, 1]), (1, [1, 0])]
    assert {tuple(t.candidates) for t in found.tasks} == {tuple(found.tasks[0].candidates)}
    by_task = {t.id: t for t in found.tasks}
    lefts = {j.annotator: by_task[j.task_id].texts[by_task[j.task_id].shown[0]] for j in found.judgements}
    assert lefts == {"kim": "Hello!", "lee": "What?"}
    assert found.report["sides_known"] == 2


def test_one_word_for_each_person_and_task(tmp_path: Path) -> None:
    early, late = {"time": "2026-01-01T00:00:00Z"}, {"time": "2026-01-01T00:00:00.5+00:00"}
    other = BASE | {"annotator": "lee"}
    third = BASE | {"annotator": "max"}
    found = load(
        tmp_path,
        BASE | {"outcome": "b"} | late,
        BASE | {"outcome": "a"} | early,
        other | {"outcome": "a"},
        other | {"outcome": "a"},
        other | {"outcome": "a", "prompt": "Bye"},
        third | {"outcome": "a"},
        third | {"outcome": "tie"},
        *({"prompt": f"p{n}", "chosen": "x", "rejected": "y", "annotator": "kim"} for n in range(3)),
    )
    assert len(found.judgements) == 6
    assert {j.annotator for j in found.judgements} == {"kim", "lee"}, "nobody can say which of max's words is the later"
    mine = [j for j in found.judgements if j.annotator == "kim" and j.time]
    assert [j.time for j in mine] == [late["time"]]
    assert [(row.where, row.reason) for row in found.dropped] == [
        ("said.jsonl:2", "superseded: 'kim' says something else later, in said.jsonl:1"),
        ("said.jsonl:4", "duplicate: the same word as said.jsonl:3"),
        *(
            (
                f"said.jsonl:{n}",
                "contradiction: 'max' says different things of one task in said.jsonl:6, said.jsonl:7, "
                "and no time says which is later",
            )
            for n in (6, 7)
        ),
    ]


def test_whoever_names_nobody_is_asked_for(tmp_path: Path) -> None:
    nobody = {"prompt": "Hi", "chosen": "x", "rejected": "y"}
    with pytest.raises(DataError, match=r"no annotator: .* \(--annotator NAME says it for all\)"):
        load(tmp_path, nobody)
    assert [j.annotator for j in load(tmp_path, nobody, annotator="unknown").judgements] == ["unknown"]
    mixed = load(tmp_path, nobody, nobody | {"prompt": "Bye", "annotator": "kim"})
    assert [j.annotator for j in mixed.judgements] == ["kim"]
    assert [row.where for row in mixed.dropped] == ["said.jsonl:1"]


def test_scales(tmp_path: Path) -> None:
    one = {"prompt": "Hi", "annotator": "kim"}
    rows = [one | {"answer": f"x{n}", "rating": n} for n in range(11)]
    with pytest.raises(ConfigError, match=r"said.jsonl:1: the rating of 'quality' is 0; --scale LOW:HIGH says"):
        load(tmp_path, *rows)
    found = load(tmp_path, *rows, scale=(0, 10))
    texts = {task.id: task.texts[0] for task in found.tasks}
    scores = {texts[j.task_id]: j.ratings[0]["score"] for j in found.judgements if j.ratings}
    assert [scores[f"x{n}"] for n in range(11)] == [1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"outcome": "a", "answers": ["x", "x "]}, "no difference: answers 1 and 2 read the same"),
        ({"outcome": "a", "answers": ["x", "y", "z"]}, "other content: one label for 3 answers"),
        ({"ranking": [1, 2], "answers": [*"abcde"]}, "too many answers: 5 answers are judged together"),
        ({"ranking": [1]}, "not a ranking: .1. has 1 ranks for 2 answers"),
        ({"outcome": "a", "shown": [0, 0]}, "other content: `shown` is"),
        ({"outcome": "a", "time": "yesterday"}, "not a time: 'yesterday'"),
        ({"outcome": "a", "flags": ["c:wrong"]}, "unknown flag"),
        ({"outcome": "a", "strength": 4}, "out of range: `strength` is 4"),
        ({"outcome": "a", "annotator": ["kim"]}, "no annotator: the annotator is"),
        ({"outcome": "a", "task_id": "0" * 32, "kind": "pair"}, "missing field: a row with `task_id`"),
        (
            {"outcome": "a", "task_id": "0" * 32, "kind": "pair", "candidates": ["x", "y"]},
            "other content: `task_id` is not",
        ),
        ({"kind": "rank", "ranking": [1, 1], "answers": ["x"]}, "other content: a rank cannot be about 1 answers"),
        ({"outcome": "a", "kind": "pair", "purpose": "fun"}, "unknown purpose: 'fun' is none of train"),
        ({}, "missing field: needs `outcome`"),
        ({"outcome": "a", "prompt": ""}, "empty: `prompt` is ''"),
    ],
)
def test_a_bad_row_is_dropped_with_its_place_and_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    good = BASE | {"prompt": "Bye", "outcome": "a"}
    found = load(tmp_path, good, BASE | row)
    assert len(found.judgements) == 1
    assert [(d.what, d.where) for d in found.dropped] == [("judgement", "said.jsonl:2")]
    assert re.match(reason, found.dropped[0].reason)
    with pytest.raises(DataError, match=r"1 of 1 judgements cannot be used, the first: said.jsonl:1: "):
        load(tmp_path, BASE | row)


def test_what_two_fields_say_is_asked_about(tmp_path: Path) -> None:
    both = BASE | {"outcome": "a", "ranking": [2, 1]}
    with pytest.raises(ConfigError, match=r"said.jsonl:1: `outcome` and `ranking` both say .*; --question FIELD"):
        load(tmp_path, both)
    assert [j.kind for j in load(tmp_path, both, question="ranking").judgements] == ["rank"]
    two = {"prompt": "Hi", "annotator": "kim", "outcome": "a", "answer_a": "x", "answer_b": "y"}
    two |= {"output_a": "v", "output_b": "w"}
    with pytest.raises(
        ConfigError, match=r"`answer_a`, `answer_b` and `output_a`, `output_b` can all be the answers; --ans"
    ):
        load(tmp_path, two)
    found = load(tmp_path, two, answers=("output_b", "output_a"))
    assert preferred(found) == ["v"]
    assert found.report["ignored"] == {"answer_a": 1, "answer_b": 1}


def test_csv(tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_text(
        'prompt,answers,outcome,annotator,shown,mood\n"Hi","[""x"", ""y""]",b,007,"[1, 0]",\n"Bye, you","[""x"", ""y""]",tie,kim,,\n',
        encoding="utf-8",
    )
    found = load_judgements(tmp_path / "said.csv")
    assert sorted((j.annotator, j.outcome == "tie") for j in found.judgements) == [("007", False), ("kim", True)]
    assert (found.report["ignored"], found.report["sides_known"]) == ({}, 1)
    long = "x" * 200_000
    (tmp_path / "long.csv").write_text(
        f"prompt,answer_a,answer_b,outcome,annotator\n{long},x,y,b,kim\n", encoding="utf-8"
    )
    assert preferred(load_judgements(tmp_path / "long.csv")) == ["y"]
    (tmp_path / "bad.csv").write_text("prompt,answers\nHi\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"bad.csv:2: the line has another number of cells than the header"):
        load_judgements(tmp_path / "bad.csv")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text, sentence in (
        ("a.json", "[1]", r"a.json:1: the entry holds int, not an object"),
        ("b.json", '[{"prompt": "Hi"', r"b.json: the file is not JSON"),
        ("c.json", "[]", r"c.json: the file has no rows"),
        ("d.txt", "x", r"cannot read the format '.txt'"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=sentence):
            load_judgements(tmp_path / name)
    (tmp_path / "e.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"e.parquet: this is not a readable Parquet file"):
        load_judgements(tmp_path / "e.parquet")
    (tmp_path / "f.jsonl").write_text(json.dumps(BASE | {"outcome": "a"}) + '\n{"prompt": "Hi', encoding="utf-8")
    with pytest.raises(DataError, match=r"f.jsonl:2: the line is not JSON"):
        load_judgements(tmp_path / "f.jsonl")
    with pytest.raises(DataError, match=r"there is no such file|cannot be read"):
        load_judgements(tmp_path / "none.json")
    write_jsonl(tmp_path / "mixed.jsonl", [BASE | {"outcome": "a"}, {"x.responses": [], "id": "1"}])
    with pytest.raises(ConfigError, match=r"rows of rows \(mixed.jsonl:1\) and argilla \(mixed.jsonl:2\); --format"):
        load_judgements(tmp_path / "mixed.jsonl")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from(["", "a", "b", "tie", "left", "Hi", "\ud800", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "value", "rank", "criterion", "score", "role", "content"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FIELDS = "prompt answers answer_a answer_b annotator outcome ranking rating ratings label chosen rejected kind task_id"
FIELDS += (
    " candidates shown strength flags time seconds models round purpose repeat revision edit reason name scale items"
)


def hostile(names: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    plain = {"prompt": "Hi", "answers": ["x", "y"], "annotator": "kim", "outcome": "a"}
    any_row = st.dictionaries(st.sampled_from(names.split()), json_values, max_size=6)
    return st.lists(any_row | any_row.map(lambda row: plain | row), min_size=1, max_size=3)


def check_hostile(folder: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    """Rows or one sentence."""
    try:
        found = load(folder, *rows, annotator="unknown", **options)
    except AlignError as error:
        assert str(error).count("\n") == 0 and len(str(error)) < 700
        return
    assert all(row.where.startswith("said.jsonl:") and ": " in row.reason for row in found.dropped)
    asked, _ = read_tasks(to_table(Task, found.tasks))
    gather(asked, read_judgements(to_table(Judgement, found.judgements), asked)[0])  # what the compiler refuses


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[BASE | {"outcome": "a", "models": ["", None]}])
@example(rows=[BASE | {"kind": "single", "outcome": "a"}])
@example(rows=[BASE | {"outcome": "a", "time": 1e300}])
@given(rows=hostile(FIELDS))
def test_hostile_rows_give_rows_or_one_sentence(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    check_hostile(tmp_path, rows)


@pytest.mark.full
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile(FIELDS))
def test_hostile_rows_for_long(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    check_hostile(tmp_path, rows)


@pytest.mark.parametrize("cut", range(1, 90, 11))
def test_a_truncated_file_is_one_sentence(tmp_path: Path, cut: int) -> None:
    text = json.dumps([BASE | {"outcome": "a"}])
    (tmp_path / "said.json").write_text(text[: len(text) - cut], encoding="utf-8")
    with pytest.raises(DataError, match=r"said.json: the file is not JSON"):
        load_judgements(tmp_path / "said.json")
