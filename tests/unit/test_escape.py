"""Every text comes back from its escaped form, and the escaped form is one that anything stores."""

from hypothesis import given
from hypothesis import strategies as st

from align.escape import escape, unescape

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
