"""Exports of Argilla and Label Studio, as their documentation and their code write them."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.errors import AlignError, ConfigError, DataError
from align.labelling.outside.load import Imported, load_judgements
from align.labelling.outside.words import FORMATS
from align.types import candidate_id, prompt_id

TIME = "2026-11-02T10:00:00"


def said(found: Imported) -> list[tuple[str, str, Any]]:
    """(annotator, prompt, what that person thinks): the preferred text, ranks and ratings by text."""
    tasks = {task.id: task for task in found.tasks}
    rows = []
    for j in found.judgements:
        task = tasks[j.task_id]
        meaning: Any = task.texts["ab".index(j.outcome)] if j.outcome in ("a", "b") else j.outcome
        if j.ranking is not None:
            meaning = dict(zip(task.texts, j.ranking, strict=True))
        if j.ratings is not None:
            meaning = {r["criterion"]: r["score"] for r in j.ratings}
        rows.append((j.annotator, task.messages[-1]["content"], meaning))
    return sorted(rows, key=lambda row: row[:2])


def load(folder: Path, rows: Any, **options: Any) -> Imported:
    path = folder / "export.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return load_judgements(path, **options)


def flat(n: int, responses: list[str], users: list[str], status: list[str], **more: Any) -> dict[str, Any]:
    row = {"id": str(n), "status": "completed", "_server_id": f"s{n}", "prompt": f"p{n}"}
    row |= {"response-1": f"one {n}", "response-2": f"two {n}", "source": "web"}
    row |= {"better.responses": responses, "better.responses.users": users, "better.responses.status": status}
    return row | {"better.suggestion": None, "better.suggestion.score": None, "better.suggestion.agent": None} | more


def test_argilla_on_the_hub(tmp_path: Path) -> None:
    """`to_datasets`, as `push_to_hub` writes it to Parquet."""
    rows = [
        flat(1, ["response-1", "Response 2"], ["u1", "u2"], ["submitted", "submitted"]),
        flat(2, ["tie", "response-1"], ["u1", "u2"], ["submitted", "discarded"]),
        flat(3, ["response-2", "response-1"], ["u1", "u2"], ["draft", "submitted"]),
        flat(4, [], [], []) | {"better.responses": None},
    ]
    for row, comment in zip(rows, ["because", "", "", None], strict=True):
        row |= {"comment.responses": [comment, None] if comment is not None else None}
        row |= {"comment.responses.users": ["u1", "u2"] if comment is not None else None}
        row |= {"comment.responses.status": ["submitted", "submitted"] if comment == "because" else None}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    found = load_judgements(tmp_path / "train.parquet")
    assert said(found) == [
        ("u1", "p1", "one 1"),
        ("u1", "p2", "tie"),
        ("u2", "p1", "two 1"),
        ("u2", "p2", "skipped"),
        ("u2", "p3", "one 3"),
    ]
    assert {j.annotator: j.reason for j in found.judgements if j.reason} == {"u1": "because"}
    report = found.report
    assert report["formats"] == {"train.parquet": "argilla"}
    assert report["ignored"] == {"source": 3}
    assert report["left_out"] == {"drafts, which say nothing yet": 1, "records that nobody answered": 1}
    assert (report["rows"], report["ties"], report["skips"], report["sides_known"]) == (4, 1, 1, 0)
    prompt = prompt_id([{"role": "user", "content": "p1"}])
    assert candidate_id(prompt, "one 1", "given") in {c for task in found.tasks for c in task.candidates}


def nested(n: int, **responses: Any) -> dict[str, Any]:
    """A record as the SDK's `to_json` writes it."""
    fields = {"prompt": f"p{n}", "answers_a": "x", "completion_a": f"one {n}", "completion_b": f"two {n}"}
    empty: dict[str, Any] = {"metadata": {}, "suggestions": {}, "vectors": {}, "status": "completed", "_server_id": "s"}
    return {"id": str(n), "fields": fields, "responses": responses} | empty


def test_argilla_by_the_sdk(tmp_path: Path) -> None:
    found = load(tmp_path, [nested(1, better=[{"value": "Completion B", "user_id": "u1"}])])
    assert said(found) == [("u1", "p1", "two 1")]
    [note] = found.report["left_out"]
    assert note.startswith("answers of which the export does not say whether they were submitted")


def test_argilla_s_sdk_loses_ranks(tmp_path: Path) -> None:
    """It keeps the names of a ranking in stored order, so the first one need not be the best."""
    record = nested(1, order=[{"value": ["completion_b", "completion_a"], "user_id": "u1"}])
    for options in ({}, {"question": "order"}):
        with pytest.raises(DataError, match="not a ranking: Argilla's SDK writes rankings without their ranks; export"):
            load(tmp_path, [record], **options)


def test_a_ranking_by_the_api(tmp_path: Path) -> None:
    ranks = [{"value": "completion_b", "rank": 1}, {"value": "completion_a", "rank": 2}]
    answer = {"user_id": "u1", "status": "submitted", "values": {"order": {"value": ranks}}, "updated_at": TIME}
    found = load(tmp_path, [nested(1) | {"responses": [answer]}])
    assert said(found) == [("u1", "p1", {"one 1": 2, "two 1": 1})]


def test_argilla_by_the_api(tmp_path: Path) -> None:
    def response(who: str, status: str, values: dict[str, Any] | None) -> dict[str, Any]:
        return {"id": "r", "user_id": who, "status": status, "values": values, "updated_at": TIME, "inserted_at": TIME}

    record = {
        "id": "s1",
        "external_id": "1",
        "status": "completed",
        "fields": {"instruction": "p1", "response": "only one"},
        "metadata": None,
        "responses": [
            response("u1", "submitted", {"helpful": {"value": 4}, "brief": {"value": 2}}),
            response("u2", "discarded", None),
            response("u3", "draft", {"helpful": {"value": 1}}),
        ],
    }
    found = load(tmp_path, {"items": [record], "total": 1})
    assert said(found) == [("u1", "p1", {"helpful": 4, "brief": 2}), ("u2", "p1", "skipped")]
    assert {j.time for j in found.judgements} == {f"{TIME}+00:00"}
    assert {j.kind for j in found.judgements} == {"rating"}, "a skip is of the kind that was asked"
    assert len(found.tasks) == 1


def test_two_questions_are_asked_about(tmp_path: Path) -> None:
    record = nested(1, better=[{"value": "completion_a", "user_id": "u1"}], stars=[{"value": 5, "user_id": "u1"}])
    with pytest.raises(ConfigError, match=r"export.json: `better`, `stars` can all be what counts; --question NAME"):
        load(tmp_path, [record])
    found = load(tmp_path, [record], question="better")
    assert said(found) == [("u1", "p1", "one 1")]
    assert found.report["ignored"] == {"answers_a": 1, "stars": 1}
    strange = nested(1, **{"a\nb" * 30: [{"value": 1, "user_id": "u1"}]}, better=[{"value": "tie", "user_id": "u1"}])
    with pytest.raises(ConfigError, match=r"^export.json: `better`, 'a\\nba[^\n]*… can all be what counts"):
        load(tmp_path, [strange])
    with pytest.raises(ConfigError, match=r"nobody answered a question 'other'; answered are: `better`, `stars`"):
        load(tmp_path, [record], question="other")


def test_a_label_that_says_nothing_of_itself(tmp_path: Path) -> None:
    rows = [nested(n, better=[{"value": "Option I", "user_id": "u1"}]) for n in range(3)]
    with pytest.raises(DataError, match=r"3 of 3 .* export.json:1: unknown outcome: 'Option I' \(--outcome VALUE="):
        load(tmp_path, rows)
    assert {row[2] for row in said(load(tmp_path, rows, outcomes={"Option I": "a"}))} == {"one 0", "one 1", "one 2"}


def annotated(data: dict[str, Any], *results: dict[str, Any], who: Any = 10, **more: Any) -> dict[str, Any]:
    """A task as Label Studio's JSON export has it, with one annotation."""
    annotation = {"id": 1001, "result": list(results), "was_cancelled": False, "ground_truth": False}
    annotation |= {"created_at": f"{TIME}.5Z", "updated_at": f"{TIME}.5Z", "lead_time": 4.5, "completed_by": who}
    return {"id": 1, "data": data, "annotations": [annotation | more], "predictions": [], "project": 83}


def result(kind: str, value: dict[str, Any], name: str = "q", to: str = "text1,text2") -> dict[str, Any]:
    return {"id": "Dx", "from_name": name, "to_name": to, "type": kind, "origin": "manual", "value": value}


PAIR = {"prompt": "Hi", "text1": "x", "text2": "y"}
LIST = {"prompt": "Hi", "items": [{"id": "b", "title": "B", "body": "text of b"}, {"id": "a", "html": "text of a"}]}


def test_label_studio_json(tmp_path: Path) -> None:
    tasks = [
        annotated(PAIR, result("pairwise", {"selected": "right"})),
        annotated(PAIR, result("pairwise", {"selected": "left"}), who={"id": 3, "email": "lee@example.org"}),
        annotated(PAIR, who=11, was_cancelled=True),
        annotated(PAIR, who=12),
    ]
    tasks[0]["predictions"] = [{"model_version": "m", "result": [result("pairwise", {"selected": "left"})]}]
    found = load(tmp_path, tasks)
    assert said(found) == [("10", "Hi", "y"), ("11", "Hi", "skipped"), ("lee@example.org", "Hi", "x")]
    [task] = {task.id: task for task in found.tasks if task.repeat == 0}.values()
    assert [task.texts[place] for place in task.shown] == ["x", "y"], "text1 stood left"
    assert [row.reason for row in found.dropped] == ["no answer: nothing was said to `q`, but to no field at all"]
    assert found.report["left_out"] == {"predictions of a model, which are nobody's judgement": 1}
    assert {(j.time, j.seconds) for j in found.judgements} == {(f"{TIME}.5Z", 4.5)}


def test_label_studio_tags_with_other_names(tmp_path: Path) -> None:
    task = annotated(PAIR, result("pairwise", {"selected": "left"}, to="t1,t2"))
    with pytest.raises(
        ConfigError, match=r"the tags 't1,t2' stood beside each other, and no fields are called so; --ans"
    ):
        load(tmp_path, [task])
    assert said(load(tmp_path, [task], answers=("text2", "text1"))) == [("10", "Hi", "y")]


def test_label_studio_rating_choices_and_ranker(tmp_path: Path) -> None:
    one = {"prompt": "Hi", "response": "x"}
    stars = annotated(one, result("rating", {"rating": 4}), result("textarea", {"text": ["short", "true"]}, "reason"))
    found = load(tmp_path, [stars])
    assert (said(found), found.judgements[0].reason) == ([("10", "Hi", {"q": 4})], "short\ntrue")
    binary = annotated(one, result("choices", {"choices": ["Thumbs down"]}))
    assert said(load(tmp_path, [binary])) == [("10", "Hi", "bad")]
    pair = annotated(PAIR, result("choices", {"choices": ["Text 2 is better"]}))
    assert said(load(tmp_path, [pair])) == [("10", "Hi", "y")]
    plain = annotated(LIST, result("ranker", {"ranker": ["a", "b"]}))
    assert said(load(tmp_path, [plain])) == [("10", "Hi", {"text of a": 1, "text of b": 2})]
    listed = annotated(LIST, result("ranker", {"ranker": {"_": ["b", "a"], "other": []}}))
    assert said(load(tmp_path, [listed])) == [("10", "Hi", {"text of a": 2, "text of b": 1})]
    buckets = annotated(LIST, result("ranker", {"ranker": {"good": ["b"], "bad": ["a"]}}))
    with pytest.raises(DataError, match="not a ranking: items stand in the buckets bad, good, and these have no order"):
        load(tmp_path, [buckets])
    short = annotated(LIST, result("ranker", {"ranker": ["a"]}))
    with pytest.raises(DataError, match="not a ranking: 1 of 2 answers have no rank"):
        load(tmp_path, [short])


def test_label_studio_json_min(tmp_path: Path) -> None:
    beside = {"id": 1, "annotator": 10, "annotation_id": 5, "created_at": TIME, "updated_at": TIME, "lead_time": 2.0}
    pair = PAIR | beside | {"pw": [{"selected": "left"}], "topic": "greeting"}
    with pytest.raises(
        ConfigError, match=r"export.json:1: JSON-MIN does not say which field stood left; --answers LEFT"
    ):
        load(tmp_path, [pair])
    found = load(tmp_path, [pair], answers=("text1", "text2"))
    assert (said(found), found.report["ignored"]) == ([("10", "Hi", "x")], {"topic": 1})
    choice = PAIR | beside | {"better": "text2", "topic": "greeting", "comment": "because"}
    found = load(tmp_path, [choice])
    assert (said(found), found.report["ignored"]) == ([("10", "Hi", "y")], {"topic": 1})
    assert found.judgements[0].reason == "because"
    stars = {"prompt": "Hi", "response": "x", "stars": [{"rating": 2}]} | beside | {"annotator": "lee@example.org"}
    assert said(load(tmp_path, [stars])) == [("lee@example.org", "Hi", {"stars": 2})]
    ranked = LIST | beside | {"rank": [{"ranker": ["a", "b"]}]}
    assert said(load(tmp_path, [ranked])) == [("10", "Hi", {"text of a": 1, "text of b": 2})]


TOOL_FIELDS = ["value", "rank", "user_id", "status", "values", "selected", "choices", "rating", "ranker", "text", "id"]
TOOL_FIELDS += ["result", "from_name", "to_name"]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 7)
    | st.sampled_from(["", "x", "left", "text1,text2", "submitted", "p"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(TOOL_FIELDS),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


BASES = [
    flat(1, ["response-1"], ["u1"], ["submitted"]),
    nested(1, better=[{"value": "completion_a", "user_id": "u1"}]),
    nested(1) | {"responses": [{"user_id": "u1", "status": "submitted", "values": {"q": {"value": "a"}}}]},
    nested(1) | {"fields": {"comparison": {"payload": "eyJraW5kIjoicGFpciJ9"}}, "responses": []},
    annotated(PAIR, result("pairwise", {"selected": "left"})),
    annotated(LIST, result("ranker", {"ranker": ["a", "b"]})),
    PAIR | {"better": "a"},
    PAIR | {"annotator": 10, "annotation_id": 5, "pw": "text1"},
]


def mutate_and_load(tmp_path: Path, base: dict[str, Any], data: st.DataObject) -> None:
    """Rows or one sentence."""
    row = json.loads(json.dumps(base))
    for _ in range(data.draw(st.integers(1, 2))):
        inside: Any = row
        while isinstance(inside, dict | list) and inside:
            name = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
            if not isinstance(inside[name], dict | list) or not inside[name] or data.draw(st.booleans()):
                inside[name] = data.draw(values)
                break
            inside = inside[name]
    try:
        found = load(tmp_path, [row], format=data.draw(st.sampled_from([None, None, *FORMATS])))
    except AlignError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        return
    assert all(dropped.where == "export.json:1" for dropped in found.dropped)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), data=st.data())
def test_hostile_exports_give_rows_or_one_sentence(tmp_path: Path, base: dict[str, Any], data: st.DataObject) -> None:
    mutate_and_load(tmp_path, base, data)


@pytest.mark.full
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(base=st.sampled_from(BASES), data=st.data())
def test_hostile_exports_for_long(tmp_path: Path, base: dict[str, Any], data: st.DataObject) -> None:
    mutate_and_load(tmp_path, base, data)


def test_every_example_in_the_docs_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    section = page.split("\n## Judgements\n")[1].split("\n## ")[0]
    rows, *exports = [block.split("```")[0] for block in section.split("```json\n")[1:]]
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    found = load_judgements(tmp_path / "rows.jsonl")
    assert (len(found.judgements), found.dropped, found.report["ignored"]) == (6, [], {})
    table = section.split("| field |")[1].split("\n\n")[0]
    fields = {name for line in rows.splitlines() for name in json.loads(line)}
    assert not {name for name in fields if f"`{name}`" not in table}
    told = []
    for number, text in enumerate(exports):
        (tmp_path / f"export{number}.json").write_text(text, encoding="utf-8")
        found = load_judgements(tmp_path / f"export{number}.json")
        assert (found.dropped, found.report["ignored"]) == ([], {})
        told.append((*found.report["formats"].values(), said(found)))
    assert told == [
        ("argilla", [("5f1c", "Hi", "Hello!"), ("77aa", "Hi", "tie")]),
        ("argilla", [("5f1c", "Hi", "What?")]),
        ("argilla", [("5f1c", "Hi", {"Hello!": 2, "What?": 1}), ("77aa", "Hi", "skipped")]),
        ("label-studio", [("10", "Hi", "Hello!")]),
        ("label-studio", [("10", "Hi", {"Hello!": 2, "What?": 1})]),
    ]


def test_every_kind_of_reason_is_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "files.md").read_text(encoding="utf-8")
    code = "".join(p.read_text(encoding="utf-8") for p in (root / "align" / "labelling" / "outside").glob("*.py"))
    kinds = set(re.findall(r'BadRowError\(\s*"([a-z ]+)"', code)) | set(re.findall(r'f?"([a-z ]+): ', code))
    assert len(kinds) > 15
    assert not {kind for kind in kinds - {"answered are"} if f"`{kind}`" not in page}


def test_responses_that_are_no_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"export.json:1: other content: `responses` is 1, not a list"):
        load(tmp_path, [nested(1) | {"responses": 1}], format="argilla")


def test_two_who_are_not_named_are_not_one(tmp_path: Path) -> None:
    """As exports of older versions have them: `user_id` is null for all."""
    answers = [{"value": "completion_a", "user_id": None}, {"value": "completion_b", "user_id": None}]
    reason = "contradiction: somebody who is not named answers `better` more than once"
    with pytest.raises(DataError, match=reason):
        load(tmp_path, [nested(1, better=answers)], annotator="unknown")
    with pytest.raises(DataError, match=reason):
        load(tmp_path, [flat(1, ["tie", "response-1"], [], ["submitted"] * 2)], annotator="unknown")
    assert said(load(tmp_path, [nested(1, better=answers[:1])], annotator="unknown")) == [("unknown", "p1", "one 1")]
    twice = annotated(PAIR, result("pairwise", {"selected": "left"}), result("pairwise", {"selected": "right"}))
    with pytest.raises(DataError, match="contradiction: an annotation has two results of 'q'"):
        load(tmp_path, [twice])


def test_a_file_in_which_nobody_says_anything(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"export.json: nobody says anything in it; docs/files.md lists the forms; --format says"
    ):
        load(tmp_path, [flat(1, [], [], [])])
    with pytest.raises(DataError, match="nobody says anything in it"):
        load(tmp_path, [PAIR | {"annotator": "kim", "outcome": "a"}], format="argilla")


def ours(n: int, **more: Any) -> dict[str, Any]:
    """A record of our labelling page: `right` stands right on the screen, and is the first in canonical order."""
    shown = {
        "kind": "pair",
        "places": 2,
        "messages": [{"role": "user", "content": f"p{n}"}],
        "answers": ["left", "right"],
    }
    packed = base64.b64encode(json.dumps(shown).encode()).decode()
    values = {"preference": {"value": "right"}, "flags": {"value": ["A:wrong"]}, "strength": {"value": "far"}}
    answer = {"user_id": "u1", "status": "submitted", "updated_at": TIME, "values": values}
    metadata = {"shown": "1,0", "purpose": "train", "repeat": 0, "item": "x", "priority": 0.0}
    record = {"id": "r", "external_id": f"{n:032x}", "fields": {"comparison": {"payload": packed, "words": "x"}}}
    return record | {"metadata": metadata, "responses": [answer]} | more


def test_records_of_our_page_keep_their_task_and_its_order(tmp_path: Path) -> None:
    found = load(tmp_path, [ours(7)])
    [task], [judgement] = found.tasks, found.judgements
    assert (task.id, task.texts, task.shown) == (f"{7:032x}", ["right", "left"], [1, 0])
    assert (judgement.outcome, judgement.flags, judgement.strength) == ("a", ["b:wrong"], 3)
    without = load(tmp_path, [ours(7, metadata=None)])
    assert without.tasks[0].id != task.id
    assert said(without) == [("u1", "p7", "right")]
    blind = load(tmp_path, [ours(7, metadata={"shown": "0,1", "purpose": "eval", "repeat": 0})])
    assert [(j.kind, j.outcome) for j in blind.judgements] == [("blind_ab", "b")]


def test_fields_are_named_where_nobody_could_know_them(tmp_path: Path) -> None:
    row = {"ask": "Hi", "one": "x", "two": "y", "annotator": "kim", "outcome": "b"}
    with pytest.raises(DataError, match="missing field: needs `answers`"):
        load(tmp_path, [row])
    assert said(load(tmp_path, [row], prompt="ask", answers=("one", "two"))) == [("kim", "Hi", "y")]
    tool = annotated({"ask": "Hi", "one": "x", "two": "y"}, result("pairwise", {"selected": "left"}, to="one,two"))
    assert said(load(tmp_path, [tool], prompt="ask", answers=("one", "two"))) == [("10", "Hi", "x")]
