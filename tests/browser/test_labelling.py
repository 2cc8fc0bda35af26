"""Two annotators and an owner at the real server: every kind of task by keyboard alone and by mouse, and it arrives."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from align.types import Rating, Task
from annotation.backend import Answer
from tests.browser.conftest import OpenPage, sign_in
from tests.browser.session_page import FORMS, annotator, current, kind_task, sent, session
from tests.server_fixtures import ArgillaServer

SIZES = {"pair": 2, "rank": 4, "single": 1, "rating": 1, "blind_ab": 2}


@dataclass(frozen=True)
class Hand:
    """One way to use the page."""

    page: Page

    def keys(self, *pressed: str) -> None:
        for key in pressed:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(350)  # Argilla waits so long for a second digit, and as long between places

    def write(self, text: str) -> None:
        """Into the text question that has the focus."""
        self.keys("Shift+Enter")
        self.page.keyboard.type(text)
        self.keys("Escape")

    def label(self, text: str) -> None:
        self.page.locator("form").get_by_text(text, exact=True).click()

    def fill(self, question: int, text: str) -> None:
        self.page.locator("form [contenteditable=true]").nth(question).click()
        self.page.keyboard.type(text)

    def drag(self, answer: str, place: int) -> None:
        card = self.page.locator(f".draggable [title='Answer {answer}']")
        slot = self.page.locator(".draggable__slot .draggable__slot-box:not(.draggable__slot-box--ranking)").nth(
            place - 1
        )
        box = slot.bounding_box()
        assert box
        card.drag_to(slot, target_position={"x": box["width"] / 2, "y": box["height"] - 4})  # below what is there
        expect(slot.locator(f"[title='Answer {answer}']")).to_be_visible()

    def rate(self, question: int, score: int) -> None:
        self.page.locator(f"form label[for$='_{score}']").nth(question).click()


Step = tuple[Callable[[Hand], None], Answer]
"""What a person does, and what that means where answers stand in canonical order. The last thing is always Enter or a
click on Submit or Discard, done by the test."""

RATED = [Rating(criterion="helpful", score=4), Rating(criterion="to the point", score=2)]
BY_KEYS: dict[str, list[Step]] = {
    "pair": [
        (lambda h: h.keys("1"), Answer("", "a")),
        (lambda h: h.keys("4"), Answer("", "both_bad")),
        (
            lambda h: (
                h.keys("2", "3", "1", "6", "ArrowDown"), h.write("Say: yes."),
                h.keys("ArrowDown"), h.write("clearer"),
            ),
            Answer("", "b", "clearer", 3, ["a:unsafe", "b:wrong"], "Say: yes."),
        ),
    ],
    "rank": [(lambda h: h.keys("2", "1", "4", "2", "ArrowDown", "9"), Answer("", "ranked", ranking=[2, 1, 3, 2], flags=["c:unsafe"]))],
    "single": [(lambda h: h.keys("2", "2", "4"), Answer("", "bad", flags=["a:format", "a:wrong"])), (lambda h: h.keys("1"), Answer("", "good"))],
    "rating": [(lambda h: h.keys("4", "2"), Answer("", "rated", ratings=RATED))],
    "blind_ab": [(lambda h: (h.keys("3", "ArrowDown"), h.write("same")), Answer("", "tie", "same"))],
}  # fmt: skip
BY_MOUSE: dict[str, list[Step]] = {
    "pair": [
        (lambda h: h.label("Tie"), Answer("", "tie")),
        (
            lambda h: (
                h.label("B is better"), h.label("Slightly"), h.label("A: off topic"), h.label("B: bad format"),
                h.fill(0, "Say: no."), h.fill(1, "kinder"),
            ),
            Answer("", "b", "kinder", 1, ["a:off_topic", "b:format"], "Say: no."),
        ),
    ],
    "rank": [
        (
            lambda h: (h.drag("D", 1), h.drag("A", 2), h.drag("B", 2), h.drag("C", 3), h.label("D: wrong"), h.fill(1, "ok")),
            Answer("", "ranked", "ok", ranking=[2, 2, 3, 1], flags=["d:wrong"]),
        )
    ],
    "single": [(lambda h: (h.label("Good"), h.label("Unsafe")), Answer("", "good", flags=["a:unsafe"]))],
    "rating": [(lambda h: (h.rate(0, 4), h.rate(1, 2)), Answer("", "rated", ratings=RATED))],
    "blind_ab": [(lambda h: h.label("A is better"), Answer("", "a"))],
}  # fmt: skip


def canonical(answer: Answer, task: Task) -> Answer:
    """`answer` as it is meant where the places show the candidates in the order of `task.shown`."""
    place = {"abcd"[n]: "abcd"[candidate] for n, candidate in enumerate(task.shown)}
    ranks = answer.ranking and [answer.ranking[task.shown.index(candidate)] for candidate in range(len(task.shown))]
    flags = answer.flags and sorted(f"{place[flag[0]]}{flag[1:]}" for flag in answer.flags)
    return replace(
        answer, task_id=task.id, outcome=place.get(answer.outcome, answer.outcome), ranking=ranks, flags=flags
    )


def work(page: Page, tasks: Sequence[Task], steps: Sequence[Step], end: Callable[[], object]) -> dict[str, Answer]:
    """Do each of `steps` on whatever task is shown; returns what was said, by task."""
    known, said = {task.id: task for task in tasks}, dict[str, Answer]()
    for act, means in steps:
        task = known[current(page, known, said)]
        act(Hand(page))
        sent(page, end)
        said[task.id] = canonical(means, task)
    return said


def two_orders(kind: str) -> list[Task]:
    """Enough tasks for everything that is done, by turns in canonical order and in the reverse."""
    size, count = SIZES[kind], max(len(BY_KEYS[kind]), len(BY_MOUSE[kind])) + 1
    orders = [list(range(size)), list(reversed(range(size)))]
    names = [f"{kind} {n}" for n in range(count)]
    tasks = [
        kind_task(name, kind, [f"{name} text {k}" for k in range(size)], orders[n % 2], f"{name}: hello")
        for n, name in enumerate(names)
    ]
    return [replace(task, wanted=2) for task in tasks]


@pytest.mark.slow
def test_two_annotators_label_every_kind_by_keyboard_alone_and_by_mouse(
    argilla_server: ArgillaServer, watched: OpenPage
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    tasks = {kind: two_orders(kind) for kind in SIZES}
    backends = {kind: session(argilla_server, run, kind, tasks[kind], overlap=2) for kind in SIZES}
    said: dict[tuple[str, str], Answer] = {}
    for name, steps in (("keys", BY_KEYS), ("mouse", BY_MOUSE)):
        opened = annotator(argilla_server, f"{name}-{run}", run, watched)
        page = opened.page
        submit, discard = (page.get_by_role("button", name=what) for what in ("Submit", "Discard"))
        ends = {
            "keys": (lambda: page.keyboard.press("Enter"), lambda: page.keyboard.press("Backspace")),  # noqa: B023
            "mouse": (submit.click, discard.click),
        }[name]
        for kind, backend in backends.items():
            page.goto(backend.url)
            done = work(page, tasks[kind], steps[kind], ends[0])
            skipped = current(page, [t.id for t in tasks[kind]], done)
            sent(page, ends[1])
            done[skipped] = Answer(skipped, "skipped")
            said |= {(name, task): answer for task, answer in done.items()}
        opened.check()
    found: dict[tuple[str, str], Answer] = {}
    for kind, backend in backends.items():
        for j in backend.collect():
            found[backend.people()[j.annotator].split("-")[0], j.task_id] = Answer(
                **{f: getattr(j, f) for f in Answer.__slots__}
            )
            assert j.kind == kind and j.time is not None
    assert found == said and len(found) == 2 * 5 + 8 + 6


def test_keys_that_are_typed_into_the_conversation_go_to_the_questions(
    argilla_server: ArgillaServer, watched: OpenPage
) -> None:
    """Also to the question that was in use last, of whatever kind it is."""
    run = f"run-{secrets.token_hex(4)}"
    pairs = [kind_task(f"task {n}", "pair", ["one", "two"], question=f"task {n}: hello") for n in range(2)]
    ranks = [kind_task("task r", "rank", ["1", "2", "3"], question="task r: hello")]
    backend = session(argilla_server, run, "pair", pairs)
    opened = annotator(argilla_server, f"ann-{run}", run, watched)
    page, frame = opened.page, opened.page.frame_locator("iframe")

    def keys_in_frame(*pressed: str) -> None:
        for key in pressed:
            frame.locator(".answer.a .text").click()
            Hand(page).keys(key)

    page.goto(backend.url)
    first = current(page, ["task 0", "task 1"], [])
    keys_in_frame("2", "3", "5", "d")
    sent(page, lambda: keys_in_frame("Enter"))
    second = current(page, ["task 0", "task 1"], [first])
    assert frame.locator("mark").all_inner_texts() == ["one", "two"], "differences stay on for the next task"
    page.keyboard.press("d")
    expect(frame.locator("mark")).to_have_count(0)
    sent(page, lambda: keys_in_frame("Backspace"))
    found = {j.task_id: (j.outcome, j.strength, j.flags) for j in backend.collect()}
    assert found == {first: ("b", 3, ["b:unsafe"]), second: ("skipped", None, None)}

    backend = session(argilla_server, run, "rank", ranks)
    page.goto(backend.url)
    current(page, ["task r"], [])
    assert "There is no answer D here: rank it last." in frame.locator(".note").inner_text()
    keys_in_frame("3", "1", "2")
    keys_in_frame("4")
    sent(page, lambda: keys_in_frame("Enter"))
    assert [j.ranking for j in backend.collect()] == [[3, 1, 2]]
    opened.check()


def test_a_suggestion_is_seen_only_where_it_was_asked_for(argilla_server: ArgillaServer, watched: OpenPage) -> None:
    run = f"run-{secrets.token_hex(4)}"
    tasks = [kind_task("task 0", "pair", ["one", "two"], [1, 0], question="task 0: hello")]
    tasks = [replace(task, suggested="a") for task in tasks]
    backend = session(argilla_server, run, "pair", tasks)
    opened = annotator(argilla_server, f"ann-{run}", run, watched)
    selected = opened.page.locator("form label.label-active")
    opened.page.goto(backend.url)
    current(opened.page, ["task 0"], [])
    assert selected.all_inner_texts() == []
    backend = session(
        argilla_server, run, "pair", tasks, dataset="with-suggestions", form=replace(FORMS["pair"], suggest=True)
    )
    opened.page.goto(backend.url)
    current(opened.page, ["task 0"], [])
    assert [re.sub(r"\W+", " ", text).strip() for text in selected.all_inner_texts()] == ["2 B is better"]
    sent(opened.page, lambda: opened.page.keyboard.press("Enter"))
    assert [j.outcome for j in backend.collect()] == ["a"]
    opened.check()


def test_an_annotator_sees_nobody_elses_answer_and_the_owner_sees_the_page(
    argilla_server: ArgillaServer, watched: OpenPage
) -> None:
    run = f"run-{secrets.token_hex(4)}"
    tasks = [replace(kind_task("task 0", "pair", ["one", "two"], question="task 0: hello"), wanted=2)]
    backend = session(argilla_server, run, "pair", tasks, overlap=2)
    key = backend.ensure_annotator(f"first-{run}")
    backend.answer(key, [Answer("task 0", "a", reason="a secret of mine")])
    second = annotator(argilla_server, f"second-{run}", run, watched)
    owner = watched(argilla_server.url)
    sign_in(owner.page, argilla_server.url, argilla_server.username, argilla_server.password)
    for reader in (second, owner):
        told: list[Any] = []
        reader.page.on("response", lambda r, told=told: told.append(r) if "/search" in r.url else None)
        reader.page.goto(backend.url)
        current(reader.page, ["task 0"], [])
        assert told and all("a secret of mine" not in reply.text() for reply in told)
        assert reader.page.locator("form label.label-active").count() == 0
        reader.check()
    expect(second.page.get_by_text("a secret of mine")).to_have_count(0)
