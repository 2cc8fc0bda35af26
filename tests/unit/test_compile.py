"""Judgements → preferences, binary labels and edits."""

import json
import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align.errors import ConfigError, DataError
from align.types import (
    SCHEMAS,
    BinaryLabel,
    Dropped,
    Edit,
    Judgement,
    Preference,
    Task,
    binary_label_id,
    candidate_id,
    judgement_id,
    preference_id,
    to_table,
)
from annotation.compile import MODELS, Compiled, compile_labels, compile_preferences
from tests.labelling import judge, make_task

EACH_MODEL = pytest.mark.parametrize("model", sorted(MODELS))


def compiled(
    tasks: list[Task], said: list[Judgement], model: str = "bradley_terry", *, sides_drawn: bool = False
) -> Compiled:
    return compile_labels(to_table(Task, tasks), to_table(Judgement, said), model=model, sides_drawn=sides_drawn)


def made(kind: str, name: str, candidates: str, prompt: str = "p", **more: Any) -> Task:
    """A task of any kind about candidates of one letter each, shown in canonical order."""
    task = make_task(name, prompt=prompt)
    ids, texts = list(candidates), [f"text of {c}" for c in candidates]
    return replace(task, kind=kind, candidates=ids, texts=texts, shown=list(range(len(ids))), **more)


def say(task: str, who: str, kind: str, outcome: str, **more: Any) -> Judgement:
    return Judgement(judgement_id(task, who, 0), task, kind, who, 0, outcome, **more)  # type: ignore[arg-type]


def by_pair(found: Compiled) -> dict[str, dict[str, Any]]:
    return {row["chosen_id"] + row["rejected_id"]: row for row in found.preferences.to_pylist()}


@EACH_MODEL
def test_one_vote(model: str) -> None:
    task = make_task("t", texts=("one", "two"))
    found = compiled([task], [judge("t", "ann", "b")], model)
    [row] = found.preferences.to_pylist()
    assert found.dropped.num_rows == 0 and found.model == model
    assert (row["chosen"], row["rejected"], row["chosen_id"], row["rejected_id"]) == ("two", "one", "c1", "c0")
    assert row["messages"] == task.messages and row["round"] == 1 and row["prompt_id"] == "p"
    assert 0.6 < row["target"] < 0.8 and 0 < row["weight"] <= 1 and row["margin"] > 0
    assert row["id"] == preference_id("p", "c1", "c0")
    assert row["judgements"] == [judge("t", "ann", "b").id]


def test_majority_is_smoothed_by_one_vote_of_no_opinion() -> None:
    said = [judge("t", name, outcome) for name, outcome in zip("vwxyz", ["a", "a", "a", "b", "tie"], strict=True)]
    [row], _ = compile_preferences([make_task("t")], said, model="majority")
    assert row.chosen_id == "c0" and row.target == pytest.approx((3.5 + 0.5) / 6) and len(row.judgements) == 5
    assert row.margin == pytest.approx(math.log(4 / 2)) and row.weight == 1


@EACH_MODEL
@pytest.mark.parametrize("said", [["tie"], ["a", "b"], ["a", "b", "tie"], ["both_bad"]])
def test_a_coin_flip_is_no_preference(said: list[str], model: str) -> None:
    found = compiled([make_task("t")], [judge("t", str(n), o) for n, o in enumerate(said)], model)
    [dropped] = found.dropped.to_pylist()
    assert found.preferences.num_rows == 0 and (dropped["what"], dropped["where"]) == ("pair", "t")
    ties = sum(o in ("tie", "both_bad") for o in said)
    assert dropped["reason"] == f"no preference: {said.count('a')} to {said.count('b')} and {ties} ties"


def test_skips_are_dropped_with_a_reason_and_never_ties() -> None:
    said = [judge("t", "bob", "skipped"), judge("t", "cyd", "a")]
    found = compiled([make_task("t")], said)
    [row] = found.preferences.to_pylist()
    assert row["judgements"] == [said[1].id]
    assert found.dropped.to_pylist() == [
        {"what": "judgement", "where": said[0].id, "reason": "the annotator skipped the task"}
    ]
    assert compiled([make_task("t")], said[1:]).preferences.to_pylist() == [row]


@EACH_MODEL
def test_both_bad_is_a_tie_and_a_bad_binary_label_for_each(model: str) -> None:
    said = [judge("t", "ann", "both_bad"), judge("t", "bob", "a"), judge("t", "cyd", "a")]
    found = compiled([make_task("t")], said, model)
    assert [row["chosen_id"] for row in found.preferences.to_pylist()] == ["c0"]
    binary = {row["candidate_id"]: row for row in found.binary.to_pylist()}
    assert set(binary) == {"c0", "c1"} and all(row["target"] < 0.5 for row in binary.values())
    assert binary["c0"]["judgements"] == [said[0].id] and binary["c0"]["id"] == binary_label_id("p", "c0")
    assert binary["c0"]["text"] == "one"


def test_a_pair_that_nobody_scored_is_dropped_once() -> None:
    tasks = [make_task("t"), make_task("u", prompt="q"), make_task("v", prompt="q", repeat=1)]
    rows, dropped = compile_preferences(tasks, [judge("t", "ann", "skipped")])
    assert rows == [] and [d.where for d in dropped if d.what == "pair"] == ["t", "u"]


def test_tasks_about_the_same_pair_join() -> None:
    tasks = [make_task("t"), make_task("u", repeat=1, shown=(1, 0))]
    [row], _ = compile_preferences(tasks, [judge("t", "ann", "a"), judge("u", "bob", "a")])
    [alone], _ = compile_preferences(tasks, [judge("t", "ann", "a")])
    assert len(row.judgements) == 2 and row.target > alone.target


@EACH_MODEL
def test_a_repeat_is_no_second_vote(model: str) -> None:
    tasks = [make_task("t"), make_task("u", repeat=1, shown=(0, 1))]
    said = [judge("t", "ann", "a"), judge("u", "ann", "a")]
    twice, once = compiled(tasks, said, model), compiled(tasks, said[:1], model)
    assert twice.preferences["target"][0].as_py() == pytest.approx(once.preferences["target"][0].as_py(), abs=0.02)
    assert twice.annotators["ann"]["consistency"]["hits"] == twice.annotators["ann"]["consistency"]["n"] == 1


def test_only_the_latest_revision_counts() -> None:
    said = [judge("t", "ann", "b", revision=1), judge("t", "ann", "a", revision=0)]
    [row], _ = compile_preferences([make_task("t")], said)
    assert row.chosen_id == "c1" and row.judgements == [said[0].id]


def test_gold_tasks_tell_about_annotators_alone() -> None:
    gold = [
        replace(make_task(f"g{n}", purpose="gold", prompt=f"q{n}", candidates=(f"x{n}", f"y{n}")), expected="a")
        for n in range(20)
    ]
    said = [judge(t.id, who, o) for t in gold for who, o in (("good", "a"), ("evil", "b"))]
    said += [judge("t", "good", "b"), judge("t", "evil", "a")]
    found = compiled([make_task("t"), *gold], said)
    [row] = found.preferences.to_pylist()
    assert (row["chosen_id"], row["target"] > 0.8) == ("c1", True)
    good, evil = found.annotators["good"], found.annotators["evil"]
    assert (good["gold"]["hits"], good["gold"]["n"], evil["gold"]["hits"]) == (20, 20, 0)
    assert good["reliability"]["low"] > 0.6 and evil["reliability"]["high"] < 0.5
    assert sum(d["where"].startswith("g") for d in found.dropped.to_pylist()) == 20


def test_a_gold_repeat_does_not_vote_on_the_trained_pair() -> None:
    tasks = [make_task("t"), replace(make_task("g", purpose="gold"), expected="b")]
    found = compiled(tasks, [judge("t", "ann", "a"), judge("g", "ann", "b")])
    [row] = found.preferences.to_pylist()
    assert row["chosen_id"] == "c0" and len(row["judgements"]) == 1


@pytest.mark.parametrize("task", [make_task("e", purpose="eval"), made("blind_ab", "e", "ab", purpose="eval")])
def test_evaluation_is_not_trained_on(task: Task) -> None:
    found = compiled([task], [say("e", "ann", task.kind, "a")])
    assert found.preferences.num_rows == found.binary.num_rows == 0
    assert [d["where"] for d in found.dropped.to_pylist()] == ["e"]


def test_judgements_of_other_tasks_are_named() -> None:
    _, dropped = compile_preferences([make_task("t")], [judge("t", "ann", "a"), judge("elsewhere", "ann", "a")])
    assert [d.reason for d in dropped] == ["its task is not among the tasks compiled"]


@EACH_MODEL
def test_a_stronger_word_counts_more_where_strength_follows_the_difference(model: str) -> None:
    weak, strong = (
        compiled([made("pair", "t", "ab")], [say("t", "ann", "pair", "a", strength=s)], model).preferences["target"][0]
        for s in (1, 3)
    )
    assert strong.as_py() > weak.as_py() if model == "bradley_terry" else strong == weak


@EACH_MODEL
def test_a_flag_on_one_answer_is_evidence_against_it(model: str) -> None:
    flagged = say("t", "ann", "pair", "tie", flags=["b:wrong", "a:format"])
    found = compiled([made("pair", "t", "ab")], [flagged], model)
    assert list(by_pair(found)) == ["ab"]
    [label] = found.binary.to_pylist()
    assert label["candidate_id"] == "b" and label["target"] < 0.5
    both = compiled([made("pair", "t", "ab")], [replace(flagged, flags=["a:unsafe", "b:wrong"])], model)
    assert both.preferences.num_rows == 0 and both.binary.num_rows == 2


@EACH_MODEL
def test_a_ranking_is_less_than_six_votes(model: str) -> None:
    ranked = say("t", "ann", "rank", "ranked", ranking=[2, 1, 3, 4])
    found = by_pair(compiled([made("rank", "t", "abcd")], [ranked], model))
    assert set(found) == {"ba", "bc", "bd", "ac", "ad", "cd"}
    if model == "bradley_terry":
        assert found["bd"]["target"] > max(found["ba"]["target"], found["ac"]["target"], found["cd"]["target"])
    weights = sum(row["weight"] for row in found.values())
    assert weights <= 3 + 1e-9  # six pairs of four answers are worth at most three independent ones


def test_equal_ranks_are_ties() -> None:
    ranked = say("t", "ann", "rank", "ranked", ranking=[1, 1, 2])
    found = compiled([made("rank", "t", "abc")], [ranked])
    assert set(by_pair(found)) == {"ac", "bc"} and found.dropped.num_rows == 1


@EACH_MODEL
def test_binary_labels_give_outcomes_and_pairs(model: str) -> None:
    tasks = [made("single", f"t{c}", c) for c in "abc"]
    said = [say(f"t{c}", who, "single", "bad" if c == "b" else "good") for c in "abc" for who in ("ann", "bob")]
    found = compiled(tasks, said, model)
    binary = {row["candidate_id"]: row["target"] for row in found.binary.to_pylist()}
    assert binary["a"] == pytest.approx(binary["c"]) and binary["a"] > 0.6 > 0.5 > binary["b"]
    pairs = by_pair(found)
    assert set(pairs) == {"ab", "cb"} and len(pairs["ab"]["judgements"]) == 4
    assert [d["reason"] for d in found.dropped.to_pylist()] == ["no preference: judged alike"]


def test_ratings_lose_each_annotators_offset_and_scale() -> None:
    # Ann gives 3 to 5, Bob 1 to 3: they agree on everything but the scale.
    tasks = [made("rating", f"t{p}{c}", c, prompt=f"p{p}") for p in range(20) for c in "abc"]
    said = [
        say(
            t.id,
            who,
            "rating",
            "rated",
            ratings=[{"criterion": "helpful", "score": low + "abc".index(t.candidates[0])}],
        )
        for t in tasks
        for who, low in (("ann", 3), ("bob", 1))
    ]
    found = compiled(tasks, said)
    assert {row["chosen_id"] + row["rejected_id"] for row in found.preferences.to_pylist()} == {"ba", "ca", "cb"}
    targets = {row["candidate_id"]: row["target"] for row in found.binary.to_pylist()}
    assert targets["c"] > 0.8 and 0.3 < targets["b"] < 0.7 and targets["a"] < 0.2
    lonely = compiled(tasks, [j for j in said if j.annotator == "bob" or j.task_id.startswith(("t0", "t1"))])
    assert {r["chosen_id"] + r["rejected_id"] for r in lonely.preferences.to_pylist()} == {"ba", "ca", "cb"}


@EACH_MODEL
def test_an_edit_is_a_demonstration_and_beats_what_was_preferred(model: str) -> None:
    edited = say("t", "ann", "pair", "b", edit="better still")
    found = compiled([made("pair", "t", "ab")], [edited], model)
    [row] = found.edits.to_pylist()
    assert (row["text"], row["annotator"], row["judgement"]) == ("better still", "ann", edited.id)
    new = candidate_id("p", "better still", f"edit:{edited.id}")
    assert set(by_pair(found)) == {"ba", f"{new}b"}
    assert by_pair(found)[f"{new}b"]["chosen"] == "better still"


@pytest.mark.parametrize("text, reason", [(" text of a\n", "the same as"), ("  ", "empty")])
def test_an_edit_that_says_nothing_new_is_dropped(text: str, reason: str) -> None:
    found = compiled([made("pair", "t", "ab")], [say("t", "ann", "pair", "a", edit=text)])
    [dropped] = found.dropped.to_pylist()
    assert found.edits.num_rows == 0 and dropped["what"] == "edit" and reason in dropped["reason"]


@pytest.mark.parametrize(
    "task, said, message",
    [
        (made("pair", "t", "ab"), say("t", "ann", "pair", "left"), "a pair cannot have the outcome 'left'"),
        (made("single", "t", "a"), say("t", "ann", "single", "a"), "a single cannot have the outcome 'a'"),
        (made("rank", "t", "abc"), say("t", "ann", "rank", "ranked", ranking=[1, 2]), "the ranking is"),
        (made("rank", "t", "abc"), say("t", "ann", "rank", "ranked"), "the ranking is None"),
        (made("rank", "t", "abc"), say("t", "ann", "rank", "ranked", ranking=[0, 1, 2]), "the ranking is"),
        (made("rating", "t", "a"), say("t", "ann", "rating", "rated"), "the ratings are None"),
        (made("rating", "t", "a"), say("t", "ann", "rating", "rated", ratings=[]), "the ratings are"),
        (
            made("rating", "t", "a"),
            say("t", "ann", "rating", "rated", ratings=[{"criterion": "x", "score": 6}]),
            "the ratings are",
        ),
        (made("pair", "t", "ab"), say("t", "ann", "pair", "a", strength=4), "the strength is 4"),
        (made("pair", "t", "abc"), say("t", "ann", "pair", "a"), "cannot have 3 candidates"),
        (replace(made("pair", "t", "ab"), shown=[0, 2]), say("t", "ann", "pair", "a"), "no order of 2"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it(task: Task, said: Judgement, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compiled([task], [said])


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no model 'mean'"):
        compiled([], [], "mean")


@EACH_MODEL
def test_no_data_at_all(model: str) -> None:
    for tasks in ([], [make_task("t")]):
        found = compiled(tasks, [], model)
        assert found.preferences.schema == SCHEMAS[Preference] and found.preferences.num_rows == 0
        assert found.binary.schema == SCHEMAS[BinaryLabel] and found.edits.schema == SCHEMAS[Edit]
        assert found.dropped.schema == SCHEMAS[Dropped] and found.annotators == {}
        json.dumps(found.conflicts)


def test_conflicts_are_found_counted_and_kept() -> None:
    tasks = [made("pair", two, two) for two in ("ab", "bc", "ac")] + [made("pair", "q", "ab", prompt="q")]
    said = [say("ab", "ann", "pair", "a"), say("bc", "ann", "pair", "a"), say("ac", "ann", "pair", "b")]
    said += [say("q", "ann", "pair", "a"), say("q", "bob", "pair", "b"), say("q", "cyd", "pair", "a")]
    found = compiled(tasks, said)
    assert found.conflicts["cycles"] == {"count": 1, "listed": [{"prompt_id": "p", "candidates": ["a", "b", "c"]}]}
    assert found.conflicts["both_ways"] == {
        "count": 1,
        "listed": [{"prompt_id": "q", "candidates": ["a", "b"], "first": 2, "second": 1, "ties": 0}],
    }
    kept = {j for row in found.preferences.to_pylist() for j in row["judgements"]}
    without = {d["where"] for d in found.dropped.to_pylist()}
    assert all(j.id in kept or j.task_id in without for j in said)


def test_a_circle_of_four_without_a_shorter_one() -> None:
    tasks = [made("pair", two, two) for two in ("ab", "bc", "cd", "ad", "ae")]
    said = [say(two, "ann", "pair", "b" if two == "ad" else "a") for two in ("ab", "bc", "cd", "ad", "ae")]
    assert compiled(tasks, said).conflicts["cycles"]["listed"] == [{"prompt_id": "p", "candidates": list("abcd")}]


def test_contradicting_oneself_is_counted() -> None:
    tasks = [make_task("t"), make_task("u", repeat=1, shown=(1, 0))]
    found = compiled(tasks, [judge("t", "ann", "a"), judge("u", "ann", "b")])
    assert found.conflicts["self_contradictions"] == {"count": 1}
    assert found.annotators["ann"]["consistency"]["value"] == 0


def crowd(pairs: int, people: dict[str, float], seed: int = 0, bias: float = 0.0) -> tuple[list[Task], list[Judgement]]:
    """Everybody says of every pair that the first is better, with a probability of their own; half are shown turned."""
    draw = random.Random(seed)
    tasks = [
        make_task(f"t{n}", prompt=f"p{n}", candidates=(f"a{n}", f"b{n}"), shown=(n % 2, 1 - n % 2))
        for n in range(pairs)
    ]
    said = []
    for n, task in enumerate(tasks):
        for who, right in people.items():
            odds = math.log(right / (1 - right)) + bias * (1 if n % 2 == 0 else -1)
            said.append(judge(task.id, who, "a" if draw.random() < 1 / (1 + math.exp(-odds)) else "b"))
    return tasks, said


def finite(found: Compiled) -> None:
    for name in ("target", "weight", "margin"):
        values = found.preferences[name].to_numpy()
        assert np.isfinite(values).all()
    assert (found.preferences["target"].to_numpy() <= 1).all() and (found.preferences["target"].to_numpy() > 0.5).all()
    assert (found.preferences["weight"].to_numpy() > 0).all() and (found.preferences["weight"].to_numpy() <= 1).all()
    text = json.dumps([found.annotators, found.conflicts], allow_nan=False)
    assert "NaN" not in text


@EACH_MODEL
@pytest.mark.parametrize(
    "people",
    [
        {"ann": 0.9},
        {"ann": 0.999999, "bob": 0.000001},
        {"ann": 0.9, "bob": 0.9, "cyd": 0.9, "spam": 0.5},
        {"ann": 0.999999},
        {str(n): 0.5 for n in range(20)},
    ],
    ids=["one annotator", "total disagreement", "a spammer", "one-sided", "nobody knows"],
)
def test_strange_crowds_give_sane_numbers(people: dict[str, float], model: str) -> None:
    found = compiled(*crowd(40, people), model)
    finite(found)
    assert all(0 <= a["reliability"]["value"] <= 1 for a in found.annotators.values() if model != "majority")


def test_a_spammer_and_an_adversary_are_seen_through() -> None:
    tasks, said = crowd(60, {"ann": 0.95, "bob": 0.9, "cyd": 0.9, "dan": 0.85, "spam": 0.5, "evil": 0.05})
    found = compiled(tasks, said)
    reliability = {name: a["reliability"]["value"] for name, a in found.annotators.items()}
    assert min(reliability[n] for n in ("ann", "bob", "cyd", "dan")) > 0.7
    assert 0.3 < reliability["spam"] < 0.65 and reliability["evil"] < 0.35
    assert sum(r["chosen_id"].startswith("a") for r in found.preferences.to_pylist()) >= 58


def test_position_bias_is_found_with_its_sign() -> None:
    tasks, said = crowd(300, {"ann": 0.8, "bob": 0.8}, bias=1.0)
    for a in compiled(tasks, said, sides_drawn=True).annotators.values():
        assert a["position_bias"]["low"] < a["position_bias"]["value"] < a["position_bias"]["high"]
        assert a["position_bias"]["low"] > 0.3 and a["position_bias"]["high"] < 2.5


@EACH_MODEL
def test_ten_thousand_annotators_of_one_label_each(model: str) -> None:
    tasks = crowd(2_500, {})[0]
    draw = random.Random(1)
    said = [judge(f"t{n // 4}", f"w{n}", "a" if draw.random() < 0.8 else "b") for n in range(10_000)]
    found = compiled(tasks, said, model)
    finite(found)
    assert len(found.annotators) == 10_000
    first = [r["chosen_id"].startswith("a") for r in found.preferences.to_pylist() if r["target"] > 0.6]
    assert np.mean(first) > 0.9 and len(first) > 2_000


WORDS = st.sampled_from(["a", "b", "tie", "both_bad", "skipped"])
ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), WORDS, st.booleans()), max_size=40)


def said_by(rows: list[tuple[int, int, str, bool]]) -> tuple[list[Task], list[Judgement]]:
    """Pairs of three candidates of two prompts, some of them asked again."""
    slots = [("p", "ab"), ("p", "bc"), ("p", "ac"), ("q", "ab"), ("q", "ab"), ("r", "ab")]
    tasks = [made("pair", f"t{n}", two, prompt=prompt) for n, (prompt, two) in enumerate(slots)]
    tasks[4] = replace(tasks[4], repeat=1, shown=[1, 0])
    found = {}
    for t, who, outcome, flag in rows:
        found[t, who] = say(f"t{t}", f"w{who}", "pair", outcome, flags=["b:wrong"] if flag else None)
    return tasks, list(found.values())


def close(one: Compiled, other: Compiled, names: dict[str, str] | None = None) -> None:
    """Tables and numbers are the same to 1e-9, annotators by their new names."""
    for table in ("preferences", "binary"):
        left, right = getattr(one, table).to_pylist(), getattr(other, table).to_pylist()
        assert [r["id"] for r in left] == [r["id"] for r in right]
        for a, b in zip(left, right, strict=True):
            for key in ("target", "weight", "margin"):
                assert a.get(key, 0) == pytest.approx(b.get(key, 0), abs=1e-9)
    renamed = {(names or {}).get(n, n): a for n, a in one.annotators.items()}
    assert renamed.keys() == other.annotators.keys()
    for name, a in renamed.items():
        for key in ("reliability", "position_bias"):
            assert a[key].get("value") == pytest.approx(other.annotators[name][key].get("value"), abs=1e-9)
    assert one.conflicts == other.conflicts


@EACH_MODEL
@settings(max_examples=15, deadline=None)
@given(rows=ROWS, shuffler=st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    model: str, rows: list[tuple[int, int, str, bool]], shuffler: random.Random
) -> None:
    tasks, said = said_by(rows)
    found = compiled(tasks, said, model)
    other = compiled(shuffler.sample(tasks, len(tasks)), shuffler.sample(said, len(said)), model)
    assert found == other
    scored = {j for row in found.preferences.to_pylist() for j in row["judgements"]}
    without = {d["where"] for d in found.dropped.to_pylist()}
    same = {"t3": {"t3", "t4"}, "t4": {"t3", "t4"}}
    for j in said:
        assert j.id in scored or j.id in without or same.get(j.task_id, {j.task_id}) & without


@EACH_MODEL
@settings(max_examples=15, deadline=None)
@given(rows=ROWS, order=st.permutations(range(4)))
def test_names_of_annotators_change_nothing(
    model: str, rows: list[tuple[int, int, str, bool]], order: list[int]
) -> None:
    tasks, said = said_by(rows)
    names = {f"w{n}": f"w{m}" for n, m in enumerate(order)}
    renamed = [
        replace(j, id=judgement_id(j.task_id, names[j.annotator], 0), annotator=names[j.annotator]) for j in said
    ]
    close(compiled(tasks, said, model), compiled(tasks, renamed, model), names)


@EACH_MODEL
@settings(max_examples=15, deadline=None)
@given(rows=ROWS)
def test_swapping_a_and_b_changes_nothing(model: str, rows: list[tuple[int, int, str, bool]]) -> None:
    tasks, said = said_by(rows)
    swapped = [
        replace(t, candidates=t.candidates[::-1], texts=t.texts[::-1], shown=[1 - s for s in t.shown]) for t in tasks
    ]
    turn = {"a": "b", "b": "a"}
    turned = [replace(j, outcome=turn.get(j.outcome, j.outcome), flags=["a:wrong"] if j.flags else None) for j in said]
    close(compiled(tasks, said, model), compiled(swapped, turned, model))
    # And with the ids' order turned, so that what was first inside is second.
    letters = str.maketrans("abc", "zyx")
    mirrored = [replace(t, candidates=[c.translate(letters) for c in t.candidates]) for t in tasks]
    one, other = compiled(tasks, said, model), compiled(mirrored, said, model)
    left = {r["chosen_id"] + r["rejected_id"] + r["prompt_id"]: r for r in one.preferences.to_pylist()}
    right = {
        (r["chosen_id"] + r["rejected_id"]).translate(str.maketrans("zyx", "abc")) + r["prompt_id"]: r
        for r in other.preferences.to_pylist()
    }
    assert left.keys() == right.keys()
    for key, row in left.items():
        assert row["target"] == pytest.approx(right[key]["target"], abs=1e-9)
        assert row["margin"] == pytest.approx(right[key]["margin"], abs=1e-9)


def test_chunks_of_the_input_do_not_matter() -> None:
    tasks, said = crowd(30, {"ann": 0.9, "bob": 0.8})
    asked, words = to_table(Task, tasks), to_table(Judgement, said)
    split = [pa.concat_tables([t.slice(0, 7), t.slice(7, 11), t.slice(18)]) for t in (asked, words)]
    assert compile_labels(*split) == compile_labels(asked, words)
