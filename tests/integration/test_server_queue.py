"""The labelling queue through the API, as the page asks for it, on both databases."""

import os
import re
import secrets
import subprocess
from collections import Counter
from typing import Any

import pytest

from annotation import server
from annotation.server import process
from annotation.server.installation import python_of
from tests.server_fixtures import ArgillaServer, add_annotator, add_records, make_dataset

HIDDEN = {"purpose": "terms", "shown": "terms", "item": "terms", "repeat": "integer", "priority": "float"}
PAGE = 10
APART = 20


class Session:
    """A dataset and its people, who answer what the queue gives them."""

    def __init__(self, on: ArgillaServer, metadata: list[dict[str, Any]], overlap: int) -> None:
        self.on, self.name = on, f"queue-{secrets.token_hex(4)}"
        self.dataset = make_dataset(on, self.name, overlap=overlap, hidden=HIDDEN)
        records = [{"fields": {"text": f"t{n}"}, "metadata": given} for n, given in enumerate(metadata)]
        self.ids = add_records(on, self.dataset, records)
        self.number = {record: n for n, record in enumerate(self.ids)}

    def person(self) -> str:
        return add_annotator(self.on, f"{self.name}-{secrets.token_hex(4)}", self.name)[1]

    def page(self, key: str, offset: int = 0, limit: int = PAGE) -> list[int]:
        """Numbers of the records that the page would show next, by the very filters it sends."""
        pending = [
            {"type": "terms", "scope": {"entity": entity, "property": "status"}, "values": ["pending"]}
            for entity in ("response", "record")
        ]
        found = self.on.call(
            "POST",
            f"/me/datasets/{self.dataset}/records/search",
            {"query": {}, "filters": {"and": pending}},
            key=key,
            offset=offset,
            limit=limit,
            include="responses",
        )
        return [self.number[item["record"]["id"]] for item in found["items"]]

    def answer(self, key: str, number: int, status: str = "submitted") -> None:
        values = {"choice": {"value": "a"}} if status == "submitted" else {}
        body = {"items": [{"record_id": self.ids[number], "status": status, "values": values}]}
        (item,) = self.on.call("POST", "/me/responses/bulk", body, key=key)["items"]
        assert item["error"] is None

    def work(self, key: str, count: int, *, skip: frozenset[int] = frozenset(), page: int = PAGE) -> list[int]:
        """Answer up to `count` records in the order of the queue, page by page; returns their numbers."""
        done: list[int] = []
        while len(done) < count and (shown := self.page(key, limit=page)):
            for number in shown[: count - len(done)]:
                self.answer(key, number, "discarded" if number in skip else "submitted")
                done.append(number)
        return done


def with_repeats(originals: int, repeats: int) -> list[dict[str, Any]]:
    """`originals` records, and one repeat of each of the first `repeats`."""
    first = [{"item": f"i{n}", "repeat": 0} for n in range(originals)]
    return first + [{"item": f"i{n}", "repeat": 1} for n in range(repeats)]


@pytest.mark.slow
@pytest.mark.parametrize("page", [1, PAGE])
def test_a_repeat_comes_soon_after_twenty_others(either_server: ArgillaServer, page: int) -> None:
    session = Session(either_server, with_repeats(60, 12), overlap=2)
    order = session.work(session.person(), 100, page=page)
    assert sorted(order) == list(range(72)), "everything once"
    place = {number: at for at, number in enumerate(order)}
    fresh_until = max(place[n] for n in range(60))
    gaps = [place[60 + n] - place[n] for n in range(12)]
    assert all(gap > APART for gap, n in zip(gaps, range(12), strict=True) if place[60 + n] < fresh_until)
    assert all(
        gap <= APART + 1 + page + 12
        for gap, n in zip(gaps, range(12), strict=True)
        if place[n] < fresh_until - 2 * APART
    )
    assert sum(place[60 + n] < fresh_until for n in range(12)) >= 4, "and not all at the end"


def test_who_skipped_the_first_showing_gets_its_repeat_last(either_server: ArgillaServer) -> None:
    session = Session(either_server, with_repeats(26, 4), overlap=1)
    key = session.person()
    order = session.work(key, 100, skip=frozenset({0, 1}), page=1)
    assert sorted(order) == list(range(30)) and set(order[-2:]) == {26, 27}


def test_a_person_gets_one_of_an_item_shown_in_two_orders(either_server: ArgillaServer) -> None:
    twins = [{"item": f"i{n // 2}", "repeat": 0, "shown": ["0,1", "1,0"][n % 2]} for n in range(20)]
    session = Session(either_server, twins, overlap=1)
    ada, bob = session.person(), session.person()
    assert sorted(n // 2 for n in session.page(ada, limit=100)) == list(range(10)), "nor are both in one page"
    assert session.page(ada, 3, 4) == session.page(ada, limit=100)[3:7]
    first = session.work(ada, 100)
    assert sorted(n // 2 for n in first) == list(range(10)) and session.page(ada) == []
    assert 0 < sum(n % 2 for n in first) < 10, "which of the two is left to chance"
    assert sorted(session.work(bob, 100)) == sorted(set(range(20)) - set(first)), "the other is another person's"


def test_answers_are_spread_before_overlaps_fill_up(either_server: ArgillaServer) -> None:
    session = Session(either_server, [{} for _ in range(18)], overlap=2)
    people = [session.person() for _ in range(3)]
    answers: Counter[int] = Counter()
    for turn in range(6):
        for key in people:
            answers.update(session.work(key, 1))
        assert max(answers.values()) == 1, f"turn {turn}: nobody answered what another had while others were left"
    assert len(answers) == 18
    while more := [number for key in people for number in session.work(key, 1)]:
        answers.update(more)
    assert len(answers) == 18 and set(answers.values()) == {2}, "what is complete is not shown"


def test_what_is_worth_most_comes_first_to_everybody(either_server: ArgillaServer) -> None:
    priorities = [None, 1.0, 3.0, None, 2.5, 3.0, None]
    session = Session(either_server, [{} if p is None else {"priority": p} for p in priorities], overlap=3)
    ada, bob = session.person(), session.person()
    for key in (ada, bob):  # also after another has answered it
        order = session.work(key, 100)
        assert set(order[:2]) == {2, 5} and order[2:4] == [4, 1] and set(order[4:]) == {0, 3, 6}


def test_the_order_is_a_persons_own_and_pages_are_slices_of_it(either_server: ArgillaServer) -> None:
    session = Session(either_server, [{} for _ in range(40)], overlap=2)
    ada, bob = session.person(), session.person()
    whole = session.page(ada, limit=40)
    assert whole == session.page(ada, limit=40) and sorted(whole) == list(range(40))
    assert [n for at in range(0, 40, 7) for n in session.page(ada, at, 7)] == whole
    assert sum(a == b for a, b in zip(whole, session.page(bob, limit=40), strict=True)) < 10
    session.answer(ada, whole[3])
    assert session.page(ada, limit=40) == [n for n in whole if n != whole[3]], (
        "what was answered drops out, the rest stays"
    )


def test_metadata_that_mean_something_else_do_no_harm(either_server: ArgillaServer) -> None:
    """A dataset of somebody else's, with our names used in other ways and one item too long for an index entry."""
    name = f"odd-{secrets.token_hex(4)}"
    dataset = make_dataset(either_server, name)
    odd: list[Any] = [
        {"item": ["a", "b"], "repeat": "often", "priority": "high"},
        {"item": "x" * 10_000, "repeat": 1},
        {"item": {"deep": 1}, "priority": [3]},
        {"item": None, "repeat": True},
        {"item": "\u0000", "priority": "\u0000", "repeat": 10**30},
    ]
    add_records(either_server, dataset, [{"fields": {"text": "t"}, "metadata": given} for given in odd])
    _, key = add_annotator(either_server, name, name)
    found = either_server.call("POST", f"/me/datasets/{dataset}/records/search", {}, key=key)
    assert found["total"] == len(odd)


def test_the_queue_does_not_look_at_every_answer_for_every_record(argilla_server: ArgillaServer) -> None:
    """SQLite, which keeps no statistics, once chose the index on answers' status for each record: 1 s at 10,000."""
    code = "from argilla_embedded import queue; print(queue.ORDER.format(user=repr('u'), dataset=repr('d')))"
    env = os.environ | {"PYTHONPATH": str(process.PLUGIN), "ARGILLA_HOME_PATH": str(argilla_server.home)}
    command = [python_of(server.environment()), "-c", code]
    order = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    order = re.sub(r"align_shuffle\((\S+), \S+\)", r"\1", order)  # which only the server's connections have
    plan = argilla_server.sql(
        f"EXPLAIN QUERY PLAN SELECT r.id FROM records r WHERE r.dataset_id = 'd' ORDER BY {order}"
    )
    assert "align_record_item" in plan and "ix_responses_user_id" in plan and "ix_responses_status" not in plan
