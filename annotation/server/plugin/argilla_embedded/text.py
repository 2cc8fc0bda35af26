"""What a person types into the search box, as phrases to look for.

The language is that of Elasticsearch's `simple_query_string`, as far as people use it: all words must occur, in any
field; `"a phrase"`, `pre*`, `this | that`, `-not`. Brackets and `~` are read over.
"""

import re
from dataclasses import dataclass, field

WORDS, CHARACTERS = 200, 4_000
"""What a query may hold: each word is a look into the database. A whole answer that somebody pasted is no query."""

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r'[-+(]*"[^"]*"\*?|\||[^\s|]+')


class TooLong(ValueError):  # noqa: N818 - of a query, as a sentence for whoever typed it
    pass


@dataclass(frozen=True)
class Phrase:
    """Words that stand one after another, however they are separated; with `prefix` the last may go on."""

    words: str
    prefix: bool = False


@dataclass
class Terms:
    """Any phrase of each of `wanted` must occur in some field of the record, none of `unwanted` may."""

    wanted: list[list[Phrase]] = field(default_factory=list)
    unwanted: list[Phrase] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.wanted or self.unwanted)


def parse(query: str) -> Terms:
    """`Terms` of `query`; false in a boolean sense where it holds no word at all (and so matches nothing).

    Raises TooLong for one of more than WORDS words or CHARACTERS characters.
    """
    if len(query) > CHARACTERS or sum(1 for _ in _WORD.finditer(query)) > WORDS:
        raise TooLong(f"the search takes {WORDS} words or {CHARACTERS} characters; look for fewer, or for a phrase")
    terms, either = Terms(), False
    for token in _TOKEN.findall(query):
        if token == "|":
            either = bool(terms.wanted)
            continue
        word = token.lstrip("(")
        negative, word = word.startswith("-"), word.lstrip("-+(").rstrip(")")
        phrase = _phrase(word)
        if phrase is None:
            continue
        if negative:
            terms.unwanted.append(phrase)
        elif either:
            terms.wanted[-1].append(phrase)
        elif [phrase] not in terms.wanted:
            terms.wanted.append([phrase])
        either = False
    return terms


def _phrase(word: str) -> Phrase | None:
    word = re.sub(r"~\d*$", "", word)
    bare = word.replace("\0", " ").strip('*"')
    return Phrase(bare, prefix=word.endswith("*")) if any(c.isalnum() for c in bare) else None
