"""What a label of somebody else's means: which answer, a tie, good or bad. What can mean two things is asked about."""

import re
from collections.abc import Sequence

from align.data.messages import BadRowError, excerpt
from align.labelling.outside.fields import STEMS, suffix
from align.labelling.outside.words import Reading
from align.types import LETTERS, OUTCOMES

_BEFORE = re.compile(rf"^(?:the )?(?:{STEMS}|model|assistant|first is|choice) ?(?=\S)")
_BEHIND = re.compile(r" ?(?:is (?:much |slightly |clearly |far )?(?:better|preferred|best)|better|wins|preferred)$")
ORDINALS = ("first", "second", "third", "fourth")
TIES = {"tie", "tied", "equal", "same", "draw", "both", "both good", "no preference", "about the same", "equally good"}
BOTH_BAD = {"both bad", "bothbad", "tie (bothbad)", "tie (both bad)", "both are bad", "equally bad"}
SKIPPED = {"skip", "skipped", "discarded"}
GOOD = {"good", "yes", "true", "up", "thumbs up", "positive", "like", "accept", "accepted", "correct", "1"}
BAD = {"bad", "no", "false", "down", "thumbs down", "negative", "dislike", "reject", "rejected", "incorrect", "0"}
SIDES = ("left", "right")


def outcome_of(label: object, count: int, names: Sequence[str], shown: Sequence[int] | None, reading: Reading) -> str:
    """The outcome of a pair (`count` 2) or of a single answer (1) that `label` is; letters in the file's order.

    `names` are what the file calls its answers, `shown` which of them stood left. BadRowError for a label that may mean
    nothing or two things, with the option that says what it means.
    """
    kind = "pair" if count == 2 else "single"
    text = _plain(label)
    for given, meaning in reading.outcomes.items():
        if _plain(given) == text:
            if meaning not in OUTCOMES[kind]:
                raise BadRowError("unknown outcome", f"{meaning!r} is no outcome of a {kind}")
            return meaning
    if text in SKIPPED:
        return "skipped"
    if kind == "single":
        found = "good" if text in GOOD else "bad" if text in BAD else None
    elif text in BOTH_BAD:
        found = "both_bad"
    elif text in TIES:
        found = "tie"
    else:
        place = place_of(text, count, names, shown)
        found = None if place is None else LETTERS[place]
    if found is None:
        choices = "|".join(OUTCOMES[kind])
        raise BadRowError("unknown outcome", f"{excerpt(label)} (--outcome VALUE={choices} says what it means)")
    return found


def place_of(label: object, count: int, names: Sequence[str], shown: Sequence[int] | None) -> int | None:
    """Which answer, in the file's order, `label` names; None where it names none for certain."""
    text = _plain(label)
    called = [_plain(name) for name in names]
    if called.count(text) == 1:
        return called.index(text)
    rest = _BEHIND.sub("", text)
    if called.count(rest) == 1:
        return called.index(rest)
    rest = _BEFORE.sub("", rest).strip()
    endings = [suffix(name) for name in names]
    if rest and endings.count(rest) == 1:
        return endings.index(rest)
    if rest in SIDES and count == 2:
        return None if shown is None else shown[SIDES.index(rest)]
    if rest in ORDINALS[:count] and not any(endings):
        return ORDINALS.index(rest)
    return LETTERS.index(rest) if len(rest) == 1 and rest in LETTERS[:count] and not _numbered(endings) else None


def _numbered(endings: Sequence[str]) -> bool:
    """Fields that are told apart by something else than letters."""
    return any(ending and ending not in LETTERS for ending in endings)


def _plain(label: object) -> str:
    """A label in small letters with single blanks; True and 1.0 as they would be written."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return " ".join(re.split(r"[\s_-]+", str(label).strip().casefold()))
