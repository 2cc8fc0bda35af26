"""What code can say about a text: a pattern, JSON of a schema, length, a number. Pure functions of text.

An answer is hostile: a pattern may take forever on it, and so may a formula. So `reward.guard` runs all but `band` in a
process that it can kill; nothing here watches the time. The makers do the slow imports.
"""

import json
import logging
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

OPENS, CLOSES = re.compile(r" {0,3}(`{3,})[^`]*"), re.compile(r" {0,3}(`{3,}) *")
"""Lines that begin and end a block: three backticks or more, with an info string; at least as many, with nothing."""

NUMBER = re.compile(r"[-+]?(?:\d[\d, ]*(?:\.\d+)?|\.\d+)\.?")
SCIENTIFIC = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?[eE][-+]?\d{1,2}(?!\w)")
AMOUNT = re.compile(r"(?<![\w$])(-?)\s*[$€£]\s*(?=-?\.?\d)")
"""A currency in front of a number, behind a sign or not: math-verify takes a dollar for LaTeX's."""

STRUCK = re.compile(r"~~[^~\n]*~~")
"""What the answer takes back."""
AROUND = [
    re.compile(r"(?<![\w`])(`+)(?P<said>[^`\n]+)\1(?![\w`])"),
    re.compile(r"(?<![\w*])(\*{1,3})(?=\S)(?P<said>[^*\n]+)(?<=\S)\1(?![\w*])"),
    re.compile(r"(?<!\w)(_{1,3})(?=\S)(?P<said>[^_\n]+)(?<=\S)\1(?!\w)"),
    re.compile(r"(?<!\w)<([A-Za-z][\w-]*)(?:\s[^<>]*)?>(?P<said>.*?)</\1\s*>(?!\w)", re.DOTALL),
    re.compile(r"\\(?:text|textbf|textit|textrm|mathbf|mathrm|mathit)\{(?P<said>\s*-?\$?[\d.,]+%?\s*)\}"),
    re.compile(r"(?<!\w)(?:\"(?=\S)|['“‘«])(?P<said>[^\"'“”‘’«»\n]+)[\"'”’»](?!\w)"),
]
"""What may stand around what an answer says: marks of code and emphasis, a pair of tags, LaTeX's fonts, quotes. Nothing
of it counts inside a word or a number, where a star is a product."""
ABOUT = re.compile(r"[~≈≃∼]\s*(?=[-+$€£]*\d)")
PLUS = re.compile(r"(^[ \t]*|[=:] ?)\+(?=\d)", re.MULTILINE)
DOLLARS = re.compile(r"(?:\\|\b(?:US|A|C|AU|CA|NZ|HK|S))\$(?=\s*-?\.?\d)")
BRACKETED = re.compile(r"^\s*[(\[{]\s*([-+]?[\d.,]*\d)\s*[)\]}]\.?\s*$", re.MULTILINE)
POWER_OF_TEN = re.compile(r"(?<![\w.])(\d[\d,]*(?:\.\d+)?)\s*(?:×|\\times)\s*10\s*\^\s*\{?([-+]?\d{1,2})\}?(?!\w)")
WIDE = {0xFF10 + n: str(n) for n in range(10)}
"""Digits as wide as Chinese characters."""

Check = Callable[..., float]
"""Of the texts that it looks at, as strings; a score."""


def regex(pattern: str, whole: bool) -> Check:
    """1.0 for a text in which `pattern` is found (that matches it as a whole, stripped), else 0.0."""
    compiled = re.compile(pattern)

    def check(answer: str) -> float:
        return float(bool(compiled.fullmatch(answer.strip()) if whole else compiled.search(answer)))

    return check


def json_schema(path: str, read: str) -> Check:
    """1.0 for a text (its last fenced block with `read="block"`) that is JSON and fits the schema in the file `path`.

    JSON as RFC 8259 has it: NaN and Infinity are none. `format` is no constraint, as the standard says. Raises
    referencing's Unresolvable where the schema refers to something outside itself.
    """
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    schema = json.loads(Path(path).read_bytes())
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())

    def check(answer: str) -> float:
        text: str | None = last_block(answer) if read == "block" else answer
        try:
            value = json.loads(text or "", parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return 0.0
        return float(validator.is_valid(value))

    return check


def math(after: str | None, read: str) -> Check:
    """check(solution, answer): 1.0 where math-verify finds them equal, else 0.0 (also where the answer holds nothing to
    compare). `after` is the mark behind which the result stands; with `read="number"` the answer must name the number
    itself, with "expression" whatever equals it will do."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that somebody has to watch the time; we do

    def check(solution: str, answer: str) -> float:
        found = result(answer, after)
        if found is None:
            return 0.0
        found = _written_out(found)
        if read == "number":
            found = BRACKETED.sub(r"\1", AMOUNT.sub(r" \1", found))
        given = parse(found, parsing_timeout=None)
        if read == "number" and not (given and NUMBER.fullmatch(str(given[-1]).strip())):
            return 0.0
        return float(verify(_parsed(solution, after), given, timeout_seconds=None))

    return check


def parses(after: str | None) -> Check:
    """check(solution): 1.0 where math-verify finds something in it to compare with."""
    import math_verify

    logging.getLogger(math_verify.__name__).setLevel(logging.ERROR)
    return lambda solution: float(bool(_parsed(solution, after)))


def _parsed(solution: str, after: str | None) -> list[Any]:
    """A solution, which may be worked out in front of the mark or be the result alone."""
    from math_verify import parse

    return parse(_written_out(result(solution, after) or solution), parsing_timeout=None)


def _written_out(text: str) -> str:
    """Numbers as math-verify reads them: nothing around them that it takes for mathematics or cannot look through; it
    takes 1e3 for 1, and a typographic minus for none."""
    text = STRUCK.sub(" ", text.replace("−", "-").translate(WIDE))
    text, before = DOLLARS.sub("$", text), ""
    while text != before:  # marks stand around each other
        before = text
        for around in AROUND:
            text = around.sub(r"\g<said>", text)
    text = PLUS.sub(r"\1", ABOUT.sub("", text))
    text = POWER_OF_TEN.sub(r"\1e\2", text)
    return SCIENTIFIC.sub(lambda match: f"{Decimal(match[0].replace(',', '')):f}", text)


MAKERS: dict[str, Callable[..., Check]] = {"regex": regex, "json_schema": json_schema, "math": math, "parses": parses}
"""What `reward.guard` can run, by name."""


def result(text: str, after: str | None) -> str | None:
    """Where the result stands: the first line with something in it behind the last `after`, the whole text where no
    mark is asked for. None where the mark is not there, or nothing behind it."""
    if after is None:
        return text
    _, mark, rest = text.rpartition(after)
    return next((line.strip() for line in rest.splitlines() if line.strip()), None) if mark else None


def last_block(text: str) -> str | None:
    """The content of the last block between fences; None where there is none. Looks at each line but a few times, for
    it is asked about answers outside of `reward.guard`."""
    lines = text.split("\n")
    ticks = [len(closing[1]) if (closing := CLOSES.fullmatch(line)) else 0 for line in lines]
    found: tuple[int, int] | None = None
    unclosed, place = len(text) + 1, 0
    while place < len(lines) - 1:
        opening = OPENS.fullmatch(lines[place])
        wanted = len(opening[1]) if opening else unclosed
        end = None
        if wanted < unclosed:  # else a shorter fence had no end from here on, so this one has none
            end = next((later for later in range(place + 1, len(lines)) if ticks[later] >= wanted), None)
            unclosed = wanted if end is None else unclosed
        if end is not None:
            found, place = (place + 1, end), end
        place += 1
    return None if found is None else "".join(f"{line}\n" for line in lines[slice(*found)])


def band(length: int, low: int, high: int | None, margin: int) -> float:
    """1 for a length in [low, high], falling in a straight line to 0 at `margin` beside it; in [0, 1]."""
    outside = max(low - length, 0 if high is None else length - high, 0)
    if outside == 0:
        return 1.0
    return max(0.0, 1.0 - outside / margin) if margin else 0.0


def length_of(text: str, unit: str) -> int:
    """Words between white space, or characters (code points)."""
    return len(text.split()) if unit == "words" else len(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
