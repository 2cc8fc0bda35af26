"""What of a task reaches the labelling page."""

import base64
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from annotation.form import Form
from annotation.page import EDITED, FIELD, TURNED, page, payload, seen_otherwise
from tests.labelling import make_task

PAIR = Form()
ANY_TEXT = st.text(st.characters(exclude_categories=[]))  # lone surrogates and NUL too


@given(ANY_TEXT, ANY_TEXT, st.booleans())
def test_any_text_travels_and_none_of_it_can_break_out(first: str, second: str, flipped: bool) -> None:
    shown = (1, 0) if flipped else (0, 1)
    sent = payload(make_task("t", texts=(first, second), shown=shown), PAIR)
    assert set(sent["payload"]) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    answers = json.loads(base64.b64decode(sent["payload"]))["answers"]
    assert answers == ([second, first] if flipped else [first, second])
    assert not set(sent["words"]) & set("<>$#&'\"`{}\\\0")
    sent["words"].encode("utf-8")  # no lone surrogate is left


def test_the_purpose_and_the_canonical_order_stay_hidden() -> None:
    task = make_task("t", purpose="gold")
    assert sorted(json.loads(base64.b64decode(payload(task, PAIR)["payload"]))) == [
        "answers",
        "kind",
        "messages",
        "places",
    ]
    mirrored = make_task("u", purpose="gold", texts=("two", "one"), shown=(1, 0))
    assert payload(task, PAIR) == payload(mirrored, PAIR)
    assert payload(replace(task, kind="blind_ab"), Form("blind_ab")) == payload(task, PAIR)


def test_words_can_be_searched() -> None:
    assert payload(make_task("t", texts=("A <b>lamp</b>", "العربية")), PAIR)["words"] == "A b lamp b العربية"


def test_the_page_survives_how_argilla_puts_it_in() -> None:
    assert "</script>" in page() and "$&" not in page() and "innerHTML" not in page()


def test_a_record_shows_its_task_or_something_else() -> None:
    task, form = make_task("t", shown=(1, 0)), Form()
    fields = {FIELD: payload(task, form)}
    assert seen_otherwise(fields, task, form) is None
    shown = json.loads(base64.b64decode(fields[FIELD]["payload"]))

    def page(**changes: object) -> dict[str, object]:
        packed = base64.b64encode(json.dumps(shown | changes, indent=1).encode()).decode()
        return {FIELD: {"payload": packed, "words": "other"}}

    assert seen_otherwise(page(places=4), task, form) is None, "as another version packs it"
    assert seen_otherwise(page(answers=["one", "two"]), task, form) == TURNED
    assert seen_otherwise(page(answers=["two", "One"]), task, form) == EDITED
    assert seen_otherwise(page(messages=[]), task, form) == EDITED
    for broken in (None, {}, {FIELD: None}, {FIELD: "text"}, {FIELD: {"payload": "%"}}, {FIELD: {"payload": "W10="}}):
        assert seen_otherwise(broken, task, form) == EDITED
