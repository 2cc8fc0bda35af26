"""The label compiler where most users stand: one person, two, few good ones, sides that were never drawn."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align.types import Judgement, Task, to_table
from annotation.compile import AGAINST, Compiled, compile_labels
from annotation.crowd import bradley_terry, choice, dawid_skene, majority, sides
from annotation.crowd.advice import name_people
from annotation.crowd.beliefs import Beliefs
from annotation.crowd.evidence import Evidence, gather
from annotation.crowd.reading import TaskArrays, read_judgements, read_tasks
from benchmarks import label_beliefs
from benchmarks.crowds import good_three
from benchmarks.label_compiler import evidence_of
from tests.labelling import judge, make_task

ALONE = "No task was judged twice, so nothing tells how far to trust the one person who labelled"


def compiled(tasks: list[Task], said: list[Judgement], **more: Any) -> Compiled:
    return compile_labels(to_table(Task, tasks), to_table(Judgement, said), **more)


def pairs(count: int, prefix: str = "") -> list[Task]:
    """Pairs of different prompts, every second one turned round on the screen."""
    return [
        make_task(f"t{prefix}{n}", prompt=f"p{prefix}{n}", candidates=(f"a{n}", f"b{n}"), shown=(n % 2, 1 - n % 2))
        for n in range(count)
    ]


def by_side(task: Task, left: bool) -> str:
    return "ab"[task.shown[0] if left else task.shown[1]]


def one_person(count: int, left: float) -> tuple[list[Task], list[Judgement]]:
    """Ann judges `count` pairs once each, and a share `left` of the times she chooses the left answer."""
    tasks = pairs(count)
    lefts = set(random.Random(0).sample(range(count), round(left * count)))
    return tasks, [judge(task.id, "ann", by_side(task, n in lefts)) for n, task in enumerate(tasks)]


def targets(found: Compiled, tasks: list[Task], said: list[Judgement]) -> dict[bool, list[float]]:
    """The targets of what was said on the left (True) and on the right, each label being on its own side."""
    rows = {row["prompt_id"]: row for row in found.preferences.to_pylist()}
    found_by: dict[bool, list[float]] = {True: [], False: []}
    for task, word in zip(tasks, said, strict=True):
        row = rows[task.prompt_id]
        assert row["chosen_id"] == task.candidates["ab".index(word.outcome)]
        found_by[word.outcome == by_side(task, True)].append(row["target"])
    return found_by


@pytest.mark.parametrize("count", [24, 100, 200, 2000])
@pytest.mark.parametrize("left", [0.4, 0.5, 0.6])
def test_one_persons_labels_count_as_much_however_many_they_are(count: int, left: float) -> None:
    tasks, said = one_person(count, left)
    found = compiled(tasks, said, sides_drawn=True)
    values = targets(found, tasks, said)
    assert min(values[True] + values[False]) >= 0.7 and found.dropped.num_rows == 0
    if left == 0.5:
        assert values[True] + values[False] == pytest.approx([0.752] * count, abs=0.003)
    assert min(found.preferences["weight"].to_pylist()) > 0.25
    [note] = found.notes
    assert note.startswith(ALONE) and "annotate.repeats" in note


@pytest.mark.parametrize("count", [24, 200, 2000])
@pytest.mark.parametrize("left", [0.03, 0.1, 0.9, 0.95, 1.0])
def test_a_lopsided_persons_labels_stay_on_their_side_and_it_is_said(count: int, left: float) -> None:
    tasks, said = one_person(count, left)
    found = compiled(tasks, said, sides_drawn=True)
    values = targets(found, tasks, said)
    assert min(values[True] + values[False]) >= 0.55
    side = "left" if left > 0.5 else "right"
    assert any(note.startswith(f"ann chose the {side} answer") for note in found.notes)


def test_of_a_measured_side_bias_the_favoured_side_counts_less() -> None:
    tasks, said = one_person(2000, 0.9)
    values = targets(compiled(tasks, said, sides_drawn=True), tasks, said)
    assert max(values[True]) == pytest.approx(0.614, abs=0.01) and min(values[False]) == pytest.approx(0.874, abs=0.01)


@pytest.mark.parametrize(("good", "count"), [(10, 40), (5, 100), (22, 200), (200, 200), (0, 50), (1000, 2000)])
def test_a_rare_good_label_stays_up(good: int, count: int) -> None:
    tasks = [
        replace(make_task(f"t{n}", prompt=f"p{n}"), kind="single", candidates=[f"c{n}"], texts=["x"], shown=[0])
        for n in range(count)
    ]
    said = [replace(judge(f"t{n}", "ann", "good" if n < good else "bad"), kind="single") for n in range(count)]
    rows = {row["prompt_id"]: row for row in compiled(tasks, said).binary.to_pylist()}
    up = [rows[f"p{n}"]["target"] for n in range(good)]
    down = [rows[f"p{n}"]["target"] for n in range(good, count)]
    assert min(up, default=1) >= 0.7 and max(down, default=0) <= 0.3
    assert min(row["weight"] for row in rows.values()) > 0.25


def test_two_people_who_judge_each_pair_once_count_as_one_does() -> None:
    tasks = pairs(100)
    said = [judge(t.id, "ann" if n % 3 else "bob", by_side(t, n % 4 < 2)) for n, t in enumerate(tasks)]
    assert min(compiled(tasks, said).preferences["target"].to_pylist()) >= 0.7


def test_what_three_people_all_call_a_tie_is_no_preference() -> None:
    # A hundred pairs with an answer that all prefer, which makes them reliable, and 85 on which all say tie.
    tasks = pairs(185)
    draw = random.Random(3)
    said = []
    for n, task in enumerate(tasks):
        better = by_side(task, draw.random() < 0.55)
        said += [judge(task.id, who, "tie" if n >= 100 else better) for who in ("ann", "bob", "cyd")]
    for model in ("auto", "bradley_terry", "dawid_skene", "majority"):
        found = compiled(tasks, said, model=model)
        assert {row["prompt_id"] for row in found.preferences.to_pylist()} == {f"p{n}" for n in range(100)}
        reasons = [row["reason"] for row in found.dropped.to_pylist()]
        assert reasons == ["no preference: 0 to 0 and 3 ties"] * 85


def test_three_good_annotators_with_ties_are_predicted_as_well_as_by_dawid_and_skene() -> None:
    losses: dict[str, list[float]] = {"ours": [], "dawid_skene": []}
    for seed in range(10):
        world = good_three(np.random.default_rng([5000, seed]), 1000)
        _, evidence = evidence_of(world)
        held = ~world.kept
        for name, fit in (("ours", bradley_terry.fit), ("dawid_skene", dawid_skene.fit)):
            chance = fit(evidence).predict(world.pair[held], world.who[held], world.left[held])
            losses[name].append(float(-np.log(chance[np.arange(len(chance)), world.label[held]]).mean()))
    assert np.mean(losses["ours"]) <= 1.02 * np.mean(losses["dawid_skene"])


def evidence(tasks: list[Task], said: list[Judgement]) -> tuple[TaskArrays, Evidence, str | None]:
    asked, _ = read_tasks(to_table(Task, tasks))
    given, _ = read_judgements(to_table(Judgement, said), asked)
    found, _ = gather(asked, given)
    return asked, found, sides.held(asked, given, found, drawn=False)


def reference_first(count: int, better: float) -> tuple[list[Task], list[Judgement]]:
    """The reference stands on the left of each pair, and three people agree that it is the better one so often."""
    tasks, draw = pairs(count), random.Random(1)
    said = []
    for task in tasks:
        word = by_side(task, draw.random() < better)
        said += [judge(task.id, who, word) for who in ("ann", "bob", "cyd")]
    return tasks, said


def test_sides_that_were_never_drawn_are_noticed_and_tell_nothing() -> None:
    tasks, said = reference_first(300, 0.85)
    found = compiled(tasks, said)
    assert found.notes[0].startswith("The sides of the screen seem never to have been drawn: ")
    assert "pairs were decided for the left answer" in found.notes[0]
    assert min(found.preferences["target"].to_pylist()) > 0.95
    held = compiled(tasks, said, model="bradley_terry")
    assert min(held.preferences["target"].to_pylist()) > 0.95
    assert {person["position_bias"]["value"] for person in held.annotators.values()} == {0.0}
    known = compiled(tasks, said, model="bradley_terry", sides_drawn=True)
    assert not any(note.startswith("The sides") for note in known.notes)
    assert known.annotators["ann"]["position_bias"]["value"] > 1


def test_sides_that_are_all_alike_are_noticed() -> None:
    tasks = [replace(task, shown=[0, 1]) for task in pairs(20)]
    said = [judge(task.id, "ann", "ab"[n % 2]) for n, task in enumerate(tasks)]
    assert evidence(tasks, said)[2] == "all 20 pairs stand on the screen in one order of their ids"
    assert evidence(tasks[:19], said[:19])[2] is None
    assert "in one order of their ids" in " ".join(compiled(tasks, said, sides_drawn=True).notes)


def test_a_careful_person_who_met_the_better_answer_on_the_right_counts() -> None:
    tasks, said = one_person(30, 1 / 30)
    for drawn in (True, False):
        assert min(compiled(tasks, said, sides_drawn=drawn).preferences["target"].to_pylist()) >= 0.55


def test_strangers_and_people_without_votes_are_predicted_by_the_crowd_not_by_its_mean() -> None:
    # Two who agree always and two who are coins: a stranger is one or the other, and never in between.
    tasks, draw = pairs(200), random.Random(5)
    said = []
    for task in tasks:
        right = draw.choice("ab")
        said += [judge(task.id, who, right) for who in ("ann", "bob")]
        said += [judge(task.id, who, draw.choice("ab")) for who in ("cyd", "dan")]
    said += [replace(judge("t0", "eve", "good"), kind="single", task_id="u")]
    single = replace(make_task("u", prompt="u"), kind="single", candidates=["c"], texts=["x"], shown=[0])
    _, found, _ = evidence([*tasks, single], said)
    clear = np.flatnonzero(found.second >= 0)[:1]
    for fit in (bradley_terry.fit, dawid_skene.fit, majority.fit):
        beliefs = fit(found)
        for who in (-1, 4):  # eve judged no pair
            chance = beliefs.predict(clear, np.array([who]), np.array([1.0]))[0]
            assert chance.sum() == pytest.approx(1, abs=1e-6) and 0.6 < chance.max() < 0.9


def test_a_circle_is_said_to_be_one() -> None:
    tasks = [
        make_task(f"t{x}{y}", prompt="p", candidates=(x, y), texts=(x, y))
        for x, y in (("a", "b"), ("b", "c"), ("a", "c"))
    ]
    said = [judge(t.id, who, "b" if t.id == "tac" else "a") for t in tasks for who in ("ann", "bob", "cyd")]
    reasons = [row["reason"] for row in compiled(tasks, said).dropped.to_pylist()]
    assert sorted(reasons) == sorted(
        f"no preference: {n} ties, but these answers go round in a circle"
        for n in ("3 to 0 and 0", "3 to 0 and 0", "0 to 3 and 0")
    )
    alone = compiled(tasks, [j for j in said if j.annotator == "ann"])
    assert alone.preferences.num_rows == 0 and alone.dropped.num_rows == 3


def test_an_adversarys_own_labels_are_dropped_and_never_turned_round() -> None:
    gold = [replace(t, purpose="gold", expected="a") for t in pairs(40, "gold")]
    tasks = pairs(40)
    said = [judge(t.id, "eve", "b") for t in gold] + [judge(t.id, "eve", "a") for t in tasks]
    found = compiled([*gold, *tasks], said)
    assert found.annotators["eve"]["reliability"]["high"] < 0.5 and found.preferences.num_rows == 0
    reasons = {row["reason"] for row in found.dropped.to_pylist() if row["what"] == "pair"}
    assert reasons == {f"no preference: 1 to 0 and 0 ties{AGAINST}"}
    assert any(note.startswith("eve mostly says the opposite of others (reliability ") for note in found.notes)


# --- which model


def crowd(count: int, right: float, seed: int = 0) -> tuple[list[Task], list[Judgement]]:
    tasks, draw = pairs(count), random.Random(seed)
    said = [
        judge(task.id, who, "a" if draw.random() < right else "b") for task in tasks for who in ("ann", "bob", "cyd")
    ]
    return tasks, said


def shifted(by: float, share: float, held: Evidence) -> Beliefs:
    """Majority, with predictions that are better by `by` on average, all of it on the first `share` of the pairs."""
    beliefs = majority.fit(held)

    def predict(factor: np.ndarray, annotator: np.ndarray, side: np.ndarray) -> np.ndarray:
        gain = np.where(factor < share * 200, by / share, 0.0)
        return beliefs.predict(factor, annotator, side) * np.exp(gain)[:, None]

    return replace(beliefs, predict=predict)


@pytest.mark.parametrize(("by", "share", "taken"), [(0.02, 1.0, "rival"), (0.02, 0.01, "ours"), (-0.02, 1.0, "ours")])
def test_a_rival_is_taken_where_it_is_better_by_two_standard_errors(by: float, share: float, taken: str) -> None:
    asked, found, _ = evidence(*crowd(200, 0.8))
    chosen = choice.choose(asked, found, {"ours": majority.fit, "rival": partial(shifted, by, share)}, "ours")
    assert (chosen.model, chosen.labels, chosen.pairs) == (taken, 600, 200)
    gain = chosen.gains["rival"]
    assert gain["gain"] == pytest.approx(by, abs=1e-9)
    if share < 1:  # all of it on two of 200 pairs
        assert gain["error"] == pytest.approx(0.02 * np.sqrt(99 / 199), rel=0.02)


def test_without_two_hundred_shared_labels_there_is_no_choice() -> None:
    asked, found, _ = evidence(*crowd(66, 0.8))
    chosen = choice.choose(asked, found, {"ours": majority.fit, "rival": partial(shifted, 9.0, 1.0)}, "ours")
    assert (chosen.model, chosen.labels, chosen.gains) == ("ours", 198, {})
    assert chosen.reason == "198 labels of pairs that several people judged; a comparison of models takes 200"


def test_the_choice_is_told() -> None:
    found = compiled(*crowd(100, 0.85))
    assert found.choice is not None and found.choice["model"] == found.model
    assert (found.choice["labels"], found.choice["pairs"]) == (300, 100)
    assert set(found.choice["gains"]) == {"dawid_skene", "majority"}
    assert compiled(*crowd(100, 0.85), model="majority").choice is None


def test_enough_overlap_and_no_habits_leave_nothing_to_say() -> None:
    tasks, draw = pairs(100), random.Random(2)
    said = [
        judge(t.id, w, "ab"[(n * 7 % 5) % 2] if draw.random() < 0.9 else "a")
        for n, t in enumerate(tasks)
        for w in ("ann", "bob")
    ]
    assert compiled(tasks, said, sides_drawn=True).notes == []


def test_repeats_tell_a_steady_person_from_a_coin() -> None:
    found = {}
    for alike in (20, 10):
        tasks, said = one_person(100, 0.5)
        for n in range(20):
            first = make_task(f"u{n}", prompt=f"q{n}", candidates=(f"c{n}", f"d{n}"), shown=(n % 2, 1 - n % 2))
            again = replace(first, id=f"{first.id}r", repeat=1, shown=first.shown[::-1])
            word = "ab"[n // 2 % 2]
            tasks += [first, again]
            said += [judge(first.id, "ann", word), judge(again.id, "ann", word if n < alike else "ba"[n // 2 % 2])]
        rows = compiled(tasks, said, sides_drawn=True).preferences.to_pylist()
        found[alike] = np.mean([row["target"] for row in rows if row["prompt_id"].startswith("p")])
    assert found[20] > 0.83 and 0.6 < found[10] < 0.7


def test_the_table_of_beliefs_in_the_docs_is_what_the_command_prints() -> None:
    docs = (Path(__file__).parents[2] / "docs/label-compiler.md").read_text(encoding="utf-8")
    for line in label_beliefs.rows():
        assert line in docs


def test_a_weak_word_of_one_person_is_doubt_and_no_word_for_the_other_side() -> None:
    tasks, said = one_person(200, 0.5)
    said = [replace(j, strength=n % 3 + 1) for n, j in enumerate(said)]
    found = compiled(tasks, said, sides_drawn=True)
    targets(found, tasks, said)  # each on its own side
    of = {row["prompt_id"]: row["target"] for row in found.preferences.to_pylist()}
    weak, clear, far = (np.mean([of[t.prompt_id] for t in tasks[k::3]]) for k in range(3))
    assert 0.55 < weak < clear < far < 0.9 and found.preferences.num_rows == 200


def label(n: int, repeat: int = 0) -> Task:
    name = f"t{n}{'r' * repeat}"
    task = make_task(name, prompt=f"p{n}", repeat=repeat)
    return replace(task, kind="single", candidates=[f"c{n}"], texts=["x"], shown=[0])


def up(task: Task, who: str, good: bool) -> Judgement:
    return replace(judge(task.id, who, "good" if good else "bad"), kind="single")


@pytest.mark.parametrize(("count", "good"), [(1000, 200), (1000, 50), (100, 5), (100, 80), (40, 20)])
@pytest.mark.parametrize("people", [("ann", "bob"), ("ann", "bob", "cyd")])
def test_binary_labels_on_which_people_agree_are_believed_whatever_their_share(
    count: int, good: int, people: tuple[str, ...]
) -> None:
    tasks = [label(n) for n in range(count)]
    said = [up(task, who, n < good) for n, task in enumerate(tasks) for who in people]
    rows = {row["prompt_id"]: row["target"] for row in compiled(tasks, said).binary.to_pylist()}
    assert min(rows[f"p{n}"] for n in range(good)) >= 0.7 and max(rows[f"p{n}"] for n in range(good, count)) <= 0.3


@pytest.mark.parametrize(("count", "good", "repeats"), [(100, 5, 20), (100, 1, 20), (100, 10, 50), (100, 100, 40)])
def test_repeats_that_are_answered_alike_raise_a_persons_binary_labels(count: int, good: int, repeats: int) -> None:
    tasks = [label(n) for n in range(count)] + [label(n, 1) for n in range(count - repeats, count)]
    said = [up(task, "ann", int(task.prompt_id[1:]) < good) for task in tasks]
    found = compiled(tasks, said)
    rows = {row["prompt_id"]: row["target"] for row in found.binary.to_pylist()}
    assert min(rows[f"p{n}"] for n in range(good)) >= 0.75
    assert max((rows[f"p{n}"] for n in range(good, count)), default=0) <= 0.27
    assert not any(note.startswith("ann ") for note in found.notes)


def test_what_an_adversary_called_good_is_preferred_to_nothing() -> None:
    gold = [
        replace(label(n), id=f"g{n}", prompt_id=f"q{n}", purpose="gold", expected=("good", "bad")[n % 2])
        for n in range(40)
    ]
    pair = [replace(label(n), prompt_id="p") for n in (1, 2)]
    said = [up(t, "eve", t.expected == "bad") for t in gold] + [up(pair[0], "eve", True), up(pair[1], "eve", False)]
    found = compiled([*gold, *pair], said)
    assert found.preferences.num_rows == 0
    assert {row["candidate_id"]: row["target"] for row in found.binary.to_pylist()} == pytest.approx(
        {"c1": 0.51, "c2": 0.49}
    )


def test_what_was_said_beside_a_held_out_word_is_held_out_too() -> None:
    # Three coins who flag what they reject: a flag would give the held-out word away.
    tasks, draw = pairs(100), random.Random(4)
    said = []
    for task in tasks:
        for who in ("ann", "bob", "cyd"):
            word = draw.choice("ab")
            said.append(replace(judge(task.id, who, word), flags=["b:wrong" if word == "a" else "a:wrong"]))
    found = compiled(tasks, said).choice
    assert found is not None and found["model"] == "bradley_terry" and found["loss"] > 0.68


def test_labels_that_nobody_shares_do_not_crowd_out_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "MOST", 300)
    alone = [judge(t.id, "ann", "a") for t in pairs(2000, "x")]
    tasks, said = crowd(200, 0.8)
    found = compiled([*tasks, *pairs(2000, "x")], said + alone).choice
    assert found is not None and (found["labels"], found["pairs"]) == (300, 100)


def test_names_stand_for_whole_ids() -> None:
    names = {"ann": "Maria", "x1": "x2", "x2": "Tom", "ann.b": "Sue"}
    assert name_people(["ann chose (annotate.repeats).", "x1 and x2, ann.b"], names) == [
        "Maria chose (annotate.repeats).",
        "x2 and Tom, Sue",
    ]
