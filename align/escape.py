"""Text that files and databases refuse, as text that they take, and back.

UTF-8 has no lone surrogates, and neither PostgreSQL's text nor JSONB takes NUL. `escape` writes such a character as the
mark ␛ (U+241B, the picture of the escape key, which hardly any text has), `u` and four hexadecimal digits: NUL is
`␛u0000`. The mark itself becomes `␛u241b`, so that every text comes back exactly. All other text stays as it is: code
with backslashes too.

And text of others as people are shown it: `shown` writes out what works unseen (controls, what turns the direction of
text, what has no width), and bounds marks that stand on one letter, and the length. The terminal and the report use it;
`annotation/markdown.js` does the same for the labelling page.
"""

import re
import unicodedata
from collections.abc import Callable

MARK = "␛"
_REFUSED = re.compile(f"[\0\ud800-\udfff{MARK}]")
_ESCAPED = re.compile(f"{MARK}u([0-9a-f]{{4}})")


def escape(text: str) -> str:
    """`text` without NUL and lone surrogates; `unescape` gives it back."""
    return _REFUSED.sub(lambda found: f"{MARK}u{ord(found[0]):04x}", text)


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


MARKS = 8
"""How many combining marks may follow one another; a language needs three or four, and thousands stop a renderer."""
_UNUSUAL = re.compile(r"[^\n\t\x20-\x7e]+")
_NO_WIDTH = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065\u3164\uffa0")
"""Without width and yet letters or marks to Unicode; the others are of its category Cf."""


_JOINED = ("Lo", "Mn", "Mc", "Me", "So", "Sk")


def code_point(character: str) -> str:
    return f"‹U+{ord(character):04X}›"


def shown(text: str, limit: int, unseen: Callable[[str], str] = code_point) -> str:
    """`text` of whoever it may be, for people: what works unseen is written by `unseen`, beyond MARKS combining marks
    in a row and beyond `limit` characters only their number is. Line ends and tabs stay.

    >>> shown("a\\u202eb", 10), shown("abcdef", 3), shown("e" + "\\u0301" * 10, 99) == "e" + "\\u0301" * 8 + "‹2 more marks›"
    ('a‹U+202E›b', 'abc… (3 more characters)', True)
    """
    more = len(text) - limit
    whole = _UNUSUAL.sub(lambda found: _spelled(found[0], unseen), text[:limit])
    return f"{whole}… ({more} more characters)" if more > 0 else whole


def _spelled(run: str, unseen: Callable[[str], str]) -> str:
    out: list[str] = []
    marks = 0
    for place, character in enumerate([*run, ""]):
        kind = unicodedata.category(character) if character else ""
        if kind.startswith("M") and character not in _NO_WIDTH:
            marks += 1
            if marks <= MARKS:
                out.append(character)
            continue
        if marks > MARKS:
            out.append(f"‹{marks - MARKS} more marks›")
        marks = 0
        hidden = kind in ("Cc", "Cf", "Cs", "Zl", "Zp") or (character and character in _NO_WIDTH)
        out.append(unseen(character) if hidden and not _joins(run, place) else character)
    return "".join(out)


def _joins(run: str, place: int) -> bool:
    """A joiner between letters of scripts that are joined, or emoji, is spelling."""
    if run[place] not in "\u200c\u200d" or not 0 < place < len(run) - 1:
        return False
    beside = run[place - 1], run[place + 1]
    return all(unicodedata.category(one) in _JOINED and one not in _NO_WIDTH for one in beside)
