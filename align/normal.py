"""The normal form of a text: two texts that read the same have the same one.

It decides which prompts are the same, on which side of the split they fall, what must not be trained on, and which
answers are equal. It is compared and never kept: what people and models wrote stays as it is.

1. What cannot be seen goes: zero-width space, byte order mark, word joiner, soft hyphen, invisible operators of
formulas.
2. Joiners (U+200C, U+200D) go where neither neighbour can join: between letters of alphabets that are not written
joined
   or stacked, figures, punctuation and spaces. Beside letters of Arabic, Indic and other such scripts, and beside
   emoji, they change what is read, and stay.
3. Marks of direction (U+200E, U+200F) go where nothing in the text runs from right to left; elsewhere they move signs
   about, as embeddings, overrides and isolates do, which always stay.
4. Every line end is a line feed; a no-break space is a space; outer white space goes.
5. NFC. Not NFKC: x² is not x2, and ① is not 1.
"""

import re
import unicodedata

_UNSEEN = "\u200b\ufeff\u2060\u00ad\u2061\u2062\u2063\u2064"
_JOINERS = "\u200c\u200d"
_MARKS = "\u200e\u200f"
_SPECIAL = re.compile(f"[{_UNSEEN}{_JOINERS}{_MARKS}]")
_REMOVED = re.compile(f"[{_UNSEEN}]+")
_JOINED = re.compile(f"[{_JOINERS}]+")
_DIRECTIONS = re.compile(f"[{_MARKS}]+")
_LINE_ENDS = re.compile("\r\n|[\r\u0085\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u202f]")
_RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "RLI", "FSI", "LRE", "LRO", "LRI"}
_APART = (
    *("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "HEBREW", "CJK", "HIRAGANA", "KATAKANA", "HANGUL"),
    *("BOPOMOFO", "FULLWIDTH", "HALFWIDTH", "COMBINING", "MODIFIER", "MASCULINE", "FEMININE", "MICRO"),
)
"""How the names of letters and accents begin that joiners do nothing to."""


def normal(text: str) -> str:
    """The normal form of `text`; doing it twice is doing it once."""
    if text.isascii() and "\r" not in text:
        return text.strip()
    text = _plain(text)
    while (shorter := _plain(text)) != text:  # what is gone may have kept an accent from its letter
        text = shorter
    return text


def _plain(text: str) -> str:
    if _SPECIAL.search(text):
        text = unicodedata.normalize("NFC", _REMOVED.sub("", text))
        if not any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT and c not in _MARKS for c in text):
            text = _DIRECTIONS.sub("", text)
        text = _JOINED.sub(lambda run: run[0] if _acts(run) else "", text)
    return unicodedata.normalize("NFC", _SPACES.sub(" ", _LINE_ENDS.sub("\n", text))).strip()


def _acts(run: re.Match[str]) -> bool:
    """Whether joiners have a neighbour that they do something to."""
    around = run.string[max(run.start() - 1, 0) : run.start()] + run.string[run.end() : run.end() + 1]
    return any(map(_joins, around))


def _joins(character: str) -> bool:
    """Letters and accents of scripts that are written joined or stacked, and pictures."""
    category = unicodedata.category(character)
    if category in ("So", "Sk", "Co", "Cn"):
        return True
    return category[0] in "LM" and not unicodedata.name(character, "").startswith(_APART)
