"""What of a task reaches the labelling page."""

import base64
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from annotation.form import Form
from annotation.page import page, payload
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
