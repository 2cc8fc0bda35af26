"""Whether annotators agreed about a compiled pair, for every kind of task."""

from typing import Any

from align.types import Judgement, Preference, Task
from annotation.unanimity import unanimity


def task(name: str, kind: Any, candidates: list[str]) -> Task:
    return Task(name, kind, 1, "train", 0, "p", [], candidates, candidates, list(range(len(candidates))), 2)


def said(name: str, task: Task, annotator: str, outcome: str, **more: Any) -> Judgement:
    return Judgement(name, task.id, task.kind, annotator, 0, outcome, **more)


def pair(chosen: str, rejected: str, *judgements: Judgement) -> Preference:
    ids = [j.id for j in judgements]
    return Preference("", "p", [], chosen, rejected, "", "", 1.0, 1.0, 0.0, 1, ids)


def test_comparisons() -> None:
    asked = task("t", "pair", ["c1", "c2"])
    other = task("u", "pair", ["c1", "c2"])
    a, b = said("1", asked, "ann", "a"), said("2", asked, "bob", "b")
    tie, bad, skip = (
        said("3", asked, "cyd", "tie"),
        said("4", asked, "dan", "both_bad"),
        said("5", asked, "eve", "skipped"),
    )
    again, twice = said("6", other, "ann", "a"), said("7", asked, "fay", "a")
    rows = {
        (a, again): "one annotator",
        (a, skip): "one annotator",
        (a, twice): "all agreed",
        (a, b): "they disagreed",
        (a, tie): "they disagreed",
        (tie, bad): "all agreed",
        (skip,): None,
        (): None,
    }
    found = unanimity(
        [pair("c1", "c2", *given) for given in rows], [asked, other], [a, b, tie, bad, skip, again, twice]
    )
    assert found == list(rows.values())


def test_rankings_binary_labels_and_ratings() -> None:
    ranks = task("r", "rank", ["c1", "c2", "c3"])
    first = said("1", ranks, "ann", "ranked", ranking=[1, 2, 2])
    second = said("2", ranks, "bob", "ranked", ranking=[2, 3, 1])
    binary = [task(f"s{c}", "single", [c]) for c in ("c1", "c2")]
    up, down = said("3", binary[0], "ann", "good"), said("4", binary[1], "ann", "bad")
    alone = said("5", binary[0], "bob", "good")
    stars = [task(f"x{c}", "rating", [c]) for c in ("c1", "c2")]
    four, two = (said(f"6{n}", t, "cyd", "rated", ratings=[{"criterion": "tone", "score": n}])
                 for t, n in zip(stars, (4, 2), strict=True))  # fmt: skip
    rows = [
        pair("c1", "c2", first, second),
        pair("c1", "c3", first, second),
        pair("c1", "c2", up, down, alone),
        pair("c1", "c2", four, two, up, down),
        pair("c2", "c1", four, two, first),
        pair("c1", "edit", first),
    ]
    found = unanimity(rows, [ranks, *binary, *stars], [first, second, up, down, alone, four, two])
    assert found == ["all agreed", "they disagreed", "one annotator", "all agreed", "all agreed", None]
