"""Every text comes back from its escaped form, and the escaped form is one that anything stores."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.escape import escape, shown, unescape

NASTY = st.text(st.sampled_from("\0\ud800\udfff␛u0241bd8\\x\n😀"))  # much of what is escaped or looks like an escape
ANY = st.text(st.characters(exclude_categories=[])) | NASTY


@given(ANY)
def test_every_text_comes_back(text: str) -> None:
    kept = escape(text)
    assert unescape(kept) == text
    assert "\0" not in kept and kept.encode("utf-8").decode("utf-8") == kept


@given(ANY, ANY)
def test_different_texts_stay_different(first: str, second: str) -> None:
    assert (escape(first) == escape(second)) == (first == second)


def test_what_it_looks_like() -> None:
    assert escape("a\0b \ud83d ␛") == "a␛u0000b ␛ud83d ␛u241b"
    for usual in (r"C:\new \x00 \ud800", "😀 مرحبا\n\t", "", "u0000"):
        assert escape(usual) == usual


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\u202eb\x1b[31m\0", "a‹U+202E›b‹U+001B›[31m‹U+0000›"),
        (
            "zero\u200bwidth\ufeff \u2028\u3164\u034f\ud800",
            "zero‹U+200B›width‹U+FEFF› ‹U+2028›‹U+3164›‹U+034F›‹U+D800›",
        ),
        ("line\n\ttab é 漢字 مرحبا", "line\n\ttab é 漢字 مرحبا"),
        ("e" + "\u0301" * 8, "e" + "\u0301" * 8),
        ("e" + "\u0301" * 200, "e" + "\u0301" * 8 + "‹192 more marks›"),
        ("\u0645\u06cc\u200c\u062e 👨\u200d👩", "\u0645\u06cc\u200c\u062e 👨\u200d👩"),
        ("a\u200db \u200d", "a‹U+200D›b ‹U+200D›"),
        ("x" * 1001, "x" * 1000 + "… (1 more characters)"),
    ],
)
def test_what_works_unseen_is_seen_and_all_is_bounded(text: str, seen: str) -> None:
    assert shown(text, 1000) == seen


@given(st.text(st.characters(exclude_categories=[])) | st.text(st.sampled_from("a\u0301\u200d\u202e\u034f👩\u0645")))
def test_nothing_that_is_shown_works_unseen(text: str) -> None:
    found = shown(text, 10**6)
    kinds = {unicodedata.category(c) for c in found if c not in "\n\t\u200c\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"} and shown(found, 10**6) == found
    assert "\u0301" * 9 not in found


def test_a_large_text_is_shown_soon() -> None:
    began = time.monotonic()
    assert len(shown("e" + "\u0301" * 10**7, 10**5)) < 60
    assert time.monotonic() - began < 1
